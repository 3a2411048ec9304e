"""Architectures in every precision become ONNX files that run, and real engines."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from flowerseg.arrays import Images, SizeHW
from flowerseg.artifact import Artifact, Batch, Kind, Manifest, Precision, open_artifact
from flowerseg.checkpoint import network_from_artifact, save_checkpoint
from flowerseg.errors import ExportError
from flowerseg.model import Architecture, Deployable, FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg_export import export as export_module
from flowerseg_export.config import ExportConfig, config_to_rebuild
from flowerseg_export.export import export_model
from flowerseg_export.graph import OPSET, onnx_from_network

SIZE_HW = (64, 64)
# Weights of the deployable network in millions: torchvision's table has 42.0 and 61.0 with an
# auxiliary head of 2.4, and 11.0 for its MobileNetV3. On a map of 8 x 8 or 4 x 4 all three dilated
# branches of ASPP are 1 x 1: of 2048 or 960 channels to 256, they lose eight ninths.
MILLIONS = {
    Architecture.RESNET101: 58.6 - 3 * 8 * 2048 * 256 / 1e6,
    Architecture.RESNET50: 39.6 - 3 * 8 * 2048 * 256 / 1e6,
    Architecture.MOBILENET_V3_LARGE: 11.0 - 3 * 8 * 960 * 256 / 1e6,
}
BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.INT8: 1}
# RTX 1.7 keeps many weights of a quantised network in float, MobileNetV3's above all.
ENGINE_BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.INT8: 3}


# What INT8 for TensorRT leaves in float: ASPP's pooled branch, and in MobileNetV3 the two products
# of each squeeze-and-excitation, of its channels and its squeezed ones.
FLOAT_MILLIONS = {
    Architecture.RESNET101: 2048 * 256 / 1e6,
    Architecture.RESNET50: 2048 * 256 / 1e6,
    Architecture.MOBILENET_V3_LARGE: (
        960 * 256 + 2 * (72 * 24 + 2 * 120 * 32 + 480 * 120 + 2 * 672 * 168 + 2 * 960 * 240)
    )
    / 1e6,
}

FLOAT_AND_INT = (  # the precision, and what INT8 computes in where it is not quantised
    (Precision.FP32, Precision.FP32),
    (Precision.FP16, Precision.FP32),
    (Precision.INT8, Precision.FP32),
    (Precision.INT8, Precision.FP16),
)
SLOW = pytest.mark.slow
MOBILENET = pytest.param(Architecture.MOBILENET_V3_LARGE)
RESNET101 = pytest.param(Architecture.RESNET101, marks=SLOW)
CELLS = [
    *(pytest.param(Architecture.MOBILENET_V3_LARGE, *types) for types in FLOAT_AND_INT),
    *(pytest.param(Architecture.RESNET101, *types, marks=SLOW) for types in FLOAT_AND_INT),
    # It has ResNet-101's blocks, fewer of them: one precision will do.
    pytest.param(Architecture.RESNET50, Precision.FP16, Precision.FP32, marks=SLOW),
]


@pytest.fixture(scope="module")
def random_checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FlowerNet(request.param).eval()
    path = tmp_path_factory.mktemp("matrix") / f"{request.param}.pt"
    manifest = Manifest(Kind.CHECKPOINT, request.param, Precision.FP32, Preprocess(SIZE_HW))
    return save_checkpoint(path, network, manifest)


@pytest.fixture(scope="module", autouse=True)
def _each_graph_is_exported_once() -> Iterator[None]:
    """INT8 files are made of the FP32 graph, which torch's exporter need not give three times."""
    graphs: dict[tuple[str, torch.dtype, int], bytes] = {}

    def kept(network: FlowerNet, size_hw: SizeHW, opset: int = OPSET) -> onnx.ModelProto:
        key = (network.architecture, network.head.weight.dtype, opset)
        if key not in graphs:
            graphs[key] = onnx_from_network(network, size_hw, opset).SerializeToString()
        return onnx.load_from_string(graphs[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "onnx_from_network", kept)
        yield


@pytest.mark.parametrize(
    ("random_checkpoint", "precision", "float_type"), CELLS, indirect=["random_checkpoint"]
)
def test_checkpoint_becomes_a_graph_that_runs_and_an_engine(
    random_checkpoint: Artifact,
    precision: Precision,
    float_type: Precision,
    painted: Path,
    frames: Images,
    tmp_path: Path,
) -> None:
    config = ExportConfig(
        random_checkpoint.path,
        tmp_path / "a.engine",
        Kind.TENSORRT_RTX,
        precision,
        float_type=float_type,
        profiles=(Batch(1, 2, 4),),
        data=painted,
        limit=2,
        device="cpu",
    )
    graph, engine = export_model(config)
    architecture = Architecture(random_checkpoint.manifest.architecture)
    weights = 1e6 * MILLIONS[architecture]
    file_bytes = weights * BYTES[precision]
    if precision is Precision.INT8:
        file_bytes += 1e6 * FLOAT_MILLIONS[architecture] * (BYTES[float_type] - 1)
    assert 0.95 < graph.path.stat().st_size / file_bytes < 1.1
    # Some 4 MB of an engine are no weights.
    assert engine.path.stat().st_size / (weights * BYTES[precision]) > 0.95
    assert (engine.path.stat().st_size - 4e6) / (weights * ENGINE_BYTES[precision]) < 1.1
    for artifact in (graph, engine):
        manifest = open_artifact(artifact.path).manifest
        assert (manifest.precision, manifest.float_type) == (precision, float_type)
    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    (foreground,) = session.run(None, {"images": frames[:3]})
    assert foreground.shape == (3, *SIZE_HW)
    if precision is Precision.FP32:
        network = Deployable(network_from_artifact(random_checkpoint))
        with torch.inference_mode():
            expected = network(torch.from_numpy(frames[:3])).numpy()
        assert np.abs(foreground.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("random_checkpoint", [MOBILENET], indirect=True)
def test_int8_engine_is_rebuilt_with_the_float_type_of_the_graph_beside_it(
    random_checkpoint: Artifact, painted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.engine"
    config = ExportConfig(
        random_checkpoint.path,
        path,
        Kind.TENSORRT_RTX,
        Precision.INT8,
        float_type=Precision.FP16,
        data=painted,
        limit=1,
        device="cpu",
    )
    graph, engine = export_model(config)
    assert "--int8 --fp16" in engine.manifest.rebuild
    assert graph.manifest.quantisation.startswith(
        "symmetric int8 convolutions, float biases, fp16 between them; minmax over 12 photos"
    )
    (metadata,) = onnx.load(graph.path).metadata_props
    assert json.loads(metadata.value)["float_type"] == "fp16"
    (rebuilt,) = export_model(config_to_rebuild(path))
    assert rebuilt.manifest.float_type is Precision.FP16
    for precision, float_type in ((Precision.INT8, Precision.FP32), (Precision.FP16,) * 2):
        asked = dataclasses.replace(
            config, source=graph.path, precision=precision, float_type=float_type, force=True
        )
        with pytest.raises(ExportError, match=r"Leave --(int8 and --fp16|fp16) out"):
            export_model(asked)


@pytest.mark.parametrize("random_checkpoint", [MOBILENET, RESNET101], indirect=True)
def test_int8_for_cpus_has_unsigned_activations(
    random_checkpoint: Artifact, painted: Path, frames: Images, tmp_path: Path
) -> None:
    config = ExportConfig(
        random_checkpoint.path,
        tmp_path / "a.onnx",
        Kind.ONNX,
        Precision.INT8,
        data=painted,
        limit=1,
        device="cpu",
    )
    (graph,) = export_model(config)
    types = {tensor.data_type for tensor in onnx.load(graph.path).graph.initializer}
    assert onnx.TensorProto.UINT8 in types
    assert graph.manifest.quantisation.startswith(
        "uint8 activations, 7-bit weights; minmax over 12 photos"
    )
    session = onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
    assert session.run(None, {"images": frames[:2]})[0].shape == (2, *SIZE_HW)
