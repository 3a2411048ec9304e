"""Mixed precision: what is chosen where, and depthwise convolutions that stay in FP32."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from flowerseg.arrays import Images
from flowerseg.errors import TrainingError
from flowerseg.model import FlowerNet
from flowerseg.train import amp as amp_module
from flowerseg.train.amp import autocast, keep_depthwise_fp32, resolve_amp


@pytest.mark.parametrize(
    ("asked", "device", "hardware_has_bf16", "expected"),
    [
        ("auto", "cpu", True, "bf16"),
        ("auto", "cpu", False, "off"),
        ("auto", "cuda:1", True, "bf16"),
        ("auto", "cuda:1", False, "fp16"),
        ("fp16", "cuda:0", True, "fp16"),
        ("bf16", "cpu", False, "bf16"),
        ("off", "cpu", True, "off"),
        ("off", "cuda:0", True, "off"),
    ],
)
def test_precision_is_what_was_asked_for_or_what_the_hardware_computes(
    asked: str,
    device: str,
    hardware_has_bf16: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at = []

    def computes_bf16(name: str) -> bool:
        looked_at.append(name)
        return hardware_has_bf16

    monkeypatch.setattr(amp_module, "computes_bf16", computes_bf16)
    assert resolve_amp(asked, device) == expected
    assert looked_at == ([device] if asked == "auto" else [])


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"--amp fp16 needs a CUDA GPU.*auto, bf16 or off"):
        resolve_amp("fp16", "cpu")


@pytest.mark.parametrize(("amp", "expected"), [("bf16", torch.bfloat16), ("off", torch.float32)])
def test_autocast_computes_in_the_chosen_type(amp: str, expected: torch.dtype) -> None:
    with autocast(amp, "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is expected
    assert not torch.is_autocast_enabled("cpu")


@pytest.fixture
def kept(small_network: FlowerNet) -> FlowerNet:
    network = copy.deepcopy(small_network)
    keep_depthwise_fp32(network)
    return network


@pytest.fixture
def batch(frames: Images) -> Tensor:
    return torch.from_numpy(frames[:2])


def _convolutions(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    return ((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))


def _output_types(network: FlowerNet, batch: Tensor, amp: str) -> dict[str, torch.dtype]:
    """What each convolution computes."""
    found: dict[str, torch.dtype] = {}
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, made, name=name: found.update({name: made.dtype})
        )
        for name, module in _convolutions(network)
    ]
    with torch.inference_mode(), autocast(amp, "cpu"):
        network(batch)
    for hook in hooks:
        hook.remove()
    return found


def test_fp32_is_the_same_bit_for_bit(
    small_network: FlowerNet, kept: FlowerNet, batch: Tensor
) -> None:
    with torch.inference_mode():
        assert torch.equal(kept(batch), small_network(batch))


def test_weights_keep_names_and_values(small_network: FlowerNet, kept: FlowerNet) -> None:
    before, after = small_network.state_dict(), kept.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("is_copy", [False, True])
def test_under_autocast_only_depthwise_convolutions_stay_in_fp32(
    kept: FlowerNet, batch: Tensor, is_copy: bool
) -> None:
    network = copy.deepcopy(kept) if is_copy else kept
    is_depthwise = {name: module.groups > 1 for name, module in _convolutions(network)}
    assert sum(is_depthwise.values()) == 15  # one in each block of MobileNetV3 Large
    assert _output_types(network, batch, "bf16") == {
        name: torch.float32 if depthwise else torch.bfloat16
        for name, depthwise in is_depthwise.items()
    }


def test_depthwise_gradients_under_autocast_are_those_of_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 6, 6, generator=generator)
    plain = nn.Conv2d(4, 4, 3, groups=4)
    block = nn.Sequential(copy.deepcopy(plain))
    keep_depthwise_fp32(block)
    plain(features.bfloat16().float()).square().sum().backward()
    with autocast("bf16", "cpu"):
        block(features.bfloat16()).square().sum().backward()
    assert isinstance(block[0], nn.Conv2d)
    assert plain.weight.grad is not None
    assert torch.equal(block[0].weight.grad, plain.weight.grad)
