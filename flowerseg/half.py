"""Half precision: the network typed in it, and an FP32 run that shows what it would do.

ONNX Runtime and OpenVINO compute FP16 nodes in FP32 on x86, so a model that overflows in real half
comes out finite there. Where no GPU can execute a file, this emulation is the proof of its range:
weights and every module's inputs and outputs are rounded to half inside an FP32 run.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from flowerseg.errors import ParityError
from flowerseg.fold import FoldedBatchNorm
from flowerseg.model import FlowerNet
from flowerseg.shapes import without_data

# No module's types depend on the size of the map; the smallest frame that all strides divide.
_ANY_FRAMES = (2, 64, 64, 3)


def half_from_network(network: FlowerNet, keep_fp32: Sequence[str] = ()) -> FlowerNet:
    """A copy that computes in half between normalisation and the last upsampling.

    Normalisation, upsampling and sigmoid stay in FP32: see `FlowerNet.forward`. Each module with
    weights casts its input to their type, so what an FP32 module gives stays FP32, its range too,
    until the next module in half.

    Args:
        network: in FP32.
        keep_fp32: globs of module names, `backbone.layer4.*`; see `kept_modules`.

    Raises:
        ValueError: a glob matches no module.
    """
    half = copy.deepcopy(network)
    kept = kept_modules(half, keep_fp32)
    for name, module in _weighted(half):
        if name not in kept:
            module.half()
        module.register_forward_pre_hook(_cast_to_weights)
    return half


def compact_from_network(network: FlowerNet) -> FlowerNet:
    """A copy for storage: convolutions in half, all else in FP32.

    BatchNorms stay as they are: a variance above 65504 has no half, and they are 1 % of a network.
    """
    compact = copy.deepcopy(network)
    for module in compact.modules():
        if isinstance(module, nn.Conv2d):
            module.half()
    return compact


def kept_modules(network: nn.Module, keep_fp32: Sequence[str]) -> set[str]:
    """Names of the modules with weights that the globs match, by their own or a parent's name.

    A glob that names a folded BatchNorm keeps the convolution that does its work.

    Raises:
        ValueError: a glob matches nothing, so a name is misspelt.
    """
    weighted = [name for name, _ in _weighted(network)]
    names = {name: name for name in weighted} | _folded(network)
    kept: set[str] = set()
    for glob in keep_fp32:
        matched = {
            weights
            for name, weights in names.items()
            if any(fnmatchcase(each, glob) for each in lineage(name))
        }
        if not matched:
            raise ValueError(
                f"{glob!r} matches no module with weights; their names are {weighted[0]}, …, "
                f"{weighted[len(weighted) // 2]}, …, {weighted[-1]}"
            )
        kept |= matched
    return kept


def emulated_half_from_network(
    network: FlowerNet, keep_fp32: Sequence[str] = (), *, lets_overflow: bool = False
) -> FlowerNet:
    """A copy that runs in FP32 and rounds where `half_from_network` would.

    Its forward raises `ParityError` naming the first module whose output is not finite in half.

    Args:
        network: in FP32.
        keep_fp32: globs of module names; see `kept_modules`.
        lets_overflow: go on with infinities, as a GPU does, instead of raising.

    Raises:
        ValueError: a glob matches no module.
    """
    rounding = _Rounding(_calls_in_half(half_from_network(network, keep_fp32)), lets_overflow)
    emulated = copy.deepcopy(network)
    kept = kept_modules(emulated, keep_fp32)
    for name, module in _weighted(emulated):
        if name not in kept:
            module.half().float()
    emulated.register_forward_pre_hook(rounding.restart)
    for _, module in _leaves(emulated):
        module.register_forward_pre_hook(rounding.before)
        module.register_forward_hook(rounding.after)
    return emulated


def _leaves(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if name and not any(module.children()):
            yield name, module


def _weighted(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in _leaves(network):
        if next(module.parameters(recurse=False), None) is not None:
            yield name, module


def _folded(network: nn.Module) -> dict[str, str]:
    """Name of a folded BatchNorm -> name of the convolution that does its work."""
    return {
        name: module.convolution
        for name, module in network.named_modules()
        if isinstance(module, FoldedBatchNorm)
    }


def lineage(name: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _cast_to_weights(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    kind = next(module.parameters(recurse=False)).dtype
    # A cast to the type that a tensor has already would be a node in the exported graph.
    return tuple(i if i.dtype == kind else i.to(kind) for i in inputs)


@dataclass(frozen=True)
class _Call:
    """One call of a module in the typed network: which of its ends are half."""

    name: str
    takes_half: bool
    gives_half: bool


def _calls_in_half(half: FlowerNet) -> list[_Call]:
    """The calls of all leaves in their order; on no data, so in no time."""
    types = without_data(half)
    calls: list[_Call] = []

    def recorder(name: str) -> Any:
        def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            takes = any(i.dtype is torch.float16 for i in inputs)
            calls.append(_Call(name, takes, output.dtype is torch.float16))

        return record

    for name, module in _leaves(types):
        module.register_forward_hook(recorder(name))
    with torch.inference_mode():
        types(torch.zeros(_ANY_FRAMES, dtype=torch.uint8, device="meta"))
    return calls


class _Rounding:
    """Rounds, call by call, what the typed network would hold in half."""

    def __init__(self, calls: list[_Call], lets_overflow: bool) -> None:
        self._calls = calls
        self._lets_overflow = lets_overflow
        self._position = 0
        self._rounded: Tensor | None = None  # what is half already, and is not changed in place

    def restart(self, *_: Any) -> None:
        self._position = 0
        self._rounded = None

    def before(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self._calls[self._position].takes_half:
            return inputs
        return tuple(
            i if i is self._rounded or not isinstance(i, Tensor) else i.half().float()
            for i in inputs
        )

    def after(self, module: nn.Module, _: Any, output: Tensor) -> Tensor:
        call = self._calls[self._position]
        self._position += 1
        if not call.gives_half:
            return output
        # Residual blocks add in place to the output of their last BatchNorm, folded or not: that
        # tensor will hold a sum that is not rounded yet.
        is_folded = isinstance(module, FoldedBatchNorm)  # its convolution's output is rounded
        rounded = output if is_folded else output.half().float()
        self._rounded = None if is_folded or isinstance(module, nn.BatchNorm2d) else rounded
        # One infinity or NaN makes the sum one; a sum of finite halves stays far below FP32's end.
        if not (self._lets_overflow or rounded.sum().isfinite()):
            largest = output.abs().nan_to_num(0.0, posinf=float("inf")).max().item()
            raise ParityError(
                f"{call.name}: its output reaches {largest:.3g}, and half precision ends at 65504. "
                f"Keep this module in FP32 (--keep-fp32 {call.name}), or train with smaller "
                "activations."
            )
        return rounded
