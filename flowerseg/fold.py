"""Fold each BatchNorm into the convolution before it: one product less, and one rounding less."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from flowerseg.shapes import without_data


class FoldedBatchNorm(nn.Identity):
    """Stands where a BatchNorm was, so that module names and torchvision's code stay as they are.

    Args:
        convolution: name of the module that now does the BatchNorm's work.
    """

    def __init__(self, convolution: str) -> None:
        super().__init__()
        self.convolution = convolution


def fold_batchnorms(network: nn.Module, images: Tensor) -> None:
    """Fold every BatchNorm that directly follows a convolution, in place, for inference.

    A convolution that feeds a BatchNorm must feed nothing else; torchvision's networks are built
    so. Weights are computed in double precision and rounded once, to their own type: rounding a
    BatchNorm to half by itself would overflow where its variance exceeds 65504.

    Args:
        network: with its weights on any device.
        images: an example of its input on the meta device; no data is computed.
    """
    for normalisation, convolution in _batchnorms_after_convolutions(network, images).items():
        _fold(network.get_submodule(convolution), network.get_submodule(normalisation))
        network.set_submodule(normalisation, FoldedBatchNorm(convolution))


def _batchnorms_after_convolutions(network: nn.Module, images: Tensor) -> dict[str, str]:
    """Name of a BatchNorm -> name of the convolution whose output it reads."""
    shapes = without_data(network).eval()
    outputs: list[tuple[Tensor, str]] = []  # holds the tensors, so that no two share an identity
    pairs: dict[str, str] = {}

    def record_output(name: str) -> Any:
        return lambda _, __, output: outputs.append((output, name))

    def record_pair(name: str) -> Any:
        def record(_: nn.Module, inputs: tuple[Tensor]) -> None:
            for output, convolution in outputs:
                if output is inputs[0]:
                    pairs[name] = convolution

        return record

    for name, module in shapes.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record_output(name))
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(record_pair(name))
    with torch.inference_mode():
        shapes(images)
    return pairs


def _fold(convolution: nn.Module, normalisation: nn.Module) -> None:
    if not (isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d)):
        raise TypeError(f"not a convolution and its BatchNorm: {convolution}, {normalisation}")
    bias = convolution.bias
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.detach().double(),
        None if bias is None else bias.detach().double(),
        _double(normalisation.running_mean),
        _double(normalisation.running_var),
        normalisation.eps,
        _double(normalisation.weight),
        _double(normalisation.bias),
    )
    kind = convolution.weight.dtype
    convolution.weight = nn.Parameter(weight.detach().to(kind))
    convolution.bias = nn.Parameter(bias.detach().to(kind))


def _double(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("a BatchNorm without statistics or weights cannot be folded")
    return tensor.detach().double()
