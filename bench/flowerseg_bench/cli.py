"""`flowerseg-bench`: latency and throughput, with the worth of the masks in the same row."""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress

from flowerseg.cli.options import (
    CHOSEN_RUNTIMES,
    Command,
    FiniteRange,
    device_option,
    json_option,
    stderr_console,
    trust_option,
    unproven_option,
)
from flowerseg.cli.terminal import PlainConsole, description_column, echo
from flowerseg.errors import FlowersegError
from flowerseg.printable import printable

if TYPE_CHECKING:
    from flowerseg.backends.base import Layout
    from flowerseg_bench.results import Comparison, Results
    from flowerseg_bench.suite import Plan


SWITCHES = {"off": (False,), "on": (True,), "both": (False, True)}
LAYOUTS: dict[str | None, tuple["Layout", ...]] = {
    None: (),
    "channels-first": ("channels-first",),
    "channels-last": ("channels-last",),
    "both": ("channels-first", "channels-last"),
}
BOUNDARIES = ("engine", "engine+transfers", "file-to-mask")


class Untold(click.ClickException):
    """Two runs that say nothing about each other: neither a success nor a slowdown."""

    exit_code = 2


def parse_numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...]:
    """`1,8` -> (1, 8), sorted, each once; nothing -> ()."""
    if value is None:
        return ()
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,8")
    return tuple(sorted({int(part) for part in parts}))


@click.command(cls=Command)
@click.argument(
    "models",
    metavar="MODEL...",
    nargs=-1,
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
@click.option(
    "--photos",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of photos to time; without it, those of --data.",
)
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Labelled photos: gives the flower IoU of each row.",
)
@click.option("--split", default="val", show_default=True, help="Split of --data.")
@click.option(
    "--batch",
    "batches",
    default="1,8",
    show_default=True,
    metavar="N,N…",
    callback=parse_numbers,
    help="Batch sizes for throughput.",
)
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    metavar="S",
    type=FiniteRange(min=0, min_open=True),
    help="Time for each measurement of each row.",
)
@device_option
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    default=("auto",),
    type=click.Choice(["auto", *CHOSEN_RUNTIMES]),
    help="May be repeated. onnxruntime and openvino open .onnx files, the others .pt; auto "
    "(default) is every installed one that the file was proved in, of .pt eager PyTorch.",
)
@click.option(
    "--threads",
    metavar="N,N…",
    callback=parse_numbers,
    help="Rows for each number of threads, in onnxruntime and openvino on the CPU.",
)
@click.option(
    "--streams",
    default="1",
    show_default=True,
    metavar="N,N…",
    callback=parse_numbers,
    help="Rows for each number of batches computed at a time, in runtimes that can. More than one "
    "has photos/s only, with transfers and from file to mask.",
)
@click.option(
    "--cuda-graph",
    "cuda_graph",
    type=click.Choice(list(SWITCHES)),
    default="off",
    show_default=True,
    help="Record what a batch takes on the GPU once and replay it, in runtimes that can; both: a "
    "row with and one without.",
)
@click.option(
    "--cudnn-benchmark",
    "cudnn_benchmark",
    type=click.Choice(list(SWITCHES)),
    default="off",
    show_default=True,
    help="Let cuDNN time its kernels for each batch size first and take the fastest, in PyTorch's "
    "runtimes on a GPU; both: a row with and one without.",
)
@click.option(
    "--layout",
    type=click.Choice([name for name in LAYOUTS if name]),
    help="Memory layout of eager PyTorch in FP32 on a GPU; both: a row for each. Default: "
    "channels-first.",
)
@click.option(
    "--leave-out",
    "leave_out",
    multiple=True,
    metavar="GLOB",
    help="May be repeated. Leave out the rows whose name matches, as '*pytorch fp32*CUDA graph'.",
)
@click.option(
    "--boundary",
    "boundaries",
    multiple=True,
    type=click.Choice(BOUNDARIES),
    default=BOUNDARIES,
    help="May be repeated. What to measure.  [default: all three]",
)
@click.option(
    "--latency-bound",
    "latency_bound_ms",
    metavar="MS",
    type=FiniteRange(min=0, min_open=True),
    help="Advise the setting with most photos/s whose batches take no longer.",
)
@click.option(
    "--reference",
    metavar="CHECKPOINT",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What agreement is measured with; without it, the first .pt among the models.",
)
@click.option(
    "--against",
    metavar="OLD.json",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An older results.json: exit 1 if something became slower, 2 if nobody can tell.",
)
@unproven_option
@trust_option
@json_option
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Gets results.json, summary.md, report.html, and tuned.json for flowerseg-predict.",
)
def bench(
    models: tuple[Path, ...],
    photos: Path | None,
    data: Path | None,
    split: str,
    batches: tuple[int, ...],
    seconds: float,
    device: str,
    runtimes: tuple[str, ...],
    threads: tuple[int, ...],
    streams: tuple[int, ...],
    cuda_graph: str,
    cudnn_benchmark: str,
    layout: str | None,
    leave_out: tuple[str, ...],
    boundaries: tuple[str, ...],
    latency_bound_ms: float | None,
    reference: Path | None,
    against: Path | None,
    unproven: bool,
    trust: bool,
    as_json: bool,
    out: Path,
) -> None:
    """Measure models at three boundaries, on real photos, with their IoU beside their speed.

    A MODEL is a .pt, .onnx, .engine or .pt2 file with its manifest beside it. Rows take turns, and
    ratios are against the first .pt, or the first model.
    """
    if photos is None and data is None:
        raise click.UsageError("Give --photos DIR, --data DIR or both: zeros are not measured.")
    from flowerseg_bench.against import compared
    from flowerseg_bench.boundaries import Boundary
    from flowerseg_bench.report import terminal, write_report
    from flowerseg_bench.rows import Variants
    from flowerseg_bench.suite import Plan

    older = _older(against)
    plan = Plan(
        models=models,
        photos=photos,
        data=data,
        split=split,
        batches=batches,
        seconds=seconds,
        device=device,
        runtimes=runtimes,
        variants=Variants(
            threads, streams, SWITCHES[cuda_graph], SWITCHES[cudnn_benchmark], LAYOUTS[layout]
        ),
        leave_out=leave_out,
        boundaries=tuple(Boundary(name) for name in boundaries),
        latency_bound_ms=latency_bound_ms,
        reference=reference,
        allow_unproven=unproven,
        trust=trust,
    )
    results = _run(plan, out)
    if older is not None:
        results = replace(results, comparison=compared(results, older, str(against)))
    written = write_report(results, out)
    if as_json:
        echo(results.to_json(), nl=False)
    else:
        # A file has no width of its own; tables cut to 80 columns would lose their numbers.
        console = PlainConsole(width=None if sys.stdout.isatty() else 140)
        console.print(terminal(results, console.width))
    stderr_console().print(f"Written to {out}: {', '.join(written)}")
    if results.comparison is not None:
        _end_with(results.comparison)


def _older(against: Path | None) -> "Results | None":
    """The older results, read before any time is spent."""
    from flowerseg_bench.results import read_results

    if against is None:
        return None
    try:
        return read_results(against)
    except FlowersegError as error:
        raise click.BadParameter(str(error), param_hint="--against") from error


def _end_with(comparison: "Comparison") -> None:
    """Exit code 1 if something became slower, 2 if that cannot be told."""
    from flowerseg_bench.against import change_in_words
    from flowerseg_bench.results import Verdict

    if comparison.refusal:
        raise Untold(f"{comparison.against}: {comparison.refusal}.")
    if slower := comparison.of(Verdict.SLOWER):
        raise FlowersegError(*(change_in_words(change) for change in slower))


def _run(plan: "Plan", out: Path) -> "Results":
    from flowerseg.files import require_writable
    from flowerseg_bench.suite import run_suite

    require_writable(out)
    columns = (description_column(), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=stderr_console(), transient=True) as progress:
        task = progress.add_task("opening models, judging masks", total=None)

        def show(next_up: str, done: int, total: int) -> None:
            progress.update(task, description=printable(next_up), completed=done, total=total)

        with TemporaryDirectory(prefix=".bench-", dir=out) as work:
            return run_suite(plan, out, Path(work), on_progress=show)
