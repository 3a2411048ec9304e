"""`flowerseg-demo`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowerseg.cli.options import Command, json_option, print_result
from flowerseg.cli.terminal import echo

if TYPE_CHECKING:
    from flowerseg.demo import Summary


@click.command(cls=Command)
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@click.option(
    "--full", is_flag=True, help="Train for real (about half an hour on two cores), from nothing."
)
@json_option
def demo(out: Path, full: bool, as_json: bool) -> None:
    """Run the whole chain: train, export, prove, bench, segment a folder, report.

    Data: the folder in FLOWERSEG_DATA, else Oxford 17 Flowers from the network, else flowers that
    it paints. Ends with --out/report.html, which needs no other file.
    """
    from flowerseg.demo import FULL, QUICK, run_demo

    summary = run_demo(out, FULL if full else QUICK, lambda line: echo(line, err=True))
    print_result(summary, "\n" + _text(summary), as_json=as_json)


def _text(summary: "Summary") -> str:
    from flowerseg.metrics import score_text

    lines = [
        f"Data       {summary.data}",
        f"Trained    flower IoU {score_text(summary.val_iou)} on validation photos, void left out",
    ]
    for model in summary.models:
        verdict = "built, not run" if model["agreement_iou"] is None else model["proof"]
        agreement = model["agreement_iou"]
        measured = "" if agreement is None else f", agreement IoU {agreement:.5f}"
        lines.append(
            f"Exported   {model['file']:12} {model['size_mib']:6.1f} MiB  {verdict}{measured}"
        )
    for row in summary.bench:
        lines.append(
            f"Measured   {row['name']}: engine {row['engine_latency_ms']:.1f} ms a photo, "
            f"file to mask {row['file_to_mask_images_per_s']:.1f} photos/s, "
            f"IoU {score_text(row['flower_iou'])}"
        )
    lines += [f"WARNING    {warning}" for warning in summary.warnings]
    lines += [
        f"Segmented  {summary.photos_segmented} photos",
        f"Report     {summary.report}",
    ]
    return "\n".join(lines)
