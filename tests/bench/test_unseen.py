"""Correct files are no false alarms, wrong ones are found, and what quantisation costs is apart."""

import dataclasses
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from flowerseg.artifact import Artifact, Precision, publish
from flowerseg.errors import DataError
from flowerseg.proof import LIMITS
from flowerseg_bench.unseen.cli import main
from flowerseg_bench.unseen.measure import QUANTILES, Setup, measure_unseen


@pytest.fixture
def setup(checkpoint: Path, fp32_onnx: Artifact, painted: Path) -> Setup:
    return Setup(
        checkpoint=checkpoint,
        models=(fp32_onnx.path,),
        photos=painted / "jpg",
        limit=8,
        sample=3,
        resamples=5,
        device="cpu",
    )


def test_correct_file_is_no_false_alarm_in_any_runtime(setup: Setup) -> None:
    finding = measure_unseen(setup)
    assert finding.headline.startswith("0 of 10 proofs of correct files of small.pt were false")
    assert [row[0] for row in finding.table.rows] == [
        "small.onnx in openvino",
        "small.onnx in onnxruntime",
    ]
    assert all(row[-2:] == ("0", "0") for row in finding.table.rows)
    assert finding.raw["verdicts"][0]["agreement_quantiles"] == [1.0] * len(QUANTILES)


def test_wrong_file_fails_on_every_sample(
    setup: Setup, fp32_onnx: Artifact, tmp_path: Path
) -> None:
    model = onnx.load(fp32_onnx.path)
    (node,) = (node for node in model.graph.node if node.op_type == "Transpose")
    node.attribute[0].ints[:] = [0, 3, 2, 1]
    bad = publish(tmp_path / "bad.onnx", fp32_onnx.manifest, lambda p: onnx.save(model, str(p)))
    finding = measure_unseen(dataclasses.replace(setup, models=(bad.path,)))
    assert [row[-2:] for row in finding.table.rows] == [("5", "0"), ("5", "0")]
    assert any(note.startswith("On all photos: bad.onnx in ") for note in finding.notes)


def test_what_quantisation_costs_is_refused_and_no_alarm(
    setup: Setup, int8_onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = dataclasses.replace(LIMITS[Precision.INT8], agreement_iou=0.9999)
    monkeypatch.setitem(LIMITS, Precision.INT8, tight)
    finding = measure_unseen(dataclasses.replace(setup, models=(int8_onnx.path,)))
    assert [row[-2:] for row in finding.table.rows] == [("0", "5"), ("0", "5")]


def test_samples_are_drawn_without_replacement_and_are_not_larger_than_the_photos(
    setup: Setup,
) -> None:
    with pytest.raises(DataError, match="fewer than --sample 9 photos"):
        measure_unseen(dataclasses.replace(setup, sample=9))
    whole = measure_unseen(dataclasses.replace(setup, sample=8, resamples=2))
    first = whole.raw["verdicts"][0]
    assert set(first["agreement_quantiles"]) == {first["proof"]["alone_agreement_iou"]}


def test_command_writes_what_it_found(setup: Setup, tmp_path: Path) -> None:
    words = [setup.checkpoint, *setup.models, "--photos", setup.photos, "--limit", 4, "--sample", 3]
    words += ["--resamples", 2, "--device", "cpu", "--out", tmp_path / "out"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "RESULT.md").read_text()
    assert "Proofs on 3 of 4 photos, 2 times" in text
