"""INT8: what each flavour quantises, and that a runtime takes it."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from flowerseg.arrays import Images
from flowerseg.artifact import Artifact, Batch, Kind
from flowerseg.errors import ExportError
from flowerseg_export.engine import engine_from_onnx
from flowerseg_export.graph import check_contract
from flowerseg_export.int8 import Calibration, Flavour, int8_from_onnx

SIZE_HW = (64, 64)


# In the table of MobileNetV3-Large (Howard et al., 2019): blocks of more than 128 channels inside.
_WIDE_DEPTHWISE = {f"backbone.{block}.block.1.0/Conv" for block in range(7, 16)}


@pytest.fixture(scope="module")
def quantised(fp32_onnx: Artifact, frames: Images) -> Callable[[Flavour], onnx.ModelProto]:
    """The small network in one flavour, calibrated on twelve frames, each made once."""
    made: dict[Flavour, onnx.ModelProto] = {}

    def make(flavour: Flavour) -> onnx.ModelProto:
        if flavour not in made:
            made[flavour] = int8_from_onnx(onnx.load(fp32_onnx.path), list(frames[:12]), flavour)
        return made[flavour]

    return make


@pytest.mark.parametrize("flavour", list(Flavour))
def test_border_stays_uint8_and_convolutions_are_quantised(
    quantised: Callable[[Flavour], onnx.ModelProto], flavour: Flavour
) -> None:
    model = quantised(flavour)
    check_contract(model, SIZE_HW)
    producers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 50
    floats = {*_WIDE_DEPTHWISE, "classifier.4/Conv"} if flavour is Flavour.CPU else set()
    for node in convolutions:
        if node.name not in floats:
            sources = [producers[name].op_type for name in node.input[:2]]
            assert sources == ["DequantizeLinear", "DequantizeLinear"]


def _zero_points(model: onnx.ModelProto) -> list[np.ndarray]:
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    names = [node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert names
    return [numpy_helper.to_array(values[name]) for name in names]


def test_cpu_flavour_has_unsigned_activations(
    quantised: Callable[[Flavour], onnx.ModelProto],
) -> None:
    kinds = Counter(str(zero.dtype) for zero in _zero_points(quantised(Flavour.CPU)))
    assert set(kinds) == {"uint8"}


def test_cpu_flavour_never_saturates_where_two_products_are_added_in_16_bits(
    quantised: Callable[[Flavour], onnx.ModelProto],
) -> None:
    # vpmaddubsw of x86 without VNNI: two of 0..255 times two weights, added in int16.
    weights = _int8_weights(quantised(Flavour.CPU))
    assert len(weights) > 50
    largest = max(np.abs(weight.astype(int)).max() for weight in weights)
    assert 2 * 255 * largest <= np.iinfo(np.int16).max
    assert largest > 2**5  # and all of the 7 bits are used


def test_tensorrt_flavour_has_weights_of_the_full_range(
    quantised: Callable[[Flavour], onnx.ModelProto],
) -> None:
    weights = _int8_weights(quantised(Flavour.TENSORRT))
    assert max(np.abs(weight.astype(int)).max() for weight in weights) == 127


def _int8_weights(model: onnx.ModelProto) -> list[np.ndarray]:
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    return [numpy_helper.to_array(tensor) for tensor in tensors if len(tensor.dims) == 4]


def test_cpu_flavour_computes_in_float_what_8_bits_would_not_do_well(
    quantised: Callable[[Flavour], onnx.ModelProto],
) -> None:
    model = quantised(Flavour.CPU)
    nodes = model.graph.node
    producers = {name: node for node in nodes for name in node.output}
    assert _float_convolutions(model) == {*_WIDE_DEPTHWISE, "classifier.4/Conv"}
    # The map from the logits on: enlarged twice, and no byte again before the last cast.
    behind = [node.op_type for node in nodes[-9:]]
    assert behind == [
        *("Conv", "MatMul", "MatMul", "Squeeze"),
        *("Sigmoid", "Mul", "Floor", "Min", "Cast"),
    ]
    # Squeeze-and-excitation, in eight blocks of the table: its product reads what the gate gave.
    gates = [producers[node.input[0]].op_type for node in nodes if node.op_type == "Mul"]
    assert gates == 8 * ["HardSigmoid"] + ["Sigmoid"]


def test_tensorrt_flavour_is_symmetric_signed_and_without_int32_biases(
    quantised: Callable[[Flavour], onnx.ModelProto],
) -> None:
    model = quantised(Flavour.TENSORRT)
    for zero in _zero_points(model):
        assert zero.dtype == np.int8
        assert not zero.any()
    assert TensorProto.INT32 not in {tensor.data_type for tensor in model.graph.initializer}


def test_cpu_flavour_segments_much_like_fp32(
    quantised: Callable[[Flavour], onnx.ModelProto], fp32_onnx: Artifact, frames: Images
) -> None:
    masks = [
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(
            None, {"images": frames[12:]}
        )[0]
        >= 128
        for model in (
            fp32_onnx.path.read_bytes(),
            quantised(Flavour.CPU).SerializeToString(),
        )
    ]
    both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
    assert both / either > 0.85


def test_rtx_engine_builds_from_the_tensorrt_flavour(
    quantised: Callable[[Flavour], onnx.ModelProto],
) -> None:
    model = quantised(Flavour.TENSORRT)
    engine = engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, [Batch(1, 4, 8)])
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    # Some 4 MB are no weights, and RTX 1.7 keeps many of a small network's in float all the same.
    assert weights < len(engine) - 4e6 < 3 * weights


@pytest.mark.parametrize("flavour", list(Flavour))
def test_modules_that_are_kept_stay_in_float(
    fp32_onnx: Artifact, frames: Images, flavour: Flavour
) -> None:
    kept = ["backbone.0", "classifier.4"]
    model = int8_from_onnx(onnx.load(fp32_onnx.path), list(frames[:2]), flavour, keep_fp32=kept)
    always = _WIDE_DEPTHWISE if flavour is Flavour.CPU else set()
    assert _float_convolutions(model) == {"backbone.0.0/Conv", "classifier.4/Conv", *always}


def _float_convolutions(model: onnx.ModelProto) -> set[str]:
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and kinds.get(node.input[1]) == TensorProto.FLOAT
    }


def test_glob_that_no_node_comes_from_is_named(fp32_onnx: Artifact, frames: Images) -> None:
    with pytest.raises(ExportError, match="--keep-fp32 backbon: no node of the graph"):
        int8_from_onnx(
            onnx.load(fp32_onnx.path), list(frames[:1]), Flavour.CPU, keep_fp32=["backbon"]
        )


def test_percentile_takes_narrower_ranges_than_the_extremes(
    fp32_onnx: Artifact, frames: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(fp32_onnx.path)
    extremes, percentile = (
        _activation_scales(int8_from_onnx(model, list(frames[:4]), Flavour.CPU, method))
        for method in (Calibration.MINMAX, Calibration.PERCENTILE)
    )
    assert percentile.keys() == extremes.keys()
    narrower = [name for name in extremes if percentile[name] < 0.999 * extremes[name]]
    assert narrower
    assert capsys.readouterr().out == ""  # ONNX Runtime prints; stdout is for the result


def _activation_scales(model: onnx.ModelProto) -> dict[str, float]:
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    return {
        node.input[0]: float(numpy_helper.to_array(values[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in values
    }


def test_graph_that_cannot_be_quantised_is_an_export_error(frames: Images) -> None:
    with pytest.raises(ExportError, match="could not quantise the graph"):
        int8_from_onnx(onnx.ModelProto(), list(frames[:1]), Flavour.CPU)
