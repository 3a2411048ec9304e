"""Half precision: the network typed in it, and an FP32 run that shows what it would do.

ONNX Runtime and OpenVINO compute FP16 nodes in FP32 on x86, so a model that overflows in real half
comes out finite there. Where no GPU can execute a file, this emulation is the proof of its range:
weights and every module's inputs and outputs are rounded to half inside an FP32 run.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flowerseg.errors import ParityError
from flowerseg.model import FlowerNet


def half_from_network(network: FlowerNet) -> FlowerNet:
    """A copy that computes in half between normalisation and the last upsampling.

    Normalisation, upsampling and sigmoid stay in FP32: see `FlowerNet.forward`.
    """
    half = copy.deepcopy(network)
    half.backbone.half()
    half.classifier.half()
    return half


def emulated_half_from_network(network: FlowerNet) -> FlowerNet:
    """A copy that runs in FP32 and rounds like `half_from_network`.

    Its forward raises `ParityError` naming the first module whose output is not finite in half.
    """
    emulated = copy.deepcopy(network)
    for part in (emulated.backbone, emulated.classifier):
        _round_weights(part)
    for name, module in emulated.named_modules():
        if name and not any(module.children()):
            module.register_forward_pre_hook(_round_inputs)
            module.register_forward_hook(_rounding_output_of(name))
    return emulated


def _round_weights(part: nn.Module) -> None:
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.half().float()


def _round_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(i.half().float() if isinstance(i, Tensor) else i for i in inputs)


def _rounding_output_of(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def round_output(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        rounded = output.half().float()
        if not torch.isfinite(rounded).all():
            largest = output.abs().nan_to_num(0.0, posinf=float("inf")).max().item()
            raise ParityError(
                f"{name}: its output reaches {largest:.3g}, and half precision ends at 65504. "
                "Keep this module in FP32, or train with smaller activations."
            )
        return rounded

    return round_output
