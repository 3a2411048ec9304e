"""What the masks are worth, of the very session that is timed: no speed without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowerseg.arrays import Mask
from flowerseg.data import PhotoSet
from flowerseg.evaluate import read_pair
from flowerseg.images import read_rgb
from flowerseg.metrics import count, count_agreement, iou, total
from flowerseg.segmenter import Segmenter
from flowerseg_bench.photos import Photos
from flowerseg_bench.results import Quality


@dataclass(frozen=True)
class Reference:
    """The masks that others have to agree with."""

    name: str
    masks: tuple[Mask, ...]


def masks_of(segmenter: Segmenter, files: Sequence[Path]) -> tuple[Mask, ...]:
    """The mask of each photo, at the photo's size."""
    return tuple(segmenter.segment(read_rgb(file)) for file in files)


def judge(segmenter: Segmenter, photos: Photos, reference: Reference | None) -> Quality:
    """Everything that can be said about a row's masks with what was given."""
    masks = masks_of(segmenter, photos.for_quality)
    labelled = photos.labelled_for_quality
    missing = []
    if reference is None:
        missing.append("agreement is not measured: no checkpoint among the models, no --reference")
    if labelled is None:
        missing.append("flower IoU is not measured: no --data")
    return Quality(
        photos=len(masks),
        agreement_iou=None if reference is None else agreement_iou(masks, reference.masks),
        reference="" if reference is None else reference.name,
        flower_iou=None if labelled is None else flower_iou(masks, labelled),
        labels="" if labelled is None else labelled.name,
        note="; ".join(missing),
    )


def agreement_iou(masks: Sequence[Mask], reference: Sequence[Mask]) -> float:
    """IoU of two models' masks over all photos together; large photos weigh more."""
    pairs = zip(masks, reference, strict=True)
    return round(iou(total(count_agreement(mine, theirs) for mine, theirs in pairs)), 6)


def flower_iou(masks: Sequence[Mask], labelled: PhotoSet) -> float:
    """IoU of masks with their labels over all photos together, void left out.

    Raises:
        DataError: an annotation has another size than its photo, or unknown colours.
    """
    pairs = zip(masks, labelled.photos, strict=True)
    return round(iou(total(count(mask, read_pair(item)[1]) for mask, item in pairs)), 6)
