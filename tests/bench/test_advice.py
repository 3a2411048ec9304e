"""Which setting is advised, of rows whose numbers are planted."""

from dataclasses import replace
from pathlib import Path

import pytest

from flowerseg.tuned import read_tuned
from flowerseg_bench.advice import FASTEST, advice_of, tuned_from, with_bound
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.jobs import Turn
from flowerseg_bench.report import TUNED, write_report
from flowerseg_bench.results import Measurement, Results, Scenario
from flowerseg_bench.suite import Cell, measurement_of
from flowerseg_bench.tables import advice_in_brief
from flowerseg_bench.timing import Laps, WarmUp

# By row and batch: photos/s from file to mask, photos/s in memory, ms of a batch.
PLANTED = {
    ("two threads", 1): (50.0, 100.0, 12.0),
    ("two threads", 8): (80.0, 160.0, 60.0),
    ("one thread", 1): (60.0, 70.0, 16.0),
    ("one thread", 8): (90.0, 90.0, 99.0),
    ("unproven", 1): (500.0, 500.0, 1.0),
}
NAMES = ["two threads", "one thread", "unproven"]


@pytest.fixture
def results(tiny_results: Results) -> Results:
    row = tiny_results.rows[0]
    rows = (
        replace(row, name="two threads", threads=2, cudnn_benchmark=True, layout="channels-last"),
        replace(row, name="one thread", threads=1),
        replace(row, name="unproven", is_unproven=True),
    )
    items = [
        item
        for (name, batch), (file, memory, batch_ms) in PLANTED.items()
        for item in (
            measured(NAMES.index(name), Boundary.FILE, batch, file, None),
            measured(NAMES.index(name), Boundary.TRANSFERS, batch, memory, batch_ms),
        )
    ]
    return replace(tiny_results, rows=rows, measurements=tuple(items), advice=())


def measured(
    row: int, boundary: Boundary, batch: int, images_per_s: float, batch_ms: float | None
) -> Measurement:
    """Forty equal runs at that speed."""
    stages_s = () if batch_ms is None else ((0.0, batch_ms / 1e3, 0.0, 0.0),) * 40
    turn = Turn(Laps(stages_s, 40 * batch / images_per_s), 40 * batch)
    cell = Cell(boundary, Scenario.THROUGHPUT, batch)
    return measurement_of(cell, row, WarmUp(1, 1.0, True), [turn])


def bounded(results: Results, bound_ms: float) -> Results:
    asked = replace(
        results, settings=replace(results.settings, latency_bound_ms=bound_ms), advice=()
    )
    return replace(asked, advice=advice_of(asked))


def test_most_photos_a_second_is_counted_from_file_to_mask_of_proven_rows(results: Results) -> None:
    (choice,) = advice_of(results)

    assert (choice.goal, NAMES[choice.row], choice.batch) == (FASTEST, "one thread", 8)
    assert (choice.images_per_s, choice.batch_ms) == (90.0, 99.0)


@pytest.mark.parametrize(
    ("bound_ms", "name", "batch"),
    [(15.0, "two threads", 1), (60.0, "two threads", 8), (200.0, "two threads", 8)],
)
def test_within_a_bound_the_fastest_setting_whose_batch_keeps_it(
    results: Results, bound_ms: float, name: str, batch: int
) -> None:
    _, choice = bounded(results, bound_ms).advice

    assert (choice.goal, NAMES[choice.row], choice.batch) == (with_bound(bound_ms), name, batch)


def test_a_bound_that_nothing_keeps_is_said_and_leaves_no_setting(
    results: Results, tmp_path: Path
) -> None:
    found = bounded(results, 5.0)

    assert [choice.goal for choice in found.advice] == [FASTEST]
    assert advice_in_brief(found)[-1] == f"{with_bound(5.0)}: none of these settings"
    assert tuned_from(found) is None
    assert TUNED not in write_report(found, tmp_path)
    for name in ("summary.md", "report.html"):
        assert with_bound(5.0) in (tmp_path / name).read_text()


def test_the_setting_for_predict_is_the_advice_with_the_iou_of_the_same_row(
    results: Results, tmp_path: Path
) -> None:
    found = bounded(results, 15.0)
    write_report(found, tmp_path)

    tuned = read_tuned(tmp_path / TUNED)

    row = found.rows[0]
    assert (tuned.runtime, tuned.batch, tuned.threads) == ("onnxruntime", 1, 2)
    assert (tuned.cudnn_benchmark, tuned.layout) == (True, "channels-last")
    assert (tuned.model, tuned.sha256) == (Path(row.file).name, row.sha256)
    assert (tuned.goal, tuned.images_per_s) == (with_bound(15.0), 100.0)
    assert tuned.flower_iou == row.quality.flower_iou


def test_batch_that_was_not_proved_is_not_advised(results: Results) -> None:
    rows = tuple(replace(row, proved_batch=4) for row in results.rows)
    (choice,) = advice_of(replace(results, rows=rows))
    assert (NAMES[choice.row], choice.batch) == ("one thread", 1)
