"""Emulated half against torch's own, and an overflow that it has to name."""

import copy

import pytest
import torch
from torch import Tensor

from flowerseg.arrays import Images
from flowerseg.errors import ParityError
from flowerseg.half import emulated_half_from_network, half_from_network
from flowerseg.model import FlowerNet


@pytest.fixture(scope="module")
def batch(frames: Images) -> Tensor:
    return torch.from_numpy(frames[:2])


@pytest.fixture(scope="module")
def fp32_logits(small_network: FlowerNet, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        return small_network(batch)


@pytest.mark.slow
def test_emulation_is_as_far_from_fp32_as_real_half(
    small_network: FlowerNet, batch: Tensor, fp32_logits: Tensor
) -> None:
    with torch.inference_mode():
        real = half_from_network(small_network)(batch)
        emulated = emulated_half_from_network(small_network)(batch)
    scale = fp32_logits.std()
    errors = [((logits - fp32_logits).std() / scale).item() for logits in (real, emulated)]
    assert 1e-5 < min(errors) < max(errors) < 1e-2
    assert max(errors) < 5 * min(errors)
    assert ((real - emulated).std() / scale).item() < 3 * max(errors)


def test_rounded_weights_are_the_halves(small_network: FlowerNet) -> None:
    emulated = emulated_half_from_network(small_network)
    half = half_from_network(small_network)
    for one, other in zip(emulated.backbone.parameters(), half.backbone.parameters(), strict=True):
        assert other.dtype is torch.float16
        assert torch.equal(one, other.float())


def test_normalisation_and_the_original_stay_fp32(small_network: FlowerNet, batch: Tensor) -> None:
    half = half_from_network(small_network)
    assert half.mean.dtype is half.std.dtype is torch.float32
    assert {weight.dtype for weight in half.classifier.parameters()} == {torch.float16}
    assert {weight.dtype for weight in small_network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["backbone.0.0", "classifier.1"])
def test_planted_overflow_is_named_by_its_module(
    small_network: FlowerNet, batch: Tensor, name: str
) -> None:
    loud = copy.deepcopy(small_network)
    weight = loud.get_submodule(name).weight
    with torch.inference_mode():
        weight.fill_(2.0**15)  # finite in half; what it gives is not
        assert torch.isfinite(loud(batch)).all()
        with pytest.raises(ParityError, match=rf"^{name}: its output reaches .*65504"):
            emulated_half_from_network(loud)(batch)


def test_sound_network_passes_the_emulation(small_network: FlowerNet, batch: Tensor) -> None:
    with torch.inference_mode():
        assert torch.isfinite(emulated_half_from_network(small_network)(batch)).all()
