"""`python -m flowerseg_bench.gpu`: what needs a GPU, in steps."""

import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowerseg.cli.options import CHOSEN_RUNTIMES, Command, FiniteRange, device_option
from flowerseg.cli.terminal import echo

if TYPE_CHECKING:
    from flowerseg_bench.gpu.plan import Setup, Stage

PROGRAM = "python -m flowerseg_bench.gpu"

_PATH = click.Path(path_type=Path)
_PACKED = Path(".gpu")  # what `pack` writes and `run` reads, in the source tree


@click.group()
def main() -> None:
    """Test, prove and measure on a GPU; from a source tree too (PYTHONPATH=.:export:bench)."""


@main.command(cls=Command)
@click.option("--data", required=True, type=_PATH, help="Labelled photos, as for flowerseg-train.")
@click.option("--photos", required=True, type=_PATH, help="A folder of photos to segment.")
@click.option("--out", type=_PATH, default=_PACKED, show_default=True)
def pack(data: Path, photos: Path, out: Path) -> None:
    """Copy the photos that `run` needs into the source tree, to travel with it."""
    from flowerseg_bench.gpu.pack import pack_photos

    copied = pack_photos(data, photos, out)
    echo(f"{out}: {copied / 1e6:.1f} MB", err=True)


@main.command(cls=Command)
@click.option("--data", type=_PATH, default=_PACKED / "data", show_default=True)
@click.option("--photos", type=_PATH, default=_PACKED / "photos", show_default=True)
@click.option(
    "--work",
    type=_PATH,
    show_default="flowerseg-gpu in the system's folder for temporary files",
    help="Gets results, models and caches. Steps that ended there are not done again.",
)
@click.option(
    "--seconds",
    type=FiniteRange(min=0),
    default=3600.0,
    show_default=True,
    help="For everything. A step is not begun if less than a third of its own limit is left.",
)
@click.option(
    "--archive-in",
    type=_PATH,
    envvar="OUT",
    show_default="$OUT, else the work folder",
    help="Gets results.tar.gz, anew after every step.",
)
@click.option("--steps", help="Only these, by name, with commas between; again if they failed.")
@click.option("--list", "is_listed", is_flag=True, help="Name the steps and end; + joins a stage.")
@click.option("--device", default="cuda", show_default=True, metavar="cuda[:N]")
@click.option(
    "--dry-run",
    "is_dry",
    is_flag=True,
    help="Go through the commands on the CPU, in small. The numbers mean nothing.",
)
def run(
    data: Path,
    photos: Path,
    work: Path | None,
    seconds: float,
    archive_in: Path | None,
    steps: str | None,
    is_listed: bool,
    device: str,
    is_dry: bool,
) -> None:
    """Do all steps that have not ended before, then set the figures beside their bars."""
    from flowerseg_bench.gpu.plan import DRY, REAL, Setup, modules_here, stages_of

    folder = work or Path(tempfile.gettempdir()) / (
        "flowerseg-gpu-dry" if is_dry else "flowerseg-gpu"
    )
    setup = Setup(
        data=data,
        photos=photos,
        work=folder.resolve(),
        device="cpu" if is_dry else device,
        scale=DRY if is_dry else REAL,
        modules=() if is_dry else modules_here(),
    )
    stages = _chosen(stages_of(setup), steps)
    if is_listed:
        echo("\n".join(" + ".join(step.name for step in stage) for stage in stages))
        return
    archive = (archive_in or setup.work).resolve()
    if not _run_plan(setup, stages, seconds, archive, is_repeating=steps is not None):
        raise click.exceptions.Exit(1)


@main.command(cls=Command)
@click.option("--out", required=True, type=_PATH, help="Gets probe.json.")
@click.option("--seconds", type=FiniteRange(min=0), default=85.0, show_default=True)
@device_option
def probe(out: Path, seconds: float, device: str) -> None:
    """Time what could make ResNet-101 faster in FP16; on the CPU only check that it is right."""
    from flowerseg_bench.gpu.probe import probe_into

    probe_into(out, seconds, device, on_line=echo)


@main.command(cls=Command)
@click.argument("model", type=_PATH)
@click.option("--runtime", type=click.Choice(["auto", *CHOSEN_RUNTIMES]), default="auto")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@device_option
@click.option("--out", required=True, type=_PATH, help="Gets profile.txt.")
def profile(model: Path, runtime: str, batch: int, device: str, out: Path) -> None:
    """Write down what a network's time goes into, kernel by kernel."""
    from flowerseg_bench.gpu.profile import write_profile

    echo(f"Written to {write_profile(model, runtime, device, batch, out)}", err=True)


@main.command(cls=Command)
@click.option("--arch", required=True)
@click.option("--size", required=True, type=click.IntRange(min=32))
@click.option("--out", required=True, type=_PATH, help="The checkpoint's file.")
def untrained(arch: str, size: int, out: Path) -> None:
    """Write a checkpoint of random weights, which compiles as a trained one does."""
    from flowerseg_bench.exporting.measure import Setup, write_random_checkpoint

    out.parent.mkdir(parents=True, exist_ok=True)
    write_random_checkpoint(Setup(arch, size), out)


def _chosen(stages: "list[Stage]", names: str | None) -> "list[Stage]":
    """The stages with the steps of these names alone; all of them where no name is given."""
    if names is None:
        return stages
    wanted = {name.strip() for name in names.split(",")}
    if strange := wanted - {step.name for stage in stages for step in stage}:
        raise click.BadParameter(f"no step {sorted(strange)[0]!r}; see --list")
    kept = [tuple(step for step in stage if step.name in wanted) for stage in stages]
    return [stage for stage in kept if stage]


def _run_plan(
    setup: "Setup",
    stages: "list[Stage]",
    seconds: float,
    archive_in: Path,
    *,
    is_repeating: bool,
) -> bool:
    """Run the stages and print what came of them; whether all steps are done."""
    from flowerseg.backends.device import resolve_device
    from flowerseg_bench.gpu.figures import finding_of
    from flowerseg_bench.gpu.pack import ARCHIVE, pack_results
    from flowerseg_bench.gpu.run import (
        Processes,
        StepRunner,
        bring_shipped_model,
        environment_for,
    )
    from flowerseg_bench.gpu.summary import summary_of
    from flowerseg_bench.record import measure_into

    resolve_device(setup.device)
    for folder in (setup.data, setup.photos):
        if not folder.is_dir():
            raise click.UsageError(f"{folder} is missing: run `{PROGRAM} pack` first.")
    bring_shipped_model(setup)

    def say(line: str) -> None:
        echo(line, err=True)

    def keep_results() -> None:
        try:
            pack_results(setup.work, archive_in / ARCHIVE)
        except OSError as error:  # a full disk shall not end the steps that run
            say(f"{archive_in / ARCHIVE} was not written: {error}")

    # Whoever ends this process ends its commands too, which are in process groups of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runner = StepRunner(
        setup.results,
        Processes(environment_for(setup)),
        seconds,
        is_repeating=is_repeating,
        on_step=say,
        after_step=keep_results,
    )
    ended = runner.run_stages(stages)
    echo(summary_of(setup))
    measure_into(setup.results, PROGRAM, lambda _: finding_of(setup, ended))
    keep_results()
    return all(each.is_done for each in ended)
