"""Emulated half against torch's own, and an overflow that it has to name."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flowerseg.arrays import Images
from flowerseg.errors import ParityError
from flowerseg.half import emulated_half_from_network, half_from_network, kept_modules
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


def test_island_that_overflows_half_passes_with_its_batchnorm(
    small_network: FlowerNet, batch: Tensor
) -> None:
    """What leaves an FP32 convolution reaches its FP32 BatchNorm without rounding in between."""
    loud = copy.deepcopy(small_network)
    with torch.inference_mode():
        loud.get_submodule("backbone.0.0").weight.mul_(2.0**17)
        loud.get_submodule("backbone.0.1").running_mean.mul_(2.0**17)
        loud.get_submodule("backbone.0.1").running_var.mul_(2.0**34)
        with pytest.raises(ParityError, match=r"--keep-fp32 backbone\.0\.0"):
            emulated_half_from_network(loud)(batch)
        emulated = emulated_half_from_network(loud, ["backbone.0"])(batch)
        typed = half_from_network(loud, ["backbone.0"])(batch)
        expected = loud(batch)
    for logits in (emulated, typed):
        assert ((logits - expected).std() / expected.std()).item() < 1e-2


def test_island_is_fp32_and_the_rest_is_half(small_network: FlowerNet) -> None:
    half = half_from_network(small_network, ["backbone.1.block.0", "classifier.4"])
    types = {name: tensor.dtype for name, tensor in half.named_parameters()}
    islands = {name for name, kind in types.items() if kind is torch.float32}
    assert islands == {
        "backbone.1.block.0.0.weight",
        "backbone.1.block.0.1.weight",
        "backbone.1.block.0.1.bias",
        "classifier.4.weight",
        "classifier.4.bias",
    }


@pytest.mark.parametrize(
    ("globs", "kept"),
    [
        (["classifier.4"], {"classifier.4"}),
        (["classifier.0.convs.[12]"], {f"classifier.0.convs.{n}.{m}" for n in "12" for m in "01"}),
        (["*.convs.1.0", "classifier.1"], {"classifier.0.convs.1.0", "classifier.1"}),
        ([], set()),
    ],
)
def test_globs_match_a_modules_own_name_or_a_parents(
    small_network: FlowerNet, globs: list[str], kept: set[str]
) -> None:
    assert kept_modules(small_network, globs) == kept


def test_glob_that_matches_nothing_is_named_with_what_there_is(small_network: FlowerNet) -> None:
    with pytest.raises(ValueError, match=r"'layer9' matches no module .* backbone\.0\.0, …"):
        kept_modules(small_network, ["backbone.0", "layer9"])


def test_logits_of_a_half_network_are_fp32(small_network: FlowerNet, batch: Tensor) -> None:
    with torch.inference_mode():
        assert half_from_network(small_network)(batch).dtype is torch.float32


def test_kept_everything_is_the_fp32_network(small_network: FlowerNet, batch: Tensor) -> None:
    everything = ["backbone", "classifier"]
    with torch.inference_mode():
        expected = small_network(batch)
        assert torch.equal(half_from_network(small_network, everything)(batch), expected)
        assert torch.equal(emulated_half_from_network(small_network, everything)(batch), expected)


def test_emulation_starts_over_after_a_run_that_failed(
    small_network: FlowerNet, batch: Tensor
) -> None:
    emulated = emulated_half_from_network(small_network)
    with torch.inference_mode():
        expected = emulated(batch)
        head = emulated.head
        head.register_forward_pre_hook(_fail_once())
        with pytest.raises(RuntimeError, match="once"):
            emulated(batch)
        assert torch.equal(emulated(batch), expected)


def _fail_once() -> Callable[..., None]:
    failures = iter([RuntimeError("once")])

    def fail(*_: object) -> None:
        if error := next(failures, None):
            raise error

    return fail


def test_sound_network_passes_the_emulation(small_network: FlowerNet, batch: Tensor) -> None:
    with torch.inference_mode():
        assert torch.isfinite(emulated_half_from_network(small_network)(batch)).all()
