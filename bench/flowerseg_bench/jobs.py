"""One row's part in one measurement, and how the parts take turns."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol, TypeAlias, TypeVar

from flowerseg.errors import DataError
from flowerseg.predict import PredictSettings, segment_folder
from flowerseg.segmenter import Segmenter
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.monitor import UNSEEN, Monitor, Seen
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

T = TypeVar("T")

SegmentFolder: TypeAlias = Callable[[Path, Path], object]
"""Makes the masks of all photos in a folder, in another folder that does not exist yet."""


@dataclass(frozen=True)
class Turn:
    """What one row did in one round."""

    laps: Laps
    images: int
    seen: Seen = UNSEEN  # of the machine meanwhile


class Job(Protocol):
    """A row that can be warmed up and then measured, a round at a time."""

    def warm_up(self) -> WarmUp:
        """Run until the times settle."""

    def take_turn(self, index: int, rounds: int) -> Turn:
        """Measure round `index` of `rounds`."""


def interleaved(
    jobs: Sequence[Job], rounds: int, monitor: Monitor
) -> list[tuple[WarmUp, list[Turn]]]:
    """Warm all rows up, then let them take turns: A B C, A B C, ….

    Whatever happens to the machine meanwhile happens to all rows alike.
    """
    warm_ups = [job.warm_up() for job in jobs]
    turns: list[list[Turn]] = [[] for _ in jobs]
    for index in range(rounds):
        for job, mine in zip(jobs, turns, strict=True):
            turn, seen = monitor.over(partial(job.take_turn, index, rounds))
            mine.append(replace(turn, seen=seen))
    return list(zip(warm_ups, turns, strict=True))


class StepJob:
    """Steps repeated for a while, each in a thread of its own; all rows begin a round at the same
    photo.

    Args:
        steps: one for each stream.
        cycle: runs of a step after which the photos repeat.
        batch: photos a run.
        rule: when a row is warm.
        budget: of one round.
        clock: see `timing`.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        cycle: int,
        batch: int,
        rule: WarmUpRule,
        budget: Budget,
        clock: Clock,
    ) -> None:
        self._steps = steps
        # Several streams keep a thread each for all rounds: torch keeps cuDNN's kernels by thread,
        # and a new thread would choose them again within the time that is measured.
        self._threads = [ThreadPoolExecutor(1) for _ in steps] if len(steps) > 1 else []
        self._cycle = cycle
        self._batch = batch
        self._rule = rule
        self._budget = budget
        self._clock = clock

    def warm_up(self) -> WarmUp:
        """Until stable, one stream after the other: see `WarmUpRule`."""
        warm = [
            self._begin(place, partial(warm_up, step, self._rule, self._clock))()
            for place, step in enumerate(self._steps)
        ]
        return WarmUp(
            runs=sum(one.runs for one in warm),
            wall_ms=round(sum(one.wall_ms for one in warm), 4),
            is_stable=all(one.is_stable for one in warm),
        )

    def take_turn(self, index: int, rounds: int) -> Turn:
        """A run of each that is not counted, because another row's came before it; then the round,
        from when all begin to when the last one ends.
        """
        firsts = [index * self._cycle // rounds + place for place in range(len(self._steps))]
        for place, (step, first) in enumerate(zip(self._steps, firsts, strict=True)):
            self._begin(place, partial(step, first))()
        begun = self._clock()
        ends = [
            self._begin(place, partial(repeat, step, first + 1, self._budget, self._clock))
            for place, (step, first) in enumerate(zip(self._steps, firsts, strict=True))
        ]
        laps = [end() for end in ends]
        runs = tuple(stages_s for one in laps for stages_s in one.stages_s)
        wall_s = laps[0].wall_s if len(laps) == 1 else self._clock() - begun
        return Turn(Laps(runs, wall_s), self._batch * len(runs))

    def _begin(self, place: int, call: Callable[[], T]) -> Callable[[], T]:
        """Begin a call in the thread of a stream; what waits for it. One stream has this thread."""
        return self._threads[place].submit(call).result if self._threads else call


def in_threads(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls return, all of them made at once; a single one in this thread."""
    if len(calls) == 1:
        return [calls[0]()]
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


class FolderJob:
    """A folder of links to photos, as many as the time allows, segmented into an empty folder.

    Args:
        segment: what is measured.
        photos: files, taken around and around.
        work: a folder on the disk that is to be measured, for its owner to remove once all is
            measured. Turns leave there what they made: ext4 without a journal passes over files
            that were just removed, one by one, whenever it makes a new one.
        least: photos in a round, however slow; a round has so many or a multiple. As a multiple of
            the batch it leaves no batch half empty, which counts in a folder of forty photos and
            not in one of thousands.
        budget: of one round.
        clock: see `timing`.
    """

    def __init__(
        self,
        segment: SegmentFolder,
        photos: Sequence[Path],
        work: Path,
        least: int,
        budget: Budget,
        clock: Clock,
    ) -> None:
        self._segment_folder = segment
        self._photos = photos
        self._work = work
        self._least = least
        self._count = least
        self._budget = budget
        self._clock = clock

    def warm_up(self) -> WarmUp:
        """Segment a few photos, which also tells how many fit into a round."""
        laps = self._segment(first=0)
        fitting = int(self._count * self._budget.for_s / laps.wall_s) if laps.wall_s else 0
        most = min(fitting, self._budget.at_most)
        self._count = max(1, most // self._least) * self._least
        return WarmUp(1, round(1e3 * laps.wall_s, 4), is_stable=None)

    def take_turn(self, index: int, rounds: int) -> Turn:
        """Segment a folder into a new one, from listing it to the last mask."""
        count = self._count
        return Turn(self._segment(first=index * len(self._photos) // rounds), count)

    def _segment(self, first: int) -> Laps:
        self._work.mkdir(parents=True, exist_ok=True)
        turn = Path(mkdtemp(dir=self._work))
        folder, out = turn / "photos", turn / "out"
        link_photos(self._photos, first, self._count, folder)
        (wall_s,) = timed(self._clock, partial(self._segment_folder, folder, out))
        return Laps((), wall_s)


def predicting(segmenter: Segmenter, settings: PredictSettings) -> SegmentFolder:
    """`flowerseg-predict` itself, which must not fail on any photo.

    The function that is returned raises DataError where one could not be segmented.
    """

    def segment(folder: Path, out: Path) -> None:
        report = segment_folder(folder, segmenter, out, settings)
        if report.failed:
            raise DataError(
                f"{len(report.failed)} photos could not be segmented: {report.failed[0].error}"
            )

    return segment


def wall_ms_of(turn: Turn, boundary: Boundary) -> float:
    """Time that counts for throughput: at the engine what was timed, else the whole round."""
    laps = turn.laps
    seconds = sum(laps.runs_s) if boundary is Boundary.ENGINE else laps.wall_s
    return round(1e3 * seconds, 4)
