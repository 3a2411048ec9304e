"""Scores of masks, from integer counts.

Empty against empty agrees fully: every ratio with a zero denominator is 1.0, here and nowhere else.
Void pixels are left out of all counts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flowerseg.arrays import FLOWER, VOID, Labels, Mask


@dataclass(frozen=True)
class Counts:
    """Pixels by predicted and true class; flower is positive. Counts of photos add up."""

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )


def count(mask: Mask, labels: Labels) -> Counts:
    """Compare a mask (h, w) with labels (h, w), leaving VOID out.

    Raises:
        ValueError: the shapes differ.
    """
    if mask.shape != labels.shape:
        raise ValueError(f"mask {mask.shape} and labels {labels.shape} differ in shape")
    return _count(mask, labels == FLOWER, labels != VOID)


def count_agreement(mask: Mask, reference: Mask) -> Counts:
    """Compare two masks (h, w) pixel by pixel; the second one counts as true.

    Raises:
        ValueError: the shapes differ.
    """
    if mask.shape != reference.shape:
        raise ValueError(f"masks {mask.shape} and {reference.shape} differ in shape")
    return _count(mask, reference, np.ones_like(reference))


def total(counts: Iterable[Counts]) -> Counts:
    """Sum over photos: the data-set level, where large photos weigh more."""
    return sum(counts, Counts())


def iou(counts: Counts) -> float:
    """Intersection over union of the flower class.

    Source: Everingham et al. 2010, "The PASCAL Visual Object Classes Challenge", section 4.
    """
    union = counts.true_positive + counts.false_positive + counts.false_negative
    return _ratio(counts.true_positive, union)


def dice(counts: Counts) -> float:
    """Dice coefficient (F1) of the flower class: 2 TP / (2 TP + FP + FN)."""
    twice = 2 * counts.true_positive
    return _ratio(twice, twice + counts.false_positive + counts.false_negative)


def pixel_accuracy(counts: Counts) -> float:
    """Share of labelled pixels that are right; background counts too."""
    right = counts.true_positive + counts.true_negative
    return _ratio(right, right + counts.false_positive + counts.false_negative)


def mean_iou(per_photo: Sequence[Counts]) -> float:
    """Mean of the photos' flower IoU, every photo weighing the same.

    Raises:
        ValueError: there is no photo.
    """
    if not per_photo:
        raise ValueError("the mean over no photos is not defined")
    return math.fsum(iou(counts) for counts in per_photo) / len(per_photo)


def notebook_score(per_photo: Sequence[Counts]) -> float:
    """The score that the original study calls mIoU: no IoU, but a mean of steps.

    A photo scores 0 up to IoU 0.5, then a tenth more for each 0.05 begun above it, 1 above 0.95:
    ceil(clamp(20 (IoU - 0.5), 0, 10)) / 10, the steps of the TGS Salt challenge of 2018. Kept for
    comparison with the study only.

    Raises:
        ValueError: there is no photo.
    """
    if not per_photo:
        raise ValueError("the mean over no photos is not defined")
    return math.fsum(_tenths(counts) for counts in per_photo) / (10 * len(per_photo))


@dataclass(frozen=True)
class Scores:
    """All scores of one model on one set of photos."""

    photos: int
    iou: float  # flower, data set level
    mean_iou: float  # flower, mean over photos
    dice: float
    pixel_accuracy: float
    notebook_score: float


def scores(per_photo: Sequence[Counts]) -> Scores:
    """Every score from the counts of each photo.

    Raises:
        ValueError: there is no photo.
    """
    whole = total(per_photo)
    return Scores(
        photos=len(per_photo),
        iou=iou(whole),
        mean_iou=mean_iou(per_photo),
        dice=dice(whole),
        pixel_accuracy=pixel_accuracy(whole),
        notebook_score=notebook_score(per_photo),
    )


def _count(mask: Mask, truth: Mask, counted: Mask) -> Counts:
    return Counts(
        true_positive=int(np.count_nonzero(mask & truth & counted)),
        false_positive=int(np.count_nonzero(mask & ~truth & counted)),
        false_negative=int(np.count_nonzero(~mask & truth & counted)),
        true_negative=int(np.count_nonzero(~mask & ~truth & counted)),
    )


def _tenths(counts: Counts) -> int:
    """ceil(20 (IoU - 0.5)) within 0 and 10, in integers: in floats 20 (0.55 - 0.5) exceeds 1."""
    overlap = counts.true_positive
    union = overlap + counts.false_positive + counts.false_negative
    if not union:
        return 10
    return min(10, max(0, -((10 * union - 20 * overlap) // union)))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
