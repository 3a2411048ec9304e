"""The one place that reads a clock, and the loops around it.

The clock is an argument everywhere, so that tests use one that they wind themselves. Nothing below
this module knows what is being timed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]
"""Seconds since some moment; never runs backwards."""

Step: TypeAlias = Callable[[int], tuple[float, ...]]
"""Runs the i-th repetition and returns the seconds of each of its stages."""

wall_clock: Clock = time.perf_counter


@dataclass(frozen=True)
class WarmUpRule:
    """When a row counts as warm: two neighbouring windows of runs have nearly the same median."""

    window: int = 3  # runs
    tolerance: float = 0.05  # of the earlier window's median
    min_s: float = 0.2  # trtexec's default warm-up (TensorRT 11.1, sampleOptions.h)
    max_s: float = 9.0  # given up after that, and said so


@dataclass(frozen=True)
class WarmUp:
    """What it took to become warm."""

    runs: int
    wall_ms: float
    is_stable: bool | None  # None: not judged, a folder is segmented once


@dataclass(frozen=True)
class Budget:
    """How long one round of a row lasts."""

    for_s: float
    at_least: int = 3  # runs, however slow
    at_most: int = 2500  # runs, however fast: raw samples are kept


@dataclass(frozen=True)
class Laps:
    """The runs of one round: seconds of each stage of each run, and of the round as a whole."""

    stages_s: tuple[tuple[float, ...], ...]
    wall_s: float

    @property
    def runs_s(self) -> tuple[float, ...]:
        """Seconds of each run, all stages together."""
        return tuple(sum(stages) for stages in self.stages_s)


def timed(clock: Clock, *stages: Callable[[], object]) -> tuple[float, ...]:
    """Run the stages one after the other; the seconds of each."""
    marks = [clock()]
    for stage in stages:
        stage()
        marks.append(clock())
    return tuple(end - begin for begin, end in pairwise(marks))


def warm_up(step: Step, rule: WarmUpRule, clock: Clock) -> WarmUp:
    """Repeat a step until its times settle: see `WarmUpRule`."""
    start = clock()
    runs_s: list[float] = []
    while True:
        runs_s.append(sum(step(len(runs_s))))
        elapsed_s = clock() - start
        settled = elapsed_s >= rule.min_s and is_stable(runs_s, rule)
        if settled or elapsed_s >= rule.max_s:
            return WarmUp(len(runs_s), round(1e3 * elapsed_s, 4), settled)


def is_stable(runs_s: list[float], rule: WarmUpRule) -> bool:
    """The medians of the last two windows differ by no more than the tolerance."""
    if len(runs_s) < 2 * rule.window:
        return False
    before = median(runs_s[-2 * rule.window : -rule.window])
    after = median(runs_s[-rule.window :])
    return abs(after - before) <= rule.tolerance * before


def repeat(step: Step, first: int, budget: Budget, clock: Clock) -> Laps:
    """Run a step back to back, from repetition `first` on, until the budget is used up."""
    stages_s: list[tuple[float, ...]] = []
    start = clock()
    while True:
        stages_s.append(step(first + len(stages_s)))
        elapsed_s = clock() - start
        runs = len(stages_s)
        if runs >= budget.at_most or (runs >= budget.at_least and elapsed_s >= budget.for_s):
            return Laps(tuple(stages_s), elapsed_s)


def resolution_s(clock: Clock, reads: int = 2000) -> float:
    """The smallest step that the clock was seen to make; 0.0 if it stood still."""
    marks = [clock() for _ in range(reads)]
    return min((b - a for a, b in pairwise(marks) if b > a), default=0.0)
