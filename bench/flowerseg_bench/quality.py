"""What the masks are worth, of the very session that is timed: no speed without it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowerseg.arrays import Mask
from flowerseg.artifact import Data
from flowerseg.caveats import caveat_text, label_caveats
from flowerseg.data import PhotoSet
from flowerseg.evaluate import read_pair, seen_caveats
from flowerseg.images import read_rgb
from flowerseg.metrics import Counts, count, count_agreement, set_iou, total
from flowerseg.metrics import agreement_iou as agreement_of
from flowerseg.segmenter import Segmenter
from flowerseg_bench.photos import Photos
from flowerseg_bench.results import Quality, Row


@dataclass(frozen=True)
class Reference:
    """The masks that others have to agree with."""

    name: str
    masks: tuple[Mask, ...]


def masks_of(segmenter: Segmenter, files: Sequence[Path]) -> tuple[Mask, ...]:
    """The mask of each photo, at the photo's size."""
    return tuple(segmenter.segment(read_rgb(file)) for file in files)


def judge(
    segmenter: Segmenter,
    photos: Photos,
    reference: Reference | None,
    data: Data | None = None,
    signatures: Sequence[bytes] = (),
) -> Quality:
    """Everything that can be said about a row's masks with what was given.

    Args:
        segmenter: the row's.
        photos: files, and labelled photos where there are some.
        reference: whose masks these have to agree with.
        data: what the manifest of the row's model says of its training.
        signatures: of the labelled photos, see `flowerseg.seen`.
    """
    masks = masks_of(segmenter, photos.for_quality)
    labelled = photos.labelled_for_quality
    missing = []
    if reference is None:
        missing.append("agreement is not measured: no checkpoint among the models, no --reference")
    if labelled is None:
        missing.append("flower IoU is not measured: no --data")
    quality = Quality(
        photos=len(masks),
        agreement_iou=None if reference is None else agreement_iou(masks, reference.masks),
        reference="" if reference is None else reference.name,
        note="; ".join(missing),
    )
    if labelled is None:
        return quality
    counts = counts_of(masks, labelled)
    found = _rounded(set_iou(total(counts)))
    caveats = label_caveats(counts, data.val_iou if data else None)
    if found is not None:
        caveats += seen_caveats(data, labelled, signatures)
    return replace(quality, flower_iou=found, labels=labelled.name, caveats=caveats)


def warnings_of(rows: Sequence[Row]) -> list[str]:
    """What is to be known about the rows' flower IoU, in sentences; each names its rows."""
    names: dict[str, list[str]] = {}
    for row in rows:
        for caveat in row.quality.caveats:
            names.setdefault(caveat_text(caveat), []).append(row.name)
    return [f"WARNING {', '.join(each)}: {text}" for text, each in names.items()]


def agreement_iou(masks: Sequence[Mask], reference: Sequence[Mask]) -> float:
    """IoU of two models' masks over all photos together; large photos weigh more."""
    pairs = zip(masks, reference, strict=True)
    return round(agreement_of(total(count_agreement(mine, theirs) for mine, theirs in pairs)), 6)


def flower_iou(masks: Sequence[Mask], labelled: PhotoSet) -> float | None:
    """IoU of masks with their labels over all photos together, void left out.

    None where the labels do not hold both flower and background. Raises as `counts_of`.
    """
    return _rounded(set_iou(total(counts_of(masks, labelled))))


def counts_of(masks: Sequence[Mask], labelled: PhotoSet) -> list[Counts]:
    """Masks against their labels, photo by photo, void left out.

    Raises:
        DataError: an annotation has another size than its photo, or unknown colours.
    """
    pairs = zip(masks, labelled.photos, strict=True)
    return [count(mask, read_pair(item)[1]) for mask, item in pairs]


def _rounded(iou: float | None) -> float | None:
    return None if iou is None else round(iou, 6)
