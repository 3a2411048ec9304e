"""TensorRT and TensorRT-RTX: one class, two modules with the same Python API.

An engine file is code that the GPU runs: it is deserialised only after its bytes matched its
manifest, and after TensorRT's version, the GPU and the system matched what it was built for.
"""

import importlib
import platform
from types import ModuleType
from typing import Any

import torch

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact, EngineBuild, Hardware, Kind
from flowerseg.backends.base import SessionOptions
from flowerseg.backends.device import compute_capability, device_name, info_of, resolve_device
from flowerseg.backends.transfer import DeviceBatch, recorded
from flowerseg.errors import ArtifactError, BackendUnavailable

# Support matrices and the ahead-of-time page of TensorRT-RTX 1.0 to 1.5.
RTX_LISTED = "7.5, 8.0, 8.6, 8.9, 12.0 and 12.1"
_AMPERE = (8, 0)

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
        differing.append(f"TensorRT {built_by}, here {version}")
    if made.system != system:
        differing.append(f"system {made.system}, here {system}")
    if not _runs_on(made.compute_capability, capability, build):
        differing.append(f"compute capability {made.compute_capability}, here {capability}")
    if differing:
        raise ArtifactError(
            f"{artifact.path}: engine built for {made.gpu or 'any GPU'}: {'; '.join(differing)}. "
            f"{rebuild_advice(artifact)}"
        )


def rebuild_advice(artifact: Artifact) -> str:
    """The commands that make an engine for this machine."""
    parent = artifact.manifest.parents[-1] if artifact.manifest.parents else None
    by_hand = f"From the start: {artifact.manifest.rebuild}" if artifact.manifest.rebuild else ""
    if parent is None or parent.kind is not Kind.ONNX:
        return by_hand
    return (
        f"Rebuild it from {parent.name} beside it: flowerseg-export {artifact.path} --rebuild. "
        f"{by_hand}"
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

    Raises:
        BackendUnavailable: the module or a CUDA GPU is not here.
        ArtifactError: the engine was built for something else, or is refused.
    """

    def __init__(self, artifact: Artifact, device: str = "auto") -> None:
        manifest = artifact.manifest
        trt = import_tensorrt(manifest.kind)
        self.device = _require_gpu(artifact, device)
        check_engine_fits(
            artifact, trt.__version__, compute_capability(self.device), platform.system()
        )
        self.path = artifact.path
        self.info = info_of(manifest, manifest.kind, trt.__version__, self.device)
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        if manifest.engine and manifest.engine.version_compatible:
            # Such an engine brings the runtime of its own version along, as host code.
            self._runtime.engine_host_code_allowed = True
        with torch.cuda.device(self.device):
            self._engine: Any = self._runtime.deserialize_cuda_engine(artifact.path.read_bytes())
        if self._engine is None and manifest.kind is Kind.TENSORRT_RTX:
            # Its engines are bound to no GPU, so this is the GPU's lack and not the file's.
            raise BackendUnavailable(
                f"{artifact.path}: TensorRT-RTX {trt.__version__} does not run it on this GPU "
                f"({device_name(self.device)}); it lists compute capability {RTX_LISTED}."
            )
        if self._engine is None:
            raise ArtifactError(
                f"{artifact.path}: TensorRT {trt.__version__} refuses to deserialise it. "
                f"{rebuild_advice(artifact)}"
            )

    def context(self) -> Any:
        """A context, which holds what one batch on its way needs.

        Raises:
            BackendUnavailable: there is no memory for it.
        """
        with torch.cuda.device(self.device):
            made = self._engine.create_execution_context()
        if made is None:
            raise BackendUnavailable(
                f"{self.path}: no execution context; the GPU's memory may be full "
                f"(needs {self._engine.device_memory_size_v2 / 2**20:.0f} MiB)."
            )
        return made


def open_engine(
    artifact: Artifact, device: str, options: SessionOptions
) -> "tuple[TensorRTBackend, ...]":
    """Open an engine, with a context for each stream. Raises as `Engine` does."""
    engine = Engine(artifact, device)
    return tuple(
        TensorRTBackend(engine, cuda_graph=options.cuda_graph) for _ in range(options.streams)
    )


class TensorRTBackend:
    """A context of an engine, on a stream of its own.

    Raises:
        BackendUnavailable: there is no memory for the context.
    """

    def __init__(self, engine: Engine, *, cuda_graph: bool = False) -> None:
        self._context: Any = engine.context()
        self._engine: Engine | None = engine  # which may not go before its contexts
        self._batch = DeviceBatch(engine.device)
        self.stream = self._batch.stream
        self._run = recorded(self._enqueue, self._batch, cuda_graph=cuda_graph)
        self.info = engine.info

    def upload(self, images: Images) -> None:
        """Copy the batch to the device and give the context its addresses."""
        self._images = self._batch.upload(images)
        memory = self._batch.memory(images.shape)
        _must(self._context.set_input_shape("images", images.shape), "set_input_shape")
        for name, tensor in (("images", memory.images), ("foreground", memory.foreground)):
            _must(self._context.set_tensor_address(name, tensor.data_ptr()), "set_tensor_address")

    def execute(self) -> None:
        """Enqueue the engine on its stream."""
        with self._batch.working():
            self._foreground = self._run(self._images)

    def _enqueue(self, images: torch.Tensor) -> torch.Tensor:
        _must(self._context.execute_async_v3(self.stream.cuda_stream), "execute_async_v3")
        return self._batch.memory(tuple(images.shape)).foreground

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._batch.synchronize()

    def download(self) -> Foreground:
        """Copy the result to the host."""
        return self._batch.download(self._foreground)

    def close(self) -> None:
        """Free the graphs and the context, then what of the engine nobody else uses."""
        self.__dict__.pop("_run", None)
        self._context = None
        self._engine = None


def _require_gpu(artifact: Artifact, device: str) -> str:
    chosen = resolve_device(device)
    if chosen == "cpu":
        raise BackendUnavailable(
            f"{artifact.path}: a TensorRT engine runs on an NVIDIA GPU only, and "
            + ("there is none here" if device == "auto" else f"--device {device} was asked for")
            + ". Use the ONNX file that it was built from, or a machine with a GPU."
        )
    return chosen


def _must(done: bool, call: str) -> None:
    """TensorRT reports failures by returning False; unnoticed, the result is old memory."""
    if not done:
        raise BackendUnavailable(f"TensorRT's {call} failed; its log above says why.")
