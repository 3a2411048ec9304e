"""TensorRT and TensorRT-RTX: one class, two modules with the same Python API.

An engine file is code that the GPU runs: it is deserialised only after its bytes matched its
manifest, and after TensorRT's version, the GPU and the system matched what it was built for.
"""

import importlib
import platform
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import torch

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact, Batch, EngineBuild, Hardware, Kind, rebuild_advice
from flowerseg.backends.base import SessionOptions
from flowerseg.backends.device import compute_capability, device_name, info_of, resolve_device
from flowerseg.backends.gpucache import OnNotice, cache_path, print_notice
from flowerseg.backends.rtx import RuntimeCache, runtime_config
from flowerseg.backends.transfer import DeviceBatch, DeviceMemory, recorded
from flowerseg.errors import ArtifactError, BackendUnavailable

# Support matrices and the ahead-of-time page of TensorRT-RTX 1.0 to 1.5.
RTX_LISTED = "7.5, 8.0, 8.6, 8.9, 12.0 and 12.1"
_AMPERE = (8, 0)
_ALIGNMENT = 256  # bytes; documentation of IExecutionContext.set_device_memory

Shape: TypeAlias = tuple[int, ...]
"""(N, H, W, 3) of a batch."""

_MODULES = {Kind.TENSORRT: "tensorrt", Kind.TENSORRT_RTX: "tensorrt_rtx"}
_PIP_LINES = {
    Kind.TENSORRT: 'pip install "flowerseg[tensorrt]"',
    Kind.TENSORRT_RTX: 'pip install "flowerseg[rtx]"',
}


def import_tensorrt(kind: Kind) -> ModuleType:
    """The module that reads and builds engines of this kind.

    Raises:
        BackendUnavailable: it is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module(_MODULES[kind])
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"{_MODULES[kind]} cannot be imported ({error}). Install it: {_PIP_LINES[kind]}"
        ) from error


def check_engine_fits(artifact: Artifact, version: str, capability: str, system: str) -> None:
    """Refuse an engine of another TensorRT, GPU or system before a byte of it is deserialised.

    Args:
        artifact: an engine with its manifest.
        version: TensorRT's version here.
        capability: the GPU's compute capability here, as `9.0`.
        system: `platform.system()` here.

    Raises:
        ArtifactError: naming what differs and the command that rebuilds it.
    """
    manifest = artifact.manifest
    made = manifest.built_for
    if made is None:
        raise ArtifactError(f"{artifact.path}: its manifest does not say what GPU it is for.")
    build = manifest.engine or EngineBuild()
    built_by = manifest.versions.get(manifest.kind, "unknown")
    differing = []
    if not _reads_version(built_by, version, build):
        differing.append(f"TensorRT {built_by}, this machine has {version}")
    if made.system != system:
        differing.append(f"system {made.system}, this machine has {system}")
    if not _runs_on(made.compute_capability, capability, build):
        differing.append(f"compute capability {made.compute_capability}, this GPU has {capability}")
    if differing:
        raise ArtifactError(
            f"{artifact.path}: engine built for {made.gpu or 'any GPU'}: {'; '.join(differing)}. "
            f"{engine_advice(artifact)}"
        )


def engine_advice(artifact: Artifact) -> str:
    """The commands that make an engine for this machine."""
    parent = artifact.manifest.parents[-1] if artifact.manifest.parents else None
    by_hand = rebuild_advice(artifact.path)
    if parent is None or parent.kind is not Kind.ONNX:
        return by_hand
    return (
        f"Rebuild it from {parent.name} beside it: flowerseg-export {artifact.path} --rebuild. "
        f"Or: {by_hand}"
    )


def _reads_version(built_by: str, version: str, build: EngineBuild) -> bool:
    if built_by == version:
        return True
    # A version-compatible engine runs on newer runtimes, and never on older ones
    # (TensorRT's documentation, "Engine compatibility").
    return build.version_compatible and _numbers(built_by) < _numbers(version)


def _runs_on(built_for: str, capability: str, build: EngineBuild) -> bool:
    if build.hardware is Hardware.AMPERE_PLUS:
        return _numbers(capability) >= _AMPERE
    return not built_for or capability in built_for.split(", ")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


class Engine:
    """A deserialised engine, with the runtime and the logger that it uses as long as it lives.

    Args:
        artifact: the file.
        device: `auto`, `cuda` or `cuda:N`.
        on_notice: called with a line about a runtime cache of TensorRT-RTX that cannot be used.

    Raises:
        BackendUnavailable: the module or a CUDA GPU is missing.
        ArtifactError: the engine was built for something else, or is refused.
    """

    def __init__(
        self, artifact: Artifact, device: str = "auto", on_notice: OnNotice = print_notice
    ) -> None:
        manifest = artifact.manifest
        trt = import_tensorrt(manifest.kind)
        self.device = _require_gpu(artifact, device)
        check_engine_fits(
            artifact, trt.__version__, compute_capability(self.device), platform.system()
        )
        self.path = artifact.path
        self.kind = manifest.kind
        self.info = info_of(manifest, manifest.kind, trt.__version__, self.device)
        self._trt = trt
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = _new_runtime(trt, self._logger)
        if manifest.engine and manifest.engine.version_compatible:
            # Such an engine brings the runtime of its own version along, as host code.
            self._runtime.engine_host_code_allowed = True
        self._engine: Any = self._deserialized(artifact)
        self.profiles = _profiles_of(self._engine)
        if manifest.profiles not in ((), self.profiles):
            raise ArtifactError(
                f"{artifact.path}: the engine takes batches of {_listed(self.profiles)}, but its "
                f"manifest says {_listed(manifest.profiles)}. {engine_advice(artifact)}"
            )
        if manifest.kind is Kind.TENSORRT_RTX:
            keys = (manifest.sha256, "rtx", trt.__version__)
            self._cache = RuntimeCache(cache_path("runtime", self.device, *keys), on_notice)

    @property
    def handle(self) -> Any:
        """TensorRT's own engine object, for inspection and refit; it does not outlive `self`."""
        return self._engine

    def context(self, *, cuda_graph: bool = False) -> Any:
        """A context with device memory of its own.

        Args:
            cuda_graph: let TensorRT-RTX capture and replay CUDA graphs. TensorRT does not do this
                by itself: its graphs are captured from `context_without_memory`.

        Raises:
            BackendUnavailable: there is no memory for it.
        """
        with torch.cuda.device(self.device):
            if self.kind is Kind.TENSORRT_RTX:
                config = runtime_config(self._trt, self._engine, self._cache, cuda_graph=cuda_graph)
                return self._ready(self._engine.create_execution_context(runtime_config=config))
            return self._ready(self._engine.create_execution_context())

    def context_without_memory(self) -> Any:
        """A context that runs only after `set_device_memory`. Raises as `context` does."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with torch.cuda.device(self.device):
            return self._ready(self._engine.create_execution_context(strategy))

    def new_memory(self) -> torch.Tensor:
        """Device memory for contexts of this engine that never run at the same time.

        Raises:
            BackendUnavailable: there is not enough.
        """
        size_bytes = self._engine.device_memory_size_v2  # the most that any profile needs
        try:
            return _aligned_memory(self.device, size_bytes)
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory() from error

    def save_runtime_cache(self) -> None:
        """Keep what TensorRT-RTX compiled for the next start; TensorRT compiles nothing."""
        if self.kind is Kind.TENSORRT_RTX:
            with torch.cuda.device(self.device):
                self._cache.save()

    def _deserialized(self, artifact: Artifact) -> Any:
        with torch.cuda.device(self.device):
            engine = self._runtime.deserialize_cuda_engine(artifact.path.read_bytes())
        if engine is None and self.kind is Kind.TENSORRT_RTX:
            # Its engines are bound to no GPU, so the GPU is at fault and not the file.
            raise BackendUnavailable(
                f"{artifact.path}: TensorRT-RTX {self.info.version} does not run it on this GPU "
                f"({device_name(self.device)}); it lists compute capability {RTX_LISTED}."
            )
        if engine is None:
            raise ArtifactError(
                f"{artifact.path}: TensorRT {self.info.version} refuses to deserialise it. "
                f"{engine_advice(artifact)}"
            )
        return engine

    def _ready(self, context: Any) -> Any:
        if context is None:
            raise self._out_of_memory()
        # Engines hold detailed information about their layers, for `flowerseg-export --inspect`.
        # NVTX would annotate every layer of every batch with it: "Building with DETAILED verbosity
        # will generally increase latency in enqueueV3" (documentation of IExecutionContext).
        context.nvtx_verbosity = self._trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        return context

    def _out_of_memory(self) -> BackendUnavailable:
        needed_mib = self._engine.device_memory_size_v2 / 2**20
        return BackendUnavailable(
            f"{self.path}: no execution context; the memory of {self.device} may be full (needs "
            f"{needed_mib:.0f} MiB). Use fewer streams, or end other programs on this GPU."
        )


def open_engine(
    artifact: Artifact, device: str, options: SessionOptions
) -> "tuple[TensorRTBackend, ...]":
    """Open an engine, with a backend for each stream. Raises as `Engine` does."""
    engine = Engine(artifact, device)
    return tuple(
        TensorRTBackend(engine, cuda_graph=options.cuda_graph) for _ in range(options.streams)
    )


class TensorRTBackend:
    """An engine on a stream of its own.

    A CUDA graph of TensorRT is captured here, each batch size from a context of its own.
    TensorRT-RTX may replace kernels while it runs, which a graph captured from outside would not
    notice: it captures its graphs itself.

    Args:
        engine: what runs.
        cuda_graph: capture a CUDA graph for each batch size.
        context: a context of the engine to run in, with a profiler for example, instead of a new
            one. Captured graphs make their own contexts and do not use it.

    Raises:
        BackendUnavailable: there is no memory for the context.
    """

    def __init__(self, engine: Engine, *, cuda_graph: bool = False, context: Any = None) -> None:
        is_captured = cuda_graph and engine.kind is not Kind.TENSORRT_RTX
        self._engine: Engine | None = engine  # which may not go before its contexts
        self._batch = DeviceBatch(engine.device)
        self.stream = self._batch.stream
        self._contexts: _Contexts = (
            _ContextPerSize(engine, self._batch)
            if is_captured
            else _OneContext(
                context or engine.context(cuda_graph=cuda_graph), engine.profiles, self._batch
            )
        )
        self._run = recorded(self._enqueue, self._batch, cuda_graph=is_captured)
        self.info = engine.info

    def upload(self, images: Images) -> None:
        """Copy the batch to the device."""
        self._images = self._batch.upload(images)

    def execute(self) -> None:
        """Enqueue the engine on its stream."""
        with self._batch.working():
            self._foreground = self._run(self._images)

    def _enqueue(self, images: torch.Tensor) -> torch.Tensor:
        shape = tuple(images.shape)
        context = self._contexts.bound(shape)
        _must(context.execute_async_v3(self.stream.cuda_stream), "execute_async_v3")
        return self._batch.memory(shape).foreground

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._batch.synchronize()

    def download(self) -> Foreground:
        """Copy the result to the host."""
        return self._batch.download(self._foreground)

    def close(self) -> None:
        """Free the graphs, then the contexts, then the engine, if no other backend uses it."""
        if self._engine is not None:
            self._engine.save_runtime_cache()
        self.__dict__.pop("_run", None)
        self._contexts.close()
        self._engine = None


class _Contexts(Protocol):
    """The execution contexts of a backend."""

    def bound(self, shape: Shape) -> Any:
        """The context for batches of a shape, with their addresses set."""

    def close(self) -> None:
        """Free the contexts, then the device memory that they share."""


class _OneContext:
    """One context that is set anew where the batch size changes."""

    def __init__(self, context: Any, profiles: Sequence[Batch], batch: DeviceBatch) -> None:
        self._context = context
        self._profiles = profiles
        self._batch = batch
        self._shape: Shape | None = None

    def bound(self, shape: Shape) -> Any:
        if shape != self._shape:
            self._shape = None  # until all calls have succeeded
            _select_profile(self._context, _profile_of(self._profiles, shape), self._batch)
            _bind(self._context, shape, self._batch.memory(shape))
            self._shape = shape
        return self._context

    def close(self) -> None:
        self._context = None


class _ContextPerSize:
    """A context for each batch size, all in one block of device memory.

    A captured graph holds the state of its context: NVIDIA asks for one context for each graph,
    and lets contexts that do not run at the same time share memory (TensorRT's best practices,
    "Limitations of CUDA graphs"). One stream runs them all, one after the other.
    """

    def __init__(self, engine: Engine, batch: DeviceBatch) -> None:
        self._engine = engine
        self._batch = batch
        # On the backend's stream, so that torch does not reuse the block while it is in use.
        with batch.working():
            self._memory: torch.Tensor | None = engine.new_memory()
        self._by_shape: dict[Shape, Any] = {}

    def bound(self, shape: Shape) -> Any:
        context = self._by_shape.get(shape)
        if context is None:
            context = self._new(shape)
            self._by_shape[shape] = context
        return context

    def _new(self, shape: Shape) -> Any:
        if self._memory is None:
            raise ValueError("this backend is closed")
        context = self._engine.context_without_memory()
        _select_profile(context, _profile_of(self._engine.profiles, shape), self._batch)
        context.set_device_memory(self._memory.data_ptr(), self._memory.numel())
        _bind(context, shape, self._batch.memory(shape))
        return context

    def close(self) -> None:
        self._by_shape.clear()
        self._memory = None


def _profiles_of(engine: Any) -> tuple[Batch, ...]:
    """The batch sizes of each optimisation profile, as the engine itself has them."""
    profiles = []
    for index in range(engine.num_optimization_profiles):
        shapes = engine.get_tensor_profile_shape("images", index)
        profiles.append(Batch(*(shape[0] for shape in shapes)))
    return tuple(profiles)


def _profile_of(profiles: Sequence[Batch], shape: Shape) -> int:
    """Index of the optimisation profile that takes batches of a shape.

    Raises:
        ValueError: none does.
    """
    for index, batch in enumerate(profiles):
        if batch.min <= shape[0] <= batch.max:
            return index
    raise ValueError(f"a batch of {shape[0]}; the engine takes batches of {_listed(profiles)}")


def _listed(profiles: Sequence[Batch]) -> str:
    return ", ".join(map(str, profiles))


def _select_profile(context: Any, profile: int, batch: DeviceBatch) -> None:
    """Switch a context to an optimisation profile; its input shape has to be set afterwards.

    The switch is enqueued on the stream that runs the batches, so that they need not wait for
    another one. Contexts may have the same profile at the same time: TensorRT 10 always shares
    profiles (NvInfer.h 10.0, PreviewFeature::kPROFILE_SHARING_0806: "on and can not be changed").
    """
    if context.active_optimization_profile != profile:  # a new context has profile 0
        is_set = context.set_optimization_profile_async(profile, batch.stream.cuda_stream)
        _must(is_set, "set_optimization_profile_async")


def _bind(context: Any, shape: Shape, memory: DeviceMemory) -> None:
    """Give a context the shape of its batches, and the addresses of their input and output."""
    _must(context.set_input_shape("images", shape), "set_input_shape")
    for name, tensor in (("images", memory.images), ("foreground", memory.foreground)):
        _must(context.set_tensor_address(name, tensor.data_ptr()), "set_tensor_address")


def _aligned_memory(device: str, size_bytes: int) -> torch.Tensor:
    """Bytes on a device, from an aligned address; at least one, so that the address is not null."""
    size_bytes = max(size_bytes, 1)
    block = torch.empty(size_bytes + _ALIGNMENT, dtype=torch.uint8, device=device)
    start = -block.data_ptr() % _ALIGNMENT
    return block[start : start + size_bytes]


def _new_runtime(trt: ModuleType, logger: Any) -> Any:
    try:
        return trt.Runtime(logger)
    except TypeError as error:  # pybind11's answer where TensorRT gives no runtime
        raise BackendUnavailable(
            f"{trt.__name__} {trt.__version__} makes no runtime ({error}); its lines on stderr say "
            "why. flowerseg-doctor says what is missing on this machine."
        ) from error


def _require_gpu(artifact: Artifact, device: str) -> str:
    chosen = resolve_device(device)
    if chosen == "cpu":
        raise BackendUnavailable(
            f"{artifact.path}: a TensorRT engine runs on an NVIDIA GPU only, and "
            + ("torch sees none" if device == "auto" else f"--device {device} names none")
            + ". Use the ONNX file that it was built from, or a machine with a GPU."
        )
    return chosen


def _must(succeeded: bool, call: str) -> None:
    """TensorRT reports failures by returning False; unnoticed, the result is old memory."""
    if not succeeded:
        raise BackendUnavailable(
            f"TensorRT's {call} failed; its lines on stderr say why. If the GPU's memory is full, "
            "use smaller batches or fewer streams."
        )
