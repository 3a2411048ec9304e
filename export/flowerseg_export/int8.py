"""INT8 by explicit Q/DQ nodes, calibrated on photos, in the flavour that the target wants."""

import tempfile
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from flowerseg.arrays import Rgb
from flowerseg.errors import ExportError


class Flavour(StrEnum):
    """Which quantised graph a runtime is fast with, or accepts at all."""

    # Signed activations ran no faster than FP32 in ONNX Runtime on x86, unsigned ones 3.6 times.
    CPU = "uint8 activations"
    # TensorRT's parser refuses int32 biases, and fuses only what is quantised symmetrically.
    TENSORRT = "symmetric int8, float biases, Conv and Add"


def int8_from_onnx(
    model: onnx.ModelProto, frames: Sequence[Rgb], flavour: Flavour
) -> onnx.ModelProto:
    """Quantise an FP32 graph; its uint8 border stays as it is.

    Args:
        model: FP32 ONNX model with input `images`.
        frames: calibration frames (H, W, 3); ranges are the extremes seen (min-max).
        flavour: what the target wants.

    Raises:
        ExportError: ONNX Runtime's quantiser refuses.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    for_tensorrt = flavour is Flavour.TENSORRT
    with tempfile.TemporaryDirectory() as folder:
        fp32, prepared, quantised = (
            Path(folder) / f"{name}.onnx" for name in ("fp32", "p", "int8")
        )
        try:
            # From a file: of a model in memory ONNX Runtime 1.31 loses the weights on the way.
            onnx.save(model, str(fp32))
            quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(quantised),
                _Frames(frames),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Add"] if for_tensorrt else None,
                per_channel=True,
                activation_type=QuantType.QInt8 if for_tensorrt else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": for_tensorrt,
                    "QuantizeBias": not for_tensorrt,
                },
            )
        except Exception as error:  # the quantiser raises many types; each means "refused"
            raise ExportError(f"ONNX Runtime could not quantise the graph: {error}") from error
        return onnx.load(str(quantised))


class _Frames:
    """The calibration frames as ONNX Runtime reads them, one at a time."""

    def __init__(self, frames: Sequence[Rgb]) -> None:
        self._batches: Iterator[dict[str, Any]] = iter(
            [{"images": np.asarray(frame)[None]} for frame in frames]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
