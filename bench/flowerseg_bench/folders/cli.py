"""`python -m flowerseg_bench.folders`: one command for each claim about folders of photos."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowerseg.cli.options import Command, F, trust_option, unproven_option

if TYPE_CHECKING:
    from flowerseg_bench.record import Finding

PROGRAM = "python -m flowerseg_bench.folders"

_PATH = click.Path(path_type=Path)


@click.group()
def main() -> None:
    """Measure what README says about folders of photos, on an otherwise idle machine.

    Each command leaves RESULT.json (raw numbers and conditions) and RESULT.md in --out.
    """


def _common_options(command: F) -> F:
    options = [
        click.option("--photos", required=True, type=_PATH, help="A folder, as often as needed."),
        click.option("--model", required=True, type=_PATH, help="A model file, proved."),
        click.option("--out", required=True, type=_PATH, help="Gets RESULT.json and RESULT.md."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command(cls=Command)
@_common_options
@click.option("--count", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    default=("onnxruntime", "openvino"),
    show_default=True,
    help="Repeatable.",
)
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda[:N]")
@click.option("--batch", type=click.IntRange(min=1), show_default="flowerseg-predict's own")
@unproven_option
@trust_option
def throughput(
    photos: Path,
    model: Path,
    out: Path,
    count: int,
    rounds: int,
    runtimes: tuple[str, ...],
    device: str,
    batch: int | None,
    unproven: bool,
    trust: bool,
) -> None:
    """Compare flowerseg-predict's speed with what the cores, or the GPU, allow at most."""
    from flowerseg_bench.folders.throughput import Opened, measure_throughput

    how = Opened(model, runtimes, device, batch, unproven, trust)
    _report(out, lambda work: measure_throughput(photos, how, count, rounds, work))


@main.command(cls=Command)
@_common_options
@click.option(
    "--counts",
    type=(click.IntRange(min=1), click.IntRange(min=1)),
    default=(1000, 20000),
    show_default=True,
    help="Photos in the two folders.",
)
def memory(photos: Path, model: Path, out: Path, counts: tuple[int, int]) -> None:
    """Find the peak memory of flowerseg-predict on a small and a large folder (Linux only)."""
    from flowerseg_bench.folders.memory import measure_memory

    _report(out, lambda work: measure_memory(photos, model, counts, work))


@main.command(cls=Command)
@_common_options
@click.option("--kills", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--count", type=click.IntRange(min=1), default=640, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def kills(photos: Path, model: Path, out: Path, kills: int, count: int, seed: int) -> None:
    """Kill flowerseg-predict at random moments, then compare what a last run leaves."""
    from flowerseg_bench.folders.kills import measure_kills

    _report(out, lambda work: measure_kills(photos, model, kills, count, seed, work))


@main.command(cls=Command)
@_common_options
@click.option("--seed", type=int, default=0, show_default=True)
def hostile(photos: Path, model: Path, out: Path, seed: int) -> None:
    """Segment 300 good photos among as many hostile files, decoded here and isolated."""
    from flowerseg_bench.folders.hostile import measure_hostile

    _report(out, lambda work: measure_hostile(photos, model, seed, work))


def _report(out: Path, measure: Callable[[Path], "Finding"]) -> None:
    from flowerseg_bench.record import measure_into

    measure_into(out, PROGRAM, measure)
