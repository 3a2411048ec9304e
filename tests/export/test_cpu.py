"""A graph rearranged for processors computes what it computed, with fewer products."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from flowerseg.arrays import Images
from flowerseg.artifact import Artifact
from flowerseg_export.cpu import after_quantisation, before_quantisation
from flowerseg_export.graph import check_contract


def _model_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    kind: int,
    before: tuple[int, ...],
) -> onnx.ModelProto:
    """A model from `maps` (batch, *before) to `out`, of one type."""
    graph = helper.make_graph(
        nodes,
        "part",
        [helper.make_tensor_value_info("maps", kind, ("batch", *before))],
        [helper.make_tensor_value_info("out", kind, ["batch", None, None, None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
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
    taps: tuple[int, int],
    dilation: int,
    padding: tuple[int, int],
    group: int = 1,
) -> onnx.ModelProto:
    """uint8 maps (N, 4, h, w) -> uint8 maps (N, 6, h, w), by a convolution between Q/DQ nodes."""
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "maps_scale": np.float32(0.02),
        "maps_zero": np.uint8(17),
        "weight": rng.integers(-64, 65, (6, 4 // group, *taps), dtype=np.int8),
        "weight_scale": rng.uniform(0.01, 0.02, 6).astype(np.float32),
        "weight_zero": np.zeros(6, np.int8),
        "bias": rng.integers(-9999, 9999, 6, dtype=np.int32),
        "bias_scale": np.full(6, 3e-4, np.float32),
        "bias_zero": np.zeros(6, np.int32),
        "out_scale": np.float32(0.15),
        "out_zero": np.uint8(120),
    }
    nodes = [
        *(
            helper.make_node(
                "DequantizeLinear",
                [name, f"{name}_scale", f"{name}_zero"],
                [f"{name}_f"],
                axis=axis,
            )
            for name, axis in (("maps", 1), ("weight", 0), ("bias", 0))
        ),
        helper.make_node(
            "Conv",
            ["maps_f", "weight_f", "bias_f"],
            ["out_f"],
            name="aspp/Conv",
            dilations=[dilation] * 2,
            pads=[*padding, *padding],
            group=group,
        ),
        helper.make_node("QuantizeLinear", ["out_f", "out_scale", "out_zero"], ["out"]),
    ]
    return _model_of(nodes, constants, TensorProto.UINT8, (4, *size_hw))


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
def test_convolution_in_parts_gives_the_same_bytes_and_meets_no_padding(
    size_hw: tuple[int, int],
    taps: tuple[int, int],
    dilation: int,
    padding: tuple[int, int],
    group: int,
) -> None:
    before = _convolution(size_hw, taps, dilation, padding, group)
    after = after_quantisation(before)
    for node in after.graph.node:
        assert node.op_type != "Conv" or "pads" not in {a.name for a in node.attribute}
    maps = np.random.default_rng(1).integers(0, 256, (3, 4, *size_hw), dtype=np.uint8)
    whole = _run(before, maps)
    assert len(np.unique(whole)) > 50  # the example does not only saturate
    np.testing.assert_array_equal(_run(after, maps), whole)


def _activation(*, also_read: bool = False) -> onnx.ModelProto:
    """uint8 maps (N, 4, h, w) -> their HardSwish as uint8; the sum of both, if also read."""
    constants = {
        "scale": np.float32(0.0625),
        "zero": np.uint8(100),
        "out_scale": np.float32(0.03125),
        "out_zero": np.uint8(12),
    }
    value, last = "conv_DequantizeLinear_Output", "both" if also_read else "active"
    nodes = [
        helper.make_node("DequantizeLinear", ["maps", "scale", "zero"], [value], name="conv_DQ"),
        helper.make_node("HardSwish", [value], ["active"], name="act"),
        helper.make_node("Add", [value, "active"], ["both"], name="sum"),
        helper.make_node("QuantizeLinear", [last, "out_scale", "out_zero"], ["out"], name="Q"),
    ]
    if not also_read:
        del nodes[2]
    return _model_of(nodes, constants, TensorProto.UINT8, (4, 8, 8))


def test_zero_point_before_hardswish_becomes_a_sum() -> None:
    model = _activation()
    maps = np.arange(256, dtype=np.uint8).reshape(1, 4, 8, 8)
    rearranged = after_quantisation(model)

    # By hand: powers of two, so that nothing is rounded before the last step.
    x = (maps.astype(np.float64) - 100) / 16
    active = x * np.clip(x + 3, 0, 6) / 6
    expected = np.clip(np.rint(active * 32) + 12, 0, 255)
    assert np.abs(_run(rearranged, maps) - expected).max() == 0
    assert [node.op_type for node in rearranged.graph.node] == [
        "DequantizeLinear",
        "Add",
        "HardSwish",
        "QuantizeLinear",
    ]
    # `--locate` reads the value by its name.
    assert rearranged.graph.node[1].output == ["conv_DequantizeLinear_Output"]
    assert rearranged.graph.node[2].input == ["conv_DequantizeLinear_Output"]


def test_value_that_others_read_too_keeps_its_zero_point() -> None:
    rearranged = after_quantisation(_activation(also_read=True))

    (dequantised, *_) = rearranged.graph.node
    assert dequantised.input[2] == "zero"
    assert [node.op_type for node in rearranged.graph.node].count("Add") == 1


def test_parts_are_where_the_same_taps_meet_the_map() -> None:
    # Rows 0 and 1 of 14 meet themselves and rows 12 and 13; rows 2 to 11 only themselves.
    model = after_quantisation(_convolution((14, 14), (3, 3), 12, (12, 12)))
    shapes = {tensor.name: tuple(tensor.dims)[2:] for tensor in model.graph.initializer}
    kernels = {
        node.output[0]: shapes[node.input[0]] for node in model.graph.node if "taps" in node.name
    }
    taps = [kernels[node.input[1]] for node in model.graph.node if node.op_type == "Conv"]
    assert taps == [(2, 2), (2, 1), (2, 2), (1, 2), (1, 1), (1, 2), (2, 2), (2, 1), (2, 2)]
    assert "weight" not in shapes  # which would be shipped without use


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
    before = _convolution(size_hw, taps, dilation, padding)
    assert after_quantisation(before).graph.node == before.graph.node


@pytest.mark.parametrize("op_type", ["Sub", "Div"])
def test_normalisation_with_constants_of_a_row_is_the_same_to_the_bit(op_type: str) -> None:
    channels = np.array([123.675, 116.28, 103.53], np.float32)
    maps = np.random.default_rng(0).uniform(0, 255, (2, 3, 5, 7)).astype(np.float32)
    node = helper.make_node(op_type, ["maps", "constant"], ["out"], name=op_type)
    constants = {"constant": channels.reshape(1, 3, 1, 1)}
    after = before_quantisation(_model_of([node], constants, TensorProto.FLOAT, (3, 5, 7)))
    assert [tuple(tensor.dims) for tensor in after.graph.initializer] == [(1, 3, 1, 7)]
    by_hand = {"Sub": np.subtract, "Div": np.divide}[op_type](maps, channels[:, None, None])
    np.testing.assert_array_equal(_run(after, maps), by_hand)


@pytest.mark.parametrize(("old_hw", "new_hw"), [((14, 14), (224, 224)), ((5, 9), (31, 40))])
def test_interpolation_by_products_is_torchs(
    old_hw: tuple[int, int], new_hw: tuple[int, int]
) -> None:
    node = helper.make_node(
        "Resize",
        ["maps", "", "", "sizes"],
        ["out"],
        name="Resize",
        mode="linear",
        coordinate_transformation_mode="half_pixel",
        axes=[2, 3],
    )
    constants = {"sizes": np.array(new_hw)}
    model = before_quantisation(_model_of([node], constants, TensorProto.FLOAT, (1, *old_hw)))
    assert [node.op_type for node in model.graph.node] == ["MatMul", "MatMul"]
    maps = np.random.default_rng(0).normal(size=(2, 1, *old_hw)).astype(np.float32)
    expected = functional.interpolate(
        torch.from_numpy(maps), size=new_hw, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(_run(model, maps), expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "places"), [("nearest", "half_pixel"), ("linear", "align_corners")]
)
def test_interpolation_of_another_kind_stays_as_it_is(mode: str, places: str) -> None:
    node = helper.make_node(
        "Resize",
        ["maps", "", "", "sizes"],
        ["out"],
        name="Resize",
        mode=mode,
        coordinate_transformation_mode=places,
        axes=[2, 3],
    )
    before = _model_of([node], {"sizes": np.array([8, 8])}, TensorProto.FLOAT, (1, 4, 4))
    assert before_quantisation(before).graph.node == before.graph.node


def test_whole_network_is_the_same_function_under_the_same_contract(
    fp32_onnx: Artifact, frames: Images
) -> None:
    before = onnx.load(fp32_onnx.path)
    after = before_quantisation(before)
    check_contract(after, (64, 64))
    maps = [
        onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"images": frames})[0]
        for model in (before, after)
    ]
    assert np.abs(maps[0].astype(int) - maps[1].astype(int)).max() <= 1
