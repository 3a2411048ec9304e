"""The steps on a GPU: the project's own commands, in the order of what is missed most.

Minutes on a GPU are few. So a step ends with its results written, one that is done is not done
again, and what the machine lacks is left out by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

Network = Literal["resnet101", "resnet50", "mobilenet_v3"]

ARCHITECTURES: dict[Network, str] = {
    "resnet101": "deeplabv3_resnet101",
    "resnet50": "deeplabv3_resnet50",
    "mobilenet_v3": "deeplabv3_mobilenet_v3_large",
}
BATCHES = {224: (1, 8, 64, 256), 520: (1, 8, 32)}
"""Side of the frames -> batch sizes for throughput."""

FOLDER = "folder"
"""The step that segments a folder."""

OPTIONAL = {
    "onnxruntime": "pip install onnxruntime-gpu",
    "tensorrt": 'pip install "flowerseg[tensorrt]"',
    "tensorrt_rtx": 'pip install "flowerseg[rtx]"',
}
"""Modules that a GPU machine may lack, or have for the CPU only, and what installs them for a GPU.
Commands that need a module that is missing are left out."""


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
    """Commands that belong together. One that fails ends the step, and no other step."""

    name: str
    commands: Callable[[], tuple[Command, ...]]  # as they are once the steps before are done


@dataclass(frozen=True)
class Setup:
    """What is measured, and where it goes."""

    data: Path
    out: Path  # gets a folder for each step
    work: Path  # checkpoints and models, which are kept for the next call
    photos: Path | None = None  # a folder to segment; None: no such step
    count: int = 8000  # of photos in it, around and around
    networks: tuple[Network, ...] = tuple(ARCHITECTURES)
    sizes: tuple[int, ...] = tuple(BATCHES)
    epochs: int = 3
    seconds: float = 1.0
    device: str = "cuda"
    modules: tuple[str, ...] = ()  # of OPTIONAL, those that are here


def modules_here() -> tuple[str, ...]:
    """The optional modules that are installed and that run on a GPU."""
    return tuple(
        name
        for name in OPTIONAL
        if find_spec(name) and (name != "onnxruntime" or _has_cuda_provider())
    )


def _has_cuda_provider() -> bool:
    """Whether ONNX Runtime is a build for CUDA; the package `onnxruntime` is one for the CPU."""
    try:
        import onnxruntime
    except ImportError:  # installed, but one of its libraries is not
        return False
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def missing(setup: Setup) -> dict[str, str]:
    """The optional modules that are not there, with what installs them."""
    return {name: line for name, line in OPTIONAL.items() if name not in setup.modules}


def steps_of(setup: Setup) -> list[Step]:
    """All steps in order: facts and tests, then network by network the models and their bench."""
    steps = [Step("facts", _facts), Step("tests", _tests)]
    for size in setup.sizes:
        for network in setup.networks:
            name = f"{network}-{size}"
            steps += [
                Step(f"models-{name}", partial(_models, setup, network, size)),
                Step(f"bench-{name}", partial(_bench, setup, network, size)),
            ]
            if size == min(setup.sizes):
                steps.append(Step(f"profile-{name}", partial(_profile, setup, network, size)))
    if setup.photos is not None:
        steps.append(Step(FOLDER, partial(_folder, setup, setup.photos)))
        steps.append(Step("routes", partial(_routes, setup, setup.photos)))
    return steps


def checkpoint_of(setup: Setup, network: Network, size: int) -> Path:
    """Where a network's checkpoint for a size is; one that is there is not trained."""
    return setup.work / f"{network}-{size}" / "best.pt"


def model_of(checkpoint: Path, kind: str) -> Path:
    """The FP16 model of a kind beside its checkpoint."""
    suffix = {"pt2": "pt2", "onnx": "onnx", "tensorrt": "engine", "tensorrt-rtx": "rtx.engine"}
    return checkpoint.parent / f"fp16.{suffix[kind]}"


def _facts() -> tuple[Command, ...]:
    return (Command(("flowerseg", "doctor"), may_fail=True),)


def _tests() -> tuple[Command, ...]:
    return (Command(("pytest", "-q", "-m", "gpu", "tests"), requires_gpu=True),)


def _models(setup: Setup, network: Network, size: int) -> tuple[Command, ...]:
    """Train where there is no checkpoint, then export and prove, executed on the GPU."""
    checkpoint = checkpoint_of(setup, network, size)
    trained = () if checkpoint.exists() else (_training(setup, network, size),)
    exports = [_export(setup, checkpoint, kind) for kind in _kinds(setup)]
    proofs = [_proof(setup, checkpoint, runtime) for runtime in ("pytorch-fp16", "torch-compile")]
    return (*trained, *exports, *proofs)


def _training(setup: Setup, network: Network, size: int) -> Command:
    """From nothing at the smallest size; a larger one goes on from there for one epoch."""
    smallest = min(setup.sizes)
    is_first = size == smallest
    start = "none" if is_first else checkpoint_of(setup, network, smallest)
    return Command.of(
        ("flowerseg", "train", "--data", setup.data, "--device", setup.device),
        ("--arch", ARCHITECTURES[network], "--weights", start, "--trainable", "all"),
        ("--epochs", setup.epochs if is_first else 1, "--size", size),
        ("--out", checkpoint_of(setup, network, size).parent, "--force"),
    )


def _kinds(setup: Setup) -> list[str]:
    needed = {"onnx": "onnxruntime", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
    return ["pt2", *(kind for kind, module in needed.items() if module in setup.modules)]


def _export(setup: Setup, checkpoint: Path, kind: str) -> Command:
    """FP16, tuned for 64 photos. TensorRT-RTX lists no 9.0; what it says there is worth a line."""
    return Command.of(
        ("flowerseg", "export", checkpoint, "--to", kind, "--fp16", "--batch", "1:64:256"),
        ("--data", setup.data, "--device", setup.device),
        ("--out", model_of(checkpoint, kind), "--force"),
        may_fail=True,
    )


def _proof(setup: Setup, checkpoint: Path, runtime: str) -> Command:
    return Command.of(
        ("flowerseg", "verify", checkpoint, "--reference", checkpoint, "--runtime", runtime),
        ("--data", setup.data, "--limit", 64, "--device", setup.device),
        may_fail=True,
    )


def _bench(setup: Setup, network: Network, size: int) -> tuple[Command, ...]:
    """All models that were exported: one that could not be is missing from the rows."""
    checkpoint = checkpoint_of(setup, network, size)
    models = [model_of(checkpoint, kind) for kind in _kinds(setup)]
    runtimes = ("pytorch", "pytorch-fp16", "torch-compile", "auto")
    command = Command.of(
        ("flowerseg", "bench", checkpoint, *(path for path in models if path.exists())),
        *(("--runtime", runtime) for runtime in runtimes),
        ("--data", setup.data, "--device", setup.device, "--seconds", setup.seconds, "--unproven"),
        ("--batch", ",".join(map(str, BATCHES[size])), "--streams", "1,2", "--cuda-graph", "both"),
        ("--out", setup.out / f"bench-{network}-{size}"),
    )
    return (command,)


def _profile(setup: Setup, network: Network, size: int) -> tuple[Command, ...]:
    command = Command.of(
        ("flowerseg_bench.gpu", "profile", checkpoint_of(setup, network, size)),
        ("--runtime", "pytorch-fp16", "--batch", 64, "--device", setup.device),
        ("--out", setup.out / f"profile-{network}-{size}"),
    )
    return (command,)


def _folder(setup: Setup, photos: Path) -> tuple[Command, ...]:
    """Thousands of photos to masks by what people call, against the engine with its transfers."""
    command = Command.of(
        ("flowerseg_bench.folders", "throughput", "--photos", photos, "--count", setup.count),
        ("--model", checkpoint_of(setup, setup.networks[0], min(setup.sizes))),
        ("--runtime", "pytorch-fp16", "--unproven", "--batch", 64, "--device", setup.device),
        ("--rounds", 2, "--out", setup.out / FOLDER),
    )
    return (command,)


def _routes(setup: Setup, photos: Path) -> tuple[Command, ...]:
    """Whether photos that nvJPEG decodes would leave the masks as they are."""
    checkpoint = checkpoint_of(setup, setup.networks[0], min(setup.sizes))
    command = Command.of(
        ("flowerseg.proof.routes", "--model", checkpoint, "--photos", photos),
        ("--device", setup.device),
    )
    return (command,)
