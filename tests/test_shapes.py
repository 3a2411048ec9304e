"""Copies without data keep shapes, types and modules, and leave the network alone."""

import torch
from torch import nn

from flowerseg.shapes import without_data


def test_copy_has_shapes_and_types_and_no_data() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1).half(), nn.BatchNorm2d(4)).eval()
    network[1].weight.requires_grad_(False)
    empty = without_data(network)
    before, after = network.state_dict(), empty.state_dict()
    assert {tensor.device.type for tensor in after.values()} == {"meta"}
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items()
    }
    assert [p.requires_grad for p in empty.parameters()] == [True, True, False, True]
    assert not empty.training
    assert {tensor.device.type for tensor in before.values()} == {"cpu"}


def test_tensor_that_two_modules_share_is_shared_in_the_copy() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    empty = without_data(nn.ModuleList([first, second]))
    assert empty[0].weight is empty[1].weight


def test_weights_are_not_copied_on_the_way() -> None:
    network = nn.Linear(4, 4)
    network.weight.__class__ = type("Uncopied", (nn.Parameter,), {"__deepcopy__": _refuse})
    assert without_data(network)(torch.empty(1, 4, device="meta")).shape == (1, 4)


def _refuse(*_: object) -> None:
    raise AssertionError("copied")
