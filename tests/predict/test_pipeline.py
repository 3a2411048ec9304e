"""Steps before and behind a backend: nothing lost, nothing swapped, and never too many at once."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from flowerseg.arrays import Foreground, Rgb
from flowerseg.predict.pipeline import WRITERS, BusyTime, Finished, ForBackend, ForDisk, Pipeline

_FRAME = np.zeros((4, 4, 3), np.uint8)


def _frame(value: int) -> Rgb:
    return np.full((4, 4, 3), value, np.uint8)


def _answer(frames: Sequence[Rgb]) -> Foreground:
    return np.stack([frame[..., 1] for frame in frames])


class _Backend:
    """Answers with the frames themselves, and keeps what it was asked."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def __call__(self, frames: Sequence[Rgb]) -> Foreground:
        self.batches.append([int(frame[0, 0, 0]) for frame in frames])
        self.threads.add(threading.get_ident())
        return _answer(frames)


def _step(number: int) -> ForBackend[Any] | ForDisk[Any] | Any:
    """Odd numbers go to the backend and to disk, multiples of four to disk alone."""

    def then(foreground: Foreground) -> ForDisk[Any]:
        return ForDisk(lambda: ("inferred", int(foreground[0, 0])))

    if number % 2:
        return ForBackend(_frame(number), then)
    return ForDisk(lambda: ("written", number)) if number % 4 == 0 else ("at once", number)


def _results(finished: Iterator[Finished[Any]]) -> list[Any]:
    return sorted(item.result for item in finished)


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (3, 2), (64, 4)])
def test_every_step_comes_to_its_own_result(batch: int, workers: int) -> None:
    pipeline: Pipeline[Any] = Pipeline([_Backend()], batch, workers)
    results = _results(pipeline.run(partial(_step, number) for number in range(200)))
    assert results == sorted(
        ("inferred", n) if n % 2 else ("written", n) if n % 4 == 0 else ("at once", n)
        for n in range(200)
    )


def test_no_steps_are_no_results() -> None:
    backend = _Backend()
    pipeline: Pipeline[Any] = Pipeline([backend], 3, 2)
    assert list(pipeline.run([])) == []
    assert backend.batches == []


def test_every_batch_is_full_and_runs_in_the_thread_of_its_stream() -> None:
    backend = _Backend()
    pipeline: Pipeline[Any] = Pipeline([backend], 4, 2)
    results = _results(pipeline.run(partial(_step, number) for number in range(1, 20, 2)))
    assert results == [("inferred", number) for number in range(1, 20, 2)]
    assert [len(batch) for batch in backend.batches] == [4, 4, 4]
    first, *others = backend.batches[-1]  # two photos, the last of them repeated
    assert others[1:] == others[:1] * 2
    assert first != others[0]
    assert len(backend.threads) == 1
    assert backend.threads != {threading.get_ident()}


@pytest.mark.parametrize(
    ("streams", "batch", "workers"), [(1, 1, 1), (1, 1, 4), (1, 4, 2), (2, 4, 2), (3, 1, 2)]
)
def test_what_is_under_way_is_bounded(streams: int, batch: int, workers: int) -> None:
    begun = finished = most = 0

    def steps() -> Iterator[Any]:
        nonlocal begun, most
        for number in range(200):
            begun += 1
            most = max(most, begun - finished)
            yield partial(_step, number)

    pipeline: Pipeline[Any] = Pipeline([_Backend() for _ in range(streams)], batch, workers)
    for _ in pipeline.run(steps()):
        finished += 1
    assert finished == 200
    assert most == pipeline.most_alive == (streams + 1) * batch + 2 * workers + WRITERS


def test_steps_go_on_while_the_backend_runs() -> None:
    both_begun = threading.Event()
    begun = []

    def step() -> ForBackend[None]:
        begun.append(True)
        if len(begun) == 2:
            both_begun.set()
        return ForBackend(_FRAME, lambda _: None)

    def infer(frames: Sequence[Rgb]) -> Foreground:
        assert both_begun.wait(10), "the backend ran alone"
        return _answer(frames)

    pipeline: Pipeline[None] = Pipeline([infer], batch=1, workers=1)
    assert len(list(pipeline.run([step, step]))) == 2


def test_streams_compute_at_a_time_and_none_computes_two_batches_at_once() -> None:
    both_at_work = threading.Barrier(2)

    class Stream:
        def __init__(self) -> None:
            self.is_at_work = threading.Lock()
            self.batches = 0

        def __call__(self, frames: Sequence[Rgb]) -> Foreground:
            assert self.is_at_work.acquire(blocking=False), "two batches in one stream"
            both_at_work.wait(10)
            self.batches += 1
            self.is_at_work.release()
            return _answer(frames)

    streams = [Stream(), Stream()]
    pipeline: Pipeline[Any] = Pipeline(streams, 3, 2)
    results = _results(pipeline.run(partial(_step, number) for number in range(1, 120, 2)))
    assert results == [("inferred", number) for number in range(1, 120, 2)]
    assert [stream.batches for stream in streams] == [10, 10]


def test_what_a_stream_raises_is_raised_to_the_caller_and_no_thread_is_left() -> None:
    pipeline: Pipeline[Any] = Pipeline([_answer, _fail], 1, 2)
    with pytest.raises(ZeroDivisionError):
        list(pipeline.run(partial(_step, number) for number in range(1, 40, 2)))
    assert not [thread for thread in threading.enumerate() if "predict" in thread.name]


def test_time_of_several_streams_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr("flowerseg.predict.pipeline.time.perf_counter", clock.read)
    busy = BusyTime()
    with busy.at_work():
        clock.now = 1.0
        with busy.at_work():
            clock.now = 3.0
        clock.now = 4.0
    clock.now = 10.0
    with busy.at_work():
        clock.now = 10.5
    assert busy.seconds == 4.5


def test_batch_behind_one_that_raises_is_not_waited_for_for_ever() -> None:
    is_second_there = threading.Event()

    def infer(frames: Sequence[Rgb]) -> Foreground:
        assert is_second_there.wait(10)
        raise ZeroDivisionError

    def second() -> ForBackend[None]:
        threading.Timer(0.05, is_second_there.set).start()  # once it stands in line
        return ForBackend(_FRAME, _fail)

    pipeline: Pipeline[None] = Pipeline([infer], batch=1, workers=1)
    run = pipeline.run([lambda: ForBackend(_FRAME, _fail), second])
    ended = threading.Event()

    def drive() -> None:
        with pytest.raises(ZeroDivisionError):
            list(run)
        ended.set()

    threading.Thread(target=drive, daemon=True).start()
    assert ended.wait(10)


def test_writing_holds_up_no_computing() -> None:
    all_computed = threading.Event()
    computed = []

    def write() -> None:
        assert all_computed.wait(10), "a write held up the steps"

    def step() -> ForDisk[None]:
        computed.append(True)
        if len(computed) == 4:
            all_computed.set()
        return ForDisk(write)

    pipeline: Pipeline[None] = Pipeline([_answer], batch=1, workers=1)
    assert len(list(pipeline.run([step] * 4))) == 4


def _fail(*_: object) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "step",
    [_fail, lambda: ForBackend(_FRAME, _fail), lambda: ForDisk(_fail)],
    ids=["step", "then", "write"],
)
def test_what_a_step_raises_is_raised_to_the_caller_and_no_thread_is_left(step: Any) -> None:
    pipeline: Pipeline[Any] = Pipeline([_answer], 2, 2)
    with pytest.raises(ZeroDivisionError):
        list(pipeline.run([partial(_step, 1), step, partial(_step, 2)]))
    assert not [thread for thread in threading.enumerate() if "predict" in thread.name]


def test_closing_waits_for_what_has_begun_and_drops_the_rest() -> None:
    begun, done = [], []

    def step() -> ForDisk[None]:
        begun.append(True)
        return ForDisk(lambda: done.append(True))

    pipeline: Pipeline[None] = Pipeline([_answer], 4, 2)
    run = pipeline.run(step for _ in range(1000))
    next(run)
    run.close()
    assert len(begun) < 1000
    assert not [thread for thread in threading.enumerate() if "predict" in thread.name]


def test_time_is_that_of_the_steps_and_a_share_of_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = _Clock()
    monkeypatch.setattr("flowerseg.predict.pipeline.time.perf_counter", clock.read)

    def write() -> str:
        clock.now += 0.25
        return "done"

    def then(_: Foreground) -> ForDisk[str]:
        clock.now += 2.0
        return ForDisk(write)

    def step() -> ForBackend[str]:
        clock.now += 1.0
        return ForBackend(_FRAME, then)

    def infer(frames: Sequence[Rgb]) -> Foreground:
        clock.now += 8.0
        return _answer(frames)

    pipeline: Pipeline[str] = Pipeline([infer], batch=1, workers=1)
    assert list(pipeline.run([step])) == [Finished("done", 1.0 + 8.0 + 2.0 + 0.25)]
    assert (pipeline.wall_s, pipeline.backend_s) == (11.25, 8.0)
    assert pipeline.waited_share == pytest.approx(3.25 / 11.25)


class _Clock:
    """Stands still unless it is wound."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now
