"""The largest network goes the whole way on a machine without a GPU."""

from pathlib import Path

import onnx
import pytest

from flowerseg.artifact import Kind, Manifest, Precision, open_artifact, read_manifest
from flowerseg.checkpoint import save_checkpoint
from flowerseg.model import Architecture, FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg_export.export import ExportConfig, export_model


@pytest.mark.slow
def test_resnet101_becomes_an_fp16_engine_without_a_gpu(tmp_path: Path) -> None:
    network = FlowerNet(Architecture.RESNET101).eval()
    manifest = Manifest(Kind.CHECKPOINT, network.architecture, Precision.FP32, Preprocess())
    checkpoint = save_checkpoint(tmp_path / "r101.pt", network, manifest)
    config = ExportConfig(
        checkpoint=checkpoint.path,
        out=tmp_path / "r101.engine",
        target=Kind.TENSORRT_RTX,
        precision=Precision.FP16,
    )
    graph, engine = export_model(config)
    model = onnx.load(graph.path)
    # 58.6 million parameters without the auxiliary head, two bytes each
    kernels = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    types = {i.data_type for i in model.graph.initializer if i.name in kernels}
    assert types == {onnx.TensorProto.FLOAT16}
    assert 110e6 < graph.path.stat().st_size < 125e6
    assert engine.path.stat().st_size > 110e6
    assert open_artifact(engine.path).manifest.proof is not None
    chain = read_manifest(tmp_path / "r101.engine.json").parents
    assert [p.sha256 for p in chain] == [checkpoint.manifest.sha256, graph.manifest.sha256]
