"""What is done on a GPU, as data: the project's own commands, the most important ones first.

Minutes on a GPU are few. So every step has a limit in time, a step that failed stops no other one,
a step that is done is not repeated by the next call, and steps in which nothing is timed share the
machine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

Network = Literal["resnet101", "resnet50", "mobilenet_v3"]

ARCHITECTURES: dict[Network, str] = {
    "resnet101": "deeplabv3_resnet101",
    "resnet50": "deeplabv3_resnet50",
    "mobilenet_v3": "deeplabv3_mobilenet_v3_large",
}

OPTIONAL = {
    "onnxruntime": "pip install onnxruntime-gpu",
    "tensorrt": 'pip install "flowerseg[tensorrt]"',
}
"""Modules that a GPU machine may lack, or have for the CPU only, and what installs them for a GPU.
Steps that need a module that is missing are left out. TensorRT-RTX is not among them: it builds
nothing for compute capability 9.0."""

SUFFIXES = {"pt2": "pt2", "onnx": "onnx", "tensorrt": "engine"}
"""Kind of an exported model -> suffix of its file."""


@dataclass(frozen=True)
class Command:
    """A command of this project: what follows `python -m`."""

    arguments: tuple[str, ...]
    requires_gpu: bool = False  # its tests fail instead of being skipped
    may_fail: bool = False  # the step goes on without it

    @classmethod
    def of(cls, *parts: tuple[object, ...], may_fail: bool = False) -> "Command":
        """A command of words that belong together."""
        return cls(tuple(str(word) for part in parts for word in part), may_fail=may_fail)


@dataclass(frozen=True)
class Step:
    """Commands that belong together, one after the other. The first that fails ends the step."""

    name: str
    commands: Callable[[], tuple[Command, ...]]  # decided once the steps before are done
    limit_s: float = 600.0  # for all its commands together
    is_one_enough: bool = False  # commands are alternatives: the first that succeeds ends the step


Stage: TypeAlias = tuple[Step, ...]
"""Steps that run side by side; several only where nothing is timed."""


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    size: int = 224  # side of the frames
    large: int = 520  # side of the frames of a second table
    batches: tuple[int, ...] = (1, 8, 64, 256)
    large_batches: tuple[int, ...] = (1, 8, 32)
    big_batch: int = 64  # where one batch size is enough
    epochs: int = 20  # of ResNet-101
    further_epochs: int = 6  # of ResNet-50
    seconds: float = 0.4  # of the bench: for a measurement and row
    photos: int = 6000  # in the folder, around and around
    proved: int = 64  # photos of a proof
    patience: float = 1.0  # times the limits of steps


REAL = Scale()
DRY = Scale(
    size=64,
    large=96,
    batches=(1, 2),
    large_batches=(1,),
    big_batch=2,
    epochs=1,
    further_epochs=1,
    seconds=0.02,
    photos=20,
    proved=8,
    patience=8.0,
)
"""Goes through the commands, for a machine without a GPU. Its numbers mean nothing."""


@dataclass(frozen=True)
class Setup:
    """What is measured, and where it goes."""

    data: Path  # labelled photos
    photos: Path  # a folder to segment
    work: Path  # results, models and caches, which the next call finds again
    device: str = "cuda"
    scale: Scale = REAL
    modules: tuple[str, ...] = ()  # of OPTIONAL, those that are installed for a GPU

    @property
    def results(self) -> Path:
        """A folder for each step."""
        return self.work / "results"

    @property
    def has_gpu(self) -> bool:
        """Whether the commands run on a GPU; else half precision and CUDA graphs are left out."""
        return self.device != "cpu"

    @property
    def half(self) -> str:
        """The runtime of a checkpoint in FP16; on the CPU, which has none, in FP32."""
        return "pytorch-fp16" if self.has_gpu else "pytorch"


def modules_here() -> tuple[str, ...]:
    """The optional modules that are installed and that run on the GPU."""
    return tuple(
        name
        for name in OPTIONAL
        if find_spec(name) and (name != "onnxruntime" or _onnxruntime_computes_on_gpu())
    )


def _onnxruntime_computes_on_gpu() -> bool:
    """Whether ONNX Runtime has CUDA: a build for the CPU is a module of the same name."""
    from flowerseg.doctor.finding import Trouble
    from flowerseg.doctor.runtimes import try_ort_cuda
    from flowerseg.errors import FlowersegError

    try:
        try_ort_cuda()
    except (Trouble, FlowersegError, ImportError):  # also where its libraries do not load
        return False
    return True


def missing(setup: Setup) -> dict[str, str]:
    """The optional modules that are not there, with what installs them."""
    return {name: line for name, line in OPTIONAL.items() if name not in setup.modules}


def steps_of(setup: Setup) -> list[Step]:
    """All steps in order."""
    return [step for stage in stages_of(setup) for step in stage]


def stages_of(setup: Setup) -> list[Stage]:
    """All stages in order: ResNet-101 at the smaller size first, with all that is asked of it."""
    patience = setup.scale.patience
    return [
        tuple(replace(step, limit_s=patience * step.limit_s) for step in stage)
        for stage in (*_first_part(setup), *_second_part(setup))
    ]


def name_of(setup: Setup, network: Network, *, is_large: bool = False) -> str:
    """`resnet101-224`."""
    return f"{network}-{setup.scale.large if is_large else setup.scale.size}"


def checkpoint_of(setup: Setup, name: str) -> Path:
    """Where the checkpoint of a network and size lies; one that is there is not trained."""
    return setup.work / "models" / name / "best.pt"


def model_of(setup: Setup, name: str, kind: str) -> Path:
    """The FP16 model of a kind beside its checkpoint."""
    return checkpoint_of(setup, name).parent / f"fp16.{SUFFIXES[kind]}"


def _first_part(setup: Setup) -> Iterator[Stage]:
    main, mobile = name_of(setup, "resnet101"), name_of(setup, "mobilenet_v3")
    yield (
        Step("tests", partial(_tests, setup), 200),
        _training(setup, "resnet101", limit_s=190),
        *_exports(setup, mobile, limit_s=170),
        Step("warm-up", partial(_warm_up, setup), 150),
        Step("facts", partial(_facts, setup), 60),
    )
    yield (*_exports(setup, main, limit_s=170), _proof(setup, main))
    yield (_table(setup, main, limit_s=230),)
    yield (Step("probe", partial(_probe, setup), 100),)
    yield (Step("routes", partial(_routes, setup), 45),)
    yield (Step("folder", partial(_folder, setup, main), 90),)
    yield (_profile(setup, main, "half"),)
    yield (_profile(setup, main, "pt2"),)


def _second_part(setup: Setup) -> Iterator[Stage]:
    main, mobile = name_of(setup, "resnet101"), name_of(setup, "mobilenet_v3")
    middle, large = name_of(setup, "resnet50"), name_of(setup, "resnet101", is_large=True)
    yield (Step(f"tuned-{main}", partial(_tuned, setup, main), 200),)
    yield (
        _proof(setup, mobile),
        _training(setup, "resnet50", limit_s=90),
        _training(setup, "resnet101", limit_s=90, is_large=True),
    )
    yield (_table(setup, mobile, limit_s=130),)
    yield (Step(f"files-{main}", partial(_files, setup, main), 75),)
    yield (*_exports(setup, middle, limit_s=150), _proof(setup, middle))
    yield (_table(setup, middle, limit_s=130),)
    yield (*_exports(setup, large, limit_s=170), _proof(setup, large))
    yield (_table(setup, large, limit_s=180, is_large=True),)


def _tests(setup: Setup) -> tuple[Command, ...]:
    """The tests marked gpu, in several processes where pytest can."""
    spread = ("-n", "4", "--dist", "loadfile") if find_spec("xdist") else ()
    words = ("pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *spread, "tests")
    return (Command(words, requires_gpu=setup.has_gpu),)


def _facts(setup: Setup) -> tuple[Command, ...]:
    return (
        Command(("torch.utils.collect_env",), may_fail=True),
        Command(("pip", "list"), may_fail=True),
        Command(("flowerseg", "doctor"), may_fail=True),
    )


def _training(setup: Setup, network: Network, *, limit_s: float, is_large: bool = False) -> Step:
    name = name_of(setup, network, is_large=is_large)
    return Step(f"train-{name}", partial(_train, setup, network, is_large), limit_s)


def _train(setup: Setup, network: Network, is_large: bool) -> tuple[Command, ...]:
    """From random weights at the smaller size; the larger size continues from there."""
    scale, name = setup.scale, name_of(setup, network, is_large=is_large)
    checkpoint = checkpoint_of(setup, name)
    if checkpoint.exists():
        return ()
    start = checkpoint_of(setup, name_of(setup, network)) if is_large else "none"
    epochs = scale.epochs if network == "resnet101" else scale.further_epochs
    command = Command.of(
        ("flowerseg", "train", "--data", setup.data, "--device", setup.device),
        ("--arch", ARCHITECTURES[network], "--weights", start, "--trainable", "all"),
        ("--epochs", 1 if is_large else epochs),
        ("--size", scale.large if is_large else scale.size),
        ("--out", checkpoint.parent, "--force"),
    )
    return (command,)


def _exports(setup: Setup, name: str, *, limit_s: float) -> tuple[Step, ...]:
    """A step for each kind of model that this machine can make."""
    needed = {"onnx": "onnxruntime", "tensorrt": "tensorrt"}
    kinds = ["pt2", *(kind for kind, module in needed.items() if module in setup.modules)]
    return tuple(
        Step(f"{kind}-{name}", partial(_export, setup, name, kind), limit_s) for kind in kinds
    )


def _export(setup: Setup, name: str, kind: str) -> tuple[Command, ...]:
    """In FP16 on a GPU, tuned for 64 photos, and proved by running it there."""
    command = Command.of(
        ("flowerseg", "export", checkpoint_of(setup, name), "--to", kind),
        ("--fp16",) if setup.has_gpu else (),
        ("--batch", "1:64:256", "--data", setup.data, "--limit", setup.scale.proved),
        ("--device", setup.device, "--out", model_of(setup, name, kind), "--force"),
    )
    return (command,)


def _warm_up(setup: Setup) -> tuple[Command, ...]:
    """Compile a ResNet-101 of random weights: kernels that are cached serve the trained one."""
    checkpoint = checkpoint_of(setup, "untrained")
    return (
        Command.of(
            ("flowerseg_bench.gpu", "untrained", "--arch", ARCHITECTURES["resnet101"]),
            ("--size", setup.scale.size, "--out", checkpoint),
        ),
        Command.of(
            ("flowerseg", "export", checkpoint, "--to", "pt2"),
            ("--fp16",) if setup.has_gpu else (),
            ("--device", setup.device, "--out", model_of(setup, "untrained", "pt2"), "--force"),
        ),
    )


def _proof(setup: Setup, name: str) -> Step:
    return Step(f"proof-{name}", partial(_prove, setup, name, setup.half), 60)


def _prove(setup: Setup, name: str, runtime: str) -> tuple[Command, ...]:
    """The checkpoint in another runtime, against itself in FP32."""
    checkpoint = checkpoint_of(setup, name)
    command = Command.of(
        ("flowerseg", "verify", checkpoint, "--reference", checkpoint, "--runtime", runtime),
        ("--data", setup.data, "--limit", setup.scale.proved, "--device", setup.device),
    )
    return (command,)


def _table(setup: Setup, name: str, *, limit_s: float, is_large: bool = False) -> Step:
    batches = setup.scale.large_batches if is_large else setup.scale.batches
    commands = partial(_bench, setup, name, batches)
    return Step(f"bench-{name}", commands, limit_s, is_one_enough=True)


def _bench(setup: Setup, name: str, batches: tuple[int, ...]) -> tuple[Command, ...]:
    """The engine alone in all ways; where one fails, without graphs, then without models.

    cuDNN's benchmark has a step of its own, `_tuned`: it is slow at the first batch of each size.
    """
    models = _models(setup, name)
    runtimes = tuple(
        ("--runtime", runtime) for runtime in dict.fromkeys(("pytorch", setup.half, "auto"))
    )
    # FP32 takes most of the time, and is the base of comparison only.
    fewer = ("--boundary", "engine", "--leave-out", "*pytorch fp32*CUDA graph*")
    ways = dict.fromkeys(
        (
            (models, ("--layout", "both", "--cuda-graph", "both")),
            (models, ("--layout", "both")),
            ((), ()),
        )
    )
    return tuple(
        _bench_of(setup, name, f"bench-{name}", those, batches, *runtimes, fewer, variants)
        for those, variants in ways
    )


def _tuned(setup: Setup, name: str) -> tuple[Command, ...]:
    """FP16 with cuDNN's benchmark and by `torch.compile`, beside eager FP16; on a GPU only."""
    if not setup.has_gpu:
        return ()
    runtimes = (setup.half, "torch-compile-fp16", "auto")
    bench = _bench_of(
        setup,
        name,
        f"tuned-{name}",
        _models(setup, name),
        (1, setup.scale.big_batch, max(setup.scale.batches)),
        *(("--runtime", runtime) for runtime in runtimes),
        ("--cudnn-benchmark", "both", "--cuda-graph", "both", "--boundary", "engine"),
        ("--leave-out", "*pytorch fp32*"),
    )
    (proof,) = _prove(setup, name, "torch-compile-fp16")
    return (replace(proof, may_fail=True), bench)


def _files(setup: Setup, name: str) -> tuple[Command, ...]:
    """From photo file to mask file too, of the models that serve."""
    bench = _bench_of(
        setup,
        name,
        f"files-{name}",
        _models(setup, name),
        (setup.scale.big_batch,),
        ("--runtime", setup.half, "--runtime", "auto", "--streams", "1,2", "--cuda-graph", "on"),
        ("--leave-out", "*pytorch fp32*") if setup.has_gpu else (),
    )
    return (bench,)


def _bench_of(
    setup: Setup,
    name: str,
    step: str,
    models: tuple[Path, ...],
    batches: tuple[int, ...],
    *rows: tuple[str, ...],
) -> Command:
    checkpoint = checkpoint_of(setup, name)
    return Command.of(
        ("flowerseg", "bench", checkpoint, *models, "--reference", checkpoint),
        *rows,
        ("--data", setup.data, "--device", setup.device, "--unproven"),
        ("--seconds", setup.scale.seconds, "--batch", ",".join(map(str, batches))),
        ("--out", setup.results / step),
    )


def _models(setup: Setup, name: str) -> tuple[Path, ...]:
    """The exported models that are there: one whose export failed is missing from the rows."""
    paths = (model_of(setup, name, kind) for kind in SUFFIXES)
    return tuple(path for path in paths if path.exists())


def _probe(setup: Setup) -> tuple[Command, ...]:
    command = Command.of(
        ("flowerseg_bench.gpu", "probe", "--device", setup.device, "--seconds", 85),
        ("--out", setup.results / "probe"),
    )
    return (command,)


def _routes(setup: Setup) -> tuple[Command, ...]:
    """Whether photos that nvJPEG decodes would leave the masks as they are."""
    command = Command.of(
        ("flowerseg.proof.routes", "--photos", setup.photos, "--limit", setup.scale.proved),
        ("--model", checkpoint_of(setup, name_of(setup, "mobilenet_v3"))),
        ("--device", setup.device),
    )
    return (command,)


def _folder(setup: Setup, name: str) -> tuple[Command, ...]:
    """Thousands of photos to masks by what people call, against the engine with its transfers."""
    scale = setup.scale
    command = Command.of(
        ("flowerseg_bench.folders", "throughput", "--photos", setup.photos),
        ("--count", scale.photos, "--model", checkpoint_of(setup, name), "--unproven"),
        ("--runtime", setup.half, "--batch", scale.big_batch, "--device", setup.device),
        ("--rounds", 1, "--out", setup.results / "folder"),
    )
    return (command,)


def _profile(setup: Setup, name: str, what: Literal["half", "pt2"]) -> Step:
    step = f"profile-{what}-{name}"
    return Step(step, partial(_profiled, setup, name, what, step), 45)


def _profiled(
    setup: Setup, name: str, what: Literal["half", "pt2"], step: str
) -> tuple[Command, ...]:
    is_half = what == "half"
    model = checkpoint_of(setup, name) if is_half else model_of(setup, name, "pt2")
    command = Command.of(
        ("flowerseg_bench.gpu", "profile", model),
        ("--runtime", setup.half) if is_half else (),
        ("--batch", setup.scale.big_batch, "--device", setup.device),
        ("--out", setup.results / step),
    )
    return (command,)
