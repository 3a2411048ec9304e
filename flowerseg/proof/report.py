"""The page of a proof: what was run, how far the masks are apart, and where."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowerseg.arrays import Mask, Rgb, size_of
from flowerseg.artifact import Artifact
from flowerseg.data import PhotoSet
from flowerseg.files import write_bytes
from flowerseg.images import resize_area
from flowerseg.metrics import agreement_iou, iou, total
from flowerseg.page import jpeg_url, png_url, render_page
from flowerseg.proof.checks import checks_of, five_digits, is_scored, percent, warnings_of
from flowerseg.proof.compare import BAND_PX, Compared, Expected
from flowerseg.proof.passes import Departure, Parity, Worst, agreement_of
from flowerseg.proof.pictures import close_up_of, difference, overview, shown_size
from flowerseg.proof.prove import Evidence
from flowerseg.proof.statistics import statistics_texts
from flowerseg.proofrecord import fault_text


@dataclass(frozen=True)
class PassRow:
    """What one way to run the file gave, over all photos, beside the reference."""

    name: str
    agreement_iou: float
    band_iou: float | None  # None: the reference draws no outline
    flipped_pixels: int
    worst: Compared  # the photo of which most pixels change sides


@dataclass(frozen=True)
class BatchRow:
    """What one batch size gave, beside what the file makes of each photo alone."""

    batch: int
    photos: int
    flipped_share: float
    largest_difference: float


@dataclass(frozen=True)
class WorstRow:
    """A photo on the page; pictures are addresses."""

    name: str
    batch: int
    agreement_iou: float
    flipped_pixels: int
    flipped_share: float
    photo: str
    reference: str
    mask: str
    difference: str
    close_up: str


def report_path(model: Path) -> Path:
    """Where the report of a failed proof goes: `flower.onnx` -> `flower.onnx.proof.html`."""
    return model.with_name(model.name + ".proof.html")


def write_report(
    path: Path, evidence: Evidence, artifact: Artifact, photos: PhotoSet, command: str
) -> None:
    """Write the page of a proof. It needs no other file, no script and no network.

    Args:
        path: where to.
        evidence: what `prove` returned.
        artifact: the file that was proved, or was not.
        photos: those that it ran on; the worst are read again.
        command: the line that proves it again.

    Raises:
        ImageError: a photo cannot be read any more.
        OutputError: the page cannot be written.
    """
    page = render_page(
        "proof.html",
        name=artifact.path.name,
        manifest=artifact.manifest,
        proof=evidence.proof,
        checks=checks_of(evidence.proof),
        warnings=warnings_of(evidence.proof),
        is_scored=is_scored(evidence.proof),
        passes=pass_rows(evidence.parity),
        batches=batch_rows(evidence.parity),
        fault_text=fault_text,
        statistics=statistics_texts(evidence.proof.statistics, evidence.proof.photos)
        if evidence.proof.statistics
        else [],
        band_px=BAND_PX,
        worst=list(_worst_rows(evidence, photos)),
        command=command,
        percent=percent,
        five_digits=five_digits,
    )
    # A file's name may hold bytes that are no text; they become question marks.
    write_bytes(path, page.encode(errors="replace"))


def write_due_report(
    evidence: Evidence, artifact: Artifact, photos: PhotoSet, command: str
) -> None:
    """Write the page beside the model if the proof failed, or if one is there.

    A page that an earlier proof left would else tell of another one. Raises as `write_report` does.
    """
    path = report_path(artifact.path)
    if evidence.proof.status == "failed" or path.exists():
        write_report(path, evidence, artifact, photos, command)


def pass_rows(parity: Parity) -> list[PassRow]:
    """Photo by photo, and as folders are run."""
    ways = {
        "photo by photo": parity.alone,
        "as folders are run": parity.folder,
    }
    return [
        PassRow(
            name,
            agreement_of(found),
            iou(total(c.band for c in found)),
            sum(c.flipped for c in found),
            max(found, key=lambda c: c.flipped_share),
        )
        for name, found in ways.items()
    ]


def batch_rows(parity: Parity) -> list[BatchRow]:
    """One row for each batch size."""
    by_size: dict[int, list[Departure]] = {}
    for departure in parity.batched:
        by_size.setdefault(departure.batch, []).append(departure)
    return [
        BatchRow(
            size,
            len(found),
            max(departure.flipped_share for departure in found),
            max(departure.largest_difference for departure in found),
        )
        for size, found in by_size.items()
    ]


def _worst_rows(evidence: Evidence, photos: PhotoSet) -> Iterator[WorstRow]:
    files = {item.name: item for item in photos.photos}
    references = {expected.name: expected for expected in evidence.expected}
    for worst in evidence.parity.worst:
        name = worst.compared.name
        yield _worst_row(worst, references[name], files[name].read_rgb())


def _worst_row(worst: Worst, expected: Expected, rgb: Rgb) -> WorstRow:
    compared, mask, reference = worst.compared, worst.mask, expected.mask
    window = close_up_of(mask, reference)
    return WorstRow(
        name=compared.name,
        batch=worst.batch,
        agreement_iou=agreement_iou(compared.agreement),
        flipped_pixels=compared.flipped,
        flipped_share=compared.flipped_share,
        photo=jpeg_url(resize_area(rgb, shown_size(size_of(rgb)))),
        reference=_mask_url(reference),
        mask=_mask_url(mask),
        # PNG: JPEG would smear the few pixels that these pictures are for.
        difference=png_url(overview(rgb, mask, reference, window)),
        close_up=png_url(window.of(difference(rgb, mask, reference))),
    )


def _mask_url(mask: Mask) -> str:
    grey = np.where(mask, np.uint8(255), np.uint8(0))
    return png_url(resize_area(grey, shown_size(size_of(mask))))
