"""From ONNX to a TensorRT or TensorRT-RTX engine: one path, two modules with the same API.

Precision lives in the graph, and the engine is strongly typed: TensorRT 11 has no FP16 flag, and
10.12 and later take the same route.
"""

import platform
from types import ModuleType
from typing import Any

import onnx

from flowerseg.arrays import SizeHW
from flowerseg.artifact import Batch, BuiltFor, Kind
from flowerseg.backends.device import compute_capability, device_name, resolve_device
from flowerseg.backends.trt import import_tensorrt
from flowerseg.errors import BackendUnavailable, ExportError


def engine_from_onnx(model: onnx.ModelProto, kind: Kind, size_hw: SizeHW, batch: Batch) -> bytes:
    """Build an engine for batches of `batch.min` to `batch.max`, tuned for `batch.opt`.

    TensorRT tries kernels on the GPU that it builds for; TensorRT-RTX compiles ahead of time and
    needs none.

    Raises:
        BackendUnavailable: the module, or for TensorRT a GPU, is not here.
        ExportError: the parser or the builder refuses, with what it said.
    """
    trt = import_tensorrt(kind)
    built_for(kind)
    logger = _collecting_logger(trt)
    builder = _made(trt.Builder(logger), "Builder", logger)
    network = _made(builder.create_network(_strongly_typed(trt)), "create_network", logger)
    _parse(trt, network, model, logger)
    config = _config(trt, builder, size_hw, batch, logger)
    engine = _made(builder.build_serialized_network(network, config), "build", logger)
    return bytes(engine)


def built_for(kind: Kind) -> BuiltFor:
    """What an engine built here runs on.

    Raises:
        BackendUnavailable: TensorRT builds for the GPU that is here, and there is none.
    """
    if kind is Kind.TENSORRT_RTX:
        # Compiled ahead of time, finished on the GPU where it runs: bound to no single one.
        return BuiltFor("NVIDIA RTX, Turing or later", "", platform.system())
    device = resolve_device("auto")
    if device == "cpu":
        raise BackendUnavailable(
            "TensorRT builds engines on the GPU that they are for, and torch sees none here. "
            "Build on the target machine, or use --to tensorrt-rtx or --to onnx."
        )
    return BuiltFor(device_name(device), compute_capability(device), platform.system())


def _parse(trt: ModuleType, network: Any, model: onnx.ModelProto, logger: Any) -> None:
    parser = trt.OnnxParser(network, logger)
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
    module = next((p.value for p in node.metadata_props if p.key == "namespace"), "unknown")
    return f"{error.desc()} at node {node.name} ({node.op_type}) from torch module {module}"


def _config(trt: ModuleType, builder: Any, size_hw: SizeHW, batch: Batch, logger: Any) -> Any:
    config = _made(builder.create_builder_config(), "create_builder_config", logger)
    # TF32 is on by default: an FP32 engine would have ten bits of mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    shapes = [(size, *size_hw, 3) for size in (batch.min, batch.opt, batch.max)]
    profile.set_shape("images", *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise ExportError(f"TensorRT refuses batches of {batch}: {logger.said()}")
    return config


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
