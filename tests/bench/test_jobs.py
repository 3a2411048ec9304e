import threading
from pathlib import Path

import pytest

from flowerseg.backends.null import NullBackend
from flowerseg.errors import DataError
from flowerseg.predict import PredictSettings
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.jobs import FolderJob, StepJob, Turn, interleaved, predicting, wall_ms_of
from flowerseg_bench.monitor import Monitor
from flowerseg_bench.timing import Budget, Laps, Step, WarmUp, WarmUpRule, wall_clock

SIZE_HW = (32, 32)


def null_segmenter() -> Segmenter:
    return Segmenter(NullBackend(SIZE_HW), Preprocess(size_hw=SIZE_HW))


class LoggingJob:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def warm_up(self) -> WarmUp:
        self.log.append(f"warm {self.name}")
        return WarmUp(1, 1.0, True)

    def take_turn(self, index: int, rounds: int) -> Turn:
        self.log.append(f"{self.name}{index}")
        return Turn(Laps(((1.0,),), 1.0), 1)


def test_rows_are_warm_before_they_take_turns() -> None:
    log: list[str] = []

    interleaved([LoggingJob("A", log), LoggingJob("B", log)], 3, Monitor())

    assert log == ["warm A", "warm B", "A0", "B0", "A1", "B1", "A2", "B2"]


def test_every_row_begins_a_round_at_the_same_photo_and_its_first_run_is_not_counted() -> None:
    seen: list[int] = []

    def step(index: int) -> tuple[float, ...]:
        seen.append(index)
        return (1.0,)

    budget = Budget(for_s=0.0, at_least=2)
    job = StepJob([step], 40, 1, WarmUpRule(), budget, lambda: 0.0)

    turns = [job.take_turn(index, rounds=4) for index in range(4)]

    assert seen == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]
    assert [turn.images for turn in turns] == [2, 2, 2, 2]


def test_streams_run_at_once_and_the_round_lasts_until_the_last_ends() -> None:
    main, both_at_work = threading.get_ident(), threading.Barrier(2)
    marks = iter([5.0, 12.5])  # read by the thread that waits for the streams
    seen: list[int] = []

    def step(index: int) -> tuple[float, ...]:
        seen.append(index)
        if len(seen) > 2:  # the first two are not counted
            both_at_work.wait(10)
        return (1.0,)

    def read() -> float:
        return next(marks) if threading.get_ident() == main else 0.0

    budget = Budget(for_s=0.0, at_least=2)
    turn = StepJob([step, step], 40, 8, WarmUpRule(), budget, read).take_turn(1, rounds=4)

    assert seen[:2] == [10, 11]
    assert sorted(seen[2:]) == [11, 12, 12, 13]
    assert turn.images == 4 * 8
    assert turn.laps == Laps(((1.0,),) * 4, 7.5)


def test_each_stream_keeps_its_thread_from_the_warm_up_to_the_last_round() -> None:
    """In a new thread cuDNN's kernels are chosen again, which takes longer than a round."""
    threads: tuple[set[int], set[int]] = (set(), set())

    def step_of(stream: int) -> Step:
        def step(_: int) -> tuple[float, ...]:
            threads[stream].add(threading.get_ident())
            return (1.0,)

        return step

    rule, budget = WarmUpRule(min_s=0.0), Budget(for_s=0.0, at_least=2)
    job = StepJob([step_of(0), step_of(1)], 40, 8, rule, budget, wall_clock)
    job.warm_up()
    for index in range(3):
        job.take_turn(index, rounds=3)

    (first,), (second,) = threads
    assert len({first, second, threading.get_ident()}) == 3


def test_throughput_of_the_engine_leaves_out_what_lies_between_its_runs() -> None:
    turn = Turn(Laps(((0.25, 0.25), (0.5, 0.0)), wall_s=7.0), images=2)

    assert wall_ms_of(turn, Boundary.ENGINE) == 1000.0
    assert wall_ms_of(turn, Boundary.TRANSFERS) == 7000.0


def test_a_folder_is_segmented_by_predict_into_a_new_one_each_turn(
    photo_folder: Path, tmp_path: Path
) -> None:
    ticks = iter(range(1000))
    work = tmp_path / "work"
    photos = sorted(photo_folder.iterdir())
    segment = predicting(null_segmenter(), PredictSettings(batch=2))
    job = FolderJob(segment, photos, work, 8, Budget(for_s=2.5), lambda: float(next(ticks)))

    warm = job.warm_up()  # 8 photos in one tick: 20 fit into a round, and 16 are a multiple of 8
    turn = job.take_turn(0, rounds=4)

    assert (warm.runs, warm.wall_ms, warm.is_stable) == (1, 1000.0, None)
    assert (turn.images, turn.laps.wall_s) == (16, 1.0)
    # None is removed before all is measured: new files would be dearer on some file systems.
    assert sorted(len(list(out.rglob("*.png"))) for out in work.glob("*/out")) == [8, 16]


def test_a_photo_that_fails_stops_the_measurement(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    segment = predicting(null_segmenter(), PredictSettings(batch=1))
    job = FolderJob(segment, [bad], tmp_path / "work", 8, Budget(for_s=1.0), lambda: 0.0)

    with pytest.raises(DataError, match="could not be segmented"):
        job.warm_up()
