import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowerseg.errors import DataError
from flowerseg.preprocess import Preprocess
from flowerseg_bench import cli
from flowerseg_bench.against import compared, comparison_in_brief, comparison_table
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.conditions import Conditions
from flowerseg_bench.jobs import Turn
from flowerseg_bench.report import html, markdown
from flowerseg_bench.results import Measurement, Results, Scenario, Settings, Verdict, read_results
from flowerseg_bench.rows import null_row
from flowerseg_bench.suite import Cell, measurement_of
from flowerseg_bench.timing import Laps, WarmUp

STEADY_MS = (100.0, 101.0, 99.0, 100.0)
"""One run of each of four rounds; they lie 2 % apart."""

CONDITIONS = Conditions(
    date="2026-11-01T10:00:00+00:00",
    command="flowerseg-bench",
    system="Linux",
    processor="A processor",
    cores=2,
    load_at_start=0.1,
    gpu="",
    cuda="",
    commit="abc",
    versions={"torch": "2.9"},
    timer_resolution_ns=50.0,
)
SETTINGS = Settings((8,), 3.0, 4, "flowers", 40, "0123")


def measured(
    rounds_ms: Sequence[float], scenario: Scenario, row: int = 0, batch: int = 1
) -> Measurement:
    turns = [Turn(Laps(((ms / 1e3, 0.0),), ms / 1e3), batch) for ms in rounds_ms]
    cell = Cell(Boundary.ENGINE, scenario, batch)
    warm = WarmUp(10, 200.0, True)
    return measurement_of(cell, row, warm, turns)


def run_of(
    latency_ms: Sequence[float] = STEADY_MS, batch_ms: Sequence[float] = STEADY_MS
) -> Results:
    """One model and the null row; single runs of so many ms, and batches of eight."""
    null = null_row(Preprocess(size_hw=(224, 224))).row
    model = replace(
        null,
        name="flower.onnx · onnxruntime fp32",
        file="flower.onnx",
        sha256="5",
        precision="fp32",
    )
    measurements = (
        measured(latency_ms, Scenario.LATENCY),
        measured(batch_ms, Scenario.THROUGHPUT, batch=8),
        measured([0.001] * 4, Scenario.LATENCY, row=1),
    )
    return Results(CONDITIONS, SETTINGS, 0, (model, null), measurements, ())


def scaled(rounds_ms: Sequence[float], factor: float) -> list[float]:
    return [ms * factor for ms in rounds_ms]


def test_equal_runs_show_nothing() -> None:
    comparison = compared(run_of(), run_of(), "old.json")

    assert comparison.refusal == ""
    # The null row at the engine is the harness, and is left out.
    assert [change.verdict for change in comparison.changes] == [Verdict.SAME] * 2
    assert [change.times_faster.times for change in comparison.changes] == [1.0, 1.0]


def test_a_slowdown_of_a_fifth_is_found_and_only_where_it_was_planted() -> None:
    now = run_of(latency_ms=scaled(STEADY_MS, 1.2))

    comparison = compared(now, run_of(), "old.json")

    (slower,) = comparison.of(Verdict.SLOWER)
    assert (slower.scenario, slower.batch) == (Scenario.LATENCY, 1)
    assert (slower.then_ms, slower.now_ms) == (100.0, 120.0)
    # 100 / 120; the slowest round now (121.2) against the fastest then (99), and the reverse.
    assert slower.times_faster.times == pytest.approx(0.8333, abs=1e-4)
    assert slower.times_faster.low == pytest.approx(99 / 121.2, abs=1e-4)
    assert slower.times_faster.high == pytest.approx(101 / 118.8, abs=1e-4)
    assert len(comparison.of(Verdict.SAME)) == 1


def test_a_gain_of_a_fifth_in_throughput_is_found() -> None:
    now = run_of(batch_ms=scaled(STEADY_MS, 1 / 1.2))

    (faster,) = compared(now, run_of(), "old.json").of(Verdict.FASTER)

    assert (faster.scenario, faster.batch) == (Scenario.THROUGHPUT, 8)
    assert faster.then_ms == 12.5  # 400 ms for 4 batches of 8


@pytest.mark.parametrize(
    ("now_ms", "why"),
    [
        (scaled(STEADY_MS, 1.05), "the two closest rounds, 101 and 103.95, are 2.9 % apart"),
        ([130.0, 130.0, 130.0, 105.0], "one round lies 4 % from the slowest round then"),
        ([80.0, 120.0, 120.0, 120.0], "one round was faster than all rounds then"),
    ],
)
def test_noise_is_not_called_a_change(now_ms: list[float], why: str) -> None:
    comparison = compared(run_of(latency_ms=now_ms), run_of(), "old.json")

    assert not comparison.of(Verdict.SLOWER), why


def test_the_margin_is_five_per_cent_of_the_two_closest_rounds() -> None:
    flat = [100.0] * 4

    just, beyond = (
        compared(run_of(latency_ms=[ms] * 4), run_of(latency_ms=flat), "old.json")
        for ms in (104.9, 105.2)
    )

    assert not just.of(Verdict.SLOWER)
    assert len(beyond.of(Verdict.SLOWER)) == 1


@pytest.mark.parametrize(
    ("conditions", "settings", "message"),
    [
        ({"processor": "Another"}, {}, "another machine: processor Another then, A processor now"),
        ({"gpu": "H200"}, {}, "another machine: gpu H200 then, none now"),
        ({"cores": 16}, {}, "another machine: cores 16 then, 2 now"),
        ({"load_at_start": 2.5}, {}, "the machine was busy then: load 2.5"),
        ({}, {"photos_sha256": "4567"}, "other photos"),
        ({}, {"rounds": 3}, "it takes 4 rounds"),
    ],
)
def test_where_contracts_differ_nothing_is_claimed(
    conditions: dict[str, object], settings: dict[str, object], message: str
) -> None:
    then = run_of(latency_ms=scaled(STEADY_MS, 2.0))
    then = replace(
        then,
        conditions=replace(then.conditions, **conditions),
        settings=replace(then.settings, **settings),
    )

    comparison = compared(run_of(), then, "old.json")

    assert message in comparison.refusal
    assert comparison.changes == ()


def test_a_row_of_another_frame_size_or_device_is_not_compared() -> None:
    then = run_of()
    model, null = then.rows
    larger = replace(model, preprocess=Preprocess(size_hw=(520, 520)))
    elsewhere = replace(model, device="cuda:0", device_name="H200")

    for older, message in ((larger, "520 × 520"), (elsewhere, "it ran on cuda:0 (H200) then")):
        comparison = compared(run_of(), replace(then, rows=(older, null)), "old.json")
        assert any(message in note for note in comparison.notes)
        assert "nothing that was measured now" in comparison.refusal


def test_another_precision_is_another_row() -> None:
    then = run_of()
    half = replace(then.rows[0], name="flower.onnx · onnxruntime fp16", precision="fp16")

    comparison = compared(run_of(), replace(then, rows=(half, then.rows[1])), "old.json")

    assert "flower.onnx · onnxruntime fp32 was not measured then" in comparison.notes
    assert "flower.onnx · onnxruntime fp16 was not measured now" in comparison.notes


def test_other_files_and_versions_are_told() -> None:
    then = run_of()
    then = replace(
        then,
        conditions=replace(then.conditions, versions={"torch": "2.8"}),
        rows=(replace(then.rows[0], sha256="6"), then.rows[1]),
    )

    notes = compared(run_of(), then, "old.json").notes

    assert "torch 2.8 then, 2.9 now" in notes
    assert "flower.onnx · onnxruntime fp32 is another file: 6 then" in notes


def test_results_are_read_back_as_they_were_written(tiny_results: Results, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    compared_with = compared(tiny_results, tiny_results, "itself")
    results = replace(tiny_results, comparison=compared_with)
    file.write_text(results.to_json())

    assert read_results(file) == results


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1}', "results of schema 1; this flowerseg-bench reads schema 4"),
        ("[]", "results of schema None"),
        ("no", "not a readable results.json"),
        ('{"schema": 4, "rows": 3}', "not what flowerseg-bench writes"),
    ],
)
def test_what_is_no_result_of_this_schema_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "old.json"
    file.write_text(text)

    with pytest.raises(DataError, match=message):
        read_results(file)


def test_page_and_summary_name_what_became_slower_first() -> None:
    now = run_of(batch_ms=scaled(STEADY_MS, 1.25))
    comparison = compared(now, run_of(), "old.json")
    results = replace(now, comparison=comparison)

    assert comparison_table(comparison).rows[0][2:] == (
        *("batch 8", "80.0 photos/s", "64.0 photos/s", "0.80 (0.78–0.82)", "slower"),
    )
    sentence = comparison_in_brief(comparison)[0]
    assert sentence == "Against old.json of 2026-11-01: of 2 numbers 1 slower, 0 faster"
    for text in (html(results), markdown(results)):
        assert sentence in text
        assert "64.0 photos/s" in text


@pytest.mark.parametrize(
    ("then", "code", "message"),
    [
        (run_of(), 0, ""),
        (run_of(latency_ms=scaled(STEADY_MS, 0.8)), 1, "flower.onnx · onnxruntime fp32, engine"),
        (replace(run_of(), settings=replace(SETTINGS, photos_sha256="4567")), 2, "other photos"),
    ],
)
def test_the_command_fails_if_something_became_slower_and_differently_if_nobody_can_tell(
    then: Results, code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, out = tmp_path / "old.json", tmp_path / "out"
    old.write_text(then.to_json())
    monkeypatch.setattr(cli, "_run", lambda plan, out: run_of())
    out.mkdir()
    arguments = ["flower.onnx", "--photos", ".", "--against", str(old), "--out", str(out)]

    result = CliRunner().invoke(cli.bench, arguments)

    assert result.exit_code == code, result.output
    assert message in result.stderr
    written = json.loads((out / "results.json").read_text())["comparison"]
    assert bool(written["refusal"]) is (code == 2)


def test_an_older_schema_is_wrong_usage_before_anything_is_measured(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text('{"schema": 1}')
    arguments = ["no.onnx", "--photos", ".", "--against", str(old), "--out", str(tmp_path / "out")]

    result = CliRunner().invoke(cli.bench, arguments)

    assert result.exit_code == 2
    assert "reads schema 4" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
