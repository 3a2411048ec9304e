"""From ONNX to a TensorRT or TensorRT-RTX engine: one path, two modules with the same API.

Precision lives in the graph, and the engine is strongly typed: TensorRT 11 has no FP16 flag, and
10.12 and later take the same route.
"""

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import onnx
import torch

from flowerseg.arrays import SizeHW
from flowerseg.artifact import Batch, BuiltFor, EngineBuild, Hardware, Kind
from flowerseg.backends.device import compute_capability, device_name, resolve_device
from flowerseg.backends.trt import import_tensorrt
from flowerseg.errors import BackendUnavailable, ExportError
from flowerseg.files import write_bytes
from flowerseg.usercache import user_cache

OnProgress = Callable[[str, int, int], None]
"""Called with a phase of the build, its steps done and its steps in all."""


def engine_from_onnx(
    model: onnx.ModelProto,
    kind: Kind,
    size_hw: SizeHW,
    batch: Batch,
    build: EngineBuild | None = None,
    *,
    allow_tf32: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> bytes:
    """Build an engine for batches of `batch.min` to `batch.max`, tuned for `batch.opt`.

    TensorRT tries kernels on the GPU that it builds for, and remembers their times in the user's
    cache folder; TensorRT-RTX compiles ahead of time and needs no GPU. Ctrl-C cancels the build.

    Args:
        model: a graph that carries its own precision.
        kind: TensorRT or TensorRT-RTX.
        size_hw: height and width of the frames.
        batch: the profile.
        build: what else is asked of the builder.
        allow_tf32: let FP32 be computed with ten bits of mantissa.
        on_progress: told of every step of the builder.

    Raises:
        BackendUnavailable: the module, or for TensorRT a GPU, is not here.
        ExportError: the parser or the builder refuses, with what it said.
        KeyboardInterrupt: Ctrl-C was pressed; the builder has stopped.
    """
    trt = import_tensorrt(kind)
    built_for(kind, build)
    logger = _collecting_logger(trt)
    builder = _made(trt.Builder(logger), "Builder", logger)
    network = _made(builder.create_network(_strongly_typed(trt)), "create_network", logger)
    _parse(trt, network, model, logger)
    config = _config(kind, builder, build or EngineBuild(), logger)
    _flag(trt, config, "TF32", wanted=allow_tf32)
    _add_profile(builder, config, size_hw, batch, logger)
    cached = _timing_cache(kind, trt.__version__)
    cache = _load_timing_cache(config, cached, logger) if cached else None
    monitor = _progress_monitor(trt, on_progress)
    config.progress_monitor = monitor
    engine = _cancellable(lambda: builder.build_serialized_network(network, config), monitor)
    content = bytes(_made(engine, "build_serialized_network", logger))
    if cached and cache is not None:
        write_bytes(cached, bytes(_made(cache.serialize(), "ITimingCache.serialize", logger)))
    return content


def built_for(kind: Kind, build: EngineBuild | None = None) -> BuiltFor:
    """What an engine built here runs on.

    Raises:
        BackendUnavailable: what is asked for is built on a GPU, and there is none.
    """
    device = resolve_device("auto")
    if kind is Kind.TENSORRT_RTX:
        if build and build.refittable and device == "cpu":
            # Tried with 1.7.1: its compiler asks the CUDA driver for a context.
            raise BackendUnavailable(
                "TensorRT-RTX builds refittable engines on a machine with a GPU only, and torch "
                "sees none here. Leave --refittable out, or build there."
            )
        # Compiled ahead of time, finished on the GPU where it runs: bound to no single one.
        capabilities = ", ".join(build.compute_capabilities) if build else ""
        return BuiltFor("NVIDIA RTX, Turing or later", capabilities, platform.system())
    if device == "cpu":
        raise BackendUnavailable(
            "TensorRT builds engines on the GPU that they are for, and torch sees none here. "
            "Build on the target machine, or use --to tensorrt-rtx or --to onnx."
        )
    return BuiltFor(device_name(device), compute_capability(device), platform.system())


def _parse(trt: ModuleType, network: Any, model: onnx.ModelProto, logger: Any) -> None:
    parser = _made(trt.OnnxParser(network, logger), "OnnxParser", logger)
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
    config = _made(builder.create_builder_config(), "create_builder_config", logger)
    if build.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, build.workspace_mib * 2**20)
    if build.optimisation_level is not None:
        config.builder_optimization_level = build.optimisation_level
    if build.hardware is not Hardware.SAME:
        _set_hardware_level(trt, config, build.hardware, logger)
    _flag(trt, config, "VERSION_COMPATIBLE", wanted=build.version_compatible)
    _flag(trt, config, "REFIT", wanted=build.refittable)
    if kind is Kind.TENSORRT_RTX and build.compute_capabilities:
        _set_compute_capabilities(trt, config, build.compute_capabilities)
    return config


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
            f"{trt.__name__} {trt.__version__} builds no engines for {hardware}: {logger.said()}"
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
    profile = _made(builder.create_optimization_profile(), "create_optimization_profile", logger)
    profile.set_shape(
        "images", *((size, *size_hw, 3) for size in (batch.min, batch.opt, batch.max))
    )
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT refuses batches of {batch}: {logger.said()}")


def _timing_cache(kind: Kind, version: str) -> Path | None:
    """Where kernel times of this TensorRT on this GPU are kept."""
    if kind is Kind.TENSORRT_RTX:
        return None  # times no kernels: its timing cache does nothing since 1.2
    gpu = device_name(resolve_device("auto")).replace(" ", "-").replace("/", "-")
    return user_cache("timing") / f"tensorrt-{version}-{gpu}.cache"


def _load_timing_cache(config: Any, path: Path, logger: Any) -> Any:
    content = path.read_bytes() if path.is_file() else b""
    cache = _made(config.create_timing_cache(content), "create_timing_cache", logger)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise ExportError(
            f"{path}: TensorRT refuses this timing cache: {logger.said()}. Delete it; it only "
            "saves time."
        )
    return cache


def _cancellable(build: Callable[[], Any], monitor: Any) -> Any:
    """Build in a thread of its own: in native code the main thread would not see Ctrl-C."""
    device = resolve_device("auto")

    def on_same_device() -> Any:
        if device != "cpu":
            torch.cuda.set_device(device)  # each thread has a current device of its own
        return build()

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(on_same_device)
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


def _made(result: Any, call: str, logger: Any) -> Any:
    """TensorRT reports failures by returning None; the reason is in its log."""
    if result is None:
        raise ExportError(f"TensorRT's {call} failed: {logger.said()}")
    return result


def _collecting_logger(trt: ModuleType) -> Any:
    """A logger that keeps errors for the message instead of printing them."""

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]  # the module is chosen at run time
        def __init__(self) -> None:
            super().__init__()
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors.append(message)

        def said(self) -> str:
            return "; ".join(self._errors) or "it gave no reason"

    return Logger()
