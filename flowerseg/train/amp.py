"""Mixed precision: which type the forward pass computes in, and what stays in FP32."""

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flowerseg.backends.device import computes_bf16
from flowerseg.errors import TrainingError

Amp = Literal["bf16", "fp16", "off"]
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}


def resolve_amp(asked: Literal["auto", "bf16", "fp16", "off"], device: str) -> Amp:
    """bf16 where the hardware computes it, else fp16 on a GPU, else FP32; or what was asked for.

    Raises:
        TrainingError: fp16 on a CPU, which computes it many times slower than FP32.
    """
    on_gpu = device.startswith("cuda")
    if asked == "fp16" and not on_gpu:
        raise TrainingError("--amp fp16 needs a CUDA GPU. Use --amp auto, bf16 or off on the CPU.")
    if asked != "auto":
        return asked
    if computes_bf16(device):
        return "bf16"
    return "fp16" if on_gpu else "off"


def autocast(amp: Amp, device: str) -> AbstractContextManager[Any]:
    """The context that a forward pass runs in."""
    kind = device.partition(":")[0]
    return torch.autocast(kind, _TYPES[amp], enabled=amp != "off")


def keep_depthwise_fp32(network: nn.Module) -> None:
    """Compute depthwise convolutions in FP32 while the CPU's autocast does the rest in bf16.

    oneDNN's depthwise backward is slower in bf16 than in FP32 (torch 2.15 on AVX-512 BF16), and
    would be much of a step of MobileNetV3.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            # The same weights under the same name; only forward differs. Copies keep it.
            module.__class__ = _DepthwiseConv


class _DepthwiseConv(nn.Conv2d):
    def forward(self, features: Tensor) -> Tensor:
        if not (features.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.to(self.weight.dtype))
