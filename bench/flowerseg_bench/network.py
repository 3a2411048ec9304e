"""Networks that nobody trained: they cost what trained ones cost."""

import torch
from torch import Tensor, nn

from flowerseg.model import Architecture, FlowerNet

_BATCH = 8


def random_network(arch: str, images: Tensor, seed: int) -> FlowerNet:
    """A network of random weights whose BatchNorms have seen `images`, in eval mode.

    Without that, values grow from block to block until half precision overflows.

    Args:
        arch: a name of `Architecture`.
        images: (N, H, W, 3) uint8, N of 2 or more.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FlowerNet(Architecture(arch))
    _calibrate(network, images)
    return network.eval()


def _calibrate(network: FlowerNet, images: Tensor) -> None:
    for module in network.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over batches
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        for begin in range(0, len(images), _BATCH):
            batch = images[begin : begin + _BATCH]
            if len(batch) > 1:  # a BatchNorm has no variance of one
                network(batch)
