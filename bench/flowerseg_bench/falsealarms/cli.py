"""`python -m flowerseg_bench.falsealarms`: whether the proof passes correct exports."""

from pathlib import Path
from typing import Any

import click

from flowerseg.cli.options import Command, device_option
from flowerseg.cli.train import ARCHITECTURES

PROGRAM = "python -m flowerseg_bench.falsealarms"

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(cls=Command)
@click.option("--data", required=True, type=_FOLDER, help="As for flowerseg-train.")
@click.option(
    "--arch", type=click.Choice(ARCHITECTURES), default=ARCHITECTURES[-1], show_default=True
)
@click.option("--weights", default="coco", show_default=True, help="As for flowerseg-train.")
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--size", type=click.IntRange(32, 4096), default=128, show_default=True)
@click.option("--train-split", default="train", show_default=True)
@click.option("--val-split", default="val", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=64, show_default=True)
@device_option
@click.option("--out", required=True, type=_FOLDER, help="Gets RESULT.json and RESULT.md.")
def main(out: Path, seeds: int, first_seed: int, **options: Any) -> None:
    """Train networks, export each in FP32, FP16 and INT8, and see whether the proof passes them.

    Every export is correct as far as anyone knows: one that is not proved is a false alarm, or a
    fault of the export that nobody knew.
    """
    from flowerseg_bench.falsealarms.measure import Setup, measure_false_alarms
    from flowerseg_bench.record import measure_into

    setup = Setup(seeds=tuple(range(first_seed, first_seed + seeds)), **options)
    measure_into(out, PROGRAM, lambda work: measure_false_alarms(setup, work))
