"""ONNX files that break the contract: refused when they are opened, in every runtime."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from flowerseg.artifact import Batch, Kind, Manifest, Precision, open_artifact, publish
from flowerseg.errors import ArtifactError, FlowersegError
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from tests.onnxes import small_onnx

SIZE_HW = (64, 48)
MANIFEST = Manifest(Kind.ONNX, "deeplabv3_resnet101", Precision.FP32, Preprocess(SIZE_HW))
RUNTIMES = ("onnxruntime", "openvino")


def _written(folder: Path, model: onnx.ModelProto | bytes, manifest: Manifest = MANIFEST) -> Path:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return publish(
        folder / "a.onnx", manifest, lambda path: path.write_bytes(content) and None
    ).path


def _open(path: Path, runtime: str) -> Segmenter:
    return Segmenter.open(path, device="cpu", runtime=runtime, allow_unproven=True)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", ["batch", 2])
def test_graph_that_keeps_the_contract_opens(
    runtime: str, batch: str | int, tmp_path: Path
) -> None:
    pytest.importorskip(runtime)
    fixed = Batch(2, 2, 2) if batch == 2 else None
    path = _written(
        tmp_path, small_onnx(SIZE_HW, batch), dataclasses.replace(MANIFEST, batch=fixed)
    )
    frames = np.random.default_rng(0).integers(0, 256, (2, *SIZE_HW, 3), dtype=np.uint8)
    with _open(path, runtime) as segmenter:
        np.testing.assert_array_equal(segmenter.infer(list(frames)), frames[..., 0])


def _renamed(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"


def _float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _float_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("red", TensorProto.UINT8, None))


def _other_size(model: onnx.ModelProto) -> None:
    model.CopyFrom(small_onnx((48, 64)))


def _fixed_batch(model: onnx.ModelProto) -> None:
    model.CopyFrom(small_onnx(SIZE_HW, 2))


def _no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "fault",
    [
        _renamed,
        _float_input,
        _float_output,
        _second_output,
        _other_size,
        _fixed_batch,
        _no_shape,
    ],
)
def test_graph_with_another_border_is_refused(
    fault: Callable[[onnx.ModelProto], None], runtime: str, tmp_path: Path
) -> None:
    model = small_onnx(SIZE_HW)
    fault(model)
    with pytest.raises(ArtifactError, match=r"a\.onnx: the graph has .* where the contract has"):
        _open(_written(tmp_path, model), runtime)


def _tensor(name: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(3, np.uint8), name)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.ClearField("raw_data")
    return tensor


def _graph_of(tensor: TensorProto) -> onnx.GraphProto:
    return helper.make_graph([], "inner", [], [], [tensor])


def _in_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(_tensor("outside"))


def _in_a_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=_tensor("outside")))


def _in_a_subgraph(model: onnx.ModelProto) -> None:
    body = _graph_of(_tensor("outside"))
    node = helper.make_node("If", ["c"], ["d"], then_branch=body, else_branch=body)
    model.graph.node.append(node)


def _in_a_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=_tensor("outside"))
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("own", "f", [], ["c"], [node], opset))


def _in_sparse_weights(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[3])
    sparse.values.CopyFrom(_tensor("outside"))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "fault", [_in_weights, _in_a_constant, _in_a_subgraph, _in_a_function, _in_sparse_weights]
)
def test_tensors_in_other_files_are_refused(
    fault: Callable[[onnx.ModelProto], None], runtime: str, tmp_path: Path
) -> None:
    model = small_onnx(SIZE_HW)
    fault(model)
    (tmp_path / "weights.bin").write_bytes(bytes(3))
    path = _written(tmp_path, model)
    with pytest.raises(ArtifactError, match=r"in other files \(outside.*SHA-256 does not cover"):
        _open(path, runtime)
    with pytest.raises(ArtifactError, match="in other files"):
        open_artifact(path)


def _newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def _newer_format(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def _name_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("zero", TensorProto.UINT8, [], [9]))


def _short_weight(model: onnx.ModelProto) -> None:
    place = model.graph.initializer[0]
    place.ClearField("int64_data")
    place.raw_data = b"\0\0"


def _long_constant(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "c")
    tensor.raw_data += b"\0"
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_newer_opset, r"opset 99 and .* Install a newer onnx"),
        (_newer_format, "file format 99"),
        (_name_twice, "two of its weights have one name"),
        (_short_weight, "place has another number of values than its shape"),
        (_long_constant, "c has another number of values"),
    ],
)
def test_what_only_one_runtime_would_refuse_is_refused_by_both(
    fault: Callable[[onnx.ModelProto], None], said: str, runtime: str, tmp_path: Path
) -> None:
    model = small_onnx(SIZE_HW)
    fault(model)
    with pytest.raises(ArtifactError, match=said):
        _open(_written(tmp_path, model), runtime)


def test_type_that_only_the_graph_declares_is_refused(tmp_path: Path) -> None:
    """OpenVINO would compute floats, and their bytes would be taken for probabilities."""
    pytest.importorskip("openvino")
    model = small_onnx(SIZE_HW)
    model.graph.node[1].output[0] = "levels"
    model.graph.node.append(
        helper.make_node("Cast", ["levels"], ["foreground"], to=TensorProto.FLOAT)
    )
    with pytest.raises(ArtifactError, match=r"outputs \['f32'\] in it, where the contract has"):
        _open(_written(tmp_path, model), "openvino")


WHOLE = small_onnx(SIZE_HW).SerializeToString()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, len(WHOLE) - 1), new=st.binary(max_size=8), kept=st.booleans())
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_damaged_graph_opens_or_is_refused(
    runtime: str, at: int, new: bytes, kept: bool, tmp_path: Path
) -> None:
    """With a manifest of its own, as a damaged export would have."""
    content = WHOLE[:at] + new + (WHOLE[at + len(new) :] if kept else b"")
    path = _written(tmp_path, content)
    try:
        with _open(path, runtime) as segmenter:
            segmenter.segment(np.zeros((8, 9, 3), np.uint8))
    except FlowersegError:
        pass
