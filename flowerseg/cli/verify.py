"""`flowerseg-verify`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from flowerseg.cli.options import (
    Command,
    device_option,
    json_option,
    print_result,
    runtime_option,
    stderr_console,
)

if TYPE_CHECKING:
    from flowerseg.artifact import Artifact


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    required=True,
    help="The checkpoint (.pt) that the model was made from.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder of labelled photos."
)
@click.option("--split", default="val", show_default=True, help="val1 in Oxford 17.")
@click.option("--limit", type=click.IntRange(min=1), help="Use this many photos of the split.")
@device_option
@runtime_option
@json_option
def verify(
    model: Path,
    reference: Path,
    data: Path,
    split: str,
    limit: int | None,
    device: str,
    runtime: str,
    as_json: bool,
) -> None:
    """Prove that MODEL segments like the FP32 PyTorch checkpoint it was made from.

    Runs the very file on labelled photos at every batch size that can go wrong, writes the proof
    into its manifest, and exits with 1 when the masks differ by more than the limit.
    """
    from flowerseg.artifact import open_artifact, rewrite_manifest
    from flowerseg.data import open_photos
    from flowerseg.errors import ParityError
    from flowerseg.proof import prove

    source = open_artifact(reference)
    photos = open_photos(data, split, source.manifest.rules).limited(limit)
    artifact = open_artifact(model)
    with proof_progress() as on_batch:
        proof = prove(
            artifact,
            source,
            photos,
            device=device,
            runtime=runtime,
            on_batch=on_batch,
        ).proof
    proved = rewrite_manifest(artifact, proof=proof)
    print_result(proof, proof_text(proved), as_json=as_json)
    if proof.status == "failed":
        raise ParityError(f"{model}: not proved: {proof.why}")


@contextmanager
def proof_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar over the photos that a proof runs; yields the callback that moves it."""
    columns = (TextColumn("proving"), BarColumn(), MofNCompleteColumn(), TextColumn("photos"))
    progress = Progress(*columns, console=stderr_console())
    task = progress.add_task("", visible=False)

    def show(done: int, photos: int) -> None:
        progress.start()  # no bar before there is something to show: the data may yet be refused
        progress.update(task, completed=done, total=photos, visible=True)

    try:
        yield show
    finally:
        progress.stop()


def proof_text(artifact: "Artifact") -> str:
    """A proof in three lines."""
    proof = artifact.manifest.proof
    if proof is None or proof.limits is None:
        return f"{artifact.path}: not proved: {proof.how if proof else 'never run'}"
    verdict = "PROVED" if proof.status == "proved" else "FAILED"
    sizes = ", ".join(map(str, proof.batch_sizes))
    lines = [
        f"{artifact.path}: {verdict} on {proof.photos} photos of {proof.data}, batch {sizes}",
        f"agreement with PyTorch FP32: IoU {proof.agreement_iou:.5f} "
        f"(limit {proof.limits.agreement_iou}), along outlines {proof.band_iou:.5f}",
        f"{proof.flipped_pixels} of {proof.pixels} pixels change sides, probabilities differ by "
        f"{proof.largest_difference:.3f} at most",
        f"against truth: IoU {proof.model_iou:.5f}, PyTorch {proof.reference_iou:.5f} "
        f"(may drop by {proof.limits.iou_drop})",
        proof.how,
    ]
    if proof.emulated_agreement_iou is not None:
        lines.append(f"emulated half: agreement IoU {proof.emulated_agreement_iou:.5f}")
    return "\n  ".join([*lines, *(f"FAULT {fault}" for fault in proof.faults)])
