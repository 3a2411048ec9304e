"""Every runtime behind the same four verbs. `open_backends` is the only door."""

from importlib.util import find_spec

from flowerseg.artifact import RUNTIMES, Artifact, Kind, Manifest, Precision
from flowerseg.backends.base import (
    ONE_BATCH,
    Backend,
    BackendInfo,
    SessionOptions,
    check_images,
    run,
)
from flowerseg.backends.pool import remember_opening, require_no_fork_since_opening
from flowerseg.errors import BackendUnavailable

__all__ = [
    "CUDNN_BENCHMARKED",
    "GRAPHED",
    "LAID_OUT",
    "ONE_BATCH",
    "RUNTIMES",
    "STREAMED",
    "THREADED",
    "Backend",
    "BackendInfo",
    "SessionOptions",
    "check_images",
    "fastest_proved",
    "for_folders",
    "kind_of_device",
    "open_backend",
    "open_backends",
    "run",
    "runtimes_here",
]


THREADED = ("onnxruntime", "openvino", "openvino-bf16")
"""Runtimes that can be told how many threads to compute with, on the CPU."""

STREAMED = {
    "cpu": ("onnxruntime", "openvino", "openvino-bf16"),
    "cuda": ("pytorch-fp16", "aotinductor", "onnxruntime", "tensorrt", "tensorrt-rtx"),
}
"""Runtimes that compute several batches at a time, by kind of device. PyTorch in FP32 is the
reference, which is opened for one batch at a time."""

GRAPHED = ("pytorch", "pytorch-fp16", "aotinductor", "onnxruntime", "tensorrt", "tensorrt-rtx")
"""Runtimes whose work for a batch size can be recorded as a CUDA graph."""

CUDNN_BENCHMARKED = (
    "pytorch",
    "pytorch-fp16",
    "torch-compile",
    "torch-compile-fp16",
    "aotinductor",
)
"""Runtimes whose convolutions torch gives to cuDNN, which can time its kernels first."""

LAID_OUT = ("pytorch",)
"""Runtimes whose memory layout on a GPU can be chosen; FP16 is channels-last in all of them."""


def runtimes_here(manifest: Manifest, device: str = "auto") -> list[str]:
    """The installed runtimes that open a file on a device, fastest first, as far as measured.

    Of a checkpoint it is PyTorch alone: who wants it compiled or in half says so by name. Of an
    ONNX file on the CPU OpenVINO comes first, but of a ResNet in FP32 on a processor whose vectors
    have 256 bits ONNX Runtime: so `flowerseg_bench.peers` found it on one processor of each kind.
    Others may order them otherwise, which `flowerseg-bench` finds out: see `flowerseg.tuned`. This
    is a rule, not a measurement at each start, because runtimes round differently: a folder that
    goes on tomorrow shall get the masks of today.

    OpenVINO in bfloat16 is among them where the file was proved in it: nobody gets fewer bits than
    the file has without having asked for it.
    """
    if manifest.kind is not Kind.ONNX:
        return [RUNTIMES[manifest.kind][0]]
    from flowerseg.backends.device import computes_bf16, has_avx2_alone, resolve_device

    if resolve_device(device) != "cpu":
        return ["onnxruntime"]  # OpenVINO runs on the CPU here
    order = ["openvino", "onnxruntime"]
    is_resnet = "resnet" in manifest.architecture
    if is_resnet and manifest.precision is Precision.FP32 and has_avx2_alone():
        order.reverse()
    here = [runtime for runtime in order if find_spec(runtime)]
    has_bf16 = "openvino" in here and manifest.is_proved_in("openvino-bf16", "cpu")
    return ["openvino-bf16", *here] if has_bf16 and computes_bf16("cpu") else here


def fastest_proved(manifest: Manifest, device: str = "auto") -> str:
    """What `auto` opens: the fastest runtime here in which the file was proved on this device.

    Where it was proved in none, the first that opens its kind, which will be refused or allowed.
    """
    proved = [
        runtime
        for runtime in runtimes_here(manifest, device)
        if manifest.is_proved_in(runtime, kind_of_device(manifest, runtime, device))
    ]
    return proved[0] if proved else RUNTIMES[manifest.kind][0]


MOST_CPU_STREAMS = 8
"""Each holds a batch: on a CPU of many cores they get more threads instead."""


def for_folders(
    manifest: Manifest, runtime: str, device: str = "auto", cores: int | None = None
) -> SessionOptions:
    """How a file is opened in a runtime where photos are decoded beside it.

    On a GPU two streams, so that one batch is copied while another is computed, and a CUDA graph,
    for the batches are all of one size. ONNX Runtime's own graphs are left to those who measured
    them. On the CPU a stream a core: threads that compute one batch together wait for one another
    whenever a decoder takes one of their cores (`python -m flowerseg_bench.folders throughput`).

    Args:
        manifest: of the file.
        runtime: that opens it.
        device: as of `open_backends`.
        cores: that it may take, on the CPU; None: all of the process.
    """
    from flowerseg.backends.device import allowed_cores

    on_gpu = kind_of_device(manifest, runtime, device) == "cuda"
    if not on_gpu and runtime in STREAMED["cpu"]:
        cores = cores or len(allowed_cores())
        streams = min(cores, MOST_CPU_STREAMS)
        return SessionOptions(cores // streams, streams, shares_cores=True)
    return SessionOptions(
        streams=2 if on_gpu and runtime in STREAMED["cuda"] else 1,
        shares_cores=True,
        cuda_graph=on_gpu and runtime in GRAPHED and runtime != "onnxruntime",
    )


def open_backend(
    artifact: Artifact,
    device: str = "auto",
    runtime: str = "auto",
    options: SessionOptions = ONE_BATCH,
) -> Backend:
    """The first of `open_backends`, where one stream is enough."""
    return open_backends(artifact, device, runtime, options)[0]


def open_backends(
    artifact: Artifact,
    device: str = "auto",
    runtime: str = "auto",
    options: SessionOptions = ONE_BATCH,
) -> tuple[Backend, ...]:
    """Open a checked model file in a runtime. The runtime's package is imported here, not before.

    Args:
        artifact: the file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        runtime: one of `RUNTIMES`; `auto` is the first of the file's kind.
        options: see `SessionOptions`.

    Returns:
        A backend for each stream. They share what they can of the model; each is driven by one
        thread, and closed.

    Raises:
        ArtifactError: the runtime refuses the file, or it was built for something else.
        BackendUnavailable: the runtime or the device is not here, or it cannot open this kind or
            not with these options.
    """
    require_no_fork_since_opening()
    remember_opening()
    kinds = RUNTIMES[artifact.manifest.kind]
    chosen = kinds[0] if runtime == "auto" else runtime
    if chosen not in kinds:
        raise BackendUnavailable(
            f"{artifact.path}: {runtime} does not open files of kind {artifact.manifest.kind}; "
            f"these do: {', '.join(kinds)}."
        )
    _refuse_options(artifact, chosen, device, options)
    match chosen:
        case "pytorch":
            from flowerseg.backends.pytorch import open_checkpoint

            return (open_checkpoint(artifact, device, options),)
        case "pytorch-fp16":
            from flowerseg.backends.pytorch import open_half

            return open_half(artifact, device, options)
        case "torch-compile" | "torch-compile-fp16":
            from flowerseg.backends.pytorch import open_compiled

            return (open_compiled(artifact, device, chosen, options),)
        case "onnxruntime":
            from flowerseg.backends import ort

            return ort.open_onnx(artifact, device, options)
        case "openvino" | "openvino-bf16":
            from flowerseg.backends import openvino_

            if device not in ("auto", "cpu"):
                raise BackendUnavailable(f"OpenVINO runs on the CPU here, not on {device}.")
            return openvino_.open_onnx(artifact, options, chosen)
        case "aotinductor":
            from flowerseg.backends.pt2 import open_package

            return open_package(artifact, device, options)
        case _:
            from flowerseg.backends.trt import open_engine

            return open_engine(artifact, device, options)


def _refuse_options(artifact: Artifact, runtime: str, device: str, options: SessionOptions) -> None:
    """What a runtime does not do on a device is refused before it is opened."""
    if options == SessionOptions(shares_cores=options.shares_cores):
        return
    where = kind_of_device(artifact.manifest, runtime, device)
    streamed = STREAMED[where]
    if options.threads is not None and (runtime not in THREADED or where != "cpu"):
        raise BackendUnavailable(
            f"{artifact.path}: {runtime} takes no number of threads on {where}; "
            f"{' and '.join(THREADED)} do on the CPU."
        )
    if options.streams > 1 and runtime not in streamed:
        raise BackendUnavailable(
            f"{artifact.path}: {runtime} computes one batch at a time on {where}; several streams "
            f"are for {', '.join(streamed)} there."
        )
    if options.cuda_graph and (where == "cpu" or runtime not in GRAPHED):
        raise BackendUnavailable(
            f"{artifact.path}: no CUDA graph of {runtime} on {where}; these have one on a GPU: "
            f"{', '.join(GRAPHED)}."
        )
    if options.cudnn_benchmark and (where == "cpu" or runtime not in CUDNN_BENCHMARKED):
        raise BackendUnavailable(
            f"{artifact.path}: {runtime} does not time cuDNN's kernels on {where}; these do on a "
            f"GPU: {', '.join(CUDNN_BENCHMARKED)}."
        )
    if options.layout is not None and (where == "cpu" or runtime not in LAID_OUT):
        raise BackendUnavailable(
            f"{artifact.path}: {runtime} takes no memory layout on {where}; these do on a GPU: "
            f"{', '.join(LAID_OUT)}."
        )


def kind_of_device(manifest: Manifest, runtime: str, device: str) -> str:
    """`cpu` or `cuda`: what `auto` is for a file in a runtime."""
    from flowerseg.backends.device import resolve_device

    made_for = manifest.built_for.compute_capability if manifest.built_for else ""
    if made_for or manifest.kind in (Kind.TENSORRT, Kind.TENSORRT_RTX):
        return "cuda"
    is_for_cpu = manifest.kind is Kind.PT2
    if runtime.startswith("openvino") or (device == "auto" and is_for_cpu):
        return "cpu"
    return resolve_device(device).partition(":")[0]
