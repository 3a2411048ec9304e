"""One row's part in one measurement, and how the parts take turns."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flowerseg.errors import DataError
from flowerseg.predict import PredictSettings, segment_folder
from flowerseg.segmenter import Segmenter
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.photos import link_photos
from flowerseg_bench.timing import (
    Budget,
    Clock,
    Laps,
    Step,
    WarmUp,
    WarmUpRule,
    repeat,
    timed,
    warm_up,
)


@dataclass(frozen=True)
class Turn:
    """What one row did in one round."""

    laps: Laps
    images: int


class Job(Protocol):
    """A row that can be warmed up and then measured, a round at a time."""

    def warm_up(self) -> WarmUp:
        """Run until the times settle."""

    def take_turn(self, index: int, rounds: int) -> Turn:
        """Measure round `index` of `rounds`."""


def interleaved(jobs: Sequence[Job], rounds: int) -> list[tuple[WarmUp, list[Turn]]]:
    """Warm all rows up, then let them take turns: A B C, A B C, ….

    Whatever happens to the machine meanwhile happens to all rows alike.
    """
    warm_ups = [job.warm_up() for job in jobs]
    turns: list[list[Turn]] = [[] for _ in jobs]
    for index in range(rounds):
        for job, mine in zip(jobs, turns, strict=True):
            mine.append(job.take_turn(index, rounds))
    return list(zip(warm_ups, turns, strict=True))


class StepJob:
    """A step repeated for a while; every row begins a round at the same photo."""

    def __init__(
        self, step: Step, cycle: int, batch: int, rule: WarmUpRule, budget: Budget, clock: Clock
    ) -> None:
        self._step = step
        self._cycle = cycle  # runs after which the photos repeat
        self._batch = batch
        self._rule = rule
        self._budget = budget
        self._clock = clock

    def warm_up(self) -> WarmUp:
        """Until stable: see `WarmUpRule`."""
        return warm_up(self._step, self._rule, self._clock)

    def take_turn(self, index: int, rounds: int) -> Turn:
        """One run that is not counted, because another row's came before it, then the round."""
        first = index * self._cycle // rounds
        self._step(first)
        laps = repeat(self._step, first + 1, self._budget, self._clock)
        return Turn(laps, self._batch * len(laps.stages_s))


class FolderJob:
    """`flowerseg-predict` itself on a folder of links to photos, as many as the time allows."""

    def __init__(
        self,
        segmenter: Segmenter,
        photos: Sequence[Path],
        work: Path,
        batch: int,
        budget: Budget,
        clock: Clock,
    ) -> None:
        self._segmenter = segmenter
        self._photos = photos
        self._work = work
        self._settings = PredictSettings(batch=batch)
        self._least = max(2 * batch, 8)
        self._count = self._least
        self._budget = budget
        self._clock = clock

    def warm_up(self) -> WarmUp:
        """Segment a few photos, which also tells how many fit into a round."""
        laps = self._segment(first=0)
        fitting = int(self._count * self._budget.for_s / laps.wall_s) if laps.wall_s else 0
        self._count = min(max(self._least, fitting), self._budget.at_most)
        return WarmUp(1, round(1e3 * laps.wall_s, 4), is_stable=None)

    def take_turn(self, index: int, rounds: int) -> Turn:
        """Segment a folder into a new one, from listing it to the last mask."""
        count = self._count
        return Turn(self._segment(first=index * len(self._photos) // rounds), count)

    def _segment(self, first: int) -> Laps:
        folder, out = self._work / "photos", self._work / "out"
        link_photos(self._photos, first, self._count, folder)
        failed: list[str] = []

        def segment() -> None:
            report = segment_folder(folder, self._segmenter, out, self._settings)
            failed.extend(result.error for result in report.failed)

        (wall_s,) = timed(self._clock, segment)
        shutil.rmtree(folder)
        shutil.rmtree(out)
        if failed:
            raise DataError(f"{len(failed)} photos could not be segmented: {failed[0]}")
        return Laps((), wall_s)


def wall_ms_of(turn: Turn, boundary: Boundary) -> float:
    """Time that counts for throughput: at the engine what was timed, else the whole round."""
    laps = turn.laps
    seconds = sum(laps.runs_s) if boundary is Boundary.ENGINE else laps.wall_s
    return round(1e3 * seconds, 4)
