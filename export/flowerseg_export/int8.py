"""INT8 by explicit Q/DQ nodes, calibrated on photos, in the flavour that the target wants."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from flowerseg.arrays import Rgb
from flowerseg.errors import ExportError
from flowerseg_export.cpu import after_quantisation, before_quantisation, left_in_float
from flowerseg_export.graph import quietly
from flowerseg_export.qdq import with_qdq


class Flavour(StrEnum):
    """Which quantised graph a runtime is fast with, or accepts at all."""

    # Signed activations ran no faster than FP32 in ONNX Runtime on x86, unsigned ones 3.6 times.
    # Without VNNI, x86 adds two products of 8 x 8 bits in 16 and saturates there; with weights of
    # 7 bits nothing does (OpenVINO documents the fault and this cure).
    CPU = "uint8 activations, 7-bit weights"
    # TensorRT's parser refuses int32 biases, and fuses only what is quantised symmetrically.
    TENSORRT = "symmetric int8 convolutions, float biases"


class Calibration(StrEnum):
    """How the range of an activation is taken from the values that calibration photos give.

    ONNX Runtime's entropy method is not here: with its 128 bins for 128 levels, which cannot be
    set from outside, it takes the extremes too (1.31).
    """

    MINMAX = "minmax"  # the extremes seen
    PERCENTILE = "percentile"  # all but the outermost 0.001 %


def int8_from_onnx(
    model: onnx.ModelProto,
    frames: Sequence[Rgb],
    flavour: Flavour,
    calibration: Calibration = Calibration.MINMAX,
    keep_fp32: Sequence[str] = (),
    half: onnx.ModelProto | None = None,
) -> onnx.ModelProto:
    """Quantise an FP32 graph; its uint8 border stays as it is.

    Args:
        model: FP32 ONNX model with input `images`.
        frames: calibration frames (H, W, 3).
        flavour: what the target wants.
        calibration: how ranges are taken from the frames.
        keep_fp32: globs of torch modules whose nodes stay in float.
        half: for TensorRT, the same network typed in half. It is quantised in place of `model`,
            with the ranges of `model`: what is not quantised then computes in half.

    Raises:
        ExportError: ONNX Runtime's quantiser refuses, or a glob matches no node.
    """
    if flavour is Flavour.CPU:
        return _for_cpus(model, frames, calibration, keep_fp32)
    typed = half or model
    kept = nodes_of_modules(typed, keep_fp32)
    return with_qdq(typed, _ranges(model, frames, calibration), kept)


def _for_cpus(
    model: onnx.ModelProto,
    frames: Sequence[Rgb],
    calibration: Calibration,
    keep_fp32: Sequence[str],
) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    floats = nodes_of_modules(model, keep_fp32)
    model = before_quantisation(model)
    floats += left_in_float(model)
    with tempfile.TemporaryDirectory() as folder:
        # From a file: of a model in memory ONNX Runtime 1.31 loses the weights on the way.
        fp32, quantised = (Path(folder) / f"{name}.onnx" for name in ("fp32", "int8"))
        onnx.save(model, str(fp32))
        with _refusals_as_export_errors():
            quantize_static(
                str(fp32),
                str(quantised),
                _Frames(frames),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=None,
                nodes_to_exclude=floats,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=_method(calibration),
                extra_options={"ActivationSymmetric": False, "QuantizeBias": True},
            )
        result = onnx.load(str(quantised))
    return after_quantisation(result)


def _ranges(
    model: onnx.ModelProto, frames: Sequence[Rgb], calibration: Calibration
) -> dict[str, float]:
    """The largest absolute value of each input and output of a Conv or an Add, by name."""
    from onnxruntime.quantization import create_calibrator

    with tempfile.TemporaryDirectory() as folder:
        fp32, observed = (Path(folder) / f"{name}.onnx" for name in ("fp32", "observed"))
        onnx.save(model, str(fp32))
        with _refusals_as_export_errors():
            calibrator = create_calibrator(
                fp32, ["Conv", "Add"], str(observed), calibrate_method=_method(calibration)
            )
            calibrator.collect_data(_Frames(frames))
            found = calibrator.compute_data()
    return {name: float(np.abs(data.range_value).max()) for name, data in found.items()}


def _method(calibration: Calibration) -> Any:
    from onnxruntime.quantization import CalibrationMethod

    methods = {
        Calibration.MINMAX: CalibrationMethod.MinMax,
        Calibration.PERCENTILE: CalibrationMethod.Percentile,
    }
    return methods[calibration]


@contextmanager
def _refusals_as_export_errors() -> Iterator[None]:
    """Calls into ONNX Runtime's quantisation, which prints and raises errors of many types."""
    try:
        with redirect_stdout(StringIO()), quietly():  # stdout is for the command's result
            yield
    except Exception as error:
        raise ExportError(f"ONNX Runtime could not quantise the graph: {error}") from error


def nodes_of_modules(model: onnx.ModelProto, globs: Sequence[str]) -> list[str]:
    """Names of the nodes that come from torch modules whose name, or a parent's, matches.

    Raises:
        ExportError: a glob matches no node.
    """
    nodes: list[str] = []
    for glob in globs:
        matched = [
            node.name
            for node in model.graph.node
            if fnmatchcase(node.name, f"{glob}/*") or fnmatchcase(node.name, f"{glob}.*")
        ]
        if not matched:
            raise ExportError(f"--keep-fp32 {glob}: no node of the graph comes from such a module.")
        nodes += matched
    return nodes


class _Frames:
    """The calibration frames as ONNX Runtime reads them, one at a time."""

    def __init__(self, frames: Sequence[Rgb]) -> None:
        self._batches: Iterator[dict[str, Any]] = iter(
            [{"images": np.asarray(frame)[None]} for frame in frames]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
