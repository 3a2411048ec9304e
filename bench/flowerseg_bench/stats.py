"""Numbers from samples: plain functions over milliseconds. bench/README.md defines each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import binom

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A percentile with its 95 % confidence interval."""

    value_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Latency:
    """How long one run took. A percentile is None where the samples do not carry it."""

    n: int
    median_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    cv: float | None  # standard deviation over mean; None for a single sample
    p50: Estimate | None
    p90: Estimate | None
    p95: Estimate | None
    p99: Estimate | None


@dataclass(frozen=True)
class Throughput:
    """Photos over the time they took together; never the inverse of a latency."""

    images: int
    wall_ms: float
    images_per_s: float
    rounds_images_per_s: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline, over all rounds; `low` and `high` are the rounds."""

    times: float
    low: float
    high: float


def latency(samples_ms: Sequence[float]) -> Latency:
    """Summary of single runs; no sample is left out.

    Raises:
        ValueError: there is no sample.
    """
    if not samples_ms:
        raise ValueError("a latency of no samples is not defined")
    return Latency(
        n=len(samples_ms),
        median_ms=_rounded(np.median(samples_ms)),
        mean_ms=_rounded(np.mean(samples_ms)),
        min_ms=min(samples_ms),
        max_ms=max(samples_ms),
        cv=variation(samples_ms),
        p50=percentile(samples_ms, 0.50),
        p90=percentile(samples_ms, 0.90),
        p95=percentile(samples_ms, 0.95),
        p99=percentile(samples_ms, 0.99),
    )


def percentile(samples_ms: Sequence[float], share: float) -> Estimate | None:
    """A percentile with its distribution-free confidence interval, or None.

    Both ends of the interval are samples: the l-th and u-th smallest, from the binomial
    distribution of how many samples lie below the true percentile. Where u would be beyond the
    largest sample, the samples do not carry this percentile. That takes 6 samples for the median,
    36 for p90, 72 for p95 and 368 for p99.

    Source: Hahn, Meeker: Statistical Intervals, 1991, section 5.2.
    """
    interval = _interval(len(samples_ms), share)
    if interval is None:
        return None
    ordered = np.sort(samples_ms)
    value_ms = _rounded(np.quantile(ordered, share))
    return Estimate(value_ms, float(ordered[interval[0] - 1]), float(ordered[interval[1] - 1]))


def least_samples(share: float) -> int:
    """How many samples it takes before `percentile` answers."""
    return next(n for n in range(1, 100_000) if _interval(n, share) is not None)


def variation(values: Sequence[float]) -> float | None:
    """Coefficient of variation: standard deviation (n - 1) over mean."""
    mean = float(np.mean(values)) if values else 0.0
    return round(float(np.std(values, ddof=1)) / mean, 5) if len(values) > 1 and mean else None


def throughput(images: Sequence[int], walls_ms: Sequence[float]) -> Throughput:
    """Photos and milliseconds of each round -> total over total.

    Raises:
        ValueError: no time has passed.
    """
    if sum(walls_ms) <= 0:
        raise ValueError("a throughput over no time is not defined")
    return Throughput(
        images=sum(images),
        wall_ms=round(sum(walls_ms), 4),
        images_per_s=round(1e3 * sum(images) / sum(walls_ms), 3),
        rounds_images_per_s=tuple(
            round(1e3 * count / wall, 3) for count, wall in zip(images, walls_ms, strict=True)
        ),
    )


def ratio(baseline: float, mine: float, rounds: Sequence[tuple[float, float]]) -> Ratio:
    """How many times smaller `mine` is than `baseline`, overall and in each round.

    Args:
        baseline: a duration of the baseline, over all rounds.
        mine: the same of the row.
        rounds: (baseline, mine) of each round, measured one right after the other.
    """
    each = [theirs / ours for theirs, ours in rounds]
    return Ratio(round(baseline / mine, 4), round(min(each), 4), round(max(each), 4))


@cache
def _interval(n: int, share: float) -> tuple[int, int] | None:
    """Ranks (from 1) of the samples between which the percentile lies; None if there are none."""
    tail = (1 - CONFIDENCE) / 2
    lower = int(binom.ppf(tail, n, share))
    upper = int(binom.ppf(1 - tail, n, share)) + 1
    return (lower, upper) if lower >= 1 and upper <= n else None


def _rounded(value_ms: float | np.floating) -> float:
    return round(float(value_ms), 4)
