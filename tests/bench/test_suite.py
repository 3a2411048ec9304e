import json
from dataclasses import replace
from pathlib import Path

import pytest
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.ratios import why_not_comparable
from flowerseg_bench.results import Results, Scenario
from flowerseg_bench.rows import null_row
from flowerseg_bench.suite import Plan, cells_of, run_suite

from flowerseg.artifact import Manifest
from flowerseg.errors import ArtifactError, BackendUnavailable
from flowerseg.preprocess import Preprocess


def run(plan: Plan, tmp_path: Path) -> Results:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return run_suite(plan, tmp_path / "out", work)


@pytest.fixture
def results(tiny_onnx: Path, labelled_folder: Path, tmp_path: Path) -> Results:
    plan = Plan(
        (tiny_onnx,), data=labelled_folder, batches=(1, 2), seconds=0.04, runtimes=("onnxruntime",)
    )
    return run(plan, tmp_path)


def test_every_row_is_measured_at_every_boundary_in_both_scenarios(results: Results) -> None:
    made = {(m.row, m.boundary, m.scenario, m.batch) for m in results.measurements}

    latency = {(r, b, Scenario.LATENCY, 1) for r in (0, 1) for b in Boundary}
    throughput = {(r, b, Scenario.THROUGHPUT, n) for r in (0, 1) for b in Boundary for n in (1, 2)}
    assert made == latency | throughput
    assert len(results.measurements) == len(made)


def test_the_null_row_is_always_there_and_never_compared(results: Results) -> None:
    null = results.rows[-1]

    assert null.is_null
    assert all(m.ratio is None for m in results.measurements if results.rows[m.row].is_null)


def test_summaries_are_those_of_the_raw_samples_in_the_file(results: Results) -> None:
    for item in json.loads(results.to_json())["measurements"]:
        samples = sorted(ms for each in item["rounds"] for ms in each["samples_ms"])
        if item["latency"]:
            middle = (samples[(len(samples) - 1) // 2] + samples[len(samples) // 2]) / 2
            assert item["latency"]["median_ms"] == pytest.approx(middle, abs=1e-4)
            assert item["latency"]["n"] == len(samples)
        if item["throughput"]:
            images = sum(each["images"] for each in item["rounds"])
            wall_ms = sum(each["wall_ms"] for each in item["rounds"])
            expected = 1e3 * images / wall_ms
            assert item["throughput"]["images_per_s"] == pytest.approx(expected, abs=1e-3)


def test_flower_iou_of_a_perfect_model_is_one_and_agreement_needs_a_reference(
    results: Results,
) -> None:
    quality = results.rows[0].quality

    assert quality.flower_iou is not None
    assert quality.flower_iou > 0.9  # the frame is smaller than the photo: the border is soft
    assert quality.agreement_iou is None
    assert "no checkpoint" in quality.note


def test_photos_that_do_not_fill_a_batch_are_repeated_and_said_so(
    tiny_onnx: Path, tmp_path: Path, photo_folder: Path
) -> None:
    for photo in sorted(photo_folder.iterdir())[1:]:
        photo.unlink()
    plan = Plan(
        (tiny_onnx,), photos=photo_folder, batches=(4,), seconds=0.02, runtimes=("onnxruntime",)
    )

    results = run(plan, tmp_path)

    assert "only 1 photos for batches of 4: photos repeat within a batch" in results.notes


def test_a_batch_beyond_the_file_is_not_measured_and_said_so(
    tiny_onnx: Path, tmp_path: Path, photo_folder: Path
) -> None:
    plan = Plan(
        (tiny_onnx,), photos=photo_folder, batches=(8,), seconds=0.02, runtimes=("onnxruntime",)
    )

    results = run(plan, tmp_path)

    assert results.find(0, Boundary.ENGINE, Scenario.THROUGHPUT, 8) is None
    assert any("takes batches of 1 to 4: batch 8 is not measured" in n for n in results.notes)


def test_an_unproven_file_is_refused_unless_asked_for_and_then_marked(
    unproven_onnx: Path, tmp_path: Path, photo_folder: Path
) -> None:
    plan = Plan(
        (unproven_onnx,), photos=photo_folder, batches=(1,), seconds=0.02, runtimes=("onnxruntime",)
    )
    with pytest.raises(ArtifactError, match="proof"):
        run(plan, tmp_path)

    results = run(replace(plan, allow_unproven=True), tmp_path)

    assert results.rows[0].is_unproven


def test_a_runtime_that_was_asked_for_by_name_is_never_left_out(
    tiny_onnx: Path, tmp_path: Path, photo_folder: Path
) -> None:
    plan = Plan((tiny_onnx,), photos=photo_folder, device="cuda:99", runtimes=("onnxruntime",))

    with pytest.raises(BackendUnavailable):
        run(plan, tmp_path)


def test_rows_of_other_contracts_are_not_compared() -> None:
    small, large = (null_row(Preprocess(size_hw=(s, s))).row for s in (32, 64))
    small = replace(small, file="a.onnx")
    large = replace(large, file="b.onnx")

    assert why_not_comparable(large, small, True) == "other contract: 64 × 64, not 32 × 32"
    assert why_not_comparable(small, small, True) == ""


def test_folders_are_measured_last() -> None:
    cells = cells_of((1, 8))

    assert len(cells) == 9
    assert [c.boundary for c in cells[-2:]] == [Boundary.FILE] * 2
    assert all(c.scenario is Scenario.THROUGHPUT for c in cells[3:])


def test_a_manifest_names_what_a_row_takes(results: Results, tiny_onnx: Path) -> None:
    manifest: Manifest = _manifest(tiny_onnx)
    row = results.rows[0]

    assert (row.sha256, row.min_batch, row.max_batch) == (manifest.sha256, 1, 4)
    assert row.takes(4)
    assert not row.takes(5)


def _manifest(path: Path) -> Manifest:
    from flowerseg.artifact import open_artifact

    return open_artifact(path).manifest
