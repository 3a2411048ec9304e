"""Folding a BatchNorm into its convolution: the same function, for every architecture."""

import copy

import pytest
import torch
from torch import nn

from flowerseg.fold import FoldedBatchNorm, fold_batchnorms
from flowerseg.half import emulated_half_from_network, half_from_network, kept_modules
from flowerseg.model import Architecture, FlowerNet, specialised

SIDE = 64
FRAMES = torch.zeros((1, SIDE, SIDE, 3), dtype=torch.uint8, device="meta")


def test_folded_convolution_by_hand() -> None:
    convolution, normalisation = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=1.0)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
        convolution.bias.copy_(torch.tensor([1.0, 2.0]))  # type: ignore[union-attr]  # it has one
        normalisation.running_mean.copy_(torch.tensor([4.0, -6.0]))  # type: ignore[union-attr]
        normalisation.running_var.copy_(torch.tensor([3.0, 15.0]))  # type: ignore[union-attr]
        normalisation.weight.copy_(torch.tensor([2.0, 8.0]))
        normalisation.bias.copy_(torch.tensor([0.5, -0.5]))
    network = nn.Sequential(convolution, normalisation)
    fold_batchnorms(network, torch.zeros((1, 1, 2, 2), device="meta"))
    # With s = gamma / sqrt(var + eps): weight * s, and (bias - mean) * s + beta.
    assert convolution.weight.flatten().tolist() == [3 * 2 / 2, 5 * 8 / 4]
    assert convolution.bias.tolist() == [(1 - 4) * 1 + 0.5, (2 + 6) * 2 - 0.5]  # type: ignore[union-attr]
    assert isinstance(network[1], FoldedBatchNorm)


def test_batchnorm_that_follows_no_convolution_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    fold_batchnorms(network, torch.zeros((1, 3, 2, 2), device="meta"))
    assert isinstance(network[2], nn.BatchNorm2d)


@pytest.mark.parametrize("architecture", list(Architecture))
def test_no_batchnorm_is_left_and_the_function_is_the_same(architecture: Architecture) -> None:
    torch.manual_seed(0)
    network = FlowerNet(architecture).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that a fold must not mistake for others
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.uniform_(module.bias, -0.2, 0.2)
    special = specialised(network, (SIDE, SIDE))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in special.modules())
    images = torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected, found = network(images), special(images)
    assert (found - expected).abs().max() < 1e-4 * expected.std()


@pytest.fixture
def wide(small_network: FlowerNet) -> FlowerNet:
    """The same function, but one convolution is so loud that its variance has no half."""
    wide = copy.deepcopy(small_network)
    convolution, normalisation = wide.backbone["3"].block[0][0], wide.backbone["3"].block[0][1]
    with torch.no_grad():
        convolution.weight *= 2.0**9
        normalisation.running_mean *= 2.0**9
        normalisation.running_var.add_(normalisation.eps).mul_(2.0**18).sub_(normalisation.eps)
    assert normalisation.running_var.max() > 65504
    return wide


@pytest.mark.parametrize("make", [half_from_network, emulated_half_from_network])
def test_variance_beyond_half_harms_no_half_network(
    wide: FlowerNet, small_network: FlowerNet, make: object
) -> None:
    images = torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = small_network(images)
        found = make(specialised(wide, (SIDE, SIDE)))(images)  # type: ignore[operator]
    assert ((found - expected).std() / expected.std()) < 1e-2


def test_glob_of_a_folded_batchnorm_keeps_its_convolution() -> None:
    special = specialised(FlowerNet(Architecture.RESNET50), (SIDE, SIDE))
    assert kept_modules(special, ["backbone.bn1"]) == {"backbone.conv1"}
    assert kept_modules(special, ["backbone.layer1.0.bn3"]) == {"backbone.layer1.0.conv3"}
