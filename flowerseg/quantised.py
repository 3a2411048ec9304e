"""INT8 emulated: an FP32 run of the network that rounds to 8 bits where a quantised file does.

The scales come from the file, weights and biases from the checkpoint. The difference between
emulation and checkpoint is then the cost of quantisation. The difference between file and emulation
is a fault of the file or of the runtime.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from flowerseg.model import FlowerNet
from flowerseg.shapes import without_data

_INT8 = (-128.0, 127.0)
_INT32 = (-(2.0**31), 2.0**31 - 1)
_ANY_FRAMES = (1, 64, 64, 3)
_MAPS = 4  # dimensions of what is rounded: (N, C, H, W)

# Functions that torchvision's networks call, with the ONNX operator that the exporter writes.
_OPERATORS = {
    "conv2d": "Conv",
    "relu": "Relu",
    "relu_": "Relu",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "add": "Add",
    "__iadd__": "Add",
    "add_": "Add",
    "mul": "Mul",
    "cat": "Concat",
    "mean": "GlobalAveragePool",
    "max_pool2d": "MaxPool",
    "expand": "Expand",
    "div": "Div",
}


@dataclass(frozen=True)
class Levels:
    """How a value is written in 8 bits: `value = step * (level - zero_point)`."""

    step: float
    zero_point: int
    lowest: int  # level
    highest: int


@dataclass(frozen=True)
class Quantisation:
    """What a file rounds to 8 bits, and how. Values go by the names that export gives them."""

    values: Mapping[str, Levels]
    weights: Mapping[str, NDArray[np.float32]]  # parameter -> step of each output channel
    biases: Mapping[str, NDArray[np.float32]]  # parameter -> step; the levels have 32 bits
    # Node -> the value, or None, that each of its inputs reads unrounded while others read it
    # rounded.
    unrounded: Mapping[str, Sequence[str | None]] = field(default_factory=dict)


def emulated_int8_from_network(network: FlowerNet, quantisation: Quantisation) -> FlowerNet:
    """A copy that runs in FP32 and rounds where the file does.

    Args:
        network: in FP32, made for its frames by `model.specialised`.
        quantisation: of the file.

    Raises:
        ValueError: the file rounds a value that the network does not compute, or has another number
            of scales than channels.
    """
    emulated = copy.deepcopy(network)
    parameters = dict(emulated.named_parameters())
    for steps_by_name, limits in ((quantisation.weights, _INT8), (quantisation.biases, _INT32)):
        for name, steps in steps_by_name.items():
            if name not in parameters:
                raise ValueError(f"the network has no {name}, which the file quantises")
            if steps.size not in (1, len(parameters[name])):
                raise ValueError(f"{name} has {len(parameters[name])} channels, not {steps.size}")
            parameters[name].data = _rounded(parameters[name].data, steps, *limits)
    rounding = _Rounding(quantisation)
    # These hooks come before those of others, who see what is rounded already.
    for name, module in emulated.named_modules():
        module.register_forward_pre_hook(partial(_enter, rounding, name))
        module.register_forward_hook(partial(_leave, rounding), always_call=True)
    with torch.inference_mode():  # shapes without arithmetic: all that is to be rounded is there
        without_data(emulated)(torch.zeros(_ANY_FRAMES, dtype=torch.uint8, device="meta"))
    return emulated


def _rounded(
    parameter: Tensor, steps: NDArray[np.float32], lowest: float, highest: float
) -> Tensor:
    """To levels of so many steps, one for each output channel or one for all."""
    step = torch.from_numpy(np.array(steps, np.float64)).reshape(-1, *[1] * (parameter.dim() - 1))
    return ((parameter / step).round().clamp(lowest, highest) * step).float()


def _enter(rounding: "_Rounding", name: str, *_: Any) -> None:
    rounding.enter(name)


def _leave(rounding: "_Rounding", *given: Any) -> None:
    rounding.leave(has_raised=given[-1] is None)


class _Rounding(TorchFunctionMode):
    """Rounds what functions return, by the name that export gives it."""

    def __init__(self, quantisation: Quantisation) -> None:
        super().__init__()
        self._quantisation = quantisation
        self._read_unrounded = {
            value for values in quantisation.unrounded.values() for value in values if value
        }
        self._modules: list[str] = []  # that are being run, the innermost last
        self._calls: Counter[str] = Counter()
        self._rounded: set[str] = set()
        self._before_rounding: dict[str, Tensor] = {}

    def enter(self, module: str) -> None:
        """A module starts. The name of the network itself is empty."""
        if not self._modules:
            self._calls.clear()
            self._rounded.clear()
            self._before_rounding.clear()
            self.__enter__()  # type: ignore[no-untyped-call]  # torch's
        self._modules.append(module)

    def leave(self, *, has_raised: bool) -> None:
        """A module ends."""
        self._modules.pop()
        if not self._modules:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._before_rounding.clear()
            missing = sorted(self._quantisation.values.keys() - self._rounded)
            if missing and not has_raised:
                raise ValueError(f"the network computes no {missing[0]}, which the file rounds")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        operator = _OPERATORS.get(func.__name__)
        if operator is None:
            return func(*args, **(kwargs or {}))
        name = f"{self._modules[-1]}/{operator}".lstrip("/")
        nth = self._calls[name] + 1
        numbered = name if nth == 1 else f"{name}_{nth}"
        if numbered in self._quantisation.unrounded:
            args = self._with_unrounded(args, self._quantisation.unrounded[numbered])
        output = func(*args, **(kwargs or {}))
        if not isinstance(output, Tensor) or output.dim() != _MAPS:
            return output  # of a hook that compares values: the network itself computes maps
        self._calls[name] = nth
        levels = self._quantisation.values.get(numbered)
        if levels is None:
            return output
        self._rounded.add(numbered)
        if numbered in self._read_unrounded:
            self._before_rounding[numbered] = output
        if output.is_meta:
            return output
        return torch.fake_quantize_per_tensor_affine(
            output, levels.step, levels.zero_point, levels.lowest, levels.highest
        )

    def _with_unrounded(
        self, args: tuple[Any, ...], values: Sequence[str | None]
    ) -> tuple[Any, ...]:
        flat, shape = tree_flatten(args)
        tensors = [place for place, given in enumerate(flat) if isinstance(given, Tensor)]
        for place, value in zip(tensors, values, strict=False):
            if value is not None:
                flat[place] = self._before_rounding.get(value, flat[place])
        whole: tuple[Any, ...] = tree_unflatten(flat, shape)
        return whole
