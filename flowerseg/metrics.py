"""Scores of masks, from integer counts. Void pixels are left out of all counts.

A score against labels is None where it is not defined, and is shown as `n/a`:

- of one photo, where neither its labels nor its mask have a flower pixel;
- of a set of photos, where the labels lack flower or lack background. With one class a mask that
  ignores the photo can be perfect, so whether a set has scores depends on its labels only.

Agreement of two masks is another measure and always defined: two empty masks agree fully.
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

    @property
    def flower(self) -> int:
        """Pixels that are labelled as flower."""
        return self.true_positive + self.false_negative

    @property
    def background(self) -> int:
        """Pixels that are labelled as background."""
        return self.false_positive + self.true_negative

    @property
    def has_both_classes(self) -> bool:
        """Whether flower and background are both labelled."""
        return self.flower > 0 and self.background > 0


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


def iou(counts: Counts) -> float | None:
    """Intersection over union of the flower class against labels, of one photo or of a sum.

    None where neither labels nor masks have a flower pixel. For a whole set use `set_iou`.

    Source: Everingham et al. 2010, "The PASCAL Visual Object Classes Challenge", section 4.
    """
    union = counts.true_positive + counts.false_positive + counts.false_negative
    return _ratio(counts.true_positive, union)


def agreement_iou(counts: Counts) -> float:
    """Intersection over union of the flower of two masks, from `count_agreement`.

    1.0 where both are empty: they agree in every pixel.
    """
    found = iou(counts)
    return 1.0 if found is None else found


def set_iou(counts: Counts) -> float | None:
    """`iou` of the sum over a set; None where the labels of the set do not hold both classes."""
    return iou(counts) if counts.has_both_classes else None


def dice(counts: Counts) -> float | None:
    """Dice coefficient (F1) of the flower class: 2 TP / (2 TP + FP + FN). None where `iou` is."""
    twice = 2 * counts.true_positive
    return _ratio(twice, twice + counts.false_positive + counts.false_negative)


def pixel_accuracy(counts: Counts) -> float | None:
    """Share of labelled pixels that are right, background too; None where none is labelled."""
    right = counts.true_positive + counts.true_negative
    return _ratio(right, right + counts.false_positive + counts.false_negative)


def mean_iou(per_photo: Sequence[Counts]) -> float | None:
    """Mean of the photos' flower IoU, every photo weighing the same.

    Photos whose IoU is not defined (see `iou`) are left out; None where all are.
    """
    defined = [found for counts in per_photo if (found := iou(counts)) is not None]
    return math.fsum(defined) / len(defined) if defined else None


def notebook_score(per_photo: Sequence[Counts]) -> float | None:
    """The score that the original study calls mIoU: no IoU, but a mean of steps.

    A photo scores 0 up to IoU 0.5, then a tenth more for each 0.05 begun above it, 1 above 0.95:
    ceil(clamp(20 (IoU - 0.5), 0, 10)) / 10, the steps of the TGS Salt challenge of 2018. Kept for
    comparison with the study only. Photos are left out as in `mean_iou`.
    """
    tenths = [found for counts in per_photo if (found := _tenths(counts)) is not None]
    return math.fsum(tenths) / (10 * len(tenths)) if tenths else None


@dataclass(frozen=True)
class Scores:
    """All scores of one model on one set of photos; None is not defined."""

    photos: int
    iou: float | None  # flower, data set level
    mean_iou: float | None  # flower, mean over photos
    dice: float | None
    pixel_accuracy: float | None
    notebook_score: float | None


def scores(per_photo: Sequence[Counts]) -> Scores:
    """Every score from the counts of each photo.

    Scores of the flower are None where the labels of the set do not hold both classes.
    """
    whole = total(per_photo)
    scored = per_photo if whole.has_both_classes else ()
    return Scores(
        photos=len(per_photo),
        iou=iou(total(scored)),
        mean_iou=mean_iou(scored),
        dice=dice(total(scored)),
        pixel_accuracy=pixel_accuracy(whole),
        notebook_score=notebook_score(scored),
    )


def score_text(score: float | None, digits: int = 4) -> str:
    """A score as people read it: `0.9744`, or `n/a` where it is not defined."""
    return "n/a" if score is None else f"{score:.{digits}f}"


def _count(mask: Mask, truth: Mask, counted: Mask) -> Counts:
    return Counts(
        true_positive=int(np.count_nonzero(mask & truth & counted)),
        false_positive=int(np.count_nonzero(mask & ~truth & counted)),
        false_negative=int(np.count_nonzero(~mask & truth & counted)),
        true_negative=int(np.count_nonzero(~mask & ~truth & counted)),
    )


def _tenths(counts: Counts) -> int | None:
    """ceil(20 (IoU - 0.5)) within 0 and 10, in integers: in floats 20 (0.55 - 0.5) exceeds 1.

    None where the IoU is not defined.
    """
    overlap = counts.true_positive
    union = overlap + counts.false_positive + counts.false_negative
    if not union:
        return None
    return min(10, max(0, -((10 * union - 20 * overlap) // union)))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
