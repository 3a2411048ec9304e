"""`python -m flowerseg_bench.training`: one command for each claim about training."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowerseg.cli.options import Command, F, device_option
from flowerseg.cli.train import ARCHITECTURES

if TYPE_CHECKING:
    from flowerseg_bench.record import Finding
    from flowerseg_bench.training.command import Setup

PROGRAM = "python -m flowerseg_bench.training"

_SMALL = "deeplabv3_mobilenet_v3_large"


@click.group()
def main() -> None:
    """Measure what README and models/ say about training, on an otherwise idle machine.

    Each command leaves RESULT.json (raw numbers and conditions) and RESULT.md in --out.
    """


def _setup_options(
    *, arch: str, epochs: int, batch_size: int, least_epochs: int = 1
) -> Callable[[F], F]:
    """The options of flowerseg-train that all commands have, with their own defaults."""
    options = [
        click.option("--data", required=True, type=_FOLDER, help="As for flowerseg-train."),
        click.option("--arch", type=click.Choice(ARCHITECTURES), default=arch, show_default=True),
        click.option(
            "--epochs", type=click.IntRange(min=least_epochs), default=epochs, show_default=True
        ),
        click.option(
            "--batch-size", type=click.IntRange(min=2), default=batch_size, show_default=True
        ),
        click.option("--size", type=click.IntRange(32, 4096), default=224, show_default=True),
        click.option("--train-split", default="train", show_default=True),
        device_option,
        click.option("--out", required=True, type=_FOLDER, help="Gets RESULT.json and RESULT.md."),
    ]

    def decorated(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


_FOLDER = click.Path(file_okay=False, path_type=Path)
_weights_option = click.option(
    "--weights",
    metavar="coco|FILE",
    help="As for flowerseg-train; without it random ones that training photos calibrate.",
)
_val_option = click.option("--val-split", default="val", show_default=True)


@main.command(cls=Command)
@_setup_options(arch=ARCHITECTURES[0], epochs=10, batch_size=16)
@_weights_option
@_val_option
def cache(out: Path, **options: Any) -> None:
    """Time head-only training with cached features, without, and with a filled cache."""
    from flowerseg_bench.training.cache import measure_cache

    _report(out, options, measure_cache)


@main.command(cls=Command)
@_setup_options(arch=ARCHITECTURES[0], epochs=2, batch_size=128)
@_weights_option
@_val_option
def memory(out: Path, **options: Any) -> None:
    """Find the peak memory of head-only training, workers included (Linux only)."""
    from flowerseg_bench.training.memory import measure_memory

    _report(out, options, measure_memory)


@main.command(cls=Command)
@_setup_options(arch=_SMALL, epochs=2, batch_size=16, least_epochs=2)
def waiting(out: Path, **options: Any) -> None:
    """Find the share of an epoch of full training that the network waits for data."""
    from flowerseg_bench.training.waiting import measure_waiting

    _report(out, {**options, "weights": "none", "val_split": ""}, measure_waiting)


@main.command(cls=Command)
@_setup_options(arch=_SMALL, epochs=10, batch_size=16)
@click.option(
    "--weights",
    required=True,
    metavar="coco|FILE",
    help="What all variants start from; its own head is not used.",
)
@click.option("--val-split", default="val1", show_default=True)
@click.option("--test-split", default="tst1", show_default=True)
@click.option(
    "--shared-split",
    default="trn1+trn2+trn3",
    show_default=True,
    help="What the fault shared-photos trains on.",
)
def corrections(out: Path, test_split: str, shared_split: str, **options: Any) -> None:
    """Train with each fault of the original study, and with all, and score all the right way."""
    from flowerseg_bench.training.corrections import measure_corrections

    def measure(setup: "Setup", work: Path) -> "Finding":
        return measure_corrections(setup, test_split, shared_split, work)

    _report(out, options, measure)


def _report(
    out: Path, options: dict[str, Any], measure: Callable[["Setup", Path], "Finding"]
) -> None:
    from flowerseg_bench.record import measure_into
    from flowerseg_bench.training.command import Setup

    setup = Setup(**options)
    measure_into(out, PROGRAM, lambda work: measure(setup, work))
