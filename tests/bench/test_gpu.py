"""The plan for a GPU: its commands exist, steps keep to their time, and the figures by hand."""

import json
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import click
import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from flowerseg.cli import main as flowerseg
from flowerseg.data import open_photos
from flowerseg.images import write_jpeg
from flowerseg.model import Architecture
from flowerseg.proof.routes import main as routes
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.folders.cli import main as folders
from flowerseg_bench.gpu.cli import main
from flowerseg_bench.gpu.figures import Figure, figures_of, finding_of
from flowerseg_bench.gpu.fused import FusedConvolution
from flowerseg_bench.gpu.pack import pack_photos, pack_results
from flowerseg_bench.gpu.plan import (
    DRY,
    OPTIONAL,
    Command,
    Setup,
    Step,
    checkpoint_of,
    model_of,
    modules_here,
    stages_of,
    steps_of,
)
from flowerseg_bench.gpu.probe import difference, networks_on, probe_into
from flowerseg_bench.gpu.run import Ended, Processes, StepRunner, environment_for
from flowerseg_bench.gpu.summary import summary_of
from flowerseg_bench.results import Measurement, Quality, Results, Row, Scenario
from flowerseg_bench.stats import latency, throughput

SETUP = Setup(Path("flowers"), Path("photos"), Path("work"), modules=tuple(OPTIONAL))
OTHERS = ("pytest", "pip", "torch.utils.collect_env")
"""Commands of a plan that are not this project's own."""


def commands(setup: Setup = SETUP) -> Iterator[Command]:
    for step in steps_of(setup):
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


@pytest.mark.parametrize("setup", [SETUP, replace(SETUP, device="cpu", scale=DRY)])
def test_every_command_is_one_that_the_project_has(setup: Setup) -> None:
    own = [c for c in commands(setup) if c.arguments[0] not in OTHERS]
    assert len(own) > 20
    for command in own:
        parsed(command)


def test_nothing_needs_a_gpu_in_a_dry_run() -> None:
    words = {
        word for c in commands(replace(SETUP, device="cpu", scale=DRY)) for word in c.arguments
    }
    assert not words & {"pytorch-fp16", "torch-compile-fp16", "--fp16", "cuda"}


def test_steps_have_names_of_their_own_and_what_is_timed_runs_alone() -> None:
    names = [step.name for step in steps_of(SETUP)]
    assert len(set(names)) == len(names)
    timed = ("bench-", "files-", "tuned-", "profile-", "probe", "folder")
    for stage in stages_of(SETUP):
        assert len(stage) == 1 or not any(step.name.startswith(timed) for step in stage)


def test_first_part_fits_the_first_command_and_most_important_comes_first() -> None:
    """The stages up to ResNet-101's table and the probe, each for as long as its longest step."""
    order = [step.name for step in steps_of(SETUP)]
    assert order.index("train-resnet101-224") < order.index("bench-resnet101-224")
    assert order.index("probe") < order.index("bench-mobilenet_v3-224")
    until = next(n for n, stage in enumerate(stages_of(SETUP)) if stage[0].name == "probe")
    slowest = [max(step.limit_s for step in stage) for stage in stages_of(SETUP)[:until]]
    assert sum(slowest) <= 600


def test_network_is_trained_only_where_it_has_no_checkpoint(tmp_path: Path) -> None:
    setup = replace(SETUP, work=tmp_path)
    (train,) = [step for step in steps_of(setup) if step.name == "train-resnet50-224"]
    assert train.commands()[0].arguments[1] == "train"
    checkpoint = checkpoint_of(setup, "resnet50-224")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")
    assert train.commands() == ()


def test_bench_has_rows_for_the_models_that_were_exported(tmp_path: Path) -> None:
    setup = replace(SETUP, work=tmp_path)
    (bench,) = [step for step in steps_of(setup) if step.name == "bench-resnet50-224"]
    checkpoint = checkpoint_of(setup, "resnet50-224")
    checkpoint.parent.mkdir(parents=True)
    package = model_of(setup, "resnet50-224", "pt2")
    package.write_bytes(b"")

    def opened(command: Command) -> list[str]:
        words = command.arguments
        return list(words[2 : words.index("--reference")])

    both, without_graphs, eager = bench.commands()
    assert opened(both) == opened(without_graphs) == [str(checkpoint), str(package)]
    assert opened(eager) == [str(checkpoint)]
    variants = [
        {option for option in ("--cuda-graph", "--layout") if option in command.arguments}
        for command in bench.commands()
    ]
    assert variants == [{"--cuda-graph", "--layout"}, {"--layout"}, set()]


def test_what_is_missing_is_left_out_and_told() -> None:
    setup = replace(SETUP, modules=("onnxruntime",))
    told = finding_of(setup, []).notes
    assert told == (
        'tensorrt is not installed for a GPU, so no row uses it: pip install "flowerseg[tensorrt]"',
    )
    kinds = {
        command.arguments[command.arguments.index("--to") + 1]
        for command in commands(setup)
        if "--to" in command.arguments
    }
    assert kinds == {"pt2", "onnx"}


@pytest.mark.parametrize("has_cuda", [False, True])
def test_onnx_runtime_for_the_cpu_is_not_one_for_a_gpu(
    has_cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider"] * has_cuda + ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr("flowerseg.doctor.runtimes.require_gpu", lambda: None)
    monkeypatch.setattr("flowerseg.backends.ort.try_provider", lambda _: "it computes")
    assert ("onnxruntime" in modules_here()) is has_cuda


def test_onnx_runtime_that_does_not_load_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowerseg_bench.gpu.plan.find_spec", lambda _: True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # an import raises ImportError
    assert "onnxruntime" not in modules_here()


# --- steps ---


class Toys:
    """Commands that end at once: `bad` fails, `slow` takes a minute of the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.seen: list[str] = []
        self.limits_s: list[float] = []
        self.is_stopped = False

    def clock(self) -> float:
        return self.now_s

    def run(self, command: Command, log: int, limit_s: float) -> int | None:
        self.seen.append(command.arguments[0])
        self.limits_s.append(limit_s)
        if command.arguments[0] == "slow":
            self.now_s += min(60.0, limit_s)
            return 0 if limit_s >= 60 else None
        return int(command.arguments[0] == "bad")

    def stop(self) -> None:
        self.is_stopped = True

    def run_steps(self, folder: Path, steps: list[Step], seconds: float = 1000.0) -> list[Ended]:
        self.seen, self.limits_s = [], []
        runner = StepRunner(folder, self, seconds, clock=self.clock)
        return runner.run_stages([(step,) for step in steps])


def step(name: str, *words: str, **options: object) -> Step:
    made = tuple(Command((word,)) for word in words)
    return replace(Step(name, lambda: made), **options)  # type: ignore[arg-type]  # fields by name


def test_step_that_fails_ends_and_the_others_go_on(tmp_path: Path) -> None:
    toys = Toys()
    may_fail = Step("b", lambda: (Command(("bad",), may_fail=True), Command(("good",))))
    ended = toys.run_steps(tmp_path, [step("a", "bad", "never"), may_fail])
    assert ended == [Ended("a", ("bad",), False, 0.0), Ended("b", ("bad",), True, 0.0)]
    assert toys.seen == ["bad", "bad", "good"]


def test_of_alternatives_the_first_that_succeeds_is_enough(tmp_path: Path) -> None:
    toys = Toys()
    steps = [
        step("a", "bad", "good", "never", is_one_enough=True),
        step("b", "bad", "bad", is_one_enough=True),
    ]
    ended = toys.run_steps(tmp_path, steps)
    assert [each.is_done for each in ended] == [True, False]
    assert toys.seen == ["bad", "good", "bad", "bad"]


def test_next_call_does_not_repeat_what_would_end_in_the_same_way(tmp_path: Path) -> None:
    toys = Toys()
    steps = [step("a", "good"), step("b", "bad"), step("c", "slow", limit_s=50.0)]
    first = toys.run_steps(tmp_path, steps)
    assert [each.is_final for each in first] == [True, True, True]
    assert toys.run_steps(tmp_path, steps) == first
    assert toys.seen == []
    again = StepRunner(tmp_path, toys, 1000.0, is_repeating=True, clock=toys.clock)
    again.run_stages([tuple(steps[:2])])
    assert toys.seen == ["bad"]


def test_next_call_repeats_what_was_cut_short_or_not_begun(tmp_path: Path) -> None:
    toys = Toys()
    steps = [step("a", "slow", limit_s=100.0), step("b", "good")]
    first = toys.run_steps(tmp_path, steps, seconds=45.0)
    assert [(each.is_begun, each.is_final) for each in first] == [(True, False), (False, False)]
    second = toys.run_steps(tmp_path, steps)
    assert toys.seen == ["slow", "good"]
    assert [each.is_done for each in second] == [True, True]


def test_step_has_its_own_limit_and_no_more_than_is_left(tmp_path: Path) -> None:
    toys = Toys()
    steps = [
        step("a", "slow", "slow", limit_s=100.0),  # the second is killed after 40 seconds
        step("b", "good", limit_s=150.0),
        step("c", "good", limit_s=151.0),
        step("d", "good", limit_s=30.0),
    ]
    ended = toys.run_steps(tmp_path, steps, seconds=150.0)
    assert toys.limits_s == [100.0, 40.0, 50.0, 30.0]
    assert [each.is_done for each in ended] == [False, True, False, True]
    assert not ended[2].is_begun  # 50 seconds are less than a third of 151
    assert not (tmp_path / "c").exists()
    assert "killed: its time was over" in (tmp_path / "a/log.txt").read_text()


def test_steps_of_a_stage_run_at_the_same_time(tmp_path: Path) -> None:
    meeting = Barrier(2)

    class Meeting(Toys):
        def run(self, command: Command, log: int, limit_s: float) -> int | None:
            meeting.wait(timeout=60)  # or the second one would never come
            return 0

    calls: list[int] = []
    runner = StepRunner(tmp_path, Meeting(), 1000.0, after_step=lambda: calls.append(1))
    ended = runner.run_stages([(step("a", "good"), step("b", "good"))])
    assert [each.is_done for each in ended] == [True, True]
    assert len(calls) == 2


def test_commands_end_where_the_run_is_interrupted(tmp_path: Path) -> None:
    class Interrupted(Toys):
        def run(self, command: Command, log: int, limit_s: float) -> int | None:
            raise KeyboardInterrupt

    toys = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        toys.run_steps(tmp_path, [step("a", "good"), step("b", "good")])
    assert toys.is_stopped
    assert not (tmp_path / "b").exists()


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> Command:
    """A command that runs `code`."""
    (folder / "toy_command.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Command(("toy_command",))


CHILD_THAT_STAYS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
pathlib.Path(sys.argv[0]).with_name("child").write_text(str(child.pid))
print("started", flush=True)
time.sleep({seconds})
"""


def is_running(pid: int) -> bool:
    """Whether a process computes; one that ended and that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends(pid: int) -> bool:
    for _ in range(500):
        if not is_running(pid):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(("seconds", "code"), [(600, None), (0, 0)])
def test_what_a_command_started_ends_with_it(
    seconds: int, code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its limit, and where it ends by itself and leaves a worker behind."""
    command = write_module(tmp_path, monkeypatch, CHILD_THAT_STAYS.format(seconds=seconds))
    processes = Processes(environment_for(SETUP))
    with (tmp_path / "log").open("w") as log:
        assert processes.run(command, log.fileno(), 600.0 if code == 0 else 5.0) == code
    assert (tmp_path / "log").read_text() == "started\n"
    assert ends(int((tmp_path / "child").read_text()))


def test_nothing_is_begun_once_the_run_was_stopped(tmp_path: Path) -> None:
    processes = Processes({})
    processes.stop()
    with (tmp_path / "log").open("w") as log:
        assert processes.run(Command(("this",)), log.fileno(), 10.0) is None
    assert (tmp_path / "log").read_text() == ""


def test_command_leaves_what_it_said_and_how_it_ended(tmp_path: Path) -> None:
    runner = StepRunner(tmp_path, Processes(environment_for(SETUP)), 600.0)
    (ended,) = runner.run_stages(
        [(Step("a", lambda: (Command(("flowerseg", "no-such-command")),)),)]
    )
    log = (tmp_path / "a/log.txt").read_text()
    assert not ended.is_done
    assert log.startswith("$ flowerseg no-such-command\n")
    assert "No such command" in log
    assert log.endswith("exit code 2\n\n")


def test_stages_are_listed_and_a_strange_step_is_refused() -> None:
    listed = CliRunner().invoke(main, ["run", "--list", "--dry-run"])
    assert listed.exit_code == 0, listed.output
    assert "bench-resnet101-64" in listed.stdout.splitlines()
    chosen = CliRunner().invoke(
        main, ["run", "--list", "--dry-run", "--steps", "facts,tests,probe"]
    )
    assert chosen.stdout.splitlines() == ["tests + facts", "probe"]
    strange = CliRunner().invoke(main, ["run", "--list", "--steps", "facts,dinner"])
    assert strange.exit_code == 2
    assert "no step 'dinner'" in strange.stderr


def test_photos_that_are_not_packed_are_asked_for(tmp_path: Path) -> None:
    options = ["--dry-run", "--data", str(tmp_path / "none"), "--work", str(tmp_path / "work")]
    result = CliRunner().invoke(main, ["run", *options])
    assert result.exit_code == 2
    assert "pack" in result.stderr


def test_run_leaves_an_archive_the_figures_and_a_summary(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Step("probe", lambda: (Command(("platform",)),))
    monkeypatch.setattr("flowerseg_bench.gpu.plan.stages_of", lambda _: [(probe,)])
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    options = ["--dry-run", "--data", str(painted), "--photos", str(painted / "jpg")]
    result = CliRunner().invoke(main, ["run", *options, "--work", str(tmp_path / "work")])
    assert result.exit_code == 0, result.output
    assert "== probe" in result.stdout
    assert "resnet101-64 on a GPU: it was not measured." in result.stdout
    with tarfile.open(tmp_path / "out/results.tar.gz") as archive:
        names = archive.getnames()
    assert {"results/RESULT.md", "results/probe/log.txt", "results/probe/STEP.json"} <= set(names)
    assert "models/mobilenet_v3-64/best.pt.json" in names  # the shipped model, copied
    assert not [name for name in names if name.endswith(".pt")]


def test_summary_ends_with_the_verdict_of_the_tests(tmp_path: Path) -> None:
    setup = replace(SETUP, work=tmp_path)
    table = setup.results / "bench-resnet101-224"
    table.mkdir(parents=True)
    (table / "summary.md").write_text(
        "# bench\n\n- note\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\nrest\n"
    )
    (setup.results / "tests").mkdir()
    (setup.results / "tests/log.txt").write_text("x\n" * 50 + "3 passed\nexit code 0\n\n")
    lines = summary_of(setup).splitlines()
    assert lines[:4] == ["== bench-resnet101-224", "| a | b |", "|--|--|", "| 1 | 2 |"]
    assert lines[-2:] == ["3 passed", "exit code 0"]


# --- what travels ---


def test_packed_photos_are_the_same_data_set(painted: Path, tmp_path: Path) -> None:
    (tmp_path / "photos/inside").mkdir(parents=True)
    write_jpeg(tmp_path / "photos/inside/a.jpg", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "photos/notes.txt").write_text("not a photo")
    copied = pack_photos(painted, tmp_path / "photos", tmp_path / "packed")
    for split in ("train", "val"):
        packed = open_photos(tmp_path / "packed/data", split)
        assert packed.fingerprint == open_photos(painted, split).fingerprint
    files = [path for path in (tmp_path / "packed").rglob("*") if path.is_file()]
    assert copied == sum(path.stat().st_size for path in files)
    assert [p.name for p in files if "photos" in p.parts] == ["a.jpg"]
    assert len(files) < sum(path.is_file() for path in painted.rglob("*"))  # no test photos


def test_archive_holds_results_without_models_caches_and_temporary_folders(
    tmp_path: Path,
) -> None:
    kept = ["results/a/log.txt", "models/n/best.pt.json"]
    left = ["models/n/best.pt", "cache/x.json", "results/a/.bench-1/x.json", "results/a/m.png"]
    for name in kept + left:
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text(name)
    for _ in range(2):  # it replaces the one before
        pack_results(tmp_path / "work", tmp_path / "out/results.tar.gz")
    with tarfile.open(tmp_path / "out/results.tar.gz") as archive:
        assert sorted(archive.getnames()) == sorted(kept)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.tar.gz"]


# --- probe ---


def test_fused_network_computes_what_the_eager_one_does(tmp_path: Path) -> None:
    lines: list[str] = []
    probe_into(tmp_path, 60.0, "cpu", on_line=lines.append)
    found = json.loads((tmp_path / "probe.json").read_text())["difference from FP32"]
    assert found["fused_levels"] < 0.5
    assert found["spread_levels"] > 30  # or equal bytes would mean nothing
    assert len(lines) == 1


def test_fused_network_in_half_rounds_as_the_eager_one_in_half() -> None:
    """What runs on the GPU, by the CPU's own kernels of half precision."""
    networks = networks_on("cpu", Architecture.RESNET50, (64, 64), is_half=True)
    found = difference(networks, "cpu", (64, 64))
    eager, fused = found["eager_levels"], found["fused_levels"]
    assert isinstance(eager, float)
    assert eager > 0
    assert fused == pytest.approx(eager, rel=0.2)


@pytest.mark.parametrize("has_addend", [False, True])
def test_joint_call_of_cudnn_takes_these_arguments(has_addend: bool) -> None:
    """Without a GPU torch finds no kernel; an argument that is wrong it would refuse before."""
    fused = FusedConvolution(torch.nn.Conv2d(4, 8, 3, padding=1, bias=True), torch.float32)
    features = torch.zeros((1, 4, 5, 5))
    with pytest.raises(NotImplementedError, match="cudnn_convolution"):
        fused.in_one_call(features, torch.zeros((1, 8, 5, 5)) if has_addend else None)


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
    setup = replace(SETUP, work=tmp_path)
    for table in ("bench-resnet101-224", "folder"):
        (setup.results / table).mkdir(parents=True)
    (setup.results / "bench-resnet101-224/results.json").write_text(tiny_results.to_json())
    late = Ended("probe", (), is_done=False, seconds=0.0, is_begun=False)
    finding = finding_of(setup, [Ended("facts", ("x",), False, 2.0), late])
    assert finding.notes[:2] == (
        "facts: FAILED in 2 s; failed: x",
        "probe: not begun, too little time was left",
    )
    assert json.dumps(finding.raw)
    assert len(finding.table.rows) == 7
    assert finding.table.rows[-1][1:4] == ("not measured", "at least 0.9", "-")

    speed = {"runtime": "pytorch-fp16 2.11 on H200", "batch": 64}
    told = json.dumps({"shares": [0.93], "speeds": [speed]})
    (setup.results / "folder/RESULT.json").write_text(told)
    finding = finding_of(setup, [])
    assert finding.table.rows[-1] == (
        "file to mask over engine and transfers",
        "0.93",
        "at least 0.9",
        "met",
        "pytorch-fp16 2.11 on H200, batch 64",
    )
    assert isinstance(figures_of(tiny_results)[0], Figure)
