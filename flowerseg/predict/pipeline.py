"""Work that overlaps: threads before and behind a backend, which has a thread for each stream.

A piece of work says at the end of each step where it goes on:

    step ──> ForBackend ──> its batch ──> then(foreground) ──> ForDisk ──> write() ──> result
      └──────────────────────────────────────────────────────────┴──────────────────> result

Steps compute, in as many threads as there are workers. Writes wait for the disk, in threads of
their own: flushing takes milliseconds in which nothing computes, and what several threads flush at
once, the file system brings to disk together.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from threading import Lock
from typing import Generic, TypeAlias, TypeVar

from flowerseg.arrays import Foreground, Rgb
from flowerseg.images import use_one_thread_per_call
from flowerseg.limits import explained_start

ResultT = TypeVar("ResultT")
StreamT = TypeVar("StreamT")

WRITERS = 8  # threads that wait for the disk


@dataclass(frozen=True)
class ForDisk(Generic[ResultT]):
    """What remains is to be written."""

    write: Callable[[], ResultT]


@dataclass(frozen=True)
class ForBackend(Generic[ResultT]):
    """A frame (H, W, 3) for the next batch, and the step that follows its foreground (H, W)."""

    frame: Rgb
    then: Callable[[Foreground], ForDisk[ResultT] | ResultT]


Step: TypeAlias = Callable[[], ForBackend[ResultT] | ForDisk[ResultT] | ResultT]


@dataclass(frozen=True)
class Finished(Generic[ResultT]):
    """A result, and the seconds that were worked on it, waiting left out."""

    result: ResultT
    worked_s: float


@dataclass(frozen=True)
class _Ready(Generic[ResultT]):
    """Decoded, and waiting for its batch."""

    work: ForBackend[ResultT]
    worked_s: float


class BusyTime:
    """Seconds in which at least one of several threads was at work."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._at_work = 0
        self._since = 0.0
        self.seconds = 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A thread is at work within."""
        with self._lock:
            if self._at_work == 0:
                self._since = time.perf_counter()
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                if self._at_work == 0:
                    self.seconds += time.perf_counter() - self._since

    def waited_share(self, wall_s: float) -> float:
        """Share of a time in which none was; 0 of no time."""
        return 1.0 - self.seconds / wall_s if wall_s else 0.0


class Streams(Generic[StreamT]):
    """Streams, each used by one thread at a time, and a thread for each; for one run.

    Args:
        streams: what batches are brought through.
        busy: is told when any of them is at work.
    """

    def __init__(self, streams: Sequence[StreamT], busy: BusyTime) -> None:
        self._busy = busy
        self._threads = ThreadPoolExecutor(len(streams), "flowerseg-predict-stream")
        self._free: SimpleQueue[StreamT] = SimpleQueue()
        for stream in streams:
            self._free.put(stream)

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        """Do some work that takes a stream, in one of the threads."""
        submit(self._threads, work, *arguments)

    @contextmanager
    def taken(self) -> Iterator[StreamT]:
        """A stream for the calling thread, given back however its work ends."""
        stream = self._free.get()  # there are as many as threads
        try:
            with self._busy.at_work():
                yield stream
        finally:
            self._free.put(stream)

    def shutdown(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._threads.shutdown(cancel_futures=True)


def submit(pool: ThreadPoolExecutor, work: Callable[..., None], *arguments: object) -> None:
    """Have a pool do some work; it starts its threads as it needs them.

    Raises:
        FlowersegError: the system does not start another thread.
    """
    with explained_start("another thread"):
        pool.submit(work, *arguments)


def most_alive(streams: int, batch: int, workers: int) -> int:
    """Photos that are under way in a pipeline at most: a batch in each stream, one behind them, two
    photos a worker, and what is being written."""
    return (streams + 1) * batch + 2 * workers + WRITERS


class Pipeline(Generic[ResultT]):
    """Runs steps through a backend; for one run.

    Args:
        streams: each gives the foregrounds (N, H, W) of a batch of frames, and is called by one
            thread at a time.
        batch: frames a batch. The last one repeats a frame where it has fewer, for a runtime may
            compile anew for another number of frames, or round otherwise.
        workers: threads that compute.
    """

    def __init__(
        self,
        streams: Sequence[Callable[[Sequence[Rgb]], Foreground]],
        batch: int,
        workers: int,
    ) -> None:
        self._streams = streams
        self._batch = batch
        self._workers = workers
        self.most_alive = most_alive(len(streams), batch, workers)
        self.wall_s = 0.0
        self._busy = BusyTime()

    @property
    def backend_s(self) -> float:
        """Seconds of the run in which a batch was in the backend."""
        return self._busy.seconds

    @property
    def waited_share(self) -> float:
        """Share of the run's time in which the backend had nothing to do; 0 before a run."""
        return self._busy.waited_share(self.wall_s)

    def run(self, steps: Iterable[Step[ResultT]]) -> Generator[Finished[ResultT], None, None]:
        """Run every step to its result; the results come in any order.

        At most `most_alive` are under way. Closing the generator drops what has not begun and
        waits for what has, so that nothing is left half done. What a step raises is raised here.
        """
        use_one_thread_per_call()
        began = time.perf_counter()
        self._computing = ThreadPoolExecutor(self._workers, "flowerseg-predict")
        self._inferring = Streams(self._streams, self._busy)
        self._writing = ThreadPoolExecutor(WRITERS, "flowerseg-predict-write")
        self._done: SimpleQueue[_Ready[ResultT] | Finished[ResultT] | BaseException] = SimpleQueue()
        try:
            yield from self._overlapped(iter(steps))
        finally:
            # In the order of the work: what one leaves behind, the next may still take.
            self._inferring.shutdown()
            self._computing.shutdown(cancel_futures=True)
            self._writing.shutdown(cancel_futures=True)
            self.wall_s = time.perf_counter() - began

    def _overlapped(self, waiting: Iterator[Step[ResultT]]) -> Iterator[Finished[ResultT]]:
        alive = 0
        ready: list[_Ready[ResultT]] = []
        while True:
            for step in islice(waiting, self.most_alive - alive):
                submit(self._computing, self._work, step, 0.0)
                alive += 1
            # With room left and everything else finished, these are the last ones.
            is_last = alive == len(ready) < self.most_alive
            if len(ready) == self._batch or (ready and is_last):
                self._inferring.submit(self._run_batch, ready)
                ready = []
            elif alive:
                done = self._done.get()
                if isinstance(done, BaseException):
                    raise done
                if isinstance(done, _Ready):
                    ready.append(done)
                else:
                    alive -= 1
                    yield done
            else:
                return

    def _run_batch(self, ready: Sequence[_Ready[ResultT]]) -> None:
        """Bring a batch through a stream, in that stream's thread."""
        try:
            frames = [item.work.frame for item in ready]
            with self._inferring.taken() as infer:
                began = time.perf_counter()
                foregrounds = infer(frames + frames[-1:] * (self._batch - len(frames)))
                each_s = (time.perf_counter() - began) / len(ready)
            for item, foreground in zip(ready, foregrounds[: len(ready)], strict=True):
                worked_s = item.worked_s + each_s
                submit(self._computing, self._work, item.work.then, worked_s, foreground)
        except BaseException as error:  # it belongs to the thread that waits for the results
            self._done.put(error)

    def _work(
        self,
        step: Callable[..., ForBackend[ResultT] | ForDisk[ResultT] | ResultT],
        worked_s: float,
        *arguments: Foreground,
    ) -> None:
        """Run one step in a pool's thread and send on what comes of it."""
        try:
            began = time.perf_counter()
            outcome = step(*arguments)
            worked_s += time.perf_counter() - began
            if isinstance(outcome, ForDisk):
                submit(self._writing, self._work, outcome.write, worked_s)
            elif isinstance(outcome, ForBackend):
                self._done.put(_Ready(outcome, worked_s))
            else:
                self._done.put(Finished(outcome, worked_s))
        except BaseException as error:  # it belongs to the thread that waits for the result
            self._done.put(error)
