"""`python -m flowerseg_bench.gpu`: what needs a GPU, in steps."""

from pathlib import Path
from typing import Any

import click

from flowerseg.cli.options import CHOSEN_RUNTIMES, Command, device_option

PROGRAM = "python -m flowerseg_bench.gpu"

_PATH = click.Path(path_type=Path)
_NETWORKS = ("resnet101", "resnet50", "mobilenet_v3")


@click.group()
def main() -> None:
    """Test, prove and measure on a GPU; from a source tree too (PYTHONPATH=.:export:bench)."""


@main.command(cls=Command)
@click.option("--data", required=True, type=_PATH, help="Labelled photos, as for flowerseg-train.")
@click.option("--photos", type=_PATH, help="A folder to segment.")
@click.option("--out", required=True, type=_PATH, help="Gets a folder for each step.")
@click.option(
    "--work",
    type=_PATH,
    default=".cache/gpu",
    show_default=True,
    help="Keeps checkpoints and models: NETWORK-SIZE/best.pt is used where it is there.",
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    type=click.Choice(_NETWORKS),
    default=_NETWORKS,
    help="Repeatable.  [default: all]",
)
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.05), default=1.0, show_default=True)
@click.option("--steps", help="Only these, by name, with commas between.")
@click.option("--list", "is_listed", is_flag=True, help="Name the steps and end.")
@click.option(
    "--begin-within",
    "begin_within_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Begin no step later. Those that are done are not done again by the next call.",
)
@device_option
def run(
    out: Path, steps: str | None, is_listed: bool, begin_within_s: float | None, **options: Any
) -> None:
    """Do all steps that are not done yet, then set the figures beside their bars."""
    from flowerseg_bench.gpu.figures import finding_of
    from flowerseg_bench.gpu.plan import Setup, modules_here, steps_of
    from flowerseg_bench.gpu.run import run_steps
    from flowerseg_bench.record import measure_into

    setup = Setup(out=out, modules=modules_here(), **options)
    chosen = steps_of(setup)
    if steps:
        names = [name.strip() for name in steps.split(",")]
        if strange := set(names) - {step.name for step in chosen}:
            raise click.BadParameter(f"no step {sorted(strange)[0]!r}; see --list")
        chosen = [step for step in chosen if step.name in names]
    if is_listed:
        click.echo("\n".join(step.name for step in chosen))
        return

    def tell(text: str) -> None:
        click.echo(text, err=True)

    ended = run_steps(chosen, out, begin_within_s=begin_within_s, on_step=tell)
    measure_into(out, PROGRAM, lambda _: finding_of(setup, ended))
    if not all(each.is_done for each in ended) or len(ended) < len(chosen):
        raise click.exceptions.Exit(1)


@main.command(cls=Command)
@click.argument("model", type=_PATH)
@click.option("--runtime", type=click.Choice(["auto", *CHOSEN_RUNTIMES]), default="auto")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True)
@device_option
@click.option("--out", required=True, type=_PATH, help="Gets profile.txt.")
def profile(model: Path, runtime: str, batch: int, device: str, out: Path) -> None:
    """Write down what a network's time goes into, kernel by kernel."""
    from flowerseg_bench.gpu.profile import write_profile

    click.echo(f"Written to {write_profile(model, runtime, device, batch, out)}", err=True)
