"""Two networks layer by layer: each module's output, given the same input, beside the reference's.

The reference runs every frame twice at once. In the first copy it computes as always; in the
second each module hands on what the other network made of it, so that the next one starts from
there. An error that came from further up is then no error of the module that passes it on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flowerseg.arrays import Rgb
from flowerseg.fold import FoldedBatchNorm
from flowerseg.model import Deployable, FlowerNet
from flowerseg.shapes import without_data

INPUT = "the input: colour order, normalisation"
"""Goes for a module's name where the fault lies before the network."""
OUTPUT = "the output: upsampling, sigmoid, rounding to uint8"
"""Goes for a module's name where the fault lies after the network."""


OUTPUT_ERROR = 0.002
"""What the output may depart by in any precision: behind the network all is FP32.

Correct files of the shipped model gave 0.0013 at most in FP16 and 0.0002 in FP32 and INT8, where a
floor falls to the other side. A result scaled by 255 instead of 256 gave 0.0059.
"""


class Call(NamedTuple):
    """The n-th call of a module, from 1: torchvision's ResNets use one ReLU three times a block."""

    module: str
    nth: int = 1


@dataclass(frozen=True)
class Value:
    """What another network has where the reference has the output of a call."""

    tensor: Tensor  # float32, without the batch
    made_by: str  # the module that computed it


Values = Mapping[Call, Value]


@dataclass(frozen=True)
class Layer:
    """How far one value is from the reference's, in units of the reference value's spread."""

    module: str
    own_error: float  # what the module adds to the input that it was given
    error: float  # with all that came before
    is_finite: bool

    def limit_from(self, limit: float) -> float:
        """The limit that holds for it, from one for all modules: that of the output is closer."""
        return min(limit, OUTPUT_ERROR) if self.module == OUTPUT else limit

    def departs(self, limit: float) -> bool:
        """Whether its own error is beyond `limit_from(limit)`, or not finite."""
        return not (self.is_finite and self.own_error <= self.limit_from(limit))


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference over the standard deviation of the reference.

    Where the reference is constant, its magnitude is the measure; 0 where the two are equal.
    """
    difference = (value - reference).double().square().mean().sqrt().item()
    if difference == 0:
        return 0.0
    spread = reference.double().std(correction=0).item() or reference.abs().max().item()
    return difference / spread if spread and difference == difference else float("inf")


def compare_layers(reference: FlowerNet, frame: Rgb, values: Values) -> list[Layer]:
    """Compare what another network made of a frame (H, W, 3), in the order of execution.

    Args:
        reference: in FP32, `specialised` like the other network.
        frame: one frame.
        values: of the other network; calls without a value are passed over.
    """
    layers: list[Layer] = []

    def compare(call: Call, output: Tensor) -> Tensor | None:
        value = values.get(call)
        if value is None or output.shape[0] != 2:
            return None
        layers.append(_layer(value, output))
        return torch.stack([output[0], value.tensor])

    twice = torch.from_numpy(frame).expand(2, *frame.shape)
    with _watched(reference, compare), torch.inference_mode():
        foreground = Deployable(reference)(twice).float()
    if final := values.get(Call(OUTPUT)):
        layers.append(_output_layer(final, foreground))
    return layers


def values_of_network(network: FlowerNet, frame: Rgb) -> dict[Call, Value]:
    """What the modules of a network in torch, or of an emulation, make of one frame (H, W, 3)."""
    values: dict[Call, Value] = {}
    leaves = {
        name
        for name, module in network.named_modules()
        if not any(module.children()) and not isinstance(module, FoldedBatchNorm)
    }

    def keep(call: Call, output: Tensor) -> None:
        if call.module in leaves or call.module == INPUT:
            # A ReLU that works in place would change what is kept.
            values[call] = Value(output[0].float().clone(), call.module)

    with _watched(network, keep), torch.inference_mode():
        foreground = Deployable(network)(torch.from_numpy(frame)[None])
    return values | {Call(OUTPUT): Value(foreground[0].float(), OUTPUT)}


def calls_of(network: FlowerNet, size_hw: Iterable[int]) -> list[Call]:
    """All calls of modules that give a tensor, in the order in which they end; on no data."""
    shapes = without_data(network)
    calls: list[Call] = []
    with _watched(shapes, lambda call, _: calls.append(call)), torch.inference_mode():
        shapes(torch.zeros((1, *size_hw, 3), dtype=torch.uint8, device="meta"))
    return calls


OnCall = Callable[[Call, Tensor], Tensor | None]
"""Called with each output; what it returns takes the output's place."""


@contextmanager
def _watched(network: FlowerNet, on_call: OnCall) -> Iterator[None]:
    counts: Counter[str] = Counter()

    def hook(name: str) -> Any:
        def after(_: nn.Module, __: Any, output: Any) -> Tensor | None:
            counts[name] += 1
            return on_call(Call(name, counts[name]), output) if torch.is_tensor(output) else None

        return after

    def before_backbone(_: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        return on_call(Call(INPUT), inputs[0])

    named = [(name, module) for name, module in network.named_modules() if name]
    handles = [module.register_forward_hook(hook(name)) for name, module in named]
    handles.append(network.backbone.register_forward_pre_hook(before_backbone))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layer(value: Value, output: Tensor) -> Layer:
    if value.tensor.shape != output.shape[1:]:
        raise ValueError(
            f"{value.made_by}: {tuple(value.tensor.shape)} beside {tuple(output.shape[1:])}"
        )
    is_finite = bool(torch.isfinite(value.tensor).all())
    own = relative_error(value.tensor, output[1])
    return Layer(value.made_by, own, relative_error(value.tensor, output[0]), is_finite)


def _output_layer(value: Value, foreground: Tensor) -> Layer:
    error, own = (relative_error(value.tensor, foreground[row]) for row in (0, 1))
    return Layer(value.made_by, own, error, is_finite=True)
