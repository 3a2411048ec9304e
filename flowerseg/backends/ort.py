"""ONNX Runtime on the CPU and, through IO binding, on CUDA."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact, QuantisedFor
from flowerseg.backends.base import ONE_BATCH, BackendInfo, SessionOptions
from flowerseg.backends.device import info_of, resolve_device
from flowerseg.backends.transfer import DeviceBatch
from flowerseg.errors import ArtifactError, BackendUnavailable

PIP_LINE = "pip install onnxruntime-gpu"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def open_onnx(
    artifact: Artifact, device: str, options: SessionOptions
) -> "tuple[OrtCpuBackend | OrtCudaBackend, ...]":
    """Open an ONNX file in ONNX Runtime.

    Raises:
        BackendUnavailable: ONNX Runtime, the device, or its CUDA provider is not here.
        ArtifactError: ONNX Runtime refuses the file.
    """
    chosen = resolve_device(device)
    if chosen != "cpu":
        # A session computes on one stream: each stream has a session, and the weights once more.
        return tuple(OrtCudaBackend(artifact, chosen, options) for _ in range(options.streams))
    session = _session(artifact.path, [(_CPU, {})], options, artifact.manifest.quantised_for)
    info = _info(artifact, "cpu")
    return tuple(OrtCpuBackend(session, info) for _ in range(options.streams))


class OrtCpuBackend:
    """A session on the CPU provider, which several threads may run at once."""

    def __init__(self, session: Any, info: BackendInfo) -> None:
        self._session = session
        self.info = info

    def upload(self, images: Images) -> None:
        """Nothing to copy: the session reads host memory."""
        self._images = np.ascontiguousarray(images)

    def execute(self) -> None:
        """Run the session; it returns when it is done."""
        (self._foreground,) = self._session.run(["foreground"], {"images": self._images})

    def synchronize(self) -> None:
        """Nothing: `execute` has finished."""

    def download(self) -> Foreground:
        """The result, in an array that the session made for it."""
        return np.asarray(self._foreground, dtype=np.uint8)

    def close(self) -> None:
        """Let go of the session."""
        self._session = None


class OrtCudaBackend:
    """A session on the CUDA provider, bound to torch's device memory and its stream."""

    def __init__(self, artifact: Artifact, device: str, options: SessionOptions) -> None:
        self._index = torch.device(device).index
        self._batch = DeviceBatch(device)
        self.stream = self._batch.stream
        # ONNX Runtime keeps captured graphs by thread: another thread would capture them again.
        self._graph_thread = ThreadPoolExecutor(1) if options.cuda_graph else None
        provider = {
            "device_id": self._index,
            "user_compute_stream": str(self.stream.cuda_stream),
            # On by default: FP32 would be computed with ten bits of mantissa.
            "use_tf32": "0",
            "enable_cuda_graph": str(int(options.cuda_graph)),
        }
        quantised_for = artifact.manifest.quantised_for
        self._session = _session(artifact.path, [(_CUDA, provider)], ONE_BATCH, quantised_for)
        self.info = _info(artifact, device)

    def upload(self, images: Images) -> None:
        """Copy the batch to the device and bind it."""
        self._batch.upload(images)
        memory = self._batch.memory(images.shape)
        self._foreground = memory.foreground
        self._binding = self._session.io_binding()
        for bind, name, tensor in (
            (self._binding.bind_input, "images", memory.images),
            (self._binding.bind_output, "foreground", memory.foreground),
        ):
            bind(name, "cuda", self._index, np.uint8, tuple(tensor.shape), tensor.data_ptr())
        self._run_options = _run_options(len(images)) if self._graph_thread else None

    def execute(self) -> None:
        """Run the session on the bound memory."""
        run, arguments = self._session.run_with_iobinding, (self._binding, self._run_options)
        if self._graph_thread:
            self._graph_thread.submit(run, *arguments).result()
        else:
            run(*arguments)

    def synchronize(self) -> None:
        """Wait for the stream that copies and the session share."""
        self._batch.synchronize()

    def download(self) -> Foreground:
        """Copy the result to the host."""
        return self._batch.download(self._foreground)

    def close(self) -> None:
        """Let go of the session and its memory."""
        if self._graph_thread:
            self._graph_thread.shutdown()
        self._binding = None
        self._session = None


def values_in_onnx(
    artifact: Artifact, names: Sequence[str]
) -> Callable[[Images], dict[str, NDArray[Any]]]:
    """Open an ONNX file so that values inside it come out; on the CPU.

    ONNX Runtime does not fuse across a value that comes out: faults caused by operator fusion
    cannot be observed this way.

    Args:
        artifact: the file.
        names: values of its graph.

    Returns:
        A function from a batch (N, H, W, 3) to all those values, which it holds at once: 2 GB for
        one frame of 512 x 512 in a ResNet-101.

    Raises:
        ArtifactError: ONNX Runtime refuses the file.
    """
    import onnx

    opened = onnx.load(artifact.path)
    border = {value.name for value in opened.graph.output}
    for name in names:
        if name not in border:
            opened.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    quantised_for = artifact.manifest.quantised_for
    session = _session(opened.SerializeToString(), [(_CPU, {})], ONE_BATCH, quantised_for)

    def run(images: Images) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(list(names), {"images": images}), strict=True))

    return run


def _session(
    model: Path | bytes,
    providers: list[tuple[str, dict[str, Any]]],
    wanted_options: SessionOptions = ONE_BATCH,
    quantised_for: QuantisedFor = "",
) -> Any:
    """A session on the requested provider, or an error: ONNX Runtime itself falls back to the CPU
    without an exception."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(f"ONNX Runtime is not installed: {PIP_LINE}") from error
    wanted = providers[0][0]
    if wanted not in onnxruntime.get_available_providers():
        raise BackendUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} is a build without {wanted}. Replace it: "
            f"pip uninstall onnxruntime, then {PIP_LINE}."
        )
    if wanted != _CPU and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # the CUDA and cuDNN libraries that torch's wheels brought
    source = str(model) if isinstance(model, Path) else model
    options = _session_options(wanted, wanted_options)
    if quantised_for == "tensorrt":
        # Compute in float on the rounded values, as the graph says. ONNX Runtime would quantise the
        # biases too, which TensorRT keeps in float, and in half their steps become zero (1.31).
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        # Without enable_fallback=0 it would print a banner and try other providers.
        session = onnxruntime.InferenceSession(
            source, sess_options=options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # pybind exceptions of many types, all of them "cannot load"
        if wanted != _CPU and model != _probe():
            try_provider("cuda")  # or it is not the file's fault
        raise ArtifactError(f"{model!s:.200}: ONNX Runtime refuses it: {error}") from error
    if session.get_providers()[0] != wanted:
        raise BackendUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} runs {session.get_providers()}, not {wanted}: "
            "its CUDA or cuDNN libraries did not load. Run flowerseg-doctor, or use --device cpu."
        )
    return session


def _session_options(provider: str, wanted: SessionOptions) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: a failed provider is reported by `_session`
    options.intra_op_num_threads = wanted.threads or 0  # 0: as many as there are cores
    if provider != _CPU:
        # A node without a CUDA kernel would run on the CPU in silence, between two copies.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if wanted.shares_cores or wanted.streams > 1:
        # Its threads wait for one another in a loop, on cores that others could use: two of 25 ms
        # of computing for a photo in a folder. Alone, a batch of one takes a tenth longer without.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _run_options(batch: int) -> Any:
    """Run options by which ONNX Runtime keeps a graph for each batch size."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(batch))
    return options


def _info(artifact: Artifact, device: str) -> BackendInfo:
    import onnxruntime

    return info_of(artifact.manifest, "onnxruntime", onnxruntime.__version__, device)


def try_provider(device: str) -> str:
    """Run a graph of one node on `cpu` or `cuda`, and say what ran it.

    Raises:
        BackendUnavailable: ONNX Runtime or the provider does not load.
    """
    import onnxruntime

    provider = _CUDA if device == "cuda" else _CPU
    try:
        session = _session(_probe(), [(provider, {})])
    except ArtifactError as error:  # the graph is sound, so the provider is not
        raise BackendUnavailable(
            f"ONNX Runtime {onnxruntime.__version__} runs nothing on {provider}: "
            f"{error.__cause__}. Run flowerseg-doctor, or use --device cpu."
        ) from error
    (answer,) = session.run(None, {"x": np.array([-1.0], np.float32)})
    if answer[0] != 0:
        raise BackendUnavailable(f"ONNX Runtime computed Relu(-1) = {answer[0]} on {device}.")
    return f"{onnxruntime.__version__}, {session.get_providers()[0]} loads and computes"


def _probe() -> bytes:
    """A graph of one node, which every provider computes."""
    import onnx

    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "probe",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    opset = onnx.helper.make_opsetid("", 17)
    content: bytes = onnx.helper.make_model(
        graph, ir_version=8, opset_imports=[opset]
    ).SerializeToString()
    return content
