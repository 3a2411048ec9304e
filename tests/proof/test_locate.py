"""A fault planted in one module of a real file is found there, and nowhere in a correct file."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import helper, numpy_helper
from torch import Tensor

from flowerseg.arrays import Images
from flowerseg.artifact import Artifact, Kind, Precision, as_parent, publish
from flowerseg.checkpoint import save_checkpoint
from flowerseg.cli.verify import verify
from flowerseg.data import PhotoSet
from flowerseg.errors import ArtifactError
from flowerseg.half import emulated_half_from_network
from flowerseg.model import Architecture, FlowerNet, specialised
from flowerseg.proof.inside import spots_in
from flowerseg.proof.layers import (
    INPUT,
    OUTPUT,
    Call,
    Layer,
    calls_of,
    compare_layers,
    relative_error,
    values_of_network,
)
from flowerseg.proof.locate import OWN_ERROR, Search, first_departure, locate
from flowerseg.proofrecord import Proof, WorstPhoto
from flowerseg_export import cpu
from flowerseg_export.config import ExportConfig
from flowerseg_export.export import export_model
from flowerseg_export.graph import onnx_from_network

Spoil = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def photos(val_photos: PhotoSet) -> PhotoSet:
    return val_photos.limited(1)


@pytest.fixture(scope="module")
def int8_in_parts(
    checkpoint: Path, painted: Path, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """On frames this small only dilated depthwise convolutions would be computed in parts, and
    those stay in float: here no convolution is wide enough for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "_WIDE", 1000)
        out = tmp_path_factory.mktemp("parts") / "small.onnx"
        config = ExportConfig(
            checkpoint, out, precision=Precision.INT8, data=painted, limit=2, device="cpu"
        )
        return export_model(config)[-1]


def _spoilt(artifact: Artifact, path: Path, spoil: Spoil) -> Artifact:
    model = onnx.load(artifact.path)
    spoil(model)
    return publish(path, artifact.manifest, lambda file: onnx.save(model, str(file)))


def _scale(model: onnx.ModelProto, name: str, factor: float) -> None:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    scaled = numpy_helper.to_array(tensor) * np.array(factor, np.float32)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(scaled.astype(kind), name))


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["fp32_onnx", "fp16_onnx", "int8_onnx"])
def test_nothing_is_located_in_a_correct_export(
    fixture: str, reference: Artifact, photos: PhotoSet, request: pytest.FixtureRequest
) -> None:
    artifact: Artifact = request.getfixturevalue(fixture)
    search = locate(artifact, reference, photos)
    assert search.found is None
    assert [layer.module for layer in search.layers if layer.own_error > 0.05] == []
    assert len(search.layers) > 120
    assert ("half emulated" in search.to_text()) == (fixture == "fp16_onnx")


@pytest.mark.parametrize(
    ("fixture", "module", "factor"),
    [
        ("fp32_onnx", "backbone.0.0", 1.01),
        ("fp32_onnx", "backbone.9.block.1.0", 1.01),
        ("fp32_onnx", "backbone.13.block.2.fc2", 1.01),
        ("fp32_onnx", "classifier.0.convs.4.1", 1.01),
        ("fp32_onnx", "classifier.4", 1.01),
        ("fp16_onnx", "backbone.4.block.0.0", 1.2),
        ("fp16_onnx", "classifier.0.project.0", 1.2),
        ("int8_onnx", "backbone.2.block.0.0", 1.1),
        ("int8_onnx", "classifier.1", 1.1),
        ("int8_in_parts", "backbone.13.block.1.0", 1.1),
    ],
)
def test_convolution_with_other_weights_is_named(
    fixture: str,
    module: str,
    factor: float,
    reference: Artifact,
    photos: PhotoSet,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    artifact: Artifact = request.getfixturevalue(fixture)
    # A quantised weight is integers times this.
    weight = f"{module}.weight_scale" if "int8" in fixture else f"{module}.weight"
    bad = _spoilt(artifact, tmp_path / "bad.onnx", lambda model: _scale(model, weight, factor))
    found = locate(bad, reference, photos).found
    assert found is not None
    assert (found.module, found.kind) == (module, "departs")
    assert found.where == "bad.onnx in ONNX Runtime on the CPU"
    assert found.before is not None
    assert found.before.own_error <= found.limit < found.own_error


@pytest.mark.parametrize(
    ("value", "module"),
    [
        ("backbone.4.block.1.0/Conv", "backbone.4.block.1.0"),
        ("backbone.7.block.0.2/HardSwish", "backbone.7.block.0.2"),
        ("backbone.14.block.2.avgpool/GlobalAveragePool", "backbone.14.block.2.avgpool"),
        ("backbone.14.block.2/Mul", "backbone.14.block.2"),
        ("backbone.15/Add", "backbone.15"),
        ("classifier.0.convs.4/Expand", "classifier.0.convs.4"),
    ],
)
def test_one_value_off_by_a_tenth_is_named_by_its_module(
    value: str,
    module: str,
    fp32_onnx: Artifact,
    reference: Artifact,
    photos: PhotoSet,
    tmp_path: Path,
) -> None:
    def scale_value(model: onnx.ModelProto) -> None:
        nodes = model.graph.node
        (place,) = (i for i, node in enumerate(nodes) if value in node.output)
        nodes[place].output[0] = "clean"
        nodes.insert(place + 1, helper.make_node("Mul", ["clean", "factor"], [value]))
        factor = np.array([[[[1.1]]]], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(factor, "factor"))

    bad = _spoilt(fp32_onnx, tmp_path / "bad.onnx", scale_value)
    found = locate(bad, reference, photos).found
    assert found is not None
    assert found.module == module


def _swap_red_and_blue(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "bgr"
    order = numpy_helper.from_array(np.array([2, 1, 0]), "order")
    model.graph.initializer.append(order)
    model.graph.node.insert(0, helper.make_node("Gather", ["images", "order"], ["bgr"], axis=3))


def _divide_by_half_of_std(model: onnx.ModelProto) -> None:
    _scale(model, "std", 0.5)


def _scale_the_result_by_255(model: onnx.ModelProto) -> None:
    """Its masks are those of 256, but for pixels at the threshold."""
    (product,) = (node for node in model.graph.node if node.name == "Mul")
    (factor,) = (t for t in model.graph.initializer if t.name == product.input[1])
    factor.CopyFrom(numpy_helper.from_array(np.array(255, np.float32), factor.name))


def _swap_flower_and_background(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = "swapped"
    model.graph.initializer.append(numpy_helper.from_array(np.array(255, np.uint8), "full"))
    model.graph.node.append(helper.make_node("Sub", ["full", "swapped"], ["foreground"]))


@pytest.mark.parametrize(
    ("fixture", "spoil", "place"),
    [
        ("fp32_onnx", _swap_red_and_blue, INPUT),
        ("fp32_onnx", _divide_by_half_of_std, INPUT),
        ("fp32_onnx", _swap_flower_and_background, OUTPUT),
        ("fp32_onnx", _scale_the_result_by_255, OUTPUT),
        ("fp16_onnx", _scale_the_result_by_255, OUTPUT),
        ("fp16_onnx", _swap_red_and_blue, INPUT),
        ("int8_onnx", _swap_flower_and_background, OUTPUT),
    ],
)
def test_fault_outside_of_the_network_is_named_as_such(
    fixture: str,
    spoil: Spoil,
    place: str,
    reference: Artifact,
    photos: PhotoSet,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    artifact: Artifact = request.getfixturevalue(fixture)
    bad = _spoilt(artifact, tmp_path / "bad.onnx", spoil)
    found = locate(bad, reference, photos).found
    assert found is not None
    assert found.module == place
    assert (found.before is None) == (place == INPUT)


@pytest.fixture
def overflowing(
    fp16_onnx: Artifact, reference: Artifact, small_network: FlowerNet, tmp_path: Path
) -> tuple[Artifact, Artifact]:
    """An FP16 file in which a ReLU gives values beyond half, and the checkpoint that says so."""
    loud = copy.deepcopy(small_network)
    first, second = (loud.backbone["3"].block[place][1] for place in (0, 1))
    with torch.no_grad():
        for tensor in (first.weight, first.bias, second.weight):
            tensor *= 2.0**9
    parent = save_checkpoint(tmp_path / "loud.pt", loud, reference.manifest)
    manifest = dataclasses.replace(fp16_onnx.manifest, parents=(as_parent(parent),))

    def amplify(model: onnx.ModelProto) -> None:
        for name in ("0.0.weight", "0.0.bias", "1.0.weight"):
            _scale(model, f"backbone.3.block.{name}", 2.0**9)

    return _spoilt(Artifact(fp16_onnx.path, manifest), tmp_path / "loud.onnx", amplify), parent


def test_overflow_of_half_is_located(
    overflowing: tuple[Artifact, Artifact], photos: PhotoSet
) -> None:
    search = locate(*overflowing, photos)
    assert search.found is not None
    assert (search.found.module, search.found.kind) == ("backbone.3.block.1.0", "not finite")
    line, header, *rows = search.to_text().splitlines()
    assert line.startswith("fault: backbone.3.block.1.0 gives values that are not finite; before")
    assert header.split() == ["own", "total", "module"]
    assert [row.split()[-1] for row in rows if row.startswith(">")] == ["backbone.3.block.1.0"]


def test_weights_too_small_for_half_are_named_although_all_is_finite(
    small_network: FlowerNet, frames: Images
) -> None:
    faint = specialised(small_network, (64, 64))
    convolution = faint.backbone["5"].block[1][0]
    with torch.no_grad():
        for tensor in (convolution.weight, convolution.bias):
            tensor *= 2.0**-24  # half ends there
    half = emulated_half_from_network(faint, lets_overflow=True)
    layers = compare_layers(faint, frames[0], values_of_network(half, frames[0]))
    found = first_departure(layers, OWN_ERROR[Precision.FP16])
    assert found is not None
    assert (found.module, found.kind) == ("backbone.5.block.1.0", "departs")


def test_photo_that_was_worst_in_the_proof_is_looked_at_first(
    fp32_onnx: Artifact, reference: Artifact, val_photos: PhotoSet, tmp_path: Path
) -> None:
    photos = val_photos.limited(2)
    last = photos.photos[-1].name
    proof = Proof("failed", "", worst=(WorstPhoto(last, 1, 0.5, 100),))
    failed = Artifact(fp32_onnx.path, dataclasses.replace(fp32_onnx.manifest, proof=proof))
    bad = _spoilt(failed, tmp_path / "bad.onnx", _divide_by_half_of_std)
    found = locate(bad, reference, photos).found
    assert found is not None
    assert found.photo == last


def test_verify_names_the_module_of_a_file_that_fails(
    fp32_onnx: Artifact, checkpoint: Path, painted: Path, tmp_path: Path
) -> None:
    bad = _spoilt(
        fp32_onnx, tmp_path / "bad.onnx", lambda m: _scale(m, "classifier.4.weight", -1.0)
    )
    words = [str(bad.path), "--reference", str(checkpoint), "--data", str(painted), "--limit", "2"]
    result = CliRunner().invoke(verify, [*words, "--device", "cpu", "--locate"])
    assert result.exit_code == 1
    assert "fault: classifier.4 departs from PyTorch FP32 by " in result.stdout


def _engine_of(graph: Artifact, path: Path) -> Artifact:
    parents = (*graph.manifest.parents, as_parent(graph))
    manifest = dataclasses.replace(graph.manifest, kind=Kind.TENSORRT, parents=parents)
    return publish(path, manifest, lambda file: file.write_bytes(b"engine"))


def test_fault_of_an_engine_is_located_in_the_onnx_file_beside_it(
    fp32_onnx: Artifact, reference: Artifact, photos: PhotoSet, tmp_path: Path
) -> None:
    bad = _spoilt(
        fp32_onnx, tmp_path / "bad.onnx", lambda m: _scale(m, "backbone.16.0.weight", 1.5)
    )
    found = locate(_engine_of(bad, tmp_path / "bad.engine"), reference, photos).found
    assert found is not None
    assert found.module == "backbone.16.0"
    assert "nobody sees into bad.engine" in found.where


def test_engine_alone_is_refused_in_fp32_and_emulated_in_fp16(
    fp32_onnx: Artifact,
    fp16_onnx: Artifact,
    reference: Artifact,
    photos: PhotoSet,
    tmp_path: Path,
) -> None:
    with pytest.raises(ArtifactError, match="the ONNX file that it was built from is not beside"):
        locate(_engine_of(fp32_onnx, tmp_path / "fp32.engine"), reference, photos)
    search = locate(_engine_of(fp16_onnx, tmp_path / "fp16.engine"), reference, photos)
    assert search.looked_in == ("half emulated in PyTorch",)


def test_weights_stored_in_half_depart_nowhere(
    small_network: FlowerNet, reference: Artifact, photos: PhotoSet, tmp_path: Path
) -> None:
    manifest = dataclasses.replace(reference.manifest, parents=(as_parent(reference),))
    stored = save_checkpoint(tmp_path / "half.pt", copy.deepcopy(small_network).half(), manifest)
    assert locate(stored, reference, photos).found is None


def test_residual_block_of_a_resnet_is_compared_after_its_relu() -> None:
    """Its one ReLU runs three times, and its sum is no module's output."""
    network = FlowerNet(Architecture.RESNET50).eval()
    for name in ("layer1", "layer2", "layer3", "layer4"):
        network.backbone[name] = network.backbone[name][:1]
    network = specialised(network, (64, 64))
    model = onnx_from_network(network, (64, 64))
    spots = spots_in(model.graph, calls_of(network, (64, 64)))
    block = "backbone.layer1.0"
    assert spots[Call(f"{block}.relu", 3)] == (f"{block}.relu/Relu_3", f"{block}.relu")
    assert spots[Call(f"{block}.conv3")] == (f"{block}.conv3/Conv", f"{block}.conv3")
    assert Call(block) not in spots


@pytest.mark.parametrize(
    ("value", "reference", "error"),
    [
        ([1.0, 3.0], [1.0, 3.0], 0.0),
        ([2.0, 4.0], [1.0, 3.0], 1.0),  # off by 1, standard deviation 1
        ([0.0, 4.0, 0.0, 4.0], [0.0, 4.0, 0.0, 8.0], 2 / 11**0.5),  # sqrt(16/4), sqrt(20 - 9)
        ([3.0, 3.0], [2.0, 2.0], 0.5),  # constant: measured by its magnitude
        ([1.0, 0.0], [0.0, 0.0], float("inf")),
        ([float("nan"), 0.0], [0.0, 1.0], float("inf")),
        ([float("inf"), 0.0], [0.0, 1.0], float("inf")),
    ],
)
def test_relative_error_is_in_units_of_the_references_spread(
    value: list[float], reference: list[float], error: float
) -> None:
    assert relative_error(Tensor(value), Tensor(reference)) == pytest.approx(error)


def test_first_departure_is_the_first_beyond_the_limit_or_not_finite() -> None:
    a, b = Layer("a", 0.1, 0.1, True), Layer("b", 0.2, 0.9, True)
    lost = Layer("lost", float("inf"), float("inf"), False)
    assert first_departure([a, b], 0.2) is None
    departed = first_departure([a, b, lost], 0.15)
    assert departed is not None
    assert (departed.module, departed.before, departed.kind) == ("b", a, "departs")
    overflow = first_departure([lost, b], 0.15)
    assert overflow is not None
    assert (overflow.module, overflow.before, overflow.kind) == ("lost", None, "not finite")


def test_search_without_a_find_says_where_it_looked() -> None:
    search = Search(("a.onnx", "half emulated"), None, ())
    assert search.to_text().startswith("no module departs by itself, in a.onnx or in half emulated")


def test_every_precision_of_a_graph_has_a_limit() -> None:
    # TF32 and bfloat16 are modes of a runtime; the graph is FP32.
    of_its_own = {Precision.INT8}  # in `LIMITS`
    assert set(OWN_ERROR) == set(Precision) - {Precision.TF32, Precision.BF16} - of_its_own
