"""Engines: what is refused before a byte of the file is read, and which contexts run them.

TensorRT runs nothing without a GPU: contexts, graphs and caches are checked against stand-ins that
fail where NVIDIA's documentation says that the real ones do.
"""

import dataclasses
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import (
    Artifact,
    Batch,
    BuiltFor,
    EngineBuild,
    Hardware,
    Kind,
    Manifest,
    Parent,
    Precision,
    open_artifact,
)
from flowerseg.backends import SessionOptions, open_backend, run
from flowerseg.backends import trt as trt_module
from flowerseg.backends.transfer import DeviceMemory
from flowerseg.backends.trt import Engine, TensorRTBackend, check_engine_fits, open_engine
from flowerseg.errors import ArtifactError, BackendUnavailable
from flowerseg.preprocess import Preprocess

REBUILD = "flowerseg-export best.pt --to tensorrt --fp16 --out a.engine --force"
HERE = ("10.12.0", "8.0", "Linux")
SIDE = 32


def _engine(
    kind: Kind = Kind.TENSORRT, capability: str = "8.0", build: EngineBuild | None = None
) -> Artifact:
    """The manifest of an engine whose file is not there: whoever reads it fails otherwise."""
    manifest = Manifest(
        kind=kind,
        architecture="deeplabv3_resnet101",
        precision=Precision.FP16,
        preprocess=Preprocess(),
        built_for=BuiltFor("NVIDIA A100-SXM4-80GB", capability, "Linux"),
        versions={str(kind): "10.12.0"},
        parents=(Parent(Kind.CHECKPOINT, "best.pt", "1"), Parent(Kind.ONNX, "a.onnx", "2")),
        engine=build,
        rebuild=REBUILD,
    )
    return Artifact(Path("nowhere/a.engine"), manifest)


def test_engine_built_for_this_machine_fits() -> None:
    check_engine_fits(_engine(), *HERE)


@pytest.mark.parametrize(
    ("here", "differing"),
    [
        (("11.0.0", "8.0", "Linux"), "TensorRT 10.12.0, this machine has 11.0.0"),
        (("10.12.0", "9.0", "Linux"), "compute capability 8.0, this GPU has 9.0"),
        (("10.12.0", "8.0", "Windows"), "system Linux, this machine has Windows"),
        (
            ("10.13.0", "8.6", "Linux"),
            "TensorRT 10.12.0, this machine has 10.13.0; compute capability 8.0, this GPU has 8.6",
        ),
    ],
)
def test_engine_built_for_something_else_is_refused_with_the_rebuild_command(
    here: tuple[str, str, str], differing: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        check_engine_fits(_engine(), *here)
    assert str(caught.value) == (
        f"nowhere/a.engine: engine built for NVIDIA A100-SXM4-80GB: {differing}. Rebuild it from "
        f"a.onnx beside it: flowerseg-export nowhere/a.engine --rebuild. Or: Export the "
        "checkpoint again with flowerseg-export; `rebuild` in nowhere/a.engine.json says how this "
        "file was made."
    )


@pytest.mark.parametrize("capability", ["7.5", "8.9", "12.0"])
def test_rtx_engine_fits_any_rtx_gpu(capability: str) -> None:
    check_engine_fits(_engine(Kind.TENSORRT_RTX, ""), "10.12.0", capability, "Linux")


@pytest.mark.parametrize(
    ("here", "fits"), [("8.0", True), ("8.6", True), ("9.0", True), ("12.0", True), ("7.5", False)]
)
def test_ampere_plus_engine_fits_ampere_and_later(here: str, fits: bool) -> None:
    engine = _engine(build=EngineBuild(hardware=Hardware.AMPERE_PLUS))
    if fits:
        check_engine_fits(engine, "10.12.0", here, "Linux")
    else:
        with pytest.raises(ArtifactError, match=r"compute capability 8\.0, this GPU has 7\.5"):
            check_engine_fits(engine, "10.12.0", here, "Linux")


@pytest.mark.parametrize(
    ("here", "fits"),
    [("10.12.0", True), ("10.13.0", True), ("11.4.0", True), ("10.9.0", False), ("10.2.0", False)],
)
def test_version_compatible_engine_fits_newer_runtimes_only(here: str, fits: bool) -> None:
    engine = _engine(build=EngineBuild(version_compatible=True))
    if fits:
        check_engine_fits(engine, here, "8.0", "Linux")
    else:
        with pytest.raises(ArtifactError, match=f"TensorRT 10.12.0, this machine has {here}"):
            check_engine_fits(engine, here, "8.0", "Linux")


@pytest.mark.parametrize(("here", "fits"), [("8.9", True), ("12.0", True), ("8.6", False)])
def test_rtx_engine_for_some_capabilities_fits_those(here: str, fits: bool) -> None:
    engine = _engine(Kind.TENSORRT_RTX, "8.9, 12.0")
    if fits:
        check_engine_fits(engine, "10.12.0", here, "Linux")
    else:
        with pytest.raises(
            ArtifactError, match=r"compute capability 8\.9, 12\.0, this GPU has 8\.6"
        ):
            check_engine_fits(engine, "10.12.0", here, "Linux")


def test_engine_whose_manifest_names_no_gpu_is_refused() -> None:
    engine = _engine()
    unnamed = Artifact(engine.path, dataclasses.replace(engine.manifest, built_for=None))
    with pytest.raises(ArtifactError, match="does not say what GPU it is for"):
        check_engine_fits(unnamed, *HERE)


def test_engine_whose_manifest_names_no_version_is_refused() -> None:
    engine = _engine()
    unnamed = Artifact(engine.path, dataclasses.replace(engine.manifest, versions={}))
    with pytest.raises(ArtifactError, match=r"TensorRT unknown, this machine has 10\.12\.0"):
        check_engine_fits(unnamed, *HERE)


def test_file_of_another_engine_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(ArtifactError, match=r"TensorRT 10\.12\.0, this machine has 1\."):
        Engine(_engine(Kind.TENSORRT_RTX, ""))


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("auto", "runs on an NVIDIA GPU only, and torch sees none"),
        ("cpu", "runs on an NVIDIA GPU only, and --device cpu names none"),
        ("cuda", "torch sees 0 CUDA devices"),
    ],
)
def test_real_engine_on_a_machine_without_gpu_is_unavailable(
    rtx_engine: Artifact, device: str, said: str
) -> None:
    with pytest.raises(BackendUnavailable, match=said):
        open_backend(rtx_engine, device)


def test_engine_with_a_changed_byte_is_refused(
    rtx_engine: Artifact, copied: Callable[[Path], Path]
) -> None:
    path = copied(rtx_engine.path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not the one its manifest describes"):
        open_artifact(path)


# Contexts and CUDA graphs, with stand-ins for TensorRT and for torch.cuda.


class _Strategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class _Graphs(Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class _Specialization(Enum):
    LAZY = 0
    EAGER = 1


class _Verbosity(Enum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 2


class _Context:
    """Writes a frame's first byte plus one to every pixel of its mask, as the shape says."""

    def __init__(self, gpu: "_Gpu", strategy: _Strategy, config: Any) -> None:
        self._gpu = gpu
        self.strategy, self.config = strategy, config
        self.memory: tuple[int, int] | None = None
        self.nvtx_verbosity = _Verbosity.DETAILED  # as the engine was built
        self.state: tuple[Any, ...] = ()
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self.active_optimization_profile = 0
        self.profile_switches: list[int] = []

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert self._gpu.capturing is None, "a switch copies memory: it may not be captured"
        assert stream_handle == self._gpu.stream.cuda_stream
        if profile_index in self._gpu.refused_profiles:
            return False
        self.active_optimization_profile = profile_index
        self.profile_switches.append(profile_index)
        self._shape = ()  # a switch invalidates the shapes of inputs
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        assert memory
        self.memory = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images"
        takes = self._gpu.profiles[self.active_optimization_profile]
        if shape in self._gpu.refused_shapes or not takes.min <= shape[0] <= takes.max:
            return False
        self._shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self._gpu.stream.cuda_stream
        if self.strategy is _Strategy.USER_MANAGED and self.memory is None:
            return False
        self.state = (self._shape, *self._addresses.values())
        self._gpu.ran(self)
        return True

    def compute(self) -> None:
        shape, images, foreground = self.state
        given = self._gpu.tensors[images]
        assert given.shape == shape
        self._gpu.tensors[foreground][...] = given[:, 0, 0, 0, None, None] + 1


class _RuntimeCache:
    def __init__(self, gpu: "_Gpu") -> None:
        self._gpu = gpu
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        taken = content.startswith(b"kernels")
        self.content = content if taken else b""
        return taken

    def serialize(self) -> bytes | None:
        return None if self._gpu.loses_cache else (self.content or b"kernels of this run")


class _RuntimeConfig:
    def __init__(self, gpu: "_Gpu") -> None:
        self._gpu = gpu
        self.cache: _RuntimeCache | None = None
        self.dynamic_shapes_kernel_specialization_strategy = _Specialization.LAZY
        self._graphs = _Graphs.DISABLED

    @property
    def cuda_graph_strategy(self) -> _Graphs:
        return self._graphs

    @cuda_graph_strategy.setter
    def cuda_graph_strategy(self, strategy: _Graphs) -> None:
        if not self._gpu.refuses_graphs:
            self._graphs = strategy

    def create_runtime_cache(self) -> _RuntimeCache:
        return _RuntimeCache(self._gpu)

    def set_runtime_cache(self, cache: _RuntimeCache) -> bool:
        self.cache = cache
        return True


class _Graph:
    """A captured graph: it replays what its contexts were set to, if they still are."""

    def __init__(self, gpu: "_Gpu") -> None:
        self._gpu = gpu
        self.captured: list[tuple[_Context, tuple[Any, ...]]] = []

    def replay(self) -> None:
        for context, state in self.captured:
            assert context.state == state, "the context was set to another batch since the capture"
            context.compute()


class _Gpu:
    """What the stand-ins share: contexts that were made, tensors by address, faults to show."""

    def __init__(self) -> None:
        self.contexts: list[_Context] = []
        self.tensors: dict[int, torch.Tensor] = {}
        self.stream = SimpleNamespace(cuda_stream=7)
        self.refused_shapes: set[tuple[int, ...]] = set()
        self.refused_profiles: set[int] = set()
        self.profiles = [Batch(1, 8, 64)]
        self.refuses_graphs = False
        self.loses_cache = False
        self.has_memory = True
        self.capturing: _Graph | None = None
        self.captures = 0

    def ran(self, context: _Context) -> None:
        if self.capturing is not None:
            self.capturing.captured.append((context, context.state))
        else:
            context.compute()

    @contextmanager
    def capture(self, graph: _Graph, **_: object) -> Iterator[None]:
        self.captures += 1
        self.capturing = graph
        yield
        self.capturing = None

    # The engine.

    device_memory_size_v2 = 3 * 2**20

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_profile_shape(
        self, name: str, profile_index: int
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        assert name == "images"
        batch = self.profiles[profile_index]
        smallest, tuned, largest = ((n, SIDE, SIDE, 3) for n in (batch.min, batch.opt, batch.max))
        return smallest, tuned, largest

    def create_execution_context(
        self, strategy: _Strategy = _Strategy.STATIC, runtime_config: Any = None
    ) -> _Context | None:
        if not self.has_memory:
            return None
        self.contexts.append(_Context(self, strategy, runtime_config))
        return self.contexts[-1]

    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig(self)

    def module(self, kind: Kind) -> Any:
        def runtime(_: object) -> Any:
            return SimpleNamespace(deserialize_cuda_engine=lambda _: self)

        def logger(_: object) -> object:
            return object()

        logger.ERROR = 0  # type: ignore[attr-defined]  # as the class has it
        return SimpleNamespace(
            __name__=str(kind),
            __version__="10.12.0",
            Logger=logger,
            Runtime=runtime,
            ExecutionContextAllocationStrategy=_Strategy,
            ProfilingVerbosity=_Verbosity,
            CudaGraphStrategy=_Graphs,
            DynamicShapesKernelSpecializationStrategy=_Specialization,
        )


class _Batch:
    """`DeviceBatch` in host memory."""

    def __init__(self, gpu: _Gpu) -> None:
        self.stream = gpu.stream
        self._gpu = gpu
        self._memories: dict[tuple[int, ...], DeviceMemory] = {}

    def working(self) -> AbstractContextManager[None]:
        return nullcontext()

    def memory(self, shape: tuple[int, ...]) -> DeviceMemory:
        if shape not in self._memories:
            images = torch.zeros(shape, dtype=torch.uint8)
            foreground = torch.zeros(shape[:3], dtype=torch.uint8)
            self._gpu.tensors |= {t.data_ptr(): t for t in (images, foreground)}
            self._memories[shape] = DeviceMemory(images, foreground, images, foreground)
        return self._memories[shape]

    def upload(self, images: Images) -> torch.Tensor:
        return self.memory(images.shape).images.copy_(torch.from_numpy(images.copy()))

    def synchronize(self) -> None:
        pass

    def download(self, foreground: torch.Tensor) -> Foreground:
        return foreground.numpy().copy()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Gpu:
    found = _Gpu()
    aligned_memory = trt_module._aligned_memory
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(trt_module, "import_tensorrt", found.module)
    monkeypatch.setattr(trt_module, "DeviceBatch", lambda _: _Batch(found))
    monkeypatch.setattr(trt_module, "_aligned_memory", lambda _, size: aligned_memory("cpu", size))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: _Graph(found))
    monkeypatch.setattr(torch.cuda, "graph", found.capture)
    return found


def _file(folder: Path, kind: Kind) -> Artifact:
    engine = _engine(kind)
    path = folder / "a.engine"
    path.write_bytes(b"engine")
    preprocess = Preprocess((SIDE, SIDE))
    manifest = dataclasses.replace(engine.manifest, sha256="ab" * 32, preprocess=preprocess)
    return Artifact(path, manifest)


def _opened(folder: Path, kind: Kind, *, cuda_graph: bool) -> TensorRTBackend:
    (backend,) = open_engine(_file(folder, kind), "auto", SessionOptions(cuda_graph=cuda_graph))
    return backend


def _frames(*first_bytes: int) -> Images:
    return np.stack([np.full((SIDE, SIDE, 3), byte, np.uint8) for byte in first_bytes])


def _masks_of_mixed_sizes(backend: TensorRTBackend) -> list[list[int]]:
    """Two batch sizes in turn, so that the second size finds the context of the first."""
    batches = [(1, 2), (3,), (4, 5), (6,)]
    return [run(backend, _frames(*batch))[:, 0, 0].tolist() for batch in batches]


MIXED = [[2, 3], [4], [5, 6], [7]]


def test_each_captured_graph_has_a_context_and_they_share_memory(gpu: _Gpu, tmp_path: Path) -> None:
    backend = _opened(tmp_path, Kind.TENSORRT, cuda_graph=True)
    assert _masks_of_mixed_sizes(backend) == MIXED
    assert gpu.captures == len(gpu.contexts) == 2
    assert {context.strategy for context in gpu.contexts} == {_Strategy.USER_MANAGED}
    ((_, size_bytes),) = {context.memory for context in gpu.contexts if context.memory}
    assert size_bytes == gpu.device_memory_size_v2


@pytest.mark.parametrize("kind", [Kind.TENSORRT, Kind.TENSORRT_RTX])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_nvtx_does_not_annotate_batches_with_all_that_an_engine_knows(
    gpu: _Gpu, tmp_path: Path, kind: Kind, cuda_graph: bool
) -> None:
    run(_opened(tmp_path, kind, cuda_graph=cuda_graph), _frames(1))
    assert {context.nvtx_verbosity for context in gpu.contexts} == {_Verbosity.LAYER_NAMES_ONLY}


def test_backend_runs_in_the_context_that_it_is_given(gpu: _Gpu, tmp_path: Path) -> None:
    engine = Engine(_file(tmp_path, Kind.TENSORRT))
    context = engine.context()
    assert run(TensorRTBackend(engine, context=context), _frames(4))[0, 0, 0] == 5
    assert gpu.contexts == [context]


THREE_PROFILES = (Batch(1, 1, 1), Batch(2, 2, 3), Batch(4, 5, 5))


def _batches_across_profiles(backend: TensorRTBackend) -> list[list[int]]:
    sizes = (1, 5, 4, 3, 1, 2, 5)  # among them two sizes of one profile in a row
    return [run(backend, _frames(*range(size)))[:, 0, 0].tolist() for size in sizes]


ACROSS = [list(range(1, size + 1)) for size in (1, 5, 4, 3, 1, 2, 5)]


@pytest.mark.parametrize("kind", [Kind.TENSORRT, Kind.TENSORRT_RTX])
def test_context_switches_its_profile_where_the_batch_size_asks_for_it(
    gpu: _Gpu, tmp_path: Path, kind: Kind
) -> None:
    gpu.profiles = list(THREE_PROFILES)
    backend = _opened(tmp_path, kind, cuda_graph=False)
    assert _batches_across_profiles(backend) == ACROSS
    (context,) = gpu.contexts
    assert context.profile_switches == [2, 1, 0, 1, 2]


def test_each_captured_graph_has_the_profile_of_its_batch_size(gpu: _Gpu, tmp_path: Path) -> None:
    gpu.profiles = list(THREE_PROFILES)
    backend = _opened(tmp_path, Kind.TENSORRT, cuda_graph=True)
    assert _batches_across_profiles(backend) == ACROSS
    assert [c.profile_switches for c in gpu.contexts] == [[], [2], [2], [1], [1]]
    assert gpu.captures == 5


def test_contexts_of_two_streams_may_have_the_same_profile(gpu: _Gpu, tmp_path: Path) -> None:
    gpu.profiles = list(THREE_PROFILES)
    options = SessionOptions(streams=2)
    backends = open_engine(_file(tmp_path, Kind.TENSORRT), "auto", options)
    assert [_batches_across_profiles(backend) for backend in backends] == [ACROSS, ACROSS]


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_profile_that_tensorrt_refuses_is_an_error_and_is_set_again(
    gpu: _Gpu, tmp_path: Path, cuda_graph: bool
) -> None:
    gpu.profiles = list(THREE_PROFILES)
    gpu.refused_profiles = {1}
    backend = _opened(tmp_path, Kind.TENSORRT, cuda_graph=cuda_graph)
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="set_optimization_profile_async failed"):
            run(backend, _frames(1, 2))
    gpu.refused_profiles = set()
    assert run(backend, _frames(8, 9))[:, 0, 0].tolist() == [9, 10]


def test_batch_that_no_profile_takes_is_refused_with_those_that_are(
    gpu: _Gpu, tmp_path: Path
) -> None:
    gpu.profiles = list(THREE_PROFILES)
    backend = _opened(tmp_path, Kind.TENSORRT, cuda_graph=False)
    with pytest.raises(ValueError, match="a batch of 6; the engine takes batches of 1:1:1, 2:2:3"):
        run(backend, _frames(*range(6)))


def test_engine_whose_profiles_are_not_those_of_its_manifest_is_refused(
    gpu: _Gpu, tmp_path: Path
) -> None:
    artifact = _file(tmp_path, Kind.TENSORRT)
    manifest = dataclasses.replace(artifact.manifest, profiles=THREE_PROFILES)
    with pytest.raises(ArtifactError, match="takes batches of 1:8:64, but its manifest says 1:1:1"):
        Engine(Artifact(artifact.path, manifest))
    gpu.profiles = list(THREE_PROFILES)
    assert Engine(Artifact(artifact.path, manifest)).profiles == THREE_PROFILES


def test_two_streams_of_graphs_do_not_share_memory(gpu: _Gpu, tmp_path: Path) -> None:
    options = SessionOptions(streams=2, cuda_graph=True)
    for backend in open_engine(_file(tmp_path, Kind.TENSORRT), "auto", options):
        assert _masks_of_mixed_sizes(backend) == MIXED
    first, second = gpu.contexts[0].memory, gpu.contexts[2].memory
    assert first is not None
    assert second is not None
    assert abs(first[0] - second[0]) >= gpu.device_memory_size_v2


def test_without_graphs_one_context_takes_every_size(gpu: _Gpu, tmp_path: Path) -> None:
    backend = _opened(tmp_path, Kind.TENSORRT, cuda_graph=False)
    assert _masks_of_mixed_sizes(backend) == MIXED
    (context,) = gpu.contexts
    assert (context.strategy, context.memory, gpu.captures) == (_Strategy.STATIC, None, 0)


def test_closing_frees_contexts_before_the_memory_that_they_share(
    gpu: _Gpu, tmp_path: Path
) -> None:
    backend = _opened(tmp_path, Kind.TENSORRT, cuda_graph=True)
    run(backend, _frames(1))
    contexts = backend._contexts
    backend.close()
    backend.close()
    assert vars(contexts)["_by_shape"] == {}
    assert vars(contexts)["_memory"] is None


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_shape_that_tensorrt_refuses_is_an_error_and_is_set_again(
    gpu: _Gpu, tmp_path: Path, cuda_graph: bool
) -> None:
    backend = _opened(tmp_path, Kind.TENSORRT, cuda_graph=cuda_graph)
    run(backend, _frames(1))
    gpu.refused_shapes = {(2, SIDE, SIDE, 3)}
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="set_input_shape failed; its lines on stderr"):
            run(backend, _frames(1, 2))
    assert run(backend, _frames(8))[0, 0, 0] == 9


@pytest.mark.parametrize("kind", [Kind.TENSORRT, Kind.TENSORRT_RTX])
def test_full_gpu_memory_is_an_error_that_names_the_need(
    gpu: _Gpu, tmp_path: Path, kind: Kind
) -> None:
    gpu.has_memory = False
    with pytest.raises(BackendUnavailable, match=r"memory of cuda:0 may be full \(needs 3 MiB\)"):
        _opened(tmp_path, kind, cuda_graph=False)


def test_full_gpu_memory_for_graphs_is_the_same_error(
    gpu: _Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(trt_module, "_aligned_memory", full)
    with pytest.raises(BackendUnavailable, match=r"memory of cuda:0 may be full \(needs 3 MiB\)"):
        _opened(tmp_path, Kind.TENSORRT, cuda_graph=True)


@pytest.mark.parametrize("size_bytes", [0, 1, 1000])
def test_shared_memory_is_aligned_and_as_large_as_needed(size_bytes: int) -> None:
    memory = trt_module._aligned_memory("cpu", size_bytes)
    assert memory.data_ptr() % 256 == 0
    assert memory.data_ptr()
    assert memory.numel() == max(size_bytes, 1)


def test_runtime_that_tensorrt_does_not_give_is_an_error(
    gpu: _Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_runtime(_: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module = gpu.module(Kind.TENSORRT)
    module.Runtime = no_runtime
    monkeypatch.setattr(trt_module, "import_tensorrt", lambda _: module)
    with pytest.raises(BackendUnavailable, match=r"makes no runtime .*flowerseg-doctor"):
        Engine(_file(tmp_path, Kind.TENSORRT))


# TensorRT-RTX: its own graphs, its kernels, its runtime cache.


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_rtx_captures_its_own_graphs_of_specialised_kernels(
    gpu: _Gpu, tmp_path: Path, cuda_graph: bool
) -> None:
    backend = _opened(tmp_path, Kind.TENSORRT_RTX, cuda_graph=cuda_graph)
    assert _masks_of_mixed_sizes(backend) == MIXED
    (context,) = gpu.contexts
    graphs = _Graphs.WHOLE_GRAPH_CAPTURE if cuda_graph else _Graphs.DISABLED
    assert context.config.cuda_graph_strategy is graphs
    kernels = context.config.dynamic_shapes_kernel_specialization_strategy
    assert kernels is _Specialization.EAGER
    assert gpu.captures == 0


def test_rtx_that_does_not_take_a_graph_strategy_is_refused(gpu: _Gpu, tmp_path: Path) -> None:
    gpu.refuses_graphs = True
    with pytest.raises(BackendUnavailable, match=r"does not take .* WHOLE_GRAPH_CAPTURE"):
        _opened(tmp_path, Kind.TENSORRT_RTX, cuda_graph=True)


def test_kernels_of_rtx_are_compiled_once_for_all_starts(
    gpu: _Gpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _opened(tmp_path, Kind.TENSORRT_RTX, cuda_graph=True).close()
    (path,) = (tmp_path / "caches/flowerseg/runtime").iterdir()
    assert path.read_bytes() == b"kernels of this run"
    path.write_bytes(b"kernels of an earlier run")
    backends = open_engine(_file(tmp_path, Kind.TENSORRT_RTX), "auto", SessionOptions(streams=2))
    caches = {id(context.config.cache): context.config.cache for context in gpu.contexts[1:]}
    assert [cache.content for cache in caches.values()] == [b"kernels of an earlier run"]
    for backend in backends:
        backend.close()
    assert path.read_bytes() == b"kernels of an earlier run"
    assert capsys.readouterr().err == ""


def test_runtime_cache_is_of_one_engine_version_gpu_driver_and_cuda(
    gpu: _Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowerseg.backends.gpucache.driver_here", lambda: None)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    _opened(tmp_path, Kind.TENSORRT_RTX, cuda_graph=False).close()
    (path,) = (tmp_path / "caches/flowerseg/runtime").iterdir()
    assert path.name == f"{'ab' * 32}-rtx-10.12.0-NVIDIA-A100-driver-unknown-cuda-13.2.cache"


def test_damaged_runtime_cache_is_ignored_with_words_and_replaced(
    gpu: _Gpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _opened(tmp_path, Kind.TENSORRT_RTX, cuda_graph=False).close()
    (path,) = (tmp_path / "caches/flowerseg/runtime").iterdir()
    path.write_bytes(b"something else")
    backend = _opened(tmp_path, Kind.TENSORRT_RTX, cuda_graph=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: runtime cache not used: TensorRT-RTX refuses it (damaged")
    assert _masks_of_mixed_sizes(backend) == MIXED
    backend.close()
    assert path.read_bytes() == b"kernels of this run"


def test_runtime_cache_that_cannot_be_kept_ends_nothing(
    gpu: _Gpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "caches").write_text("a file where the folder goes")
    _opened(tmp_path, Kind.TENSORRT_RTX, cuda_graph=False).close()
    gpu.loses_cache = True
    _opened(tmp_path, Kind.TENSORRT_RTX, cuda_graph=False).close()
    lines = capsys.readouterr().err.splitlines()
    assert any("cache not written, the next start takes as long" in line for line in lines)
    assert any("does not serialize it" in line for line in lines)
