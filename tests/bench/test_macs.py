import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from flowerseg.artifact import Artifact
from flowerseg.model import Architecture
from flowerseg_bench.macs import multiply_adds_of, multiply_adds_of_file, multiply_adds_of_graph

HAND_COUNTED = 6 * 5 * 5 * 2 * 9 + 8 * 1 * 1 * 6 * 9 + 8 * 3 + 3 * 5
"""Convolution in two groups with stride 2, dilated one on its 5 x 5 map, Gemm, MatMul: 3171."""


def hand_made_graph(*, extra: str = "", channels: int | str = 4) -> onnx.ModelProto:
    """A graph with a batch of any size, the first weights and its input behind Q/DQ."""
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero"], ["images_q"]),
        helper.make_node("DequantizeLinear", ["images_q", "scale", "zero"], ["images_dq"]),
        helper.make_node("DequantizeLinear", ["w1", "scale", "zero"], ["w1_dq"]),
        helper.make_node(
            "Conv", ["images_dq", "w1_dq"], ["c1"], strides=[2, 2], pads=[1] * 4, group=2
        ),
        helper.make_node("Conv", ["c1", "w2"], ["c2"], dilations=[2, 2]),
        helper.make_node("Flatten", ["c2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3"], ["g"], transB=1),
        helper.make_node("MatMul", ["g", "w4"], ["result"]),
    ]
    if extra:
        nodes.append(helper.make_node(extra, ["c1", "w2"], ["more"]))
    sizes = {"w2": (8, 6, 3, 3), "w3": (3, 8), "w4": (3, 5)}
    weights = [numpy_helper.from_array(np.ones(s, np.float32), name) for name, s in sizes.items()]
    weights.append(numpy_helper.from_array(np.ones((6, 2, 3, 3), np.int8), "w1"))
    weights.append(numpy_helper.from_array(np.float32(1), "scale"))
    weights.append(numpy_helper.from_array(np.int8(0), "zero"))
    graph = helper.make_graph(
        nodes,
        "hand-made",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, 9, 9])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_a_graph_with_stride_groups_dilation_and_qdq_is_counted_like_by_hand() -> None:
    assert multiply_adds_of_graph(hand_made_graph()) == HAND_COUNTED == 3171


def test_taps_that_meet_padding_can_be_left_out() -> None:
    # The first convolution's three taps along a side of 9, from every second place: the first and
    # the last of five places have one tap outside. 3 * 5 - 2 = 13 of 15 along either side. The
    # second one has no padding.
    inside = 6 * 13 * 13 * 2 + 8 * 1 * 1 * 6 * 9 + 8 * 3 + 3 * 5

    assert multiply_adds_of_graph(hand_made_graph(), with_padding=False) == inside


def test_padding_that_a_runtime_chooses_is_not_left_out_of_a_count() -> None:
    graph = hand_made_graph()
    conv = next(node for node in graph.graph.node if node.op_type == "Conv")
    conv.attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
    (pads,) = (attribute for attribute in conv.attribute if attribute.name == "pads")
    conv.attribute.remove(pads)

    assert multiply_adds_of_graph(graph, with_padding=False) is None


@pytest.mark.parametrize("dilation", [1, 3, 6])
def test_products_inside_are_those_that_a_convolution_of_ones_adds_up(dilation: int) -> None:
    weight, images = np.ones((2, 3, 3, 3), np.float32), np.ones((1, 3, 7, 8), np.float32)
    pads = [dilation, 2, dilation, 1]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], dilations=[dilation, 1], pads=pads)],
        "one convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, images.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    (sums,) = ReferenceEvaluator(model).run(None, {"x": images})

    assert multiply_adds_of_graph(model, with_padding=False) == sums.sum()


def test_a_graph_that_multiplies_in_other_ways_too_is_not_counted() -> None:
    assert multiply_adds_of_graph(hand_made_graph(extra="ConvTranspose")) is None


def test_a_graph_whose_maps_have_no_known_size_is_not_counted() -> None:
    graph = hand_made_graph()
    for dim in graph.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "any"

    assert multiply_adds_of_graph(graph) is None


@pytest.mark.parametrize(
    ("architecture", "plain_g", "idle"),
    [
        # In G, DESIGN's plain graph; then the taps of ASPP that meet only padding: two branches
        # of 960 channels on 14 x 14, or one of 2048 on 28 x 28, eight of nine taps each.
        (Architecture.MOBILENET_V3_LARGE, 1.88, 2 * 960 * 256 * 8 * 14 * 14),
        (Architecture.RESNET50, 31.3, 2048 * 256 * 8 * 28 * 28),
        (Architecture.RESNET101, 46.2, 2048 * 256 * 8 * 28 * 28),
    ],
)
def test_network_is_counted_as_it_ships_without_idle_taps(
    architecture: Architecture, plain_g: float, idle: int
) -> None:
    counted = multiply_adds_of(architecture, (224, 224))

    assert counted is not None
    assert counted / 1e9 == pytest.approx(plain_g - idle / 1e9, rel=0.003)  # three digits


def test_network_takes_what_the_graph_exported_from_it_takes(fp32_onnx: Artifact) -> None:
    manifest = fp32_onnx.manifest

    counted = multiply_adds_of(manifest.architecture, manifest.preprocess.size_hw)

    assert counted == multiply_adds_of_file(fp32_onnx.path)


def test_head_without_padding_is_as_good_as_counted() -> None:
    """The difference that `multiply_adds_of` names: two places less on each side of the map."""
    head = 256 * 3 * 3 * (14**2 - 12**2)
    counted = multiply_adds_of(Architecture.MOBILENET_V3_LARGE, (224, 224))

    assert counted is not None
    assert head / counted < 0.00012


def test_unknown_network_is_not_counted() -> None:
    assert multiply_adds_of("hand-made", (32, 32)) is None
