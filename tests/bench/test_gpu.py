"""The steps on a GPU: that their commands exist, that none is lost, and the figures by hand."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import onnxruntime
import pytest
from click.testing import CliRunner

from flowerseg.cli import main as flowerseg
from flowerseg.proof.routes import main as routes
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.folders.cli import main as folders
from flowerseg_bench.gpu import run as running
from flowerseg_bench.gpu.cli import main
from flowerseg_bench.gpu.figures import Figure, figures_of, finding_of
from flowerseg_bench.gpu.plan import (
    OPTIONAL,
    Command,
    Setup,
    Step,
    model_of,
    modules_here,
    steps_of,
)
from flowerseg_bench.gpu.run import Ended, run_steps
from flowerseg_bench.results import Measurement, Quality, Results, Row, Scenario
from flowerseg_bench.stats import latency, throughput

SETUP = Setup(
    Path("flowers"), Path("out"), Path("work"), photos=Path("photos"), modules=tuple(OPTIONAL)
)


def commands() -> Iterator[Command]:
    for step in steps_of(SETUP):
        yield from step.commands()


def parsed(command: Command) -> click.Context:
    """As click understands it; wrong options and values raise."""
    groups: dict[str, click.Command] = {
        "flowerseg_bench.gpu": main,
        "flowerseg_bench.folders": folders,
        "flowerseg": flowerseg,
    }
    if command.arguments[0] == "flowerseg.proof.routes":
        return routes.make_context("routes", list(command.arguments[1:]))
    group = groups[command.arguments[0]]
    assert isinstance(group, click.Group)
    name, *arguments = command.arguments[1:]
    with click.Context(group) as parent:
        found = group.get_command(parent, name)
        assert found is not None
        return found.make_context(name, arguments, parent=parent)


def test_every_command_is_one_that_the_project_has() -> None:
    own = [c for c in commands() if c.arguments[0] != "pytest"]
    assert len(own) > 40
    for command in own:
        parsed(command)


def test_network_is_trained_only_where_it_has_no_checkpoint(tmp_path: Path) -> None:
    setup = replace(SETUP, work=tmp_path, networks=("resnet50",), sizes=(224,))
    (models,) = [step for step in steps_of(setup) if step.name == "models-resnet50-224"]
    assert models.commands()[0].arguments[1] == "train"
    (tmp_path / "resnet50-224").mkdir()
    (tmp_path / "resnet50-224/best.pt").write_bytes(b"")
    assert [c.arguments[1] for c in models.commands()] == ["export"] * 4 + ["verify"] * 2


def test_bench_has_a_row_for_what_was_exported_alone(tmp_path: Path) -> None:
    setup = replace(SETUP, work=tmp_path, networks=("resnet50",), sizes=(224,))
    (bench,) = [step for step in steps_of(setup) if step.name == "bench-resnet50-224"]
    checkpoint = tmp_path / "resnet50-224/best.pt"
    checkpoint.parent.mkdir()
    model_of(checkpoint, "onnx").write_bytes(b"")
    (command,) = bench.commands()
    models = [word for word in command.arguments if word.startswith(str(tmp_path))]
    assert models == [str(checkpoint), str(checkpoint.parent / "fp16.onnx")]


def test_what_is_missing_is_left_out_and_told() -> None:
    setup = replace(SETUP, modules=("onnxruntime",))
    told = finding_of(setup, []).notes
    assert told == (
        'tensorrt is not installed for a GPU, so no row uses it: pip install "flowerseg[tensorrt]"',
        'tensorrt_rtx is not installed for a GPU, so no row uses it: pip install "flowerseg[rtx]"',
    )
    kinds = {
        command.arguments[command.arguments.index("--to") + 1]
        for step in steps_of(setup)
        for command in step.commands()
        if "--to" in command.arguments
    }
    assert kinds == {"pt2", "onnx"}


@pytest.mark.parametrize("has_cuda", [False, True])
def test_onnx_runtime_for_the_cpu_is_not_one_for_a_gpu(
    has_cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider"] * has_cuda + ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    assert ("onnxruntime" in modules_here()) is has_cuda


def test_onnx_runtime_that_does_not_load_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowerseg_bench.gpu.plan.find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # an import raises ImportError
    assert "onnxruntime" not in modules_here()


# --- steps ---


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands succeed unless they are called `bad`."""
    seen: list[str] = []

    def succeeds(command: Command, log: int) -> bool:
        seen.append(command.arguments[0])
        return command.arguments[0] != "bad"

    monkeypatch.setattr(running, "_succeeds", succeeds)
    return seen


def step(name: str, *commands: Command) -> Step:
    return Step(name, lambda: commands)


def test_step_that_fails_ends_and_the_others_go_on(asked: list[str], tmp_path: Path) -> None:
    steps = [
        step("a", Command(("bad",)), Command(("never",))),
        step("b", Command(("bad",), may_fail=True), Command(("good",))),
    ]
    ended = run_steps(steps, tmp_path, clock=lambda: 0.0)
    assert ended == [Ended("a", ("bad",), False, 0.0), Ended("b", ("bad",), True, 0.0)]
    assert asked == ["bad", "bad", "good"]


def test_next_call_does_what_is_not_done(asked: list[str], tmp_path: Path) -> None:
    steps = [step("a", Command(("good",))), step("b", Command(("bad",)))]
    first = run_steps(steps, tmp_path, clock=lambda: 0.0)
    del asked[:]
    assert run_steps(steps, tmp_path, clock=lambda: 0.0) == first
    assert asked == ["bad"]


def test_no_step_begins_when_the_time_is_over(asked: list[str], tmp_path: Path) -> None:
    ticks = iter([0.0, 0.0, 0.0, 70.0, 70.0])
    steps = [step("a", Command(("good",))), step("b", Command(("good",)))]
    ended = run_steps(steps, tmp_path, begin_within_s=60.0, clock=lambda: next(ticks))
    assert [each.name for each in ended] == ["a"]
    assert not (tmp_path / "b").exists()


def test_command_leaves_what_it_said_and_how_it_ended(tmp_path: Path) -> None:
    steps = [step("a", Command(("flowerseg", "no-such-command")))]
    (ended,) = run_steps(steps, tmp_path)
    log = (tmp_path / "a/log.txt").read_text()
    assert not ended.is_done
    assert log.startswith("$ flowerseg no-such-command\n")
    assert "No such command" in log
    assert log.endswith("exit code 2\n\n")


def test_steps_are_listed_and_a_strange_one_is_refused(tmp_path: Path) -> None:
    options = ["run", "--data", "flowers", "--out", str(tmp_path)]
    listed = CliRunner().invoke(main, [*options, "--list", "--network", "resnet50"])
    assert listed.exit_code == 0, listed.output
    assert listed.stdout.split() == [
        "facts",
        "tests",
        "models-resnet50-224",
        "bench-resnet50-224",
        "profile-resnet50-224",
        "models-resnet50-520",
        "bench-resnet50-520",
    ]
    strange = CliRunner().invoke(main, [*options, "--steps", "facts,dinner"])
    assert strange.exit_code == 2
    assert "no step 'dinner'" in strange.stderr


def test_profile_names_what_takes_the_time(checkpoint: Path, tmp_path: Path) -> None:
    options = ["profile", str(checkpoint), "--device", "cpu", "--batch", "2"]
    done = CliRunner().invoke(main, [*options, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    table = (tmp_path / "profile.txt").read_text()
    assert "batch 2, 10 runs" in table
    assert "conv" in table


# --- figures ---


def made(results: Results, rows: list[Row], numbers: list[Measurement]) -> Results:
    return replace(results, rows=tuple(rows), measurements=tuple(numbers), baseline=0)


def number(
    item: Measurement,
    row: int,
    boundary: Boundary,
    batch: int,
    images_per_s: float,
    share: float | None = None,
) -> Measurement:
    return replace(
        item,
        row=row,
        boundary=boundary,
        scenario=Scenario.THROUGHPUT,
        batch=batch,
        latency=None,
        throughput=throughput([100], [1e5 / images_per_s]),
        share_of_limit=share,
    )


def single(item: Measurement, row: int, median_ms: float) -> Measurement:
    return replace(
        item,
        row=row,
        boundary=Boundary.ENGINE,
        scenario=Scenario.LATENCY,
        batch=1,
        latency=latency([median_ms] * 20),
        throughput=None,
    )


def test_figures_are_those_of_the_fastest_proved_row(tiny_results: Results) -> None:
    row, item = tiny_results.rows[0], tiny_results.measurements[0]
    good = Quality(40, agreement_iou=0.9991, flower_iou=0.970)
    half = replace(row, precision="fp16", is_unproven=False, quality=good)
    rows = [
        replace(row, name="eager", runtime="pytorch", quality=Quality(40, 1.0, "", 0.971)),
        replace(half, name="half", runtime="pytorch-fp16"),
        replace(half, name="graph", runtime="pytorch-fp16", cuda_graph=True),
        replace(half, name="unproved", runtime="tensorrt", is_unproven=True),
    ]
    engine = Boundary.ENGINE
    numbers = [
        number(item, 0, engine, 64, 400.0),
        number(item, 1, engine, 64, 2000.0, 0.23),
        number(item, 2, engine, 8, 9000.0, 0.9),  # a small batch
        number(item, 2, engine, 64, 4000.0, 0.46),
        number(item, 3, engine, 64, 9999.0, 0.99),
        single(item, 1, 9.0),
        single(item, 2, 2.0),
    ]
    figures = figures_of(made(tiny_results, rows, numbers))
    found = [(figure.value and round(figure.value, 4), figure.is_met) for figure in figures]
    assert found == [
        (0.46, False),
        (10.0, True),
        (2.0, True),
        (0.2222, True),
        (0.9991, True),
        (0.001, True),
    ]
    assert figures[0].by == "graph, batch 64"


def test_bars_are_held_against_the_fastest_eager_row(tiny_results: Results) -> None:
    """In any memory layout and with cuDNN's benchmark, but without a CUDA graph."""
    row, item = tiny_results.rows[0], tiny_results.measurements[0]
    full = replace(row, name="full", runtime="pytorch", precision="fp32")
    half = replace(row, name="half", runtime="pytorch-fp16", precision="fp16", is_unproven=False)
    rows = [
        replace(full, layout="channels-first"),
        replace(full, layout="channels-last", cudnn_benchmark=True),
        replace(full, cuda_graph=True),
        half,
        replace(half, cudnn_benchmark=True),
        replace(half, name="compiled", runtime="torch-compile-fp16"),
    ]
    speeds = [100.0, 200.0, 900.0, 1000.0, 1250.0, 2000.0]
    numbers = [number(item, n, Boundary.ENGINE, 64, speed) for n, speed in enumerate(speeds)]
    numbers += [single(item, 3, 8.0), single(item, 4, 5.0), single(item, 5, 2.0)]
    share, to_single, to_half, latency_ratio, *_ = figures_of(made(tiny_results, rows, numbers))
    assert (to_single.value, to_half.value) == pytest.approx((10.0, 1.6), rel=1e-3)
    assert latency_ratio.value == pytest.approx(0.4)
    assert share.by == "compiled, batch 64"


def test_eager_half_meets_the_bar_of_the_share_by_itself(tiny_results: Results) -> None:
    row, item = tiny_results.rows[0], tiny_results.measurements[0]
    half = replace(row, name="half", runtime="pytorch-fp16", precision="fp16", is_unproven=False)
    numbers = [number(item, 0, Boundary.ENGINE, 64, 900.0, 0.55)]
    share, to_single, to_half, *_ = figures_of(made(tiny_results, [half], numbers))
    assert (share.value, share.is_met) == (0.55, True)
    assert (to_single.value, to_half.value) == (None, 1.0)


def test_without_a_proved_row_nothing_is_met(tiny_results: Results) -> None:
    rows = [replace(row, precision="fp32") for row in tiny_results.rows]
    figures = figures_of(replace(tiny_results, rows=tuple(rows)))
    assert [figure.value for figure in figures[:5]] == [None] * 5
    assert not any(figure.is_met for figure in figures[:5])
    assert figures[0].cells == (
        "share of the FP16 matrix rate",
        "not measured",
        "at least 0.5",
        "-",
        "-",
    )


def test_finding_holds_the_steps_and_the_figures(tmp_path: Path, tiny_results: Results) -> None:
    folder = tmp_path / "bench-resnet101-224"
    folder.mkdir()
    (folder / "results.json").write_text(tiny_results.to_json())
    finding = finding_of(replace(SETUP, out=tmp_path), [Ended("facts", ("x",), False, 2.0)])
    assert finding.notes[0] == "facts: FAILED in 2 s; failed: x"
    assert json.dumps(finding.raw)
    assert len(finding.table.rows) == 7
    assert finding.table.rows[-1][1:4] == ("not measured", "at least 0.9", "-")

    (tmp_path / "folder").mkdir()
    speed = {"runtime": "pytorch-fp16 2.11 on H200", "batch": 64}
    told = json.dumps({"shares": [0.93], "speeds": [speed]})
    (tmp_path / "folder/RESULT.json").write_text(told)
    finding = finding_of(replace(SETUP, out=tmp_path), [])
    assert finding.table.rows[-1] == (
        "file to mask over engine and transfers",
        "0.93",
        "at least 0.9",
        "met",
        "pytorch-fp16 2.11 on H200, batch 64",
    )
    assert isinstance(figures_of(tiny_results)[0], Figure)
