"""The network against torchvision's own DeepLabV3 with the same weights."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import segmentation

from flowerseg.arrays import Images
from flowerseg.model import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Architecture,
    Deployable,
    FlowerNet,
    specialised,
)


@pytest.fixture(scope="module")
def batch(frames: Images) -> Tensor:
    return torch.from_numpy(frames[:3])


@pytest.fixture(scope="module")
def theirs(small_network: FlowerNet) -> nn.Module:
    """torchvision's network, forward included, with the small network's weights."""
    network = segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2, aux_loss=False
    )
    network.classifier[4] = nn.Conv2d(256, 2, 3, padding=1)
    network.load_state_dict(small_network.state_dict())
    return network.eval()


@pytest.fixture(scope="module")
def their_scores(theirs: nn.Module, batch: Tensor) -> Tensor:
    """Two scores a pixel (3, 2, 64, 64), upsampled by torchvision, from samples in 0..1."""
    samples = batch.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        return theirs((samples - mean) / std)["out"]


def test_sigmoid_of_the_difference_is_the_softmax_of_torchvisions_scores(
    small_network: FlowerNet, batch: Tensor, their_scores: Tensor
) -> None:
    with torch.inference_mode():
        ours = torch.sigmoid(small_network(batch))
    expected = functional.softmax(their_scores, dim=1)[:, 1]
    assert expected.std() > 0.1  # probabilities that could differ
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_broadcast_pooling_is_torchvisions_aspp(small_network: FlowerNet, theirs: Any) -> None:
    channels = theirs.classifier[0].convs[0][0].in_channels
    features = torch.randn(2, channels, 5, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            small_network.classifier[0](features),
            theirs.classifier[0](features),
            rtol=1e-5,
            atol=1e-5,
        )


def test_value_is_128_or_more_exactly_where_flower_is_as_likely_as_not(
    small_network: FlowerNet, batch: Tensor
) -> None:
    with torch.inference_mode():
        logits = small_network(batch)
        values = Deployable(small_network).eval()(batch)
    assert values.dtype is torch.uint8
    # In exact arithmetic p >= 0.5 is logit >= 0; within float's rounding of the sigmoid of it.
    clear = logits.abs() > 1e-6
    assert torch.equal((values >= 128)[clear], (logits >= 0)[clear])
    assert 0.1 < (values >= 128).float().mean() < 0.9


class _Fixed(nn.Module):
    """Gives the logits that it was made of."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor([[logits]])

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize(
    ("probability", "value"),
    [
        (0.0, 0),
        (0.003, 0),
        (0.004, 1),
        (0.25, 64),
        (0.4999, 127),
        (0.5, 128),
        (0.996, 254),
        (1.0, 255),
    ],
)
def test_value_is_the_floor_of_256_p(probability: float, value: int) -> None:
    with np.errstate(divide="ignore"):
        logit = float(np.log(probability) - np.log1p(-probability))
    found = Deployable(_Fixed([logit]))(torch.zeros(1, 1, 1, 3, dtype=torch.uint8))  # type: ignore[arg-type]  # a stand-in
    assert found.tolist() == [[[value]]]


@pytest.mark.parametrize("architecture", list(Architecture))
def test_every_architecture_gives_a_logit_for_each_pixel(architecture: Architecture) -> None:
    network = FlowerNet(architecture).eval()
    with torch.inference_mode():
        logits = network(torch.zeros(1, 32, 48, 3, dtype=torch.uint8))
    assert logits.shape == (1, 32, 48)
    assert logits.dtype is torch.float32


def test_head_is_the_studys_padded_so_that_the_map_keeps_its_size() -> None:
    head = FlowerNet(Architecture.MOBILENET_V3_LARGE).head
    assert (head.in_channels, head.out_channels) == (256, 2)
    assert (head.kernel_size, head.padding) == ((3, 3), (1, 1))


def test_constants_of_the_contract_are_not_among_the_weights(small_network: FlowerNet) -> None:
    assert not {"mean", "std"} & set(small_network.state_dict())


def test_no_auxiliary_head_is_left(small_network: FlowerNet) -> None:
    assert not [name for name, _ in small_network.named_modules() if "aux" in name]


@pytest.mark.parametrize("size_hw", [(14, 14), (24, 24), (11, 13), (12, 36), (40, 40)])
def test_dilated_branches_are_torchvisions_on_small_and_large_maps(
    small_network: FlowerNet, theirs: Any, size_hw: tuple[int, int]
) -> None:
    # Dilations 12, 24 and 36: on each of these maps another set of taps meets only padding.
    channels = theirs.classifier[0].convs[0][0].in_channels
    ours = small_network.classifier[0].convs
    features = torch.randn(2, channels, *size_hw, generator=torch.Generator().manual_seed(0))
    for place in (1, 2, 3):
        branches = [copy.deepcopy(convs[place][0]) for convs in (ours, theirs.classifier[0].convs)]
        outputs = [branch(features) for branch in branches]
        torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
        gradients = []
        for branch, output in zip(branches, outputs, strict=True):
            output.square().sum().backward()
            gradients.append(branch.weight.grad)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)


# Maps are a sixteenth of MobileNetV3's frame and an eighth of ResNet's; ASPP dilates by 12, 24 and
# 36, and what is no larger than the dilation meets padding only.
@pytest.mark.parametrize(
    ("architecture", "side", "idle"),
    [
        (Architecture.MOBILENET_V3_LARGE, 224, ["2", "3"]),  # 14 x 14
        (Architecture.MOBILENET_V3_LARGE, 520, ["3"]),  # 33 x 33
        (Architecture.RESNET50, 224, ["3"]),  # 28 x 28
        (Architecture.RESNET50, 520, []),  # 65 x 65
    ],
)
def test_specialised_network_drops_the_branches_taps_that_meet_only_padding(
    architecture: Architecture, side: int, idle: list[str]
) -> None:
    special = specialised(FlowerNet(architecture), (side, side))
    branches = dict(special.classifier[0].named_modules())
    kernels = {str(n): branches[f"convs.{n}.0"].kernel_size for n in (1, 2, 3)}
    assert [name for name, size in kernels.items() if size == (1, 1)] == idle


def test_specialised_network_is_the_same_function(small_network: FlowerNet, batch: Tensor) -> None:
    special = specialised(small_network, (64, 64))
    with torch.inference_mode():
        expected = small_network(batch)
        assert expected.std() > 0.5
        torch.testing.assert_close(special(batch), expected, rtol=0, atol=1e-4)


def test_specialised_network_leaves_the_original_as_it_was(small_network: FlowerNet) -> None:
    before = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    specialised(small_network, (64, 64))
    after = small_network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert small_network.head.out_channels == 2


def test_logits_are_those_of_the_features(small_network: FlowerNet, batch: Tensor) -> None:
    with torch.inference_mode():
        features = small_network.features(batch)
        assert features.shape[1] == 256
        logits = small_network.logits(features, (64, 64))
        assert torch.equal(logits, small_network(batch))
