import numpy as np
import pytest
from scipy import stats as scipy_stats

from flowerseg_bench.stats import latency, percentile, ratio, throughput, variation


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_percentile_and_its_interval_are_those_of_scipy(share: float) -> None:
    samples_ms = np.random.default_rng(0).lognormal(1.0, 0.4, 1000).tolist()

    found = percentile(samples_ms, share)

    expected = scipy_stats.mstats.mquantiles(samples_ms, share, alphap=1, betap=1)[0]
    interval = scipy_stats.quantile_test(samples_ms, p=share).confidence_interval(0.95)
    assert found is not None
    assert found.value_ms == pytest.approx(expected, abs=1e-4)
    assert found.low_ms == pytest.approx(interval.low, rel=0.02)
    assert found.high_ms == pytest.approx(interval.high, rel=0.02)


def test_interval_holds_the_true_percentile_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = scipy_stats.expon.ppf(0.9)

    held = 0
    for _ in range(400):
        found = percentile(rng.exponential(size=80).tolist(), 0.9)
        assert found is not None
        held += found.low_ms <= truth <= found.high_ms

    assert held / 400 >= 0.93


@pytest.mark.parametrize(("share", "least"), [(0.5, 6), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_percentile_is_withheld_below_the_least_number_of_samples(share: float, least: int) -> None:
    samples_ms = [float(i) for i in range(1, least + 1)]

    assert percentile(samples_ms, share) is not None
    assert percentile(samples_ms[:-1], share) is None


def test_latency_is_what_a_loop_over_the_samples_finds() -> None:
    samples_ms = np.random.default_rng(2).uniform(1, 3, 501).round(4).tolist()

    found = latency(samples_ms)

    mean = sum(samples_ms) / 501
    deviation = (sum((s - mean) ** 2 for s in samples_ms) / 500) ** 0.5
    assert found.n == 501
    assert found.median_ms == sorted(samples_ms)[250]
    assert found.mean_ms == pytest.approx(mean, abs=1e-4)
    assert (found.min_ms, found.max_ms) == (min(samples_ms), max(samples_ms))
    assert found.cv == pytest.approx(deviation / mean, abs=1e-5)


def test_an_outlier_is_never_left_out() -> None:
    found = latency([1.0] * 99 + [500.0])

    assert found.max_ms == 500.0
    assert found.mean_ms == 5.99


def test_a_single_sample_has_no_variation_and_no_percentile() -> None:
    found = latency([4.0])

    assert (found.cv, found.p50, found.p99) == (None, None, None)


def test_throughput_is_total_over_total_and_not_the_mean_of_rounds() -> None:
    found = throughput([10, 10], [1000.0, 4000.0])

    assert found.images_per_s == 4.0
    assert found.rounds_images_per_s == (10.0, 2.5)


def test_ratio_says_how_many_times_faster_and_how_the_rounds_differ() -> None:
    found = ratio(10.0, 4.0, [(10.0, 5.0), (9.0, 3.0)])

    assert (found.times, found.low, found.high) == (2.5, 2.0, 3.0)


def test_numbers_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        latency([])
    with pytest.raises(ValueError, match="no time"):
        throughput([1], [0.0])
    assert variation([]) is None
