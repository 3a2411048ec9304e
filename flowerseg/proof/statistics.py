"""How sure the agreement of a proof is, and what its photos cover."""

from collections.abc import Sequence

import numpy as np

from flowerseg.metrics import Counts
from flowerseg.proof.compare import Compared, Expected
from flowerseg.proofrecord import Statistics

CONFIDENCE = 0.95
_RESAMPLES = 2000


def statistics_of(found: Sequence[Compared], expected: Sequence[Expected]) -> Statistics:
    """The interval of the agreement, and the ranges of the photos.

    Args:
        found: each photo once, compared with the reference.
        expected: the same photos.
    """
    low, high = agreement_interval([compared.agreement for compared in found])
    shares = [float(item.mask.mean()) for item in expected]
    brightness = [float(item.frame.mean()) / 255 for item in expected]
    return Statistics(low, high, min(shares), max(shares), min(brightness), max(brightness))


def agreement_interval(per_photo: Sequence[Counts]) -> tuple[float, float]:
    """The interval in which the agreement IoU lies with `CONFIDENCE`.

    By the percentile bootstrap over photos (Efron and Tibshirani, "An Introduction to the
    Bootstrap", chapter 13): as many photos are drawn again and again, with replacement. The same
    counts give the same interval.
    """
    counts = np.array(
        [(c.true_positive, c.false_positive + c.false_negative) for c in per_photo], np.int64
    )
    drawn = np.random.default_rng(0).integers(0, len(counts), (_RESAMPLES, len(counts)))
    both, one = counts[drawn].sum(axis=1).T
    ious = np.where(both + one > 0, both / np.maximum(both + one, 1), 1.0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ious, [tail, 1 - tail])
    return float(low), float(high)


def statistics_texts(statistics: Statistics, photos: int) -> list[str]:
    """What the figures of a proof rest on, in two lines."""
    return [
        f"95 % interval of the agreement: {statistics.agreement_low:.5f} to "
        f"{statistics.agreement_high:.5f}; if no photo of {photos} is bad, up to "
        f"{100 * most_bad_photos(photos):.1f} % of such photos may be",
        f"photos: flower {_range(statistics.least_flower, statistics.most_flower)}, brightness "
        f"{_range(statistics.least_brightness, statistics.most_brightness)}; other photos were not "
        "tried",
    ]


def _range(least: float, most: float) -> str:
    return f"{100 * least:.0f} to {100 * most:.0f} %"


def most_bad_photos(photos: int) -> float:
    """The share of photos that may be bad although none of so many was, with `CONFIDENCE`.

    Of photos drawn at random from the same source: (1 - share) ** photos = 1 - CONFIDENCE
    (Clopper and Pearson, 1934; 3 / photos is known as the rule of three).
    """
    return float(1 - (1 - CONFIDENCE) ** (1 / photos))
