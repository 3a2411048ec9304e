"""`python -m flowerseg_bench.peers`: `flowerseg-predict` beside what people write themselves."""

from pathlib import Path
from typing import Any

import click

from flowerseg.cli.options import Command, FiniteRange

PROGRAM = "python -m flowerseg_bench.peers"

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=Command)
@click.argument("checkpoint", metavar="CHECKPOINT", type=_FILE)
@click.argument("models", metavar="ONNX...", nargs=-1, required=True, type=_FILE)
@click.option("--data", required=True, type=_FOLDER, help="Labelled photos: judge the masks.")
@click.option("--split", default="val", show_default=True, help="Split of --data.")
@click.option("--photos", type=_FOLDER, help="Photos to time; without it, those of --data.")
@click.option(
    "--seconds",
    default=12.0,
    show_default=True,
    type=FiniteRange(min=0, min_open=True),
    help="Time for each way, in all rounds together.",
)
@click.option("--out", required=True, type=_FOLDER, help="Gets RESULT.json and RESULT.md.")
def main(out: Path, **options: Any) -> None:
    """From photo files to mask files on the CPU: flowerseg-predict, and plain loops.

    The loops are the notebook's way (PyTorch eager), torch.compile, and for each ONNX file a
    session of ONNX Runtime and of OpenVINO. All take turns, and all masks are judged.
    """
    from flowerseg_bench.peers.measure import Setup, measure_peers
    from flowerseg_bench.record import measure_into

    setup = Setup(**options)
    measure_into(out, PROGRAM, lambda work: measure_peers(setup, work))
