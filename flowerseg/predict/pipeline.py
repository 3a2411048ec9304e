"""Work that overlaps: threads before and behind a backend that runs in the calling thread.

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
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Generic, TypeAlias, TypeVar

from flowerseg.arrays import Foreground, Rgb
from flowerseg.images import use_one_thread_per_call

ResultT = TypeVar("ResultT")

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


class Pipeline(Generic[ResultT]):
    """Runs steps through a backend; for one run.

    Args:
        infer: foregrounds (N, H, W) of a batch of frames; called in the calling thread only.
        batch: frames a batch. The last one repeats a frame where it has fewer, for a runtime may
            compile anew for another number of frames, or round otherwise.
        workers: threads that compute.
    """

    def __init__(
        self, infer: Callable[[Sequence[Rgb]], Foreground], batch: int, workers: int
    ) -> None:
        self._infer = infer
        self._batch = batch
        self._workers = workers
        # A batch in the backend, one behind it, two photos a worker, and what is being written.
        self.most_alive = 2 * batch + 2 * workers + WRITERS
        self.wall_s = 0.0
        self.backend_s = 0.0

    @property
    def waited_share(self) -> float:
        """Share of the run's time in which the backend had nothing to do; 0 before a run."""
        return 1.0 - self.backend_s / self.wall_s if self.wall_s else 0.0

    def run(self, steps: Iterable[Step[ResultT]]) -> Generator[Finished[ResultT], None, None]:
        """Run every step to its result; the results come in any order.

        At most `most_alive` are under way. Closing the generator drops what has not begun and
        waits for what has, so that nothing is left half done. What a step raises is raised here.
        """
        use_one_thread_per_call()
        began = time.perf_counter()
        self._computing = ThreadPoolExecutor(self._workers, "flowerseg-predict")
        self._writing = ThreadPoolExecutor(WRITERS, "flowerseg-predict-write")
        self._done: SimpleQueue[_Ready[ResultT] | Finished[ResultT] | BaseException] = SimpleQueue()
        try:
            yield from self._overlapped(iter(steps))
        finally:
            self._computing.shutdown(cancel_futures=True)
            self._writing.shutdown(cancel_futures=True)
            self.wall_s = time.perf_counter() - began

    def _overlapped(self, waiting: Iterator[Step[ResultT]]) -> Iterator[Finished[ResultT]]:
        alive = 0
        ready: list[_Ready[ResultT]] = []
        while True:
            for step in islice(waiting, self.most_alive - alive):
                self._computing.submit(self._work, step, 0.0)
                alive += 1
            # With room left and everything else finished, these are the last ones.
            is_last = alive == len(ready) < self.most_alive
            if len(ready) == self._batch or (ready and is_last):
                self._run_batch(ready)
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
        began = time.perf_counter()
        frames = [item.work.frame for item in ready]
        foregrounds = self._infer(frames + frames[-1:] * (self._batch - len(frames)))
        took_s = time.perf_counter() - began
        self.backend_s += took_s
        for item, foreground in zip(ready, foregrounds[: len(ready)], strict=True):
            worked_s = item.worked_s + took_s / len(ready)
            self._computing.submit(self._work, item.work.then, worked_s, foreground)

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
                self._writing.submit(self._work, outcome.write, worked_s)
            elif isinstance(outcome, ForBackend):
                self._done.put(_Ready(outcome, worked_s))
            else:
                self._done.put(Finished(outcome, worked_s))
        except BaseException as error:  # it belongs to the thread that waits for the result
            self._done.put(error)
