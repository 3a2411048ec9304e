"""The exported graph: the contract, nothing of this machine in it, one way to upsample."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from flowerseg.artifact import Artifact, Data
from flowerseg.errors import ExportError
from flowerseg.model import Deployable, FlowerNet, specialised
from flowerseg.seen import TrainingPhotos
from flowerseg_export.config import ExportConfig
from flowerseg_export.export import _metadata, export_model
from flowerseg_export.graph import check_contract, onnx_from_network, set_metadata

UINT8, FLOAT, INT64 = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(params=["fp32_onnx", "fp16_onnx"])
def artifact(request: pytest.FixtureRequest) -> Artifact:
    return request.getfixturevalue(request.param)


@pytest.fixture
def model(artifact: Artifact) -> onnx.ModelProto:
    return onnx.load(artifact.path)


def _border(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]


def test_graph_has_one_uint8_input_and_one_uint8_output(model: onnx.ModelProto) -> None:
    assert [_border(v) for v in model.graph.input] == [("images", UINT8, ["batch", 64, 64, 3])]
    assert [_border(v) for v in model.graph.output] == [("foreground", UINT8, ["batch", 64, 64])]


def test_graph_is_valid_and_of_opset_18(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18}


def test_images_are_cast_before_anything_else_touches_them(model: onnx.ModelProto) -> None:
    readers = [node.op_type for node in model.graph.node if "images" in node.input]
    assert readers == ["Cast"]


def test_only_the_last_map_is_resized_and_not_the_pooled_branch(model: onnx.ModelProto) -> None:
    ops = Counter(node.op_type for node in model.graph.node)
    # One at the end, from one channel, and the decoder of DeepLabV3 has none.
    assert ops["Resize"] == 1
    assert ops["Softmax"] == 0
    assert ops["Sigmoid"] == 1
    assert not {"If", "Loop", "Scan"} & set(ops)


def test_nothing_is_left_of_the_exporters_arithmetic_on_shapes(model: onnx.ModelProto) -> None:
    ops = Counter(node.op_type for node in model.graph.node)
    left = {"Shape", "Gather", "Range", "Slice", "Unsqueeze", "Reshape", "ReduceMean", "Identity"}
    assert not left & set(ops)
    # Eight squeeze-and-excitation blocks of MobileNetV3-Large, and ASPP's pooled branch.
    assert ops["GlobalAveragePool"] == 9


def test_every_cast_changes_the_type(model: onnx.ModelProto) -> None:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert casts
    for node in casts:
        assert kinds[node.input[0]] != kinds[node.output[0]], node.name


def test_names_are_those_of_the_torch_modules(
    model: onnx.ModelProto, small_network: FlowerNet
) -> None:
    modules = dict(small_network.named_modules())
    for node in model.graph.node:
        module, _, op = node.name.rpartition("/")
        assert op.partition("_")[0] == node.op_type
        assert module in modules, node.name
    convolutions = {n.name for n in model.graph.node if n.op_type == "Conv"}
    expected = {name for name, m in modules.items() if isinstance(m, torch.nn.Conv2d)}
    assert convolutions == {f"{name}/Conv" for name in expected}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@pytest.mark.parametrize("size_hw", [(64, 64), (72, 100)])
def test_map_is_resized_by_constants_to_any_frame(
    small_network: FlowerNet, size_hw: tuple[int, int]
) -> None:
    """(72, 100) is no multiple of the stride: a scale would round to another size."""
    special = specialised(small_network, size_hw)
    as_it_was = str(special)
    model = onnx_from_network(special, size_hw)
    assert str(special) == as_it_was  # its activations overwrite their inputs, but for the export
    assert "inplace=True" in as_it_was
    (resize,) = [node for node in model.graph.node if node.op_type == "Resize"]
    constants = {tensor.name for tensor in model.graph.initializer}
    assert {name for name in resize.input[1:] if name} <= constants
    images = np.random.default_rng(0).integers(0, 256, (3, *size_hw, 3), np.uint8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (foreground,) = session.run(None, {"images": images})
    with torch.inference_mode():
        expected = Deployable(small_network)(torch.from_numpy(images)).numpy()
    assert np.abs(foreground.astype(int) - expected).max() <= 1


def test_nothing_of_this_machine_is_in_the_file(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # 44 MB of weights hold any three letters by chance
    content = model.SerializeToString()
    for trace in (b"Traceback", b"site-packages", b".py", b'File "', str(Path.cwd()).encode()):
        assert trace not in content, trace


def test_metadata_in_the_file_is_the_manifests(artifact: Artifact, model: onnx.ModelProto) -> None:
    (entry,) = model.metadata_props
    assert entry.key == "flowerseg"
    inside = json.loads(entry.value)
    beside = json.loads(artifact.manifest.to_json())
    assert inside == {name: beside[name] for name in inside}
    assert {"architecture", "precision", "preprocess", "threshold", "parents"} <= set(inside)


@pytest.mark.slow
def test_same_checkpoint_gives_the_same_bytes(
    checkpoint: Path, fp32_onnx: Artifact, tmp_path: Path
) -> None:
    (again,) = export_model(ExportConfig(checkpoint, tmp_path / "again.onnx", device="cpu"))
    assert again.manifest.sha256 == fp32_onnx.manifest.sha256


def test_half_is_half_between_normalisation_and_upsampling(fp16_onnx: Artifact) -> None:
    graph = onnx.load(fp16_onnx.path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = [kinds[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert len(weights) > 50
    assert set(weights) == {TensorProto.FLOAT16}
    (resize,) = [node for node in graph.node if node.op_type == "Resize"]
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    assert types[resize.input[0]] == FLOAT


def _tiny(
    images: tuple[str, int, list[str | int]], foreground: tuple[str, int, list[str | int]]
) -> onnx.ModelProto:
    """A graph of one node with this border: channel 0 as it is, cast to the output's type."""
    take = helper.make_node("Gather", [images[0], "zero"], ["channel"], axis=3)
    cast = helper.make_node("Cast", ["channel"], [foreground[0]], to=foreground[1])
    graph = helper.make_graph(
        [take, cast],
        "tiny",
        [helper.make_tensor_value_info(*images)],
        [helper.make_tensor_value_info(*foreground)],
        [helper.make_tensor("zero", INT64, [], [0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


GOOD_IN = ("images", UINT8, ["batch", 64, 48, 3])
GOOD_OUT = ("foreground", UINT8, ["batch", 64, 48])


def test_graph_with_the_right_border_is_accepted() -> None:
    check_contract(_tiny(GOOD_IN, GOOD_OUT), (64, 48))


@pytest.mark.parametrize(
    ("images", "foreground"),
    [
        (("input", UINT8, ["batch", 64, 48, 3]), GOOD_OUT),
        (("images", FLOAT, ["batch", 64, 48, 3]), GOOD_OUT),
        (("images", UINT8, [2, 64, 48, 3]), ("foreground", UINT8, [2, 64, 48])),
        (("images", UINT8, ["N", 64, 48, 3]), ("foreground", UINT8, ["N", 64, 48])),
        (GOOD_IN, ("mask", UINT8, ["batch", 64, 48])),
        (GOOD_IN, ("foreground", FLOAT, ["batch", 64, 48])),
        (("images", UINT8, ["batch", 48, 64, 3]), ("foreground", UINT8, ["batch", 48, 64])),
    ],
    ids=["name", "float in", "fixed batch", "batch name", "out name", "float out", "h for w"],
)
def test_graph_with_another_border_is_refused(
    images: tuple[str, int, list[str | int]], foreground: tuple[str, int, list[str | int]]
) -> None:
    with pytest.raises(ExportError, match="where the contract has"):
        check_contract(_tiny(images, foreground), (64, 48))


def test_graph_that_is_not_valid_is_refused() -> None:
    model = _tiny(GOOD_IN, GOOD_OUT)
    model.graph.node[0].input[1] = "missing"
    with pytest.raises(ExportError, match="not valid ONNX"):
        check_contract(model, (64, 48))


def test_metadata_replaces_what_was_there() -> None:
    model = _tiny(GOOD_IN, GOOD_OUT)
    set_metadata(model, {"old": "1"})
    set_metadata(model, {"new": "2"})
    assert [(p.key, p.value) for p in model.metadata_props] == [("new", "2")]


def test_metadata_do_not_list_the_training_photos(artifact: Artifact) -> None:
    seen = TrainingPhotos("AAAA" * 9)
    data = Data("flowers", "ab", 1, 1, 0.9, seen=seen)
    manifest = dataclasses.replace(artifact.manifest, data=data)
    inside = json.loads(_metadata(manifest)["flowerseg"])["data"]
    assert inside["name"] == "flowers"
    assert "seen" not in inside
