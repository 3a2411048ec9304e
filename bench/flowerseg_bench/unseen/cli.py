"""`python -m flowerseg_bench.unseen`: whether the proof passes correct files on unseen photos."""

from pathlib import Path
from typing import Any

import click

from flowerseg.cli.options import Command, device_option

PROGRAM = "python -m flowerseg_bench.unseen"

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(cls=Command)
@click.argument("checkpoint", type=_FILE)
@click.argument("models", type=_FILE, nargs=-1, required=True)
@click.option("--photos", required=True, type=_FOLDER, help="Folder of photos; no labels.")
@click.option("--limit", type=click.IntRange(min=1), help="Use this many of them.")
@click.option("--sample", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--resamples", type=click.IntRange(min=1), default=1000, show_default=True)
@device_option
@click.option("--out", required=True, type=_FOLDER, help="Gets RESULT.json and RESULT.md.")
def main(out: Path, **options: Any) -> None:
    """Prove correct MODELS of CHECKPOINT on photos that it has not seen, and on samples of them.

    Each model is run once in every runtime here, on all photos. Then a proof is made of one random
    sample after another: every one that fails is a false alarm, unless quantisation itself costs
    more than the limits allow.
    """
    from flowerseg_bench.record import measure_into
    from flowerseg_bench.unseen.measure import Setup, measure_unseen

    setup = Setup(**options)
    measure_into(out, PROGRAM, lambda _: measure_unseen(setup))
