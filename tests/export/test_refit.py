"""Refit: what is refused in words, and what an engine and its manifest hold afterwards.

TensorRT refits on a GPU only: it is replaced by a stand-in, whose engines are ONNX files behind a
byte that says whether they can be refitted.
"""

import copy
import dataclasses
import platform
from collections.abc import Callable
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from flowerseg.artifact import (
    Artifact,
    Batch,
    BuiltFor,
    EngineBuild,
    Kind,
    Manifest,
    Precision,
    as_parent,
    manifest_path,
    open_artifact,
    publish,
)
from flowerseg.backends import trt as trt_module
from flowerseg.checkpoint import save_checkpoint
from flowerseg.errors import BackendUnavailable
from flowerseg.model import FlowerNet, specialised
from flowerseg.preprocess import Preprocess
from flowerseg_export import export as export_module
from flowerseg_export import refit as refit_module
from flowerseg_export.cli import export
from flowerseg_export.graph import onnx_from_network
from flowerseg_export.refit import differences
from tests.export.tensorrt_uses import problems, uses
from tests.export.test_tensorrt_surface import SURFACES

Refit = Callable[..., Result]
BATCH = Batch(1, 4, 8)
REFITTABLE, FIXED = b"R", b"F"


# The stand-in.


class _OldFlag(Enum):
    EXCLUDE_WEIGHTS = 0


class _NewFlag(Enum):
    EXCLUDE_WEIGHTS = 0
    INCLUDE_REFIT = 2


class _Logger:
    ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2

    def __init__(self, *_: object) -> None:
        pass


class _Engine:
    num_optimization_profiles = 1

    def __init__(self, content: bytes) -> None:
        self.refittable = content[:1] == REFITTABLE
        self.model = onnx.load_from_string(content[1:])

    def get_tensor_profile_shape(self, name: str, _: int) -> tuple[tuple[int, ...], ...]:
        assert name == "images"
        return (1, 64, 64, 3), (4, 64, 64, 3), (8, 64, 64, 3)

    def create_serialization_config(self) -> Any:
        flags: set[object] = set()
        return SimpleNamespace(flags=flags, set_flag=lambda flag: flags.add(flag) or True)

    def serialize_with_config(self, config: Any) -> bytes:
        kept = REFITTABLE if _NewFlag.INCLUDE_REFIT in config.flags else FIXED
        return kept + self.model.SerializeToString(deterministic=True)


class _Tensorrt:
    """TensorRT's module with what refit calls, and faults to show."""

    __name__ = "tensorrt"
    __version__ = "10.16.1"
    ILogger = Logger = _Logger

    def __init__(self) -> None:
        self.SerializationFlag: type[Enum] = _NewFlag
        self.missing: list[str] = []
        self.applies = True
        self.unknown_weights = False

    def Runtime(self, _: object) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=_Engine)

    def Refitter(self, engine: _Engine, _: object) -> Any:
        assert engine.refittable
        refitter = SimpleNamespace(engine=engine, model=None)
        refitter.get_missing_weights = lambda: self.missing

        def apply() -> bool:
            if self.applies:
                engine.model = refitter.model
            return self.applies

        refitter.refit_cuda_engine = apply
        return refitter

    def OnnxParserRefitter(self, refitter: Any, _: object) -> Any:
        def set_weights(content: bytes) -> bool:
            refitter.model = onnx.load_from_string(content)
            return not self.unknown_weights

        error = SimpleNamespace(desc=lambda: "Only successfully refitted 3 weights out of 4")
        return SimpleNamespace(
            refit_from_bytes=set_weights, num_errors=1, get_error=lambda _: error
        )


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> _Tensorrt:
    """A machine with an A100 and TensorRT 10.16."""
    found = _Tensorrt()
    for module in (trt_module, refit_module, export_module):
        monkeypatch.setattr(module, "import_tensorrt", lambda _: found)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    return found


# An engine, another checkpoint, and the graph that it gives.


def _engine(folder: Path, graph: Artifact, **changes: Any) -> Path:
    """A refittable engine of `graph`, beside it."""
    manifest = Manifest(
        kind=Kind.TENSORRT,
        architecture=graph.manifest.architecture,
        precision=Precision.FP16,
        preprocess=graph.manifest.preprocess,
        batch=BATCH,
        engine=EngineBuild(workspace_mib=512, refittable=True),
        parents=(
            *graph.manifest.parents,
            as_parent(graph),
        ),
        built_for=BuiltFor("NVIDIA A100", "8.0", "Linux"),
        versions={"tensorrt": "10.16.1"},
        rebuild="flowerseg-export old.pt --to tensorrt --fp16 --out small.engine",
    )
    content = REFITTABLE + graph.path.read_bytes()
    manifest = dataclasses.replace(manifest, **changes)
    return publish(folder / "small.engine", manifest, lambda path: _write(path, content)).path


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.fixture
def graph(fp16_onnx: Artifact, copied: Callable[[Path], Path]) -> Artifact:
    return open_artifact(copied(fp16_onnx.path))


@pytest.fixture
def engine(graph: Artifact) -> Path:
    return _engine(graph.path.parent, graph)


@pytest.fixture
def other_network(small_network: FlowerNet) -> FlowerNet:
    network = copy.deepcopy(small_network)
    with torch.no_grad():
        network.head.bias[1] += 1  # its difference to the background's moves all masks
    return network


@pytest.fixture
def new(other_network: FlowerNet, reference: Artifact, tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "new.pt", other_network, reference.manifest).path


@pytest.fixture
def run(new: Path, graph: Artifact, engine: Path, monkeypatch: pytest.MonkeyPatch) -> Refit:
    """Runs the command on the new checkpoint, without torch's seconds of tracing."""
    model = _with_another_bias(onnx.load(graph.path))
    monkeypatch.setattr(export_module, "onnx_from_network", lambda *_: copy.deepcopy(model))

    def invoke(*options: str | Path, source: Path = new, of: Path = engine) -> Result:
        arguments = [source, "--refit", of, *options]
        return CliRunner().invoke(export, [str(word) for word in arguments])

    return invoke


def _with_another_bias(model: onnx.ModelProto) -> onnx.ModelProto:
    (bias,) = (t for t in model.graph.initializer if t.name == "classifier.4.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    return model


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_refitted_engine_has_the_new_weights_and_the_old_build(
    run: Refit, tensorrt: _Tensorrt, engine: Path, new: Path, tmp_path: Path
) -> None:
    out = tmp_path / "refitted/flower.engine"
    before = _files(engine.parent)
    result = run("--out", out)
    assert result.exit_code == 0, result.output
    refitted, graph = open_artifact(out), open_artifact(out.with_suffix(".onnx"))
    assert refitted.path.read_bytes() == REFITTABLE + graph.path.read_bytes()
    chain = [parent.sha256 for parent in refitted.manifest.parents]
    assert chain == [open_artifact(new).manifest.sha256, graph.manifest.sha256]
    old = open_artifact(engine).manifest
    for name in ("kind", "precision", "batch", "engine", "built_for", "keep_fp32"):
        assert getattr(refitted.manifest, name) == getattr(old, name)
    assert refitted.manifest.versions["tensorrt"] == "10.16.1"
    command = f"flowerseg-export {new} --refit {engine} --out {out} --force"
    assert refitted.manifest.rebuild == graph.manifest.rebuild == command
    assert _files(engine.parent) == before


def test_engine_is_refitted_in_place(run: Refit, tensorrt: _Tensorrt, engine: Path) -> None:
    before = open_artifact(engine).manifest
    assert run("--out", engine).exit_code == 1  # it exists
    assert open_artifact(engine).manifest == before
    for _ in range(2):  # and can be refitted again
        result = run("--out", engine, "--force")
        assert result.exit_code == 0, result.output
    after = open_artifact(engine).manifest
    assert after.sha256 != before.sha256
    assert after.parents[-1].sha256 == open_artifact(engine.with_suffix(".onnx")).manifest.sha256


def test_refitted_engine_is_proved_against_the_new_checkpoint(
    run: Refit,
    tensorrt: _Tensorrt,
    new: Path,
    painted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proved: list[tuple[str, Path]] = []

    def prove(artifact: Artifact, reference: Artifact, *_: object, **__: object) -> Any:
        proved.append((artifact.path.name, reference.path))
        raise BackendUnavailable("the stand-in runs nothing")

    monkeypatch.setattr(export_module, "prove", prove)
    result = run("--out", tmp_path / "a.engine", "--data", painted, "--limit", "2")
    assert result.exit_code == 0, result.output
    assert proved == [("a.onnx", new), ("a.engine", new)]


def test_version_that_drops_refit_is_told_of(
    run: Refit, tensorrt: _Tensorrt, engine: Path, tmp_path: Path
) -> None:
    tensorrt.SerializationFlag = _OldFlag
    out = tmp_path / "a.engine"
    result = run("--out", out)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert f"{out} cannot be refitted again (TensorRT before 10.14): keep {engine}" in said
    build = open_artifact(out).manifest.engine
    assert build == EngineBuild(workspace_mib=512, refittable=False)


def _fails(result: Result, said: str) -> None:
    assert result.exit_code == 1, result.output
    assert said in result.stderr


def test_version_that_drops_refit_does_not_replace_the_engine_that_has_it(
    run: Refit, tensorrt: _Tensorrt, engine: Path
) -> None:
    tensorrt.SerializationFlag = _OldFlag
    before = _files(engine.parent)
    _fails(run("--out", engine, "--force"), "cannot be refitted again, and it would replace")
    assert _files(engine.parent) == before


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"unknown_weights": True}, "Only successfully refitted 3 weights out of 4"),
        ({"missing": ["b", "a"]}, "does not have: a, b (2 in all)"),
        ({"applies": False}, "refit_cuda_engine failed: TensorRT gave no reason"),
    ],
)
def test_weights_that_tensorrt_does_not_take_leave_everything_as_it_was(
    run: Refit, tensorrt: _Tensorrt, engine: Path, fault: dict[str, Any], said: str
) -> None:
    for name, value in fault.items():
        setattr(tensorrt, name, value)
    before = _files(engine.parent)
    _fails(run("--out", engine, "--force"), said)
    assert _files(engine.parent) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": Kind.PT2}, "a file of kind pt2; --refit names a TensorRT engine"),
        ({"engine": EngineBuild()}, "was not built with --refittable"),
        ({"engine": None}, "was not built with --refittable"),
        ({"precision": Precision.INT8}, "other weights need a calibration and a build"),
        (
            {"precision": Precision.FP32, "keep_fp32": ("head",)},
            "--keep-fp32 leaves modules out of",
        ),
        (
            {"engine": EngineBuild(refittable=True, compute_capabilities=("8.9",))},
            "--compute-capability is for TensorRT-RTX",
        ),
        ({"kind": Kind.TENSORRT_RTX, "precision": Precision.TF32}, "TF32 is a mode of TensorRT's"),
        ({"precision": Precision.BF16}, "no file is exported in BF16"),
        ({"architecture": "deeplabv3_resnet50"}, "architecture deeplabv3_resnet50 in the engine"),
        ({"preprocess": Preprocess((96, 64))}, "frames 96 × 64 in the engine, 64 × 64 in the"),
        ({"versions": {"tensorrt": "10.12.0"}}, "TensorRT 10.12.0, this machine has 10.16.1"),
        (
            {"built_for": BuiltFor("NVIDIA H100", "9.0", "Linux")},
            "compute capability 9.0, this GPU",
        ),
    ],
)
def test_engine_that_cannot_take_the_weights_is_refused(
    run: Refit,
    tensorrt: _Tensorrt,
    graph: Artifact,
    tmp_path: Path,
    changes: dict[str, Any],
    said: str,
) -> None:
    engine = _engine(graph.path.parent, graph, **changes)
    _fails(run("--out", tmp_path / "out/a.engine", of=engine), said)
    assert not list((tmp_path / "out").glob("*"))


def test_engine_that_tensorrt_finds_not_refittable_is_refused(
    run: Refit, tensorrt: _Tensorrt, engine: Path, graph: Artifact, tmp_path: Path
) -> None:
    manifest = open_artifact(engine).manifest
    publish(engine, manifest, lambda path: _write(path, FIXED + graph.path.read_bytes()))
    _fails(run("--out", tmp_path / "a.engine"), "tensorrt 10.16.1 says that it is not")


def test_only_a_checkpoint_has_weights_to_give(
    run: Refit, tensorrt: _Tensorrt, graph: Artifact, tmp_path: Path
) -> None:
    result = run("--out", tmp_path / "a.engine", source=graph.path)
    _fails(result, "is a model of kind onnx; --refit takes the weights of a checkpoint")


@pytest.mark.usefixtures("no_gpu")
def test_machine_without_a_gpu_is_refused_before_the_export(
    run: Refit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_nothing(*_: object) -> None:
        raise AssertionError("minutes of work")

    monkeypatch.setattr(trt_module, "import_tensorrt", lambda _: _Tensorrt())
    monkeypatch.setattr(export_module, "onnx_from_network", export_nothing)
    _fails(run("--out", tmp_path / "a.engine"), "runs on an NVIDIA GPU only")
    assert not (tmp_path / "a.onnx").exists()


def test_graph_of_another_structure_is_refused_with_what_differs(
    run: Refit,
    tensorrt: _Tensorrt,
    graph: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = onnx.load(graph.path)
    (node,) = (n for n in model.graph.node if n.name == "classifier.3/Relu")
    node.op_type = "Sigmoid"
    monkeypatch.setattr(export_module, "onnx_from_network", lambda *_: model)
    _fails(run("--out", tmp_path / "a.engine"), "node classifier.3/Relu differs")
    assert not (tmp_path / "a.engine").exists()


def test_graph_is_not_compared_where_the_engines_own_is_not_beside_it(
    run: Refit, tensorrt: _Tensorrt, graph: Artifact, tmp_path: Path
) -> None:
    graph.path.unlink()
    manifest_path(graph.path).unlink()
    assert run("--out", tmp_path / "a.engine").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--out FILE is missing"),
        (["--fp16"], "leave --fp16 out"),
        (["--to", "tensorrt"], "leave --to out"),
        (["--batch", "1:2:4"], "leave --batch out"),
        (["--rebuild"], "leave --rebuild out"),
        (["--reference", "old.pt"], "leave --reference out"),
        (["--refittable"], "leave --refittable out"),
    ],
)
def test_options_that_mean_nothing_are_wrong_usage(
    run: Refit, engine: Path, options: list[str], said: str
) -> None:
    before = _files(engine.parent)
    result = run(*options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert _files(engine.parent) == before


# The comparison of graphs.


def test_graphs_of_two_checkpoints_differ_in_weights_alone(
    other_network: FlowerNet, fp32_onnx: Artifact
) -> None:
    """Of torch's real exporter: what `--refit` depends on."""
    before = onnx.load(fp32_onnx.path)
    after = onnx_from_network(specialised(other_network, (64, 64)), (64, 64))
    weights = [
        {t.name: onnx.numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}
        for model in (before, after)
    ]
    assert list(differences(before, after)) == []
    assert [name for name in weights[0] if weights[0][name] != weights[1][name]] == [
        "classifier.4.bias"
    ]


def _renamed_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].name += ".other"


def _wider_weight(model: onnx.ModelProto) -> None:
    (bias,) = (t for t in model.graph.initializer if t.name == "classifier.4.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(2, np.float16), bias.name))


def _another_constant(model: onnx.ModelProto) -> None:
    (scales,) = (t for t in model.graph.initializer if t.name == "Resize:2")
    scales.CopyFrom(onnx.numpy_helper.from_array(np.ones(4, np.float32), scales.name))


def _another_stride(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Conv")
    (strides,) = (a for a in node.attribute if a.name == "strides")
    strides.ints[0] += 1


def _another_border(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value += 1


def _another_order(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, model.graph.node.pop())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_renamed_weight, "initializer backbone.0.0.weight is missing"),
        (_wider_weight, "initializer classifier.4.bias differs"),
        (_another_constant, "initializer Resize:2 differs"),
        (_another_stride, "node backbone.0.0/Conv differs"),
        (_another_border, "input or output images differs"),
        (_another_order, "the order of the nodes"),
    ],
)
def test_difference_of_structure_is_named(
    fp16_onnx: Artifact, change: Callable[[onnx.ModelProto], None], said: str
) -> None:
    before, after = onnx.load(fp16_onnx.path), onnx.load(fp16_onnx.path)
    change(after)
    assert said in list(differences(before, after))


def test_where_a_node_comes_from_is_no_structure(fp16_onnx: Artifact) -> None:
    before, after = onnx.load(fp16_onnx.path), onnx.load(fp16_onnx.path)
    after.graph.node[0].metadata_props.add(key="exporter", value="of another version")
    after.graph.node[1].doc_string = "another"
    assert list(differences(before, _with_another_bias(after))) == []


# The API of each version.


@pytest.mark.parametrize("version", SURFACES)
def test_calls_of_refit_are_held_against_every_version(version: str) -> None:
    source = Path(refit_module.__file__).read_text(encoding="utf-8")
    names = {use.name for use in uses(source, SURFACES[version])}
    assert {
        "module.Refitter",
        "module.OnnxParserRefitter",
        "?.refit_from_bytes",
        "?.get_missing_weights",
        "?.refit_cuda_engine",
        "?.serialize_with_config",
        "?.deserialize_cuda_engine",
        "SerializationFlag.INCLUDE_REFIT",
    } <= names
    assert problems(source, SURFACES[version]) == []
    assert problems(source.replace("get_missing_weights", "get_absent"), SURFACES[version])


# The real thing.


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_real_engine_takes_the_weights_of_another_checkpoint(
    checkpoint: Path, new: Path, painted: Path, tmp_path: Path
) -> None:
    """The new weights move the masks: an engine that kept its own would fail its proof."""
    engine = tmp_path / "old.engine"
    proof = ["--data", str(painted), "--limit", "2"]
    build = ["--to", "tensorrt", "--fp16", "--refittable", "--batch", "1:2:4"]
    built = CliRunner().invoke(export, [str(checkpoint), *build, *proof, "--out", str(engine)])
    assert built.exit_code == 0, built.output
    for out in (tmp_path / "new.engine", engine):
        arguments = [str(new), "--refit", str(engine), *proof, "--out", str(out), "--force"]
        result = CliRunner().invoke(export, arguments)
        assert result.exit_code == 0, result.output
        refitted = open_artifact(out).manifest
        assert refitted.proof is not None
        assert refitted.proof.status == "proved"
        assert refitted.proof.reference_sha256 == open_artifact(new).manifest.sha256
