"""`flowerseg-export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowerseg.cli.options import Command, device_option, json_option, stderr_console
from flowerseg.cli.verify import proof_progress, proof_text

if TYPE_CHECKING:
    from flowerseg.artifact import Batch

TARGETS = ["onnx", "tensorrt", "tensorrt-rtx", "pt2", "checkpoint"]


@click.command(cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(TARGETS), default="onnx", show_default=True)
@click.option("--fp16", is_flag=True, help="Type the network in half precision, in the graph.")
@click.option("--int8", is_flag=True, help="Quantise with Q/DQ nodes, calibrated on --data.")
@click.option(
    "--batch",
    default="1:8:64",
    show_default=True,
    metavar="MIN:OPT:MAX",
    help="Batch sizes that an engine takes; it is tuned for OPT.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The file; FILE.json goes beside."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled photos for the proof (and INT8's calibration). Without them nothing is proved.",
)
@click.option("--split", default="val", show_default=True, help="Photos that prove.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=64, show_default=True, help="At most so many."
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@device_option
@json_option
def export(
    checkpoint: Path,
    target: str,
    fp16: bool,
    int8: bool,
    batch: str,
    out: Path,
    data: Path | None,
    split: str,
    limit: int,
    force: bool,
    device: str,
    as_json: bool,
) -> None:
    """Write the deployable model of CHECKPOINT with its manifest, and prove it.

    The graph takes uint8 RGB frames (N, H, W, 3) and gives uint8 probabilities (N, H, W); cast,
    normalisation, upsampling and sigmoid are inside. An engine keeps the ONNX file that it was
    built from beside it. checkpoint --fp16 is a copy of half the size, to be shipped or trained on.
    """
    if fp16 and int8:
        raise click.UsageError("--fp16 and --int8 exclude each other.")
    if int8 and data is None:
        raise click.UsageError("--int8 calibrates on photos: give --data.")
    if int8 and target in ("pt2", "checkpoint"):
        raise click.UsageError("--int8 is for onnx, tensorrt and tensorrt-rtx.")
    from flowerseg.artifact import Kind, Precision
    from flowerseg.errors import ParityError
    from flowerseg_export.export import ExportConfig, export_model

    config = ExportConfig(
        checkpoint=checkpoint,
        out=out,
        target=Kind(target),
        precision=Precision.FP16 if fp16 else Precision.INT8 if int8 else Precision.FP32,
        batch=_batch(batch),
        data=data,
        split=split,
        limit=limit,
        device=device,
        force=force,
    )
    console = stderr_console()
    with proof_progress() as on_batch:
        written = export_model(config, lambda stage: console.print(f"{stage} …"), on_batch)
    if as_json:
        click.echo(written[-1].manifest.to_json(), nl=False)
    else:
        click.echo("\n".join(f"{proof_text(a)}\n  {_size(a.path)}" for a in written))
    failed = [a for a in written if a.manifest.proof and a.manifest.proof.status == "failed"]
    if failed and (proof := failed[0].manifest.proof):
        raise ParityError(f"{failed[0].path}: written, but not proved: {proof.how}")


def _batch(text: str) -> "Batch":
    from flowerseg.artifact import Batch

    try:
        low, best, high = (int(part) for part in text.split(":"))
        return Batch(low, best, high)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX", param_hint="--batch"
        ) from error


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
