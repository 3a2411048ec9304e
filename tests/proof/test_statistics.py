"""How sure a proof is: intervals against those of independent sampling and of closed forms."""

import numpy as np
import pytest
from scipy import stats

from flowerseg.metrics import Counts
from flowerseg.proof.statistics import agreement_interval, most_bad_photos


def test_photos_that_are_all_alike_leave_no_doubt() -> None:
    assert agreement_interval([Counts(true_positive=9, false_positive=1)] * 20) == (0.9, 0.9)


def test_photos_without_flower_in_either_mask_agree() -> None:
    assert agreement_interval([Counts(true_negative=100)] * 5) == (1.0, 1.0)


def test_interval_is_that_of_scipys_bootstrap() -> None:
    rng = np.random.default_rng(5)
    both, one = rng.integers(500, 1000, 64), rng.integers(0, 50, 64)
    counts = [
        Counts(
            true_positive=int(b), false_positive=int(o) // 2, false_negative=int(o) - int(o) // 2
        )
        for b, o in zip(both, one, strict=True)
    ]
    expected = stats.bootstrap(
        (both, one),
        lambda b, o, axis: b.sum(axis) / (b.sum(axis) + o.sum(axis)),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert agreement_interval(counts) == pytest.approx((expected.low, expected.high), abs=5e-4)


def test_interval_is_wider_where_one_photo_is_bad() -> None:
    right = Counts(true_positive=1000)
    low, high = agreement_interval([right] * 63 + [Counts(false_negative=1000)])
    assert low < 63 / 64 < high == 1.0


@pytest.mark.parametrize("photos", [1, 8, 64])
def test_bad_photos_that_may_be_are_those_of_clopper_and_pearson(photos: int) -> None:
    # One-sided, at 95 %: the two-sided interval of 90 % has its upper end there.
    exact = stats.binomtest(0, photos).proportion_ci(0.9, "exact").high
    assert most_bad_photos(photos) == pytest.approx(exact)
