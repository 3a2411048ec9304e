import time

import pytest

from flowerseg_bench.timing import (
    Budget,
    WarmUpRule,
    is_stable,
    repeat,
    resolution_s,
    timed,
    wall_clock,
    warm_up,
)


class FakeClock:
    """Stands still until someone winds it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def wind(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_each_stage_gets_exactly_its_own_seconds(clock: FakeClock) -> None:
    stages = [lambda s=s: clock.wind(s) for s in (0.5, 0.0, 2.0)]

    assert timed(clock, *stages) == (0.5, 0.0, 2.0)


def test_a_round_lasts_until_its_time_is_used_up(clock: FakeClock) -> None:
    seen = []

    def step(index: int) -> tuple[float, ...]:
        seen.append(index)
        return timed(clock, lambda: clock.wind(0.25))

    laps = repeat(step, 7, Budget(for_s=1.0, at_least=1), clock)

    assert seen == [7, 8, 9, 10]
    assert laps.runs_s == (0.25,) * 4
    assert laps.wall_s == 1.0


def test_wall_time_of_a_round_holds_what_lies_between_the_stages(clock: FakeClock) -> None:
    def step(index: int) -> tuple[float, ...]:
        clock.wind(1.0)  # such as choosing the next batch
        return timed(clock, lambda: clock.wind(0.5))

    laps = repeat(step, 0, Budget(for_s=3.0), clock)

    assert sum(laps.runs_s) == 1.5
    assert laps.wall_s == 4.5


@pytest.mark.parametrize(("run_s", "runs"), [(100.0, 3), (0.0, 20)])
def test_slow_runs_have_a_least_number_and_fast_ones_a_most(
    clock: FakeClock, run_s: float, runs: int
) -> None:
    laps = repeat(
        lambda _: timed(clock, lambda: clock.wind(run_s)),
        0,
        Budget(for_s=1.0, at_least=3, at_most=20),
        clock,
    )

    assert len(laps.stages_s) == runs


def test_warm_up_ends_when_the_times_settle(clock: FakeClock) -> None:
    seconds = [9.0, 5.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    rule = WarmUpRule(window=3, tolerance=0.05, min_s=0.0, max_s=1000.0)

    warm = warm_up(lambda i: timed(clock, lambda: clock.wind(seconds[i])), rule, clock)

    # The first two windows of three with equal medians: (2, 1, 1) and (1, 1, 1).
    assert (warm.runs, warm.is_stable) == (9, True)
    assert warm.wall_ms == 1e3 * sum(seconds[:9])


def test_warm_up_of_restless_times_is_given_up_and_said_so(clock: FakeClock) -> None:
    rule = WarmUpRule(min_s=0.0, max_s=100.0)

    warm = warm_up(lambda i: timed(clock, lambda: clock.wind(float(i + 1))), rule, clock)

    assert warm.is_stable is False
    assert warm.wall_ms >= 100_000


def test_warm_up_lasts_its_least_time_even_if_stable(clock: FakeClock) -> None:
    rule = WarmUpRule(min_s=5.0, max_s=100.0)

    warm = warm_up(lambda _: timed(clock, lambda: clock.wind(0.5)), rule, clock)

    assert (warm.runs, warm.is_stable) == (10, True)


def test_five_per_cent_is_still_stable_and_six_is_not() -> None:
    rule = WarmUpRule(window=1, tolerance=0.05)

    assert is_stable([100.0, 105.0], rule)
    assert not is_stable([100.0, 106.0], rule)


def test_resolution_is_the_smallest_step_seen() -> None:
    marks = iter([0.0, 0.0, 3.0, 5.0, 5.0, 9.0])

    assert resolution_s(lambda: next(marks), reads=6) == 2.0
    assert resolution_s(lambda: 1.0) == 0.0


def test_the_wall_clock_is_the_monotonic_one_of_highest_resolution() -> None:
    assert wall_clock is time.perf_counter
