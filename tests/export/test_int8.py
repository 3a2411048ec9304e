"""INT8: what each flavour quantises, and that a runtime takes it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from flowerseg.arrays import Images
from flowerseg.artifact import Artifact, Batch, Kind, Precision
from flowerseg.errors import ExportError
from flowerseg.proof import limits_of
from flowerseg.segmenter import Segmenter
from flowerseg_export.config import ExportConfig
from flowerseg_export.engine import engine_from_onnx
from flowerseg_export.export import export_model
from flowerseg_export.graph import check_contract
from flowerseg_export.int8 import Calibration, Flavour, int8_from_onnx

SIZE_HW = (64, 64)


# In the table of MobileNetV3-Large (Howard et al., 2019): blocks of more than 128 channels inside.
_WIDE_DEPTHWISE = {f"backbone.{block}.block.1.0/Conv" for block in range(7, 16)}
# Squeeze-and-excitation and ASPP's pooled branch convolve maps of 1 x 1.
_OF_VECTORS = {"classifier.0.convs.4.1/Conv"} | {
    f"backbone.{block}.block.2.{part}/Conv"
    for block in (4, 5, 6, 11, 12, 13, 14, 15)
    for part in ("fc1", "fc2")
}
_FLOATS = {
    Flavour.CPU: {*_WIDE_DEPTHWISE, "classifier.4/Conv"},
    Flavour.TENSORRT: {*_OF_VECTORS, "classifier.4/Conv"},
}


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
    for node in convolutions:
        if node.name not in _FLOATS[flavour]:
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


@pytest.mark.parametrize("flavour", list(Flavour))
def test_quantised_graph_segments_much_like_fp32(
    quantised: Callable[[Flavour], onnx.ModelProto],
    flavour: Flavour,
    fp32_onnx: Artifact,
    frames: Images,
) -> None:
    masks = [
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(
            None, {"images": frames[12:]}
        )[0]
        >= 128
        for model in (
            fp32_onnx.path.read_bytes(),
            quantised(flavour).SerializeToString(),
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
    assert _float_convolutions(model) == {"backbone.0.0/Conv", *_FLOATS[flavour]}


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


@pytest.mark.parametrize("flavour", list(Flavour))
def test_percentile_takes_narrower_ranges_than_the_extremes(
    fp32_onnx: Artifact, frames: Images, capsys: pytest.CaptureFixture[str], flavour: Flavour
) -> None:
    model = onnx.load(fp32_onnx.path)
    extremes, percentile = (
        _activation_scales(int8_from_onnx(model, list(frames[:4]), flavour, method))
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


@pytest.mark.parametrize("flavour", list(Flavour))
def test_graph_that_cannot_be_quantised_is_an_export_error(
    frames: Images, flavour: Flavour
) -> None:
    with pytest.raises(ExportError, match="could not quantise the graph"):
        int8_from_onnx(onnx.ModelProto(), list(frames[:1]), flavour)


def test_ranges_of_the_fp32_graph_quantise_the_one_in_half(
    fp32_onnx: Artifact, fp16_onnx: Artifact, frames: Images
) -> None:
    model, half = (onnx.load(each.path) for each in (fp32_onnx, fp16_onnx))
    images = list(frames[:4])
    in_half = int8_from_onnx(model, images, Flavour.TENSORRT, half=half)
    scales, exact = (
        _activation_scales(graph)
        for graph in (in_half, int8_from_onnx(model, images, Flavour.TENSORRT))
    )
    # The first convolution reads the frames behind their cast to half.
    first = next(
        node for node in in_half.graph.node if node.op_type == "Cast" and node.output[0] in scales
    )
    exact[first.output[0]] = exact.pop(first.input[0])
    assert scales == pytest.approx(exact, rel=2**-10)


@pytest.fixture(scope="module")
def int8_among_half(
    checkpoint: Path, painted: Path, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """The graph beside an RTX engine of the small network: INT8, and half between."""
    config = ExportConfig(
        checkpoint,
        tmp_path_factory.mktemp("half") / "small.engine",
        Kind.TENSORRT_RTX,
        Precision.INT8,
        float_type=Precision.FP16,
        data=painted,
        device="cpu",
    )
    return export_model(config)[0]


def test_int8_among_half_is_proved_and_its_half_is_emulated(int8_among_half: Artifact) -> None:
    proof = int8_among_half.manifest.proof
    assert proof is not None
    assert (proof.status, proof.mode) == ("proved", "emulated"), proof.why
    assert proof.limits == limits_of(Precision.INT8, Precision.FP16)
    assert proof.emulated_agreement_iou is not None
    assert proof.emulated_agreement_iou > 0.99


def test_onnxruntime_computes_a_graph_for_tensorrt_as_it_is_written(
    int8_among_half: Artifact, frames: Images
) -> None:
    # By itself it quantises the biases to INT32, with steps that are zero in half: 2.7 levels away.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(int8_among_half.path), options, providers=["CPUExecutionProvider"]
    )
    (written,) = session.run(None, {"images": frames})
    with Segmenter.open(int8_among_half.path, device="cpu", allow_unproven=True) as model:
        computed = np.stack(list(model.infer(list(frames))))
    assert np.abs(written.astype(int) - computed).mean() < 1
