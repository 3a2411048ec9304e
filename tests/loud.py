"""Networks that compute what they did, with values beyond half precision on the way."""

import copy

import torch

from flowerseg.model import FlowerNet

LOUD = 2.0**18


def louder(network: FlowerNet, *blocks: str) -> FlowerNet:
    """A copy in which each block's ReLU gives values beyond half, and the function is the same.

    The block's BatchNorm is that much louder, and the convolution that reads it that much softer: a
    ReLU passes a factor on.

    Args:
        network: a MobileNetV3.
        blocks: `backbone.N.block.0` with a ReLU, or `classifier.0.convs.N`.
    """
    loud = copy.deepcopy(network)
    for block in blocks:
        parent, _, place = block.rpartition(".")
        normalisation = loud.get_submodule(block)[1]  # type: ignore[index]  # a Sequential
        if parent == "classifier.0.convs":
            channels = slice(256 * int(place), 256 * (int(place) + 1))
            reader = loud.get_submodule("classifier.0.project.0").weight[:, channels]
        else:
            reader = loud.get_submodule(f"{parent}.1.0").weight
        with torch.no_grad():
            normalisation.weight *= LOUD
            normalisation.bias *= LOUD
            reader /= LOUD
    return loud
