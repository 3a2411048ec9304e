"""Q/DQ pairs lie where TensorRT fuses them, in every architecture, in FP32 and in half."""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper

from flowerseg.artifact import Batch, Kind
from flowerseg.errors import ExportError
from flowerseg.half import half_from_network
from flowerseg.model import Architecture, FlowerNet, specialised
from flowerseg_export.engine import engine_from_onnx
from flowerseg_export.graph import OPSET, OPSET_OF_HALF_SCALES, check_contract, onnx_from_network
from flowerseg_export.qdq import with_qdq

SIZE_HW = (64, 64)
ACTIVATIONS = {"Relu", "HardSwish", "HardSigmoid", "Sigmoid"}
IN_HALF = pytest.mark.parametrize("in_half", [False, True], ids=["fp32", "half"])
ARCHITECTURES = pytest.mark.parametrize(
    "architecture",
    [
        Architecture.MOBILENET_V3_LARGE,
        Architecture.RESNET50,
        pytest.param(Architecture.RESNET101, marks=pytest.mark.slow),
    ],
)
# Blocks with squeeze-and-excitation in the table of MobileNetV3-Large (Howard et al., 2019).
GATED_BLOCKS = (4, 5, 6, 11, 12, 13, 14, 15)

Exported = Callable[[Architecture, bool], onnx.ModelProto]


class _AnyRange(dict[str, float]):
    """The same range for every value: structure does not depend on it."""

    def get(self, _: str, default: object = None) -> float:  # type: ignore[override]  # one answer
        return 6.0


@pytest.fixture(scope="module")
def exported() -> Exported:
    """Networks with random weights as ONNX graphs, each exported once."""
    graphs: dict[tuple[Architecture, bool], bytes] = {}

    def export(architecture: Architecture, in_half: bool) -> onnx.ModelProto:
        key = (architecture, in_half)
        if key not in graphs:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = specialised(FlowerNet(architecture).eval(), SIZE_HW)
            typed = half_from_network(network) if in_half else network
            opset = OPSET_OF_HALF_SCALES if in_half else OPSET
            graphs[key] = onnx_from_network(typed, SIZE_HW, opset).SerializeToString()
        return onnx.load_from_string(graphs[key])

    return export


def _producers(model: onnx.ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _rounded_inputs(node: NodeProto, producers: Mapping[str, NodeProto]) -> list[bool]:
    """Of each input of a node, whether it comes from a DequantizeLinear."""
    found = [producers.get(name) for name in node.input[:2]]
    return [node is not None and node.op_type == "DequantizeLinear" for node in found]


def _float_convolutions(model: onnx.ModelProto) -> set[str]:
    producers = _producers(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    rounded = {node.name: _rounded_inputs(node, producers) for node in convolutions}
    assert all(both in ([True, True], [False, False]) for both in rounded.values())
    return {name for name, both in rounded.items() if both == [False, False]}


@IN_HALF
@ARCHITECTURES
def test_all_convolutions_are_quantised_but_the_head_and_those_of_vectors(
    exported: Exported, architecture: Architecture, in_half: bool
) -> None:
    model = with_qdq(exported(architecture, in_half), _AnyRange())
    check_contract(model, SIZE_HW)
    expected = {"classifier.4/Conv", "classifier.0.convs.4.1/Conv"}
    if architecture is Architecture.MOBILENET_V3_LARGE:
        expected |= {
            f"backbone.{block}.block.2.{part}/Conv"
            for block in GATED_BLOCKS
            for part in ("fc1", "fc2")
        }
    assert _float_convolutions(model) == expected


@IN_HALF
@ARCHITECTURES
def test_activations_read_what_their_convolution_gives_and_nothing_is_rounded_behind_the_head(
    exported: Exported, architecture: Architecture, in_half: bool
) -> None:
    model = with_qdq(exported(architecture, in_half), _AnyRange())
    producers = _producers(model)
    activations = [node for node in model.graph.node if node.op_type in ACTIVATIONS]
    assert len(activations) > 40
    for node in activations:
        assert producers[node.input[0]].op_type != "DequantizeLinear", node.name
    names = [node.name for node in model.graph.node]
    behind = model.graph.node[names.index("classifier.4/Conv") :]
    assert {"QuantizeLinear", "DequantizeLinear"}.isdisjoint(node.op_type for node in behind)


@IN_HALF
@ARCHITECTURES
def test_of_each_residual_add_the_skip_alone_is_rounded(
    exported: Exported, architecture: Architecture, in_half: bool
) -> None:
    model = with_qdq(exported(architecture, in_half), _AnyRange())
    producers = _producers(model)
    additions = [node for node in model.graph.node if node.op_type == "Add"]
    blocks = {
        Architecture.MOBILENET_V3_LARGE: 10,
        Architecture.RESNET50: 3 + 4 + 6 + 3,
        Architecture.RESNET101: 3 + 4 + 23 + 3,
    }
    assert len(additions) == blocks[architecture]
    for node in additions:
        rounded = _rounded_inputs(node, producers)
        assert sorted(rounded) == [False, True], node.name
        main = producers[node.input[rounded.index(False)]]
        own_block = node.name.removesuffix("/Add")
        assert main.op_type == "Conv"
        assert main.name.startswith(f"{own_block}.")
        assert "downsample" not in main.name


@IN_HALF
@ARCHITECTURES
def test_a_value_is_rounded_once_by_one_scale_of_its_own_type(
    exported: Exported, architecture: Architecture, in_half: bool
) -> None:
    model = with_qdq(exported(architecture, in_half), _AnyRange())
    constants = _constants(model)
    pairs = {
        kind: [node for node in model.graph.node if node.op_type == f"{kind}Linear"]
        for kind in ("Quantize", "Dequantize")
    }
    assert max(Counter(node.input[0] for node in pairs["Quantize"]).values()) == 1
    scales_of = {node.output[0]: node.input[1] for node in pairs["Quantize"]}
    for node in pairs["Dequantize"]:
        weights = constants.get(node.input[0])
        scale, zero = (constants[name] for name in node.input[1:])
        assert scale.dtype == (np.float16 if in_half else np.float32)
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
        if weights is None:  # an activation: one scale, that of its QuantizeLinear
            assert scales_of[node.input[0]] == node.input[1]
            assert scale.shape == ()
        else:  # weights: one scale for each output channel
            assert weights.dtype == np.int8
            assert scale.shape == weights.shape[:1]
            assert np.abs(weights.astype(int)).max() <= 127


def test_pooled_branch_of_aspp_shares_the_bytes_of_its_neighbours(exported: Exported) -> None:
    model = with_qdq(exported(Architecture.MOBILENET_V3_LARGE, False), _AnyRange())
    producers = _producers(model)
    nodes = {node.name: node for node in model.graph.node}
    pool = nodes["classifier.0.convs.4.0/GlobalAveragePool"]
    assert pool.input[0] == nodes["classifier.0.convs.0.0/Conv"].input[0]
    gate = nodes["backbone.4.block.2.avgpool/GlobalAveragePool"]
    assert producers[gate.input[0]].op_type == "Relu"


@IN_HALF
@pytest.mark.parametrize(
    "architecture",
    [
        Architecture.MOBILENET_V3_LARGE,
        pytest.param(Architecture.RESNET50, marks=pytest.mark.slow),
        pytest.param(Architecture.RESNET101, marks=pytest.mark.slow),
    ],
)
def test_rtx_engine_builds(exported: Exported, architecture: Architecture, in_half: bool) -> None:
    model = with_qdq(exported(architecture, in_half), _AnyRange())
    assert engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, [Batch(1, 2, 4)])


def test_rtx_engine_builds_where_modules_stay_in_fp32_among_half(exported: Exported) -> None:
    kept = ["backbone.4.*", "classifier.0.convs.0.*"]
    with torch.random.fork_rng(devices=[]):
        network = specialised(FlowerNet(Architecture.MOBILENET_V3_LARGE).eval(), SIZE_HW)
    half = half_from_network(network, kept)
    model = onnx_from_network(half, SIZE_HW, OPSET_OF_HALF_SCALES)
    names = [n.name for n in model.graph.node if n.name.startswith(("backbone.4.", kept[1][:-1]))]
    quantised = with_qdq(model, _AnyRange(), names)
    check_contract(quantised, SIZE_HW)
    producers = _producers(quantised)
    nodes = {node.name: node for node in quantised.graph.node}
    branch = nodes["classifier.0.convs.0.0/Conv"]
    source = producers[branch.input[0]]
    assert (source.op_type, producers[source.input[0]].op_type) == ("Cast", "HardSwish")
    assert engine_from_onnx(quantised, Kind.TENSORRT_RTX, SIZE_HW, [Batch(1, 2, 4)])


# A graph that can be computed by hand: x -> Conv a -> Relu -> Conv b -> Add(x, b) -> Conv head.


def _residual(kind: int, weights: np.ndarray) -> onnx.ModelProto:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    one = np.eye(4, dtype=dtype).reshape(4, 4, 1, 1)
    constants = {"wa": weights.astype(dtype), "wb": one, "wh": one, "bias": np.zeros(4, dtype)}
    nodes = [
        helper.make_node("Conv", ["x", "wa", "bias"], ["a"], "a/Conv"),
        helper.make_node("Relu", ["a"], ["r"], "r/Relu"),
        helper.make_node("Conv", ["r", "wb", "bias"], ["b"], "b/Conv"),
        helper.make_node("Add", ["x", "b"], ["sum"], "sum/Add"),
        helper.make_node("Conv", ["sum", "wh", "bias"], ["out"], "head/Conv"),
    ]
    border = [helper.make_tensor_value_info(n, kind, ["batch", 4, 2, 2]) for n in ("x", "out")]
    graph = helper.make_graph(
        nodes,
        "residual",
        border[:1],
        border[1:],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


RANGES = {"x": 127.0, "r": 12.7}


def _weights() -> np.ndarray:
    """One channel of zeros, and channels whose steps in half are ordinary, small and smallest."""
    largest = np.array([0.0, 1.27, 3e-4, 9e-6])
    shape = np.array([1.0, -0.5, 0.25, 0.125])
    return np.reshape(largest[:, None] * shape, (4, 4, 1, 1))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_weights_are_as_near_as_half_a_step_and_never_clipped(kind: int) -> None:
    model = with_qdq(_residual(kind, _weights()), RANGES)
    constants = _constants(model)
    levels, scales = constants["wa_quantized"], constants["wa_scale"].astype(float)
    exact = _weights().astype(helper.tensor_dtype_to_np_dtype(kind)).astype(float)
    steps = scales.reshape(4, 1, 1, 1)
    assert (np.abs(levels * steps - exact) <= 0.5001 * steps).all()
    largest = np.abs(exact).max(axis=(1, 2, 3))
    assert (127 * scales >= largest).all()
    # Of the channels with weights, the step is as small as its type can say.
    spacing = np.spacing(constants["wa_scale"]).astype(float)
    assert (scales[1:] - largest[1:] / 127 <= spacing[1:]).all()
    assert scales[0] == 1
    assert "wa" not in constants


def test_skip_is_found_although_it_is_the_first_input_of_its_add() -> None:
    model = with_qdq(_residual(TensorProto.FLOAT, _weights()), RANGES)
    (add,) = [node for node in model.graph.node if node.op_type == "Add"]
    assert list(add.input) == ["x_DequantizeLinear_Output", "b"]


def test_activations_are_rounded_to_127_steps_of_their_range() -> None:
    weights = np.eye(4).reshape(4, 4, 1, 1)
    model = with_qdq(_residual(TensorProto.FLOAT, weights), RANGES)
    x = np.array([[3.2, -2.7, 1000, -1000]], np.float32)[..., None, None].repeat(2, 2).repeat(2, 3)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (out,) = session.run(None, {"x": x})
    # x to whole numbers of -128 to 127; behind the Relu, to tenths up to 12.7.
    assert out[0, :, 0, 0] == pytest.approx([3 + 3, -3, 127 + 12.7, -128], abs=1e-4)


def test_kept_node_reads_what_is_not_rounded_and_its_add_is_left_alone() -> None:
    model = with_qdq(_residual(TensorProto.FLOAT, _weights()), RANGES, ["b/Conv"])
    nodes = {node.name: node for node in model.graph.node}
    assert list(nodes["b/Conv"].input) == ["r", "wb", "bias"]
    assert _float_convolutions(model) == {"b/Conv", "head/Conv"}


@pytest.mark.parametrize("ranges", [{"x": 1.0}, {"x": float("inf"), "r": 1.0}])
def test_value_without_a_finite_range_is_named(ranges: dict[str, float]) -> None:
    with pytest.raises(ExportError, match=r"no finite range for [rx]; a network that gives NaN"):
        with_qdq(_residual(TensorProto.FLOAT, _weights()), ranges)
