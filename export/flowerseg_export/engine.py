"""From ONNX to a TensorRT or TensorRT-RTX engine: one path, two modules with the same API.

Precision lives in the graph, and the engine is strongly typed: TensorRT 11 has no FP16 flag, and
10.12 and later take the same route.
"""

import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any, Protocol

import onnx
import torch

from flowerseg.arrays import SizeHW
from flowerseg.artifact import Batch, BuiltFor, EngineBuild, Hardware, Kind
from flowerseg.backends.device import compute_capability, device_name, resolve_device
from flowerseg.backends.gpucache import (
    OnNotice,
    cache_path,
    print_notice,
    read_cache,
    write_cache,
)
from flowerseg.backends.trt import import_tensorrt
from flowerseg.errors import BackendUnavailable, ExportError

OnProgress = Callable[[str, int, int], None]
"""Called with a phase of the build, its steps done and its steps in all."""

_NO_REASON = "TensorRT gave no reason"


def engine_from_onnx(
    model: onnx.ModelProto,
    kind: Kind,
    size_hw: SizeHW,
    profiles: Sequence[Batch],
    build: EngineBuild | None = None,
    *,
    device: str = "auto",
    allow_tf32: bool = False,
    on_progress: OnProgress = lambda *_: None,
    on_notice: OnNotice = print_notice,
) -> bytes:
    """Build an engine with an optimisation profile for each range of batch sizes.

    TensorRT tries kernels on the GPU that it builds for, and keeps their times in the user's
    cache folder; TensorRT-RTX compiles ahead of time and needs no GPU. Ctrl-C cancels the build.

    Args:
        model: a graph that carries its own precision.
        kind: TensorRT or TensorRT-RTX.
        size_hw: height and width of the frames.
        profiles: ranges of batch sizes, each tuned for its `opt`, in the engine's order.
        build: what else is requested of the builder.
        device: the GPU that TensorRT builds on and for: `auto`, `cuda` or `cuda:N`.
        allow_tf32: let FP32 be computed with ten bits of mantissa.
        on_progress: called at every step of the builder.
        on_notice: called with a line about a timing cache that cannot be used.

    Raises:
        BackendUnavailable: the module, or for TensorRT a GPU, is missing.
        ExportError: the parser or the builder refuses, with the reason that it gave.
        KeyboardInterrupt: Ctrl-C was pressed; the builder has stopped.
    """
    trt = import_tensorrt(kind)
    built_for(kind, build, device)
    chosen = resolve_device(device)
    logger = collecting_logger(trt)
    monitor = _progress_monitor(trt, on_progress)
    # The builder takes the CUDA context of the device that is current when it is made.
    with _current(chosen):
        builder = constructed(lambda: trt.Builder(logger), "Builder", logger)
        network = checked(builder.create_network(_strongly_typed(trt)), "create_network", logger)
        _parse(trt, network, model, logger)
        config = _config(kind, builder, build or EngineBuild(), logger)
        _flag(trt, config, "TF32", wanted=allow_tf32)
        for batch in profiles:
            _add_profile(builder, config, size_hw, batch, logger)
        config.progress_monitor = monitor
        if kind is Kind.TENSORRT_RTX:  # times no kernels: its timing cache does nothing since 1.2
            return _built(builder, network, config, chosen, monitor, logger)
        cached = cache_path("timing", chosen, "tensorrt", trt.__version__)
        cache = _load_timing_cache(config, cached, logger, on_notice)
        content = _built(builder, network, config, chosen, monitor, logger)
        _save_timing_cache(cache, cached, logger, on_notice)
        return content


def built_for(kind: Kind, build: EngineBuild | None = None, device: str = "auto") -> BuiltFor:
    """What an engine runs on that is built on this machine's `device`.

    Raises:
        BackendUnavailable: the build needs a GPU, and there is none or the CPU was requested.
    """
    chosen = resolve_device(device)
    missing = "torch sees none here" if device == "auto" else f"--device {device} names none"
    if kind is Kind.TENSORRT_RTX:
        if build and build.refittable and chosen == "cpu":
            # Tried with 1.7.1: its compiler asks the CUDA driver for a context.
            raise BackendUnavailable(
                "TensorRT-RTX builds refittable engines on a machine with a GPU only, and "
                f"{missing}. Leave --refittable out, or build on a machine with a GPU."
            )
        # Compiled ahead of time, finished on the GPU where it runs: bound to no single one.
        capabilities = ", ".join(build.compute_capabilities) if build else ""
        return BuiltFor("NVIDIA RTX, Turing or later", capabilities, platform.system())
    if chosen == "cpu":
        raise BackendUnavailable(
            f"TensorRT builds engines on the GPU that they are for, and {missing}. "
            "Build on the target machine, or use --to tensorrt-rtx or --to onnx."
        )
    return BuiltFor(device_name(chosen), compute_capability(chosen), platform.system())


def _current(device: str) -> AbstractContextManager[Any]:
    """The device is the thread's current one within; each thread has its own."""
    return nullcontext() if device == "cpu" else torch.cuda.device(device)


def _parse(trt: ModuleType, network: Any, model: onnx.ModelProto, logger: Any) -> None:
    parser = constructed(lambda: trt.OnnxParser(network, logger), "OnnxParser", logger)
    if parser.parse(model.SerializeToString()):
        return
    said = [_described(parser.get_error(i), model) for i in range(parser.num_errors)]
    raise ExportError(f"{trt.__name__} {trt.__version__} refuses the graph: {'; '.join(said)}")


def _described(error: Any, model: onnx.ModelProto) -> str:
    """A parser error with the node, its op and the torch module that it came from."""
    index = error.node()
    if not 0 <= index < len(model.graph.node):
        return str(error.desc())
    node = model.graph.node[index]
    module = next((p.value for p in node.metadata_props if p.key == "module"), "")
    return (
        f"{error.desc()} at node {node.name} ({node.op_type}) from torch module "
        f"{module or 'unknown'}"
    )


def _config(kind: Kind, builder: Any, build: EngineBuild, logger: Any) -> Any:
    trt = import_tensorrt(kind)
    config = checked(builder.create_builder_config(), "create_builder_config", logger)
    if build.workspace_mib is not None:
        _set_workspace(trt, config, build.workspace_mib * 2**20, logger)
    if build.optimisation_level is not None:
        _set_optimisation_level(config, build.optimisation_level, logger)
    if build.hardware is not Hardware.SAME:
        _set_hardware_level(trt, config, build.hardware, logger)
    _flag(trt, config, "VERSION_COMPATIBLE", wanted=build.version_compatible)
    _flag(trt, config, "REFIT", wanted=build.refittable)
    # So that --inspect sees kernels, formats and ONNX nodes. No kernel changes; an engine of
    # TensorRT-RTX 1.7.1 has the same number of bytes. NVTX would repeat it all at every batch
    # unless the context says otherwise: see `Engine` in flowerseg/backends/trt.py.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if kind is Kind.TENSORRT_RTX and build.compute_capabilities:
        _set_compute_capabilities(trt, config, build.compute_capabilities)
    return config


def _set_workspace(trt: ModuleType, config: Any, limit_bytes: int, logger: Any) -> None:
    workspace = trt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(workspace, limit_bytes)  # returns nothing: read it back
    kept_bytes = config.get_memory_pool_limit(workspace)
    if kept_bytes != limit_bytes:
        raise ExportError(
            f"TensorRT does not take --workspace {limit_bytes // 2**20} (MiB) and keeps "
            f"{kept_bytes // 2**20}: {logger.reason()}. Choose a smaller value, or leave it out."
        )


def _set_optimisation_level(config: Any, level: int, logger: Any) -> None:
    config.builder_optimization_level = level
    kept = config.builder_optimization_level
    if kept != level:
        raise ExportError(
            f"TensorRT does not take --optimisation-level {level} and keeps {kept}: "
            f"{logger.reason()}. Choose another level, or leave it out."
        )


def _flag(trt: ModuleType, config: Any, name: str, *, wanted: bool) -> None:
    """Set or clear a flag; TF32 is on by default, and would leave FP32 ten bits of mantissa."""
    flag = getattr(trt.BuilderFlag, name)
    (config.set_flag if wanted else config.clear_flag)(flag)
    if config.get_flag(flag) is not wanted:
        raise ExportError(f"{trt.__name__} {trt.__version__} does not take the flag {name}.")


def _set_hardware_level(trt: ModuleType, config: Any, hardware: Hardware, logger: Any) -> None:
    levels = trt.HardwareCompatibilityLevel
    is_ampere = hardware is Hardware.AMPERE_PLUS
    level = levels.AMPERE_PLUS if is_ampere else levels.SAME_COMPUTE_CAPABILITY
    config.hardware_compatibility_level = level
    if config.hardware_compatibility_level != level:  # TensorRT-RTX says nothing and keeps NONE
        raise ExportError(
            f"{trt.__name__} {trt.__version__} builds no engines for {hardware}: {logger.reason()}"
        )


def _set_compute_capabilities(trt: ModuleType, config: Any, capabilities: tuple[str, ...]) -> None:
    known = trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        name = f"SM{capability.replace('.', '')}"
        if name not in known or not config.set_compute_capability(known[name], index):
            listed = ", ".join(sorted(key for key in known if key.startswith("SM")))
            raise ExportError(
                f"{trt.__name__} {trt.__version__} builds for no compute capability {capability}; "
                f"it knows {listed}."
            )


def _add_profile(builder: Any, config: Any, size_hw: SizeHW, batch: Batch, logger: Any) -> None:
    profile = checked(builder.create_optimization_profile(), "create_optimization_profile", logger)
    profile.set_shape(
        "images", *((size, *size_hw, 3) for size in (batch.min, batch.opt, batch.max))
    )
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT refuses batches of {batch}: {logger.reason()}")


def _load_timing_cache(config: Any, path: Path, logger: Any, on_notice: OnNotice) -> Any:
    """The cache that the builder fills; None where it takes not even an empty one.

    A cache that TensorRT refuses (damaged, or from another GPU or version) only costs time: the
    user gets a notice, and the builder measures every kernel again.
    """
    content = read_cache(path, on_notice)
    start = logger.count()
    cache = _timing_cache_from(config, content)
    # TensorRT-RTX answers bytes that it cannot read with an empty cache and a warning; a warning
    # is therefore a refusal too.
    reasons = logger.cut(start)
    if content and (cache is None or reasons):
        on_notice(
            f"{path}: timing cache not used ({'; '.join(reasons) or _NO_REASON}); the builder "
            "measures every kernel again and replaces the file"
        )
        cache = _timing_cache_from(config, b"")
        reasons = logger.cut(start)
    if cache is None:
        on_notice(f"building without a timing cache: {'; '.join(reasons) or _NO_REASON}")
    return cache


def _timing_cache_from(config: Any, content: bytes) -> Any:
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        return None
    return cache


def _save_timing_cache(cache: Any, path: Path, logger: Any, on_notice: OnNotice) -> None:
    """Replace the file. Of builds that end at the same time, the last one's times stay."""
    if cache is None:
        return
    content = cache.serialize()
    if content is None:
        on_notice(f"{path}: timing cache not written: {logger.reason()}")
    else:
        write_cache(path, bytes(content), on_notice)


def _built(
    builder: Any, network: Any, config: Any, device: str, monitor: Any, logger: Any
) -> bytes:
    engine = _cancellable(
        lambda: builder.build_serialized_network(network, config), device, monitor
    )
    return bytes(checked(engine, "build_serialized_network", logger))


def _cancellable(build: Callable[[], Any], device: str, monitor: Any) -> Any:
    """Build in a thread of its own: in native code the main thread would not see Ctrl-C."""

    def on_device() -> Any:
        with _current(device):
            return build()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(on_device)
        try:
            return future.result()
        except KeyboardInterrupt:
            monitor.cancelled.set()  # the builder stops at its next step; leaving `with` waits
            raise


def _progress_monitor(trt: ModuleType, on_progress: OnProgress) -> Any:
    """Tells of the builder's steps, and stops it once `cancelled` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]  # chosen at run time
        def __init__(self) -> None:
            super().__init__()
            self.cancelled = Event()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            on_progress(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            on_progress(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_progress(phase_name, step + 1, self._steps.get(phase_name, step + 1))
            return not self.cancelled.is_set()

    return Monitor()


def _strongly_typed(trt: ModuleType) -> int:
    # Always on in TensorRT 11, which deprecates the flag; needed before.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


class Log(Protocol):
    """What TensorRT said while it worked; `collecting_logger` makes one."""

    def reason(self) -> str:
        """The errors so far, as one text."""


def constructed(construct: Callable[[], Any], name: str, logger: Log) -> Any:
    """Call a constructor of TensorRT's.

    Raises:
        ExportError: it gives nothing, which pybind11 reports as a bare TypeError.
    """
    try:
        return construct()
    except TypeError as error:
        raise ExportError(
            f"TensorRT makes no {name}: {logger.reason()} ({error}). flowerseg-doctor says what is "
            "missing on this machine."
        ) from error


def checked(result: Any, call: str, logger: Log) -> Any:
    """The result of a call of TensorRT's, which reports failures by returning None.

    Raises:
        ExportError: it is None, with the reason from the log.
    """
    if result is None:
        raise ExportError(f"TensorRT's {call} failed: {logger.reason()}")
    return result


def collecting_logger(trt: ModuleType) -> Any:
    """A logger that keeps errors and warnings for messages instead of printing them."""

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]  # the module is chosen at run time
        def __init__(self) -> None:
            super().__init__()
            self._lines: list[tuple[bool, str]] = []  # is it an error, and its text

        def log(self, severity: Any, message: str) -> None:
            is_error = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if is_error or severity == trt.ILogger.WARNING:
                self._lines.append((is_error, message))

        def reason(self) -> str:
            """The errors so far, as one text."""
            return "; ".join(text for is_error, text in self._lines if is_error) or _NO_REASON

        def count(self) -> int:
            """How many errors and warnings there are."""
            return len(self._lines)

        def cut(self, start: int) -> list[str]:
            """Take the errors and warnings from `start` on out of the log."""
            lines = [text for _, text in self._lines[start:]]
            del self._lines[start:]
            return lines

    return Logger()
