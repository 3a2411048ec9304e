"""OpenVINO on the CPU: the fastest way here to run an ONNX file without a GPU."""

from typing import Any, Literal, TypeAlias

import numpy as np

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact, Precision
from flowerseg.backends.base import BackendInfo, SessionOptions
from flowerseg.backends.device import computes_bf16, device_name, info_of
from flowerseg.errors import ArtifactError, BackendUnavailable

PIP_LINE = 'pip install "flowerseg[openvino]"'


Runtime: TypeAlias = Literal["openvino", "openvino-bf16"]


def open_onnx(
    artifact: Artifact, options: SessionOptions, runtime: Runtime = "openvino"
) -> "tuple[OpenVinoBackend, ...]":
    """Compile an ONNX file for the CPU, to compute in the file's own precision or in bfloat16.

    Raises:
        BackendUnavailable: OpenVINO is not installed, or there is no bfloat16 for this file here.
        ArtifactError: it refuses the file.
    """
    if runtime == "openvino-bf16":
        _require_bf16(artifact)
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(f"OpenVINO is not installed: {PIP_LINE}") from error
    except RuntimeError as error:  # of a user without a home folder
        raise BackendUnavailable(
            f"OpenVINO cannot be imported: {error} Set HOME to a folder."
        ) from error
    try:
        compiled = openvino.Core().compile_model(
            str(artifact.path), "CPU", _settings(options, runtime)
        )
    except Exception as error:  # of many types: its message may not even be UTF-8
        raise ArtifactError(f"{artifact.path}: OpenVINO refuses it: {error}") from error
    _require_contract(artifact, compiled)
    info = info_of(artifact.manifest, runtime, openvino.__version__.partition("-")[0], device="cpu")
    return tuple(
        OpenVinoBackend(compiled.create_infer_request(), openvino.Tensor, info)
        for _ in range(options.streams)
    )


def _require_contract(artifact: Artifact, compiled: Any) -> None:
    """OpenVINO drops inputs without effect, and may compute another type than the graph declares.

    Raises:
        ArtifactError: it would compute something else than the contract has.
    """
    found = [
        [port.element_type.get_type_name() for port in ports]
        for ports in (compiled.inputs, compiled.outputs)
    ]
    if found != [["u8"], ["u8"]]:
        raise ArtifactError(
            f"{artifact.path}: OpenVINO finds inputs {found[0]} and outputs {found[1]} in it, "
            "where the contract has one u8 each. Export the model again."
        )


def _require_bf16(artifact: Artifact) -> None:
    if artifact.manifest.precision is not Precision.FP32:
        raise BackendUnavailable(
            f"{artifact.path}: openvino-bf16 is for FP32 files, and this one is "
            f"{artifact.manifest.precision}: use --runtime openvino."
        )
    if not computes_bf16("cpu"):
        raise BackendUnavailable(
            f"{artifact.path}: this processor ({device_name('cpu')}) computes no bfloat16: use "
            "--runtime openvino."
        )


def _settings(options: SessionOptions, runtime: Runtime) -> dict[str, str]:
    # On processors with bfloat16 OpenVINO would compute FP32 models in it, unasked: eight bits of
    # mantissa instead of 24.
    precision = "bf16" if runtime == "openvino-bf16" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if options.streams > 1:
        settings["NUM_STREAMS"] = str(options.streams)
    if options.threads is not None:
        # Of all streams together, which share them out evenly.
        settings["INFERENCE_NUM_THREADS"] = str(options.threads * options.streams)
    return settings


class OpenVinoBackend:
    """One request to a compiled model."""

    def __init__(self, request: Any, tensor: Any, info: BackendInfo) -> None:
        self._request = request
        self._tensor = tensor
        self.info = info

    def upload(self, images: Images) -> None:
        """Nothing to copy: the request reads host memory."""
        self._images = np.ascontiguousarray(images)
        self._request.set_input_tensor(self._tensor(self._images, shared_memory=True))

    def execute(self) -> None:
        """Start the request."""
        self._request.start_async()

    def synchronize(self) -> None:
        """Wait for the request."""
        self._request.wait()

    def download(self) -> Foreground:
        """Copy the result out of memory that the next request overwrites."""
        return np.array(self._request.get_output_tensor().data, dtype=np.uint8)

    def close(self) -> None:
        """Let go of the compiled model."""
        self._request = None
