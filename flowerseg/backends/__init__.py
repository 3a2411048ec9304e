"""Every runtime behind the same four verbs. `open_backend` is the only door."""

from importlib.util import find_spec

from flowerseg.artifact import RUNTIMES, Artifact, Kind, Manifest
from flowerseg.backends.base import Backend, BackendInfo, check_images, run
from flowerseg.errors import BackendUnavailable

__all__ = [
    "RUNTIMES",
    "THREADED",
    "Backend",
    "BackendInfo",
    "check_images",
    "fastest_proved",
    "open_backend",
    "run",
    "runtimes_here",
]


THREADED = ("onnxruntime", "openvino")
"""Runtimes that can be told how many threads to compute with."""


def runtimes_here(manifest: Manifest, device: str = "auto") -> list[str]:
    """The installed runtimes that open a file on a device, fastest first, as far as measured.

    Of a checkpoint it is PyTorch alone: who wants it compiled or in half says so by name. Of an
    ONNX file on the CPU OpenVINO comes first, as in the results of `flowerseg_bench.peers`. Another
    processor may order them otherwise, which `flowerseg-bench` finds out: see `flowerseg.tuned`.
    """
    if manifest.kind is not Kind.ONNX:
        return [RUNTIMES[manifest.kind][0]]
    from flowerseg.backends.device import resolve_device

    if resolve_device(device) != "cpu":
        return ["onnxruntime"]  # OpenVINO runs on the CPU here
    return [runtime for runtime in ("openvino", "onnxruntime") if find_spec(runtime)]


def fastest_proved(manifest: Manifest, device: str = "auto") -> str:
    """What `auto` opens: the fastest runtime here in which the file was proved.

    Where it was proved in none, the first that opens its kind, which will be refused or allowed.
    """
    proved = [r for r in runtimes_here(manifest, device) if manifest.is_proved_in(r)]
    return proved[0] if proved else RUNTIMES[manifest.kind][0]


def open_backend(
    artifact: Artifact,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    shares_cores: bool = False,
) -> Backend:
    """Open a checked model file in a runtime. The runtime's package is imported here, not before.

    Args:
        artifact: the file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        runtime: one of `RUNTIMES`; `auto` is the first of the file's kind.
        threads: that one batch is computed with, on the CPU in ONNX Runtime and OpenVINO; None is
            the runtime's own choice.
        shares_cores: other threads compute meanwhile, so those of the runtime should not keep a
            core busy while they wait. It changes no result.

    Raises:
        ArtifactError: the runtime refuses the file, or it was built for something else.
        BackendUnavailable: the runtime or the device is not here, cannot open this kind, or takes
            no number of threads.
    """
    kinds = RUNTIMES[artifact.manifest.kind]
    chosen = kinds[0] if runtime == "auto" else runtime
    if chosen not in kinds:
        raise BackendUnavailable(
            f"{artifact.path}: {runtime} does not open files of kind {artifact.manifest.kind}; "
            f"these do: {', '.join(kinds)}."
        )
    if threads is not None and chosen not in THREADED:
        raise BackendUnavailable(
            f"{artifact.path}: {chosen} takes no number of threads; {' and '.join(THREADED)} do."
        )
    match chosen:
        case "pytorch":
            from flowerseg.backends.pytorch import open_checkpoint

            return open_checkpoint(artifact, device)
        case "pytorch-fp16":
            from flowerseg.backends.pytorch import open_half

            return open_half(artifact, device)
        case "torch-compile":
            from flowerseg.backends.pytorch import open_compiled

            return open_compiled(artifact, device)
        case "onnxruntime":
            from flowerseg.backends.ort import open_onnx

            return open_onnx(artifact, device, threads, shares_cores)
        case "openvino":
            from flowerseg.backends.openvino_ import OpenVinoBackend

            if device not in ("auto", "cpu"):
                raise BackendUnavailable(f"OpenVINO runs on the CPU here, not on {device}.")
            return OpenVinoBackend(artifact, threads)
        case "aotinductor":
            from flowerseg.backends.pt2 import Pt2Backend

            return Pt2Backend(artifact, device)
        case _:
            from flowerseg.backends.trt import TensorRTBackend

            return TensorRTBackend(artifact, device)
