"""Real TensorRT-RTX engines, built without a GPU, and what is said when there is none to build."""

import importlib
import platform

import onnx
import pytest
from onnx import TensorProto, helper

from flowerseg.artifact import Artifact, Batch, Kind, Precision, open_artifact
from flowerseg.errors import BackendUnavailable, ExportError
from flowerseg_export.engine import built_for, engine_from_onnx

SIZE_HW = (64, 64)
BATCH = Batch(1, 4, 8)


@pytest.fixture(scope="module")
def fp32_engine(fp32_onnx: Artifact) -> bytes:
    return engine_from_onnx(onnx.load(fp32_onnx.path), Kind.TENSORRT_RTX, SIZE_HW, BATCH)


def test_fp32_engine_is_built(fp32_engine: bytes, fp32_onnx: Artifact) -> None:
    assert len(fp32_engine) > 0.8 * fp32_onnx.path.stat().st_size


def test_half_takes_half_the_room(
    fp32_engine: bytes, fp32_onnx: Artifact, fp16_onnx: Artifact, rtx_engine: Artifact
) -> None:
    files = fp16_onnx.path.stat().st_size / fp32_onnx.path.stat().st_size
    engines = rtx_engine.path.stat().st_size / len(fp32_engine)
    assert 0.49 < files < 0.55
    assert 0.45 < engines < 0.6


def test_engine_names_its_chain_and_what_it_was_built_for(
    rtx_engine: Artifact, fp16_onnx: Artifact, reference: Artifact
) -> None:
    import tensorrt_rtx

    manifest = open_artifact(rtx_engine.path).manifest
    assert [(p.kind, p.sha256) for p in manifest.parents] == [
        (Kind.CHECKPOINT, reference.manifest.sha256),
        (Kind.ONNX, fp16_onnx.manifest.sha256),
    ]
    assert manifest.precision is Precision.FP16
    assert manifest.batch == BATCH
    assert manifest.versions["tensorrt-rtx"] == tensorrt_rtx.__version__
    assert manifest.built_for is not None
    assert manifest.built_for.system == platform.system()


def test_engine_that_cannot_run_here_is_not_proved_and_not_failed(rtx_engine: Artifact) -> None:
    proof = rtx_engine.manifest.proof
    assert proof is not None
    assert proof.status == "not run"
    assert proof.how.startswith("built, not run: ")


def _transposed_before_the_cast() -> onnx.ModelProto:
    """What TensorRT's parser refuses: uint8 moved before it is cast."""
    nodes = [
        helper.make_node("Transpose", ["images"], ["moved"], "early_move", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["moved"], ["samples"], "late_cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["samples", "axes"], ["grey"], "mean", keepdims=0),
        helper.make_node("Cast", ["grey"], ["foreground"], "out", to=TensorProto.UINT8),
    ]
    nodes[0].metadata_props.add(key="namespace", value="network.early")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "early",
        [value("images", TensorProto.UINT8, ["batch", *SIZE_HW, 3])],
        [value("foreground", TensorProto.UINT8, ["batch", *SIZE_HW])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_graph_that_the_parser_refuses_is_an_error_that_names_the_node() -> None:
    model = _transposed_before_the_cast()
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(ExportError, match=r"tensorrt_rtx .* refuses the graph: .*early_move"):
        engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, BATCH)


def test_op_that_the_parser_does_not_know_is_named_with_its_torch_module() -> None:
    model = _transposed_before_the_cast()
    node = model.graph.node[2]
    node.op_type, node.domain = "Daydream", "local"
    node.metadata_props.add(key="namespace", value="network.dreams")
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(model.graph.node[0])
    with pytest.raises(ExportError, match=r"refuses the graph: .*(Daydream|early_move)"):
        engine_from_onnx(model, Kind.TENSORRT_RTX, SIZE_HW, BATCH)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Kind.TENSORRT, r'pip install "flowerseg\[tensorrt\]"'),
        (Kind.TENSORRT_RTX, r'pip install "flowerseg\[rtx\]"'),
    ],
)
def test_missing_module_is_named_with_its_pip_line(
    kind: Kind, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(BackendUnavailable, match=line):
        engine_from_onnx(onnx.ModelProto(), kind, SIZE_HW, BATCH)


@pytest.mark.usefixtures("no_gpu")
def test_tensorrt_without_a_gpu_is_told_what_to_build_instead() -> None:
    with pytest.raises(BackendUnavailable, match="use --to tensorrt-rtx or --to onnx"):
        built_for(Kind.TENSORRT)


@pytest.mark.usefixtures("no_gpu")
def test_rtx_engine_is_bound_to_no_single_gpu() -> None:
    assert built_for(Kind.TENSORRT_RTX).compute_capability == ""
