"""Every runtime behind the same four verbs. `open_backend` is the only door."""

from flowerseg.artifact import Artifact, Kind
from flowerseg.backends.base import Backend, BackendInfo, check_images, run
from flowerseg.errors import BackendUnavailable

__all__ = ["RUNTIMES", "Backend", "BackendInfo", "check_images", "open_backend", "run"]

RUNTIMES: dict[Kind, tuple[str, ...]] = {
    Kind.CHECKPOINT: ("pytorch",),
    Kind.ONNX: ("onnxruntime", "openvino"),
    Kind.TENSORRT: ("tensorrt",),
    Kind.TENSORRT_RTX: ("tensorrt-rtx",),
    Kind.PT2: ("aotinductor",),
}
"""The runtimes that open each kind of file; the first is the default."""


def open_backend(artifact: Artifact, device: str = "auto", runtime: str = "auto") -> Backend:
    """Open a checked model file in a runtime. The runtime's package is imported here, not before.

    Raises:
        ArtifactError: the runtime refuses the file, or it was built for something else.
        BackendUnavailable: the runtime or the device is not here, or cannot open this kind.
    """
    kinds = RUNTIMES[artifact.manifest.kind]
    chosen = kinds[0] if runtime == "auto" else runtime
    if chosen not in kinds:
        raise BackendUnavailable(
            f"{artifact.path}: {runtime} does not open files of kind {artifact.manifest.kind}; "
            f"these do: {', '.join(kinds)}."
        )
    match chosen:
        case "pytorch":
            from flowerseg.backends.pytorch import open_checkpoint

            return open_checkpoint(artifact, device)
        case "onnxruntime":
            from flowerseg.backends.ort import open_onnx

            return open_onnx(artifact, device)
        case "openvino":
            from flowerseg.backends.openvino_ import OpenVinoBackend

            if device not in ("auto", "cpu"):
                raise BackendUnavailable(f"OpenVINO runs on the CPU here, not on {device}.")
            return OpenVinoBackend(artifact)
        case "aotinductor":
            from flowerseg.backends.pt2 import Pt2Backend

            return Pt2Backend(artifact, device)
        case _:
            from flowerseg.backends.trt import TensorRTBackend

            return TensorRTBackend(artifact, device)
