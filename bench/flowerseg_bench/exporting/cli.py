"""`python -m flowerseg_bench.exporting`: time, memory and file sizes of flowerseg-export."""

from pathlib import Path

import click

from flowerseg.cli.options import Command
from flowerseg.cli.train import ARCHITECTURES

PROGRAM = "python -m flowerseg_bench.exporting"


@click.command(cls=Command)
@click.option(
    "--arch", type=click.Choice(ARCHITECTURES), default=ARCHITECTURES[0], show_default=True
)
@click.option("--size", type=click.IntRange(32, 4096), default=224, show_default=True)
@click.option("--pt2", is_flag=True, help="Compile with AOTInductor too, which takes minutes.")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Gets RESULT.json and RESULT.md.",
)
def main(arch: str, size: int, pt2: bool, out: Path) -> None:
    """Measure what flowerseg-export costs, on an otherwise idle machine (Linux only).

    A checkpoint of random weights becomes ONNX in FP32 and FP16, and a TensorRT-RTX engine: each a
    command of its own, once watched for its memory and once timed. Leaves RESULT.json (raw numbers
    and conditions) and RESULT.md in --out.
    """
    from flowerseg_bench.exporting.measure import Setup, measure_exports
    from flowerseg_bench.record import measure_into

    setup = Setup(arch, size, pt2)
    measure_into(out, PROGRAM, lambda work: measure_exports(setup, work))
