"""OpenVINO on the CPU: the fastest way here to run an ONNX file without a GPU."""

import numpy as np

from flowerseg.arrays import Foreground, Images
from flowerseg.artifact import Artifact
from flowerseg.backends.device import info_of
from flowerseg.errors import ArtifactError, BackendUnavailable

PIP_LINE = 'pip install "flowerseg[openvino]"'


class OpenVinoBackend:
    """An ONNX file compiled for the CPU, computing in the file's own precision.

    Args:
        artifact: the file.
        threads: that one batch is computed with; None is OpenVINO's own choice.

    Raises:
        BackendUnavailable: OpenVINO is not installed.
        ArtifactError: it refuses the file.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendUnavailable(f"OpenVINO is not installed: {PIP_LINE}") from error
        # On processors with bfloat16 OpenVINO would compute FP32 models in it, unasked: eight
        # bits of mantissa instead of 24.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        try:
            compiled = openvino.Core().compile_model(str(artifact.path), "CPU", settings)
        except RuntimeError as error:
            raise ArtifactError(f"{artifact.path}: OpenVINO refuses it: {error}") from error
        self._request = compiled.create_infer_request()
        self._tensor = openvino.Tensor
        version = openvino.__version__.partition("-")[0]
        self.info = info_of(artifact.manifest, "openvino", version, "cpu")

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
