"""A graph rearranged for processors computes what it computed, with fewer products."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from flowerseg.arrays import Images
from flowerseg.artifact import Artifact
from flowerseg_export.cpu import for_processors
from flowerseg_export.graph import check_contract


def _graph_of(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], before: tuple[int, ...]
) -> onnx.ModelProto:
    """A model of one node, from maps of a static size to `out`."""
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ("batch", *before))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(content, name) for name, content in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _run(model: onnx.ModelProto, maps: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, {"maps": maps})[0]
    return result


def _convolution(
    size_hw: tuple[int, int],
    kernel: np.ndarray,
    dilation: int,
    padding: tuple[int, int],
    group: int,
) -> onnx.ModelProto:
    node = helper.make_node(
        "Conv",
        ["maps", "weight", "bias"],
        ["out"],
        name="aspp/Conv",
        dilations=[dilation] * 2,
        pads=[*padding, *padding],
        group=group,
    )
    bias = np.arange(len(kernel), dtype=np.float32)
    before = (kernel.shape[1] * group, *size_hw)
    return _graph_of(node, {"weight": kernel, "bias": bias}, before)


# Height and width, taps, dilation, padding above and at the left, groups.
SPLIT = [
    ((14, 14), (3, 3), 12, (12, 12), 1),  # ASPP on MobileNetV3's map of a 224 frame
    ((28, 28), (3, 3), 24, (24, 24), 1),  # and on ResNet's
    ((33, 33), (3, 3), 24, (24, 24), 1),  # MobileNetV3's of 520
    ((14, 9), (3, 3), 8, (8, 8), 1),
    ((7, 7), (5, 5), 3, (6, 6), 2),
    ((13, 21), (3, 1), 12, (12, 0), 1),
    ((12, 12), (3, 3), 12, (12, 12), 1),  # only the centre meets the map
]


@pytest.mark.parametrize(("size_hw", "taps", "dilation", "padding", "group"), SPLIT)
def test_convolution_in_parts_is_the_convolution_and_meets_no_padding(
    size_hw: tuple[int, int],
    taps: tuple[int, int],
    dilation: int,
    padding: tuple[int, int],
    group: int,
) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 4 // group, *taps)).astype(np.float32)
    maps = rng.normal(size=(3, 4, *size_hw)).astype(np.float32)
    model = for_processors(_convolution(size_hw, kernel, dilation, padding, group))
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        assert "pads" not in {attribute.name for attribute in node.attribute}
        assert node.name.startswith("aspp/Conv_")
    expected = functional.conv2d(
        torch.from_numpy(maps),
        torch.from_numpy(kernel),
        torch.arange(6.0),
        padding=padding,
        dilation=dilation,
        groups=group,
    )
    np.testing.assert_allclose(_run(model, maps), expected.numpy(), rtol=1e-4, atol=1e-4)


def test_parts_are_where_the_same_taps_meet_the_map() -> None:
    # Rows 0 and 1 of 14 meet themselves and rows 12 and 13; rows 2 to 11 only themselves.
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    model = for_processors(_convolution((14, 14), kernel, 12, (12, 12), 1))
    weights = {tensor.name: tuple(tensor.dims)[2:] for tensor in model.graph.initializer}
    taps = [weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert taps == [(2, 2), (2, 1), (2, 2), (1, 2), (1, 1), (1, 2), (2, 2), (2, 1), (2, 2)]
    assert "weight" not in weights


@pytest.mark.parametrize(
    ("size_hw", "taps", "dilation", "padding"),
    [
        ((14, 14), (3, 3), 1, (1, 1)),  # little padding
        ((28, 28), (3, 3), 12, (12, 12)),  # half of it: not worth the copies
        ((14, 14), (3, 3), 2, (0, 0)),
        ((4, 4), (1, 1), 1, (1, 1)),  # a border of nothing but padding
    ],
)
def test_convolution_of_little_padding_stays_as_it_is(
    size_hw: tuple[int, int], taps: tuple[int, int], dilation: int, padding: tuple[int, int]
) -> None:
    kernel = np.ones((1, 1, *taps), np.float32)
    before = _convolution(size_hw, kernel, dilation, padding, 1)
    after = for_processors(before)
    assert [node.op_type for node in after.graph.node] == ["Conv"]
    assert after.graph.node[0].attribute == before.graph.node[0].attribute


@pytest.mark.parametrize("op_type", ["Sub", "Div"])
def test_normalisation_with_constants_of_a_row_is_the_same_to_the_bit(op_type: str) -> None:
    channels = np.array([123.675, 116.28, 103.53], np.float32)
    maps = np.random.default_rng(0).uniform(0, 255, (2, 3, 5, 7)).astype(np.float32)
    node = helper.make_node(op_type, ["maps", "constant"], ["out"], name=op_type)
    before = _graph_of(node, {"constant": channels.reshape(1, 3, 1, 1)}, (3, 5, 7))
    after = for_processors(before)
    assert [tuple(tensor.dims) for tensor in after.graph.initializer] == [(1, 3, 1, 7)]
    by_hand = {"Sub": np.subtract, "Div": np.divide}[op_type](maps, channels[:, None, None])
    np.testing.assert_array_equal(_run(after, maps), by_hand)


@pytest.mark.parametrize(("old_hw", "new_hw"), [((14, 14), (224, 224)), ((5, 9), (31, 40))])
def test_interpolation_by_products_is_torchs(
    old_hw: tuple[int, int], new_hw: tuple[int, int]
) -> None:
    node = helper.make_node(
        "Resize", ["maps", "", "", "sizes"], ["out"], name="Resize", mode="linear", axes=[2, 3]
    )
    model = for_processors(_graph_of(node, {"sizes": np.array(new_hw)}, (1, *old_hw)))
    assert [node.op_type for node in model.graph.node] == ["MatMul", "MatMul"]
    maps = np.random.default_rng(0).normal(size=(2, 1, *old_hw)).astype(np.float32)
    expected = functional.interpolate(
        torch.from_numpy(maps), size=new_hw, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(_run(model, maps), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_whole_network_is_the_same_function_under_the_same_contract(
    fp32_onnx: Artifact, frames: Images
) -> None:
    before = onnx.load(fp32_onnx.path)
    after = for_processors(before)
    check_contract(after, (64, 64))
    maps = [
        onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"images": frames})[0]
        for model in (before, after)
    ]
    assert np.abs(maps[0].astype(int) - maps[1].astype(int)).max() <= 1
