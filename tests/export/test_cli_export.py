"""`flowerseg-export`: exit codes, what is left untouched, and what is never left half done.

The network's own export is tested in test_graph.py; here its graph is taken from a fixture.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import helper

from flowerseg.artifact import Artifact, manifest_path, open_artifact
from flowerseg.checkpoint import load_checkpoint
from flowerseg.data import open_photos
from flowerseg.errors import ArtifactError, ExportError
from flowerseg.images import resize_area
from flowerseg.proof import limits
from flowerseg.proofrecord import Fault, FaultKind, Proof
from flowerseg_export import export as export_module
from flowerseg_export.cli import export
from flowerseg_export.int8 import Calibration, Flavour

Export = Callable[..., Result]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "models/a.onnx"


@pytest.fixture
def run(
    checkpoint: Path, fp32_onnx: Artifact, out: Path, monkeypatch: pytest.MonkeyPatch
) -> Export:
    """Runs the command on the small checkpoint, without torch's seconds of tracing."""
    content = fp32_onnx.path.read_bytes()
    monkeypatch.setattr(
        export_module, "onnx_from_network", lambda *_: onnx.load_from_string(content)
    )

    def invoke(*options: str | Path, source: Path = checkpoint, target: Path = out) -> Result:
        arguments = [source, "--out", target, "--device", "cpu", *options]
        return CliRunner().invoke(export, [str(word) for word in arguments])

    return invoke


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_file_with_photos_is_proved(run: Export, out: Path, painted: Path) -> None:
    result = run("--data", painted, "--limit", "3")
    assert result.exit_code == 0, result.output
    assert f"{out}: PROVED on cpu, with 3 photos of flowers/val1[3] " in result.stdout
    assert "exporting to ONNX" in result.stderr
    proof = open_artifact(out).manifest.proof
    assert proof is not None
    assert (proof.status, proof.photos) == ("proved", 3)


def test_too_few_photos_are_refused_before_a_file_is_written(
    run: Export, out: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEAST_PHOTOS", 8)
    result = run("--data", painted, "--limit", "3")
    assert result.exit_code == 1
    assert "3 different photos, and a proof takes 8 at least" in result.stderr
    assert not out.exists()
    result = run("--data", painted, "--limit", "3", "--few-photos")
    assert result.exit_code == 0, result.output
    assert "Only 3 photos" in result.output
    assert "--few-photos" in open_artifact(out).manifest.rebuild


def test_file_is_proved_in_every_runtime_here(run: Export, out: Path, painted: Path) -> None:
    result = run("--data", painted, "--limit", "3")
    manifest = open_artifact(out).manifest
    assert manifest.proof is not None
    (other,) = manifest.further_proofs
    assert [(p.runtime, p.status) for p in (manifest.proof, other)] == [
        ("onnxruntime", "proved"),
        ("openvino", "proved"),
    ]
    assert other.how.startswith("executed by openvino ")
    assert other.reference_iou == manifest.proof.reference_iou
    assert f"proved in openvino too: agreement IoU {other.agreement_iou:.5f}" in result.stdout


def test_runtime_that_refuses_the_file_is_told_and_does_not_spoil_the_other_proof(
    run: Export, out: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ArtifactError("OpenVINO refuses it: planted")

    monkeypatch.setattr("flowerseg.backends.openvino_.open_onnx", refuse)
    result = run("--data", painted, "--limit", "2")
    assert result.exit_code == 0, result.output
    assert "NOT proved in openvino, which auto leaves alone" in result.stdout
    manifest = open_artifact(out).manifest
    assert (
        manifest.is_proved_in("onnxruntime", "cpu"),
        manifest.is_proved_in("openvino", "cpu"),
    ) == (
        True,
        False,
    )


def test_file_without_photos_is_written_and_not_proved(run: Export, out: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert f"{out}: not proved: no labelled photos were given (--data)" in result.stdout
    proof = open_artifact(out).manifest.proof
    assert proof is not None
    assert proof.status == "not run"


def test_json_is_the_manifest(run: Export, out: Path) -> None:
    told = json.loads(run("--json").stdout)
    assert told == json.loads(manifest_path(out).read_text())
    assert told["kind"] == "onnx"


def test_rebuild_command_is_in_the_manifest(run: Export, out: Path, checkpoint: Path) -> None:
    run()
    rebuild = open_artifact(out).manifest.rebuild
    assert rebuild == f"flowerseg-export {checkpoint} --to onnx --out {out} --force"


def test_engine_leaves_its_onnx_file_beside_it(run: Export, out: Path) -> None:
    engine = out.with_suffix(".engine")
    result = run("--to", "tensorrt-rtx", "--batch", "1:2:4", target=engine)
    assert result.exit_code == 0, result.output
    assert sorted(_files(out.parent)) == ["a.engine", "a.engine.json", "a.onnx", "a.onnx.json"]
    assert str(open_artifact(engine).manifest.batch) == "1:2:4"


def test_engine_with_several_profiles_records_each_and_the_whole_range(
    run: Export, out: Path
) -> None:
    engine = out.with_suffix(".engine")
    options = ("--batch", "1:1:1", "--batch", "2:2:4", "--batch", "5:8:8")
    result = run("--to", "tensorrt-rtx", *options, "--json", target=engine)
    assert result.exit_code == 0, result.output
    manifest = open_artifact(engine).manifest
    assert str(manifest.batch) == "1:8:8"
    assert [str(batch) for batch in manifest.profiles] == ["1:1:1", "2:2:4", "5:8:8"]
    assert "--batch 1:1:1 --batch 2:2:4 --batch 5:8:8" in manifest.rebuild
    assert json.loads(result.stdout)["profiles"][1] == {"min": 2, "opt": 2, "max": 4}


def test_engine_under_the_name_of_its_onnx_file_is_refused(run: Export, out: Path) -> None:
    result = run("--to", "tensorrt-rtx")
    assert result.exit_code == 1
    assert "a.engine" in result.stderr
    assert _files(out.parent) == {}


def test_file_that_fails_its_proof_is_kept_as_failed_and_the_exit_code_is_1(
    run: Export, fp32_onnx: Artifact, out: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(fp32_onnx.path)
    (sigmoid,) = [node for node in model.graph.node if node.op_type == "Sigmoid"]
    negated = helper.make_node("Neg", [sigmoid.input[0]], ["negated"])
    index = list(model.graph.node).index(sigmoid)
    sigmoid.input[0] = "negated"
    model.graph.node.insert(index, negated)
    monkeypatch.setattr(export_module, "onnx_from_network", lambda *_: model)
    result = run("--data", painted, "--limit", "2")
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "written, but not proved" in result.stderr
    assert f"{out}.proof.html shows where" in result.stderr
    assert "<em>not proved</em>" in out.with_name("a.onnx.proof.html").read_text()
    assert "Traceback" not in result.output
    proof = open_artifact(out).manifest.proof
    assert proof is not None
    assert proof.status == "failed"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fp16", "--tf32"], "--fp16 and --tf32 exclude each other"),
        (["--fp16", "--int8", "--tf32"], "--fp16 and --tf32 exclude each other"),
        (["--fp16", "--int8", "--data", "."], "--int8 with --fp16 is for engines (--to tensorrt"),
        (["--fp16", "--int8", "--to", "pt2", "--data", "."], "INT8 is made for ONNX and TensorRT"),
        (["--fp16", "--int8", "--to", "checkpoint", "--data", "."], "INT8 is made for ONNX and"),
        (["--int8"], "INT8 needs photos to calibrate on: --data"),
        (["--int8", "--to", "pt2", "--data", "."], "INT8 is made for ONNX and TensorRT"),
        (["--int8", "--tf32"], "exclude each other"),
        (["--tf32"], "TF32 is a mode of TensorRT's matrix units"),
        (["--keep-fp32", "classifier"], "--keep-fp32 leaves modules out of --fp16 or --int8"),
        (["--compute-capability", "8.9"], "--compute-capability is for TensorRT-RTX"),
        (["--optimisation-level", "6"], "6 is not in the range"),
        (["--calibration", "guess"], "'guess' is not one of"),
        (["--rebuild", "--to", "onnx"], "--rebuild takes --out from the engine's manifest"),
        (["--triton", "models"], "--triton takes proved files: give --data, or say --unproven"),
        (["--batch", "8"], "'8' is not MIN:OPT:MAX"),
        (["--batch", "8:4:2"], "is not MIN:OPT:MAX"),
        (["--batch", "1:2:x"], "is not MIN:OPT:MAX"),
        (["--batch", "1:1:1", "--batch", "2:8"], "'2:8' is not MIN:OPT:MAX"),
        (["--batch", "1:1:1", "--batch", "3:8:16"], "3:8:16 begins at 3, but 1:1:1 ends at 1"),
        (["--batch", "1:2:4", "--batch", "4:8:16"], "4:8:16 begins at 4, but 1:2:4 ends at 4"),
        (["--batch", "2:8:16", "--batch", "1:1:1"], "without a gap or an overlap"),
        (["--to", "coreml"], "'coreml' is not one of"),
        (["--device", "tpu"], "'tpu' is not auto, cpu, cuda or cuda:N"),
        (["--limit", "0"], "0 is not in the range"),
    ],
)
def test_wrong_usage_is_exit_2_and_writes_nothing(
    run: Export, out: Path, options: list[str], said: str
) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert _files(out.parent) == {}


@pytest.mark.parametrize(
    ("options", "target", "existing"),
    [
        ([], "a.onnx", "a.onnx"),
        (["--to", "tensorrt-rtx"], "a.engine", "a.engine"),
        (["--to", "tensorrt-rtx"], "a.engine", "a.onnx"),
    ],
)
def test_existing_file_is_refused_and_left_as_it_is(
    run: Export, out: Path, options: list[str], target: str, existing: str
) -> None:
    out.parent.mkdir()
    (out.parent / existing).write_bytes(b"precious")
    result = run(*options, target=out.parent / target)
    assert result.exit_code == 1
    assert f"{existing} exists. Choose another --out, or say --force." in result.stderr
    assert _files(out.parent) == {existing: b"precious"}


def test_existing_file_is_replaced_with_force(run: Export, out: Path) -> None:
    out.parent.mkdir()
    out.write_bytes(b"old")
    assert run("--force").exit_code == 0
    assert open_artifact(out).manifest.kind == "onnx"


def test_missing_checkpoint_is_exit_1_and_writes_nothing(run: Export, out: Path) -> None:
    result = run(source=out.parent / "none.pt")
    assert result.exit_code == 1
    assert "none.pt: no such model file" in result.stderr
    assert _files(out.parent) == {}


def test_graph_is_no_source_for_another_graph(run: Export, fp32_onnx: Artifact) -> None:
    result = run(source=fp32_onnx.path)
    assert result.exit_code == 1
    assert "is a model of kind onnx; flowerseg-export starts from a checkpoint" in result.stderr


def test_engine_from_a_graph_has_its_chain_and_precision(
    run: Export, fp16_onnx: Artifact, reference: Artifact, out: Path
) -> None:
    engine = out.with_suffix(".engine")
    result = run("--to", "tensorrt-rtx", source=fp16_onnx.path, target=engine)
    assert result.exit_code == 0, result.output
    assert sorted(_files(out.parent)) == ["a.engine", "a.engine.json"]
    manifest = open_artifact(engine).manifest
    assert manifest.precision == "fp16"
    chain = [parent.sha256 for parent in manifest.parents]
    assert chain == [reference.manifest.sha256, fp16_onnx.manifest.sha256]
    assert "no checkpoint was given (--reference)" in result.stdout


def test_graph_does_not_change_its_precision_on_the_way_to_an_engine(
    run: Export, fp32_onnx: Artifact, out: Path
) -> None:
    engine = out.with_suffix(".engine")
    result = run("--to", "tensorrt-rtx", "--fp16", source=fp32_onnx.path, target=engine)
    assert result.exit_code == 1
    assert "carries its own precision (fp32). Leave --fp16 out" in result.stderr
    assert _files(out.parent) == {}


def test_engine_is_rebuilt_for_this_machine(
    fp16_onnx: Artifact, rtx_engine: Artifact, copied: Callable[[Path], Path]
) -> None:
    graph, engine = copied(fp16_onnx.path), copied(rtx_engine.path)
    engine.write_bytes(b"built for another GPU")
    before = graph.read_bytes()
    result = CliRunner().invoke(export, [str(engine), "--rebuild", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert graph.read_bytes() == before
    manifest = open_artifact(engine).manifest
    assert (manifest.precision, str(manifest.batch)) == ("fp16", "1:4:8")
    assert manifest.parents == rtx_engine.manifest.parents


def test_misspelt_module_is_exit_1_and_writes_nothing(run: Export, out: Path) -> None:
    result = run("--fp16", "--keep-fp32", "backbon")
    assert result.exit_code == 1
    assert "--keep-fp32: 'backbon' matches no module with weights" in result.stderr
    assert _files(out.parent) == {}


def test_proved_file_goes_into_a_triton_repository(
    run: Export, out: Path, painted: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "served"
    result = run("--data", painted, "--limit", "2", "--triton", repository)
    assert result.exit_code == 0, result.output
    assert (repository / "a/1/model.onnx").read_bytes() == out.read_bytes()
    assert "flowerseg_proof" in (repository / "a/config.pbtxt").read_text()


def test_file_that_triton_cannot_serve_is_refused_before_the_work(
    run: Export, out: Path, painted: Path, tmp_path: Path
) -> None:
    engine = out.with_suffix(".engine")
    options = ("--to", "tensorrt-rtx", "--triton", tmp_path / "served", "--data", painted)
    result = run(*options, target=engine)
    assert result.exit_code == 1
    assert "not files of kind tensorrt-rtx" in result.stderr
    assert _files(out.parent) == {}


def test_file_that_fails_its_proof_does_not_reach_triton(
    run: Export, out: Path, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = SimpleNamespace(
        proof=Proof("failed", "executed", faults=(Fault(FaultKind.OVERFLOW, detail="planted"),))
    )
    monkeypatch.setattr(export_module, "prove", lambda *_, **__: failed)
    monkeypatch.setattr(export_module, "write_due_report", lambda *_: None)
    result = run("--data", painted, "--triton", tmp_path / "served")
    assert result.exit_code == 1
    assert "written, but not proved: planted" in result.stderr
    assert not (tmp_path / "served").exists()


def test_missing_photos_are_exit_1_before_anything_is_written(run: Export, out: Path) -> None:
    result = run("--data", out.parent / "none")
    assert result.exit_code == 1
    assert "no such folder of labelled photos" in result.stderr
    assert _files(out.parent) == {}


@pytest.mark.usefixtures("no_gpu")
def test_tensorrt_engine_without_a_gpu_is_exit_1_before_anything_is_written(
    run: Export, out: Path
) -> None:
    result = run("--to", "tensorrt", target=out.with_suffix(".engine"))
    assert result.exit_code == 1
    assert "use --to tensorrt-rtx or --to onnx" in result.stderr
    assert _files(out.parent) == {}


def test_builder_that_fails_leaves_no_engine_and_no_half_file(
    run: Export, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise ExportError("TensorRT's build failed: out of memory")

    monkeypatch.setattr(export_module, "engine_from_onnx", fail)
    result = run("--to", "tensorrt-rtx", target=out.with_suffix(".engine"))
    assert result.exit_code == 1
    assert "out of memory" in result.stderr
    assert sorted(_files(out.parent)) == ["a.onnx", "a.onnx.json"]  # whole, and its parent
    assert open_artifact(out).manifest.proof is None


def test_compiler_that_fails_half_way_leaves_nothing(
    run: Export, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_network: object, _size: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise ExportError("no compiler")

    monkeypatch.setattr(export_module, "write_pt2", fail)
    assert run("--to", "pt2", target=out.with_suffix(".pt2")).exit_code == 1
    assert _files(out.parent) == {}


def test_int8_calibrates_on_the_training_split_and_proves_on_the_other(
    run: Export, out: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def quantise(
        model: onnx.ModelProto,
        frames: list[np.ndarray],
        flavour: Flavour,
        calibration: Calibration,
        keep_fp32: tuple[str, ...],
        half: onnx.ModelProto | None,
    ) -> onnx.ModelProto:
        seen.extend(frames)
        assert half is None
        assert (flavour, calibration) == (Flavour.CPU, Calibration.PERCENTILE)
        assert keep_fp32 == ("classifier.4", "backbone.0")
        return model

    monkeypatch.setattr(export_module, "int8_from_onnx", quantise)
    options = (
        "--calibration",
        "percentile",
        "--keep-fp32",
        "classifier.4",
        "--keep-fp32",
        "backbone.0",
    )
    result = run("--int8", *options, "--data", painted, "--limit", "2")
    assert result.exit_code == 0, result.output
    train = [resize_area(p.read_rgb(), (64, 64)) for p in open_photos(painted, "trn1").photos]
    np.testing.assert_array_equal(np.stack(seen), np.stack(train))
    manifest = open_artifact(out).manifest
    assert manifest.precision == "int8"
    assert manifest.quantisation == "uint8 activations, 7-bit weights; percentile over 12 photos"
    assert manifest.keep_fp32 == ("classifier.4", "backbone.0")
    assert manifest.proof is not None
    assert manifest.proof.data.startswith("flowers/val1[2] ")


def test_compact_checkpoint_is_half_as_large_and_proved(
    run: Export, checkpoint: Path, tmp_path: Path, painted: Path
) -> None:
    out = tmp_path / "compact.pt"
    result = run("--to", "checkpoint", "--fp16", "--data", painted, target=out)
    assert result.exit_code == 0, result.output
    assert f"{out}: PROVED on cpu, with 6 photos" in result.stdout
    assert out.stat().st_size < 0.53 * checkpoint.stat().st_size
    manifest = open_artifact(out).manifest
    assert (manifest.kind, manifest.precision) == ("checkpoint", "fp32")
    assert [parent.name for parent in manifest.parents] == [checkpoint.name]
    _, network = load_checkpoint(out)
    _, original = load_checkpoint(checkpoint)
    stored = network.state_dict()
    for name, tensor in original.state_dict().items():
        assert stored[name].dtype is tensor.dtype
        # Of a BatchNorm a variance may be larger than half can hold: it stays as it is.
        is_of_convolution = tensor.ndim == 4 or name == "classifier.4.bias" or ".fc" in name
        expected = tensor.half().float() if is_of_convolution else tensor
        assert torch.equal(stored[name], expected)
    # And it is a checkpoint like any other: others are made from it.
    onnx_file = tmp_path / "from_compact.onnx"
    assert run(source=out, target=onnx_file).exit_code == 0
