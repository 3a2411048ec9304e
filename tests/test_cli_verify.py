"""`flowerseg-verify`: proves again, writes the proof, and fails where the masks differ."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from flowerseg.arrays import FLOWER, Labels
from flowerseg.artifact import (
    Artifact,
    Batch,
    Data,
    Precision,
    open_artifact,
    publish,
    rewrite_manifest,
)
from flowerseg.cli.verify import proof_text, verify
from flowerseg.data import PhotoSet
from flowerseg.evaluate import signatures_of
from flowerseg.images import write_png
from flowerseg.proof import LIMITS, limits
from flowerseg.proof.command import LIMIT_FIELDS, verify_command
from flowerseg.proofrecord import Limits, Proof
from flowerseg.seen import NO_PHOTOS, training_photos

Verify = Callable[..., Result]


@pytest.fixture
def model(fp32_onnx: Artifact, copied: Callable[[Path], Path]) -> Artifact:
    """A copy of the FP32 export whose proof was lost."""
    artifact = open_artifact(copied(fp32_onnx.path))
    return rewrite_manifest(artifact, proof=None, further_proofs=())


@pytest.fixture
def run(model: Artifact, checkpoint: Path, painted: Path) -> Verify:
    def invoke(*options: str, **replaced: Path) -> Result:
        paths = {"model": model.path, "reference": checkpoint, "data": painted} | replaced
        arguments = [paths["model"], "--reference", paths["reference"], "--data", paths["data"]]
        words = [*map(str, arguments), "--device", "cpu", *options]
        return CliRunner().invoke(verify, words)

    return invoke


def test_proof_is_printed_and_written_into_the_manifest(run: Verify, model: Artifact) -> None:
    result = run("--limit", "3")
    assert result.exit_code == 0, result.output
    assert f"{model.path}: PROVED on cpu, with 3 photos of flowers/val1[3] " in result.stdout
    assert "in batches of 1 to 16, and as folders are: batch 8" in result.stdout
    proof = open_artifact(model.path).manifest.proof
    assert proof is not None
    assert (proof.status, proof.photos) == ("proved", 3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_json_is_the_proof_of_the_runtime_that_was_asked_for(run: Verify, runtime: str) -> None:
    result = run("--limit", "2", "--json", "--runtime", runtime)
    report = json.loads(result.stdout)
    assert report["status"] == "proved"
    assert report["how"].startswith(f"executed by {runtime} ")
    assert report["batch_sizes"] == [1, 2, 3, 4, 5, 6, 7, 8, 13, 16]


def test_proof_in_another_runtime_stands_beside_the_first(run: Verify, model: Artifact) -> None:
    assert run("--limit", "2").exit_code == 0
    result = run("--limit", "2", "--runtime", "openvino")
    assert result.exit_code == 0, result.output
    assert "executed by openvino " in result.stdout
    manifest = open_artifact(model.path).manifest
    assert manifest.is_proved_in("onnxruntime", "cpu")
    assert manifest.is_proved_in("openvino", "cpu")


def test_masks_that_differ_are_exit_1_and_the_manifest_says_failed(
    run: Verify, model: Artifact
) -> None:
    rewrite_manifest(model, threshold=0.55)
    result = run()
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "is below 0.9995" in result.stderr
    assert "Traceback" not in result.output
    proof = open_artifact(model.path).manifest.proof
    assert proof is not None
    assert proof.status == "failed"


def _scale_result(model: Artifact, factor: float) -> None:
    """Give the file another graph, in which all probabilities are multiplied."""
    graph = onnx.load(model.path)
    (tensor,) = (t for t in graph.graph.initializer if t.name == "Mul:1")
    tensor.CopyFrom(numpy_helper.from_array(np.array(256 * factor, np.float32), "Mul:1"))
    manifest = open_artifact(model.path).manifest
    publish(model.path, manifest, lambda file: onnx.save(graph, str(file)))


def _measured(proof: Proof, field: str) -> float:
    if field != "iou_drop":
        return float(getattr(proof, field))
    assert proof.reference_iou is not None
    assert proof.model_iou is not None
    return proof.reference_iou - proof.model_iou


OF_INT8 = {"module_difference", "agreement_drop", "emulated_share"}


def test_each_limit_alone_makes_a_file_fail_and_is_recorded(run: Verify, model: Artifact) -> None:
    _scale_result(model, 200 / 256)
    assert run("--limit", "3").exit_code == 1
    fields = {option: field for option, field in LIMIT_FIELDS.items() if field not in OF_INT8}
    lenient = {option: 0 if option.startswith("min") else 1 for option in fields}
    failed = set()
    for option, field in fields.items():
        asked = lenient | {option: 1 - lenient[option]}
        words = [str(word) for o, n in asked.items() for word in (f"--{o.replace('_', '-')}", n)]
        result = run("--limit", "3", *words)
        proof = open_artifact(model.path).manifest.proof
        assert proof is not None
        given = {LIMIT_FIELDS[o]: float(n) for o, n in asked.items()}
        assert proof.limits == Limits(**given, rounding=LIMITS[Precision.FP32].rounding)
        measured, limit = _measured(proof, field), asked[option]
        is_beyond = measured < limit if option.startswith("min") else measured > limit
        assert (result.exit_code, len(proof.faults)) == ((1, 1) if is_beyond else (0, 0)), option
        if is_beyond:
            failed.add(option)
    # The file is as wrong alone as in a batch, and its truth may even be better.
    assert {*fields} - failed <= {"max_batched", "max_batched_difference", "max_iou_drop"}


def test_report_junit_and_summary_are_written_where_they_are_asked_for(
    run: Verify, model: Artifact, tmp_path: Path
) -> None:
    out = tmp_path / "ci"
    files = {name: out / f"proof.{name}" for name in ("report", "junit", "summary")}
    words = [str(word) for name, path in files.items() for word in (f"--{name}", path)]
    result = run("--limit", "2", *words)
    assert result.exit_code == 0, result.output
    assert sorted(out.iterdir()) == sorted(files.values())
    assert "<em>proved</em>" in files["report"].read_text()
    suite = ET.fromstring(files["junit"].read_bytes())[0]
    assert (suite.attrib["name"], suite.attrib["tests"]) == (model.path.name, "9")
    command = files["summary"].read_text().split("```")[1].strip()
    assert shlex.split(command)[:2] == ["flowerseg-verify", str(model.path)]
    context = verify.make_context("verify", shlex.split(command)[1:])
    assert (context.params["limit"], context.params["device"]) == (2, "cpu")
    assert sorted(path.name for path in model.path.parent.iterdir()) == [
        "small.onnx",
        "small.onnx.json",
    ]


def test_failed_proof_leaves_a_report_beside_the_model(run: Verify, model: Artifact) -> None:
    report = model.path.with_name("small.onnx.proof.html")
    rewrite_manifest(model, threshold=0.55)
    result = run("--limit", "2")
    assert result.exit_code == 1
    assert f"{report} shows where" in result.stderr
    assert "Do not deploy this file" in report.read_text()
    rewrite_manifest(model, threshold=0.5)
    assert run("--limit", "2").exit_code == 0
    assert "<em>proved</em>" in report.read_text()  # what it said is no longer so


def test_failed_proof_is_reported_only_where_asked(
    run: Verify, model: Artifact, tmp_path: Path
) -> None:
    rewrite_manifest(model, threshold=0.55)
    report = tmp_path / "here.html"
    result = run("--limit", "2", "--report", str(report))
    assert f"{report} shows where" in result.stderr
    assert "Do not deploy" in report.read_text()
    assert not model.path.with_name("small.onnx.proof.html").exists()


def test_folder_that_takes_no_file_is_exit_1_before_the_proof(
    run: Verify, model: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    for option in ("--report", "--junit", "--summary"):
        result = run(option, str(tmp_path / "taken" / "a"))
        assert result.exit_code == 1
        assert "is a file, not a folder" in result.stderr
    assert open_artifact(model.path).manifest.proof is None


def test_disk_that_is_full_leaves_no_half_of_a_report_and_the_old_one(
    run: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def refuse_pages(handle: int) -> None:
        written = Path(f"/proc/self/fd/{handle}").read_bytes()
        if written.lower().startswith(b"<!doctype html"):
            raise OSError(28, "No space left on device")
        flush(handle)

    report = tmp_path / "a.html"
    report.write_text("old")
    monkeypatch.setattr(os, "fsync", refuse_pages)
    result = run("--limit", "2", "--report", str(report))
    assert result.exit_code == 1
    assert "the disk is full" in result.stderr
    assert report.read_text() == "old"
    assert not list(tmp_path.glob(".tmp-*"))


def test_command_says_what_was_asked_for_and_is_quoted() -> None:
    asked = {"reference": Path("my a.pt"), "data": Path("d"), "limit": None, "device": "auto"}
    asked |= {"max_flipped": 0.0, "split": "val", "cuda_graph": None}
    command = "flowerseg-verify m.onnx --reference 'my a.pt' --data d --split val --max-flipped 0.0"
    assert verify_command(Path("m.onnx"), asked) == command
    asked |= {"cuda_graph": True}
    assert verify_command(Path("m.onnx"), asked) == f"{command} --cuda-graph"
    asked |= {"few_photos": True}
    assert verify_command(Path("m.onnx"), asked) == f"{command} --few-photos --cuda-graph"
    asked = {"reference": Path("a.pt"), "photos": Path("p")}
    assert verify_command(Path("m.onnx"), asked) == (
        "flowerseg-verify m.onnx --reference a.pt --photos p"
    )


def test_cuda_graph_without_a_gpu_is_refused(run: Verify) -> None:
    result = run("--limit", "2", "--cuda-graph")
    assert result.exit_code == 1
    assert "no CUDA graph of onnxruntime on cpu" in result.stderr


def test_largest_batch_is_for_models_that_take_any(run: Verify, model: Artifact) -> None:
    result = run("--limit", "2", "--largest-batch", "2", "--json")
    assert json.loads(result.stdout)["batch_sizes"] == [1, 2]
    rewrite_manifest(model, batch=Batch(1, 2, 4))
    refused = run("--limit", "2", "--largest-batch", "2")
    assert refused.exit_code == 1
    assert "takes batches of 1:2:4, and all of them are proved" in refused.stderr


@pytest.mark.parametrize("fixture", ["fp32_onnx", "fp16_onnx", "rtx_engine"])
def test_text_fits_into_100_columns(fixture: str, request: pytest.FixtureRequest) -> None:
    found: Artifact = request.getfixturevalue(fixture)
    lines = proof_text(found).splitlines()
    # What begins with the path, which is as long as it is, has the width that the user chose.
    assert all(len(line) <= 100 for line in lines if not line.startswith(str(found.path)))


def test_other_split_is_used_when_named(run: Verify) -> None:
    report = json.loads(run("--split", "tst1", "--limit", "2", "--json").stdout)
    assert report["data"].startswith("flowers/tst1[2] ")


def test_checkpoint_held_to_itself_keeps_the_proof_that_it_had(
    run: Verify, checkpoint: Path, copied: Callable[[Path], Path], fp32_onnx: Artifact
) -> None:
    own = open_artifact(copied(checkpoint))
    telling = fp32_onnx.manifest.proof
    rewrite_manifest(own, proof=telling)
    result = run("--limit", "2", model=own.path, reference=own.path)
    assert result.exit_code == 0, result.output
    assert "agreement with PyTorch FP32: IoU 1.00000 " in result.stdout
    assert "is the reference itself" in " ".join(result.stderr.split())
    assert open_artifact(own.path).manifest.proof == telling


def test_wrong_file_is_exit_1_and_the_manifest_stays(
    run: Verify, model: Artifact, tmp_path: Path
) -> None:
    for replaced, said in [
        ({"model": tmp_path / "none.onnx"}, "no such model file"),
        ({"reference": tmp_path / "none.pt"}, "no such model file"),
        ({"reference": model.path}, "the reference must be a checkpoint"),
        ({"data": tmp_path / "none"}, "no such folder of labelled photos"),
    ]:
        result = run(**replaced)
        assert result.exit_code == 1
        assert said in result.stderr
    assert open_artifact(model.path).manifest.proof is None


@pytest.mark.parametrize(
    "options",
    [
        ["--limit", "0"],
        ["--device", "gpu"],
        ["--runtime", "tensorflow"],
        ["--min-agreement", "1.1"],
        ["--max-flipped", "-0.1"],
        ["--report", "."],
    ],
)
def test_wrong_usage_is_exit_2(run: Verify, options: list[str]) -> None:
    assert run(*options).exit_code == 2


Relabel = Callable[[Labels], Labels]


def _relabelled(photos: PhotoSet, root: Path, relabel: Relabel) -> Path:
    """The photos with other masks, as a folder whose list `all` has them all."""
    for item in photos.photos:
        shown = np.choose(relabel(item.read_labels()), (0, 255, 128)).astype(np.uint8)
        write_png(root / "photos" / f"{item.name}.png", item.read_rgb())
        write_png(root / "masks" / f"{item.name}.png", shown)
    (root / "all.txt").write_text("".join(f"{item.name}\n" for item in photos.photos))
    return root


@pytest.mark.parametrize(
    ("relabel", "kind", "reason"),
    [
        (lambda labels: np.full_like(labels, 2), "no-labelled-pixel", "all masks are void"),
        (lambda labels: np.full_like(labels, 0), "no-labelled-flower", "No flower is labelled"),
        (np.ones_like, "no-labelled-background", "No background is labelled"),
    ],
)
def test_labels_of_one_class_give_no_score_and_prove_agreement_alone(
    run: Verify, val_photos: PhotoSet, tmp_path: Path, relabel: Relabel, kind: str, reason: str
) -> None:
    data = _relabelled(val_photos, tmp_path / "flowers", relabel)
    result = run("--split", "all", data=data)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert ": AGREEMENT PROVED on cpu, with 6 photos of flowers/all" in text
    assert "against truth: n/a" in text
    assert reason in text
    report = json.loads(run("--split", "all", "--json", data=data).stdout)
    assert report["model_iou"] is report["reference_iou"] is None
    assert report["agreement_iou"] > 0.999
    assert [caveat["kind"] for caveat in report["caveats"]] == [kind]
    assert reason in report["warnings"][0]


def test_labels_that_contradict_the_reference_are_warned_about(
    run: Verify, val_photos: PhotoSet, tmp_path: Path
) -> None:
    """The small network takes three quarters of each photo for flower: inverted it is worse."""

    def inverted_and_scarce(labels: Labels) -> Labels:
        found = np.full_like(labels, 2)
        found[labels == FLOWER] = 0
        found[:, :1] = 1
        return found

    data = _relabelled(val_photos, tmp_path / "flowers", inverted_and_scarce)
    page, junit = tmp_path / "page.html", tmp_path / "junit.xml"
    files = ("--report", str(page), "--junit", str(junit))
    result = run("--split", "all", *files, data=data)
    assert result.exit_code == 0, result.output
    shown = (result.stdout, page.read_text().partition("<main>")[2], junit.read_text())
    for text in shown:
        assert "The reference itself scores IoU 0." in " ".join(text.split())
    report = json.loads(run("--split", "all", "--json", data=data).stdout)
    caveat = report["caveats"][0]
    assert caveat["kind"] == "labels-contradicted"
    assert caveat["iou"] == report["reference_iou"] < 0.5


def test_photos_that_the_model_learned_from_are_counted(
    run: Verify, checkpoint: Path, copied: Callable[[Path], Path], val_photos: PhotoSet
) -> None:
    seen = training_photos(signatures_of(val_photos)[:2], NO_PHOTOS)
    data = Data("flowers", "", 2, 1, 0.4, seen=seen)
    known = rewrite_manifest(open_artifact(copied(checkpoint)), data=data)
    result = run("--json", reference=known.path)
    report = json.loads(result.stdout)
    assert report["warnings"][1:] == [
        "2 of these 6 photos were in the training set of the reference: the IoU against truth is "
        "optimistic."
    ]


def test_photos_without_labels_prove_agreement_alone(
    model: Artifact, checkpoint: Path, painted: Path
) -> None:
    words = [model.path, "--reference", checkpoint, "--photos", painted / "jpg", "--limit", 3]
    result = CliRunner().invoke(verify, [*map(str, words), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "AGREEMENT PROVED on cpu, with 3 photos of jpg[3] " in result.stdout
    assert "IoU against truth: n/a" in result.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "Give either --data"),
        (("--data", "d", "--photos", "p"), "Give either --data"),
        (("--photos", "p", "--split", "val"), "--split is for --data"),
    ],
)
def test_labelled_photos_and_those_without_labels_exclude_each_other(
    model: Artifact, checkpoint: Path, words: tuple[str, ...], reason: str
) -> None:
    command = [str(model.path), "--reference", str(checkpoint), *words]
    result = CliRunner().invoke(verify, command)
    assert result.exit_code == 2
    assert reason in result.stderr


def test_few_photos_are_refused_unless_they_are_accepted(
    run: Verify, model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LEAST_PHOTOS", 8)
    result = run("--limit", "3")
    assert result.exit_code == 1
    assert "3 different photos, and a proof takes 8 at least" in result.stderr
    assert "--few-photos" in result.stderr
    result = run("--limit", "3", "--few-photos")
    assert result.exit_code == 0, result.output
    assert "WARNING Only 3 photos: results that change places" in result.stdout
    assert open_artifact(model.path).manifest.is_proved_in("onnxruntime", "cpu")
