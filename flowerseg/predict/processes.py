"""A folder run in several processes around one model.

However many cores decode, the threads of one interpreter take turns at its lock, and a GPU may ask
for more photos than they hand on. So helpers read, decode, encode and write,
each with an interpreter of its own; this process infers their batches, which lie in memory that it
shares with them, and keeps the journal. See `flowerseg.predict.helper` for the other side.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice, takewhile
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from flowerseg.backends import Backend, run
from flowerseg.errors import FlowersegError
from flowerseg.limits import explained_start, frugal_environment
from flowerseg.predict.engine import origin_of
from flowerseg.predict.helper import (
    COMMAND,
    Channel,
    Done,
    Ended,
    Infer,
    NoMore,
    Setup,
    Slots,
    Tasks,
    slots_bytes,
)
from flowerseg.predict.photo import Job, Outcome, Task
from flowerseg.predict.pipeline import BusyTime, Finished, Streams, most_alive
from flowerseg.predict.settings import Hands, PredictSettings, batch_size
from flowerseg.segmenter import Segmenter

# Of each helper: one batch is inferred while the next one fills.
_SLOTS = 2


class InProcesses:
    """The engine of one machine: helpers around the model in this process.

    Args:
        folder: where the photos are.
        segmenter: its backends are used from a thread each.
        settings: batch and how to decode.
        hands: the workers, and the helpers that they are divided among.
        read: bytes of the photo at a path, called in the helpers; raises ImageError.
    """

    def __init__(
        self,
        folder: Path,
        segmenter: Segmenter,
        settings: PredictSettings,
        hands: Hands,
        read: Callable[[Path], bytes],
    ) -> None:
        self.origin = origin_of(segmenter)
        self.batch = batch_size(settings, segmenter.info.batch)
        self.hands = hands
        self._folder = folder
        self._segmenter = segmenter
        self._settings = settings
        self._read = read
        self.wall_s = 0.0
        self._busy = BusyTime()

    @property
    def waited_share(self) -> float:
        return self._busy.waited_share(self.wall_s)

    def run(
        self, job: Job, tasks: Iterable[Task], is_over: Callable[[], bool]
    ) -> Generator[Finished[Outcome], None, None]:
        """Outcomes as the helpers tell of them; what they write, they have written by then.

        Raises:
            FlowersegError: a helper died; and as a pipeline does.
        """
        began = time.perf_counter()
        begun = takewhile(lambda _: not is_over(), tasks)
        # A helper that has no batch of its own is not worth its start.
        first = list(islice(begun, self.batch * self.hands.processes))
        count = -(-len(first) // self.batch)
        try:
            around = _Around(self._segmenter.backends, self._setup(job), count, self._busy)
            with closing(around):
                yield from around.outcomes(chain(first, begun), is_over)
        finally:
            self.wall_s = time.perf_counter() - began

    def _setup(self, job: Job) -> Setup:
        settings = self._settings
        return Setup(
            job=job,
            folder=self._folder,
            read=self._read,
            info=self.origin.backend,
            preprocess=self.origin.preprocess,
            threshold=self.origin.threshold,
            slots=_SLOTS,
            batch=self.batch,
            workers=self.hands.workers_each,
            max_pixels=settings.max_pixels,
            isolate_s=settings.isolate_s,
        )


class _Helper:
    """A helper, seen from the process that holds the model; it waits for its setup."""

    def __init__(self, setup: Setup) -> None:
        shape = (setup.slots, setup.batch, setup.preprocess.size_hw)
        # Two photos a worker more than its pipeline holds, so that the next ones are there already.
        self.room = most_alive(setup.slots, setup.batch, setup.workers) + 2 * setup.workers
        with explained_start("another process that decodes photos"):
            ours, theirs = socket.socketpair()
            memory = os.memfd_create("flowerseg-batches")
        handles = (theirs.fileno(), memory)
        try:
            os.ftruncate(memory, slots_bytes(*shape))
            self.slots = Slots(memory, *shape)
            # In a group of its own Ctrl-C does not reach it: the photos under way are finished.
            with explained_start("another process that decodes photos"):
                self._process = subprocess.Popen(
                    [*COMMAND, *map(str, handles)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=handles,
                    process_group=0,
                    env=frugal_environment(),
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(memory)
        self.channel = Channel(ours.detach())

    def died(self) -> FlowersegError:
        """The error that its end is, where it has not told of it."""
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return FlowersegError(
            f"A process that decodes photos ended ({how}). What is done is written: run the same "
            "again to go on, with --isolate SECONDS if a photo crashes the decoder, or with fewer "
            "--workers if memory runs out."
        )

    def end(self) -> None:
        """End it, if it has not ended, as safely as a power cut would."""
        self._process.kill()
        self._process.wait()


class _Around:
    """Helpers, and the backends that infer for them.

    Args:
        backends: each is driven by one thread at a time.
        setup: of every helper.
        count: of helpers.
        busy: is told when a backend is at work.
    """

    def __init__(
        self, backends: Sequence[Backend], setup: Setup, count: int, busy: BusyTime
    ) -> None:
        self._inferring = Streams(backends, busy)
        self._said: SimpleQueue[tuple[_Helper, Any] | BaseException] = SimpleQueue()
        self._batch = setup.batch
        self._has_more = True
        self._helpers: list[_Helper] = []
        self._listening: list[Thread] = []
        try:
            for _ in range(count):
                self._helpers.append(_Helper(setup))
                self._helpers[-1].channel.send(setup)
            for helper in self._helpers:
                listening = Thread(target=self._listen, args=[helper])
                with explained_start("another thread"):
                    listening.start()
                self._listening.append(listening)
        except BaseException:
            self.close()
            raise
        self._at_work = list(self._helpers)
        self._is_broken = False

    def close(self) -> None:
        """End the helpers that have not ended."""
        for helper in self._helpers:
            helper.end()
        for thread in self._listening:
            thread.join()
        self._inferring.shutdown()
        for helper in self._helpers:
            helper.channel.close()

    def outcomes(
        self, tasks: Iterator[Task], is_over: Callable[[], bool]
    ) -> Iterator[Finished[Outcome]]:
        """Outcomes of the tasks, in any order.

        Ended early, it leaves out what has not begun and waits for what has.
        """
        try:
            self._fill(tasks)
            while self._at_work:
                helper, message = self._next()
                if isinstance(message, Done):
                    self._hand_out(helper, tasks, len(message.finished))
                    yield from message.finished
                    if is_over():
                        self._tell_all(NoMore(at_once=True))
                elif message.error:
                    raise message.error
        finally:
            self._tell_all(NoMore(at_once=True))
            while self._at_work and not self._is_broken:
                self._next()

    def _fill(self, tasks: Iterator[Task]) -> None:
        """Give every helper as much as it has room for, by turns: a few photos are for all."""
        for given in range(0, self._helpers[0].room if self._helpers else 0, self._batch):
            for helper in self._helpers:
                self._hand_out(helper, tasks, min(self._batch, helper.room - given))

    def _hand_out(self, helper: _Helper, tasks: Iterator[Task], count: int) -> None:
        handed = list(islice(tasks, count)) if self._has_more else []
        if handed:
            helper.channel.send(Tasks(handed))
        if self._has_more and len(handed) < count:
            self._has_more = False
            self._tell_all(NoMore(at_once=False))

    def _tell_all(self, message: NoMore) -> None:
        for helper in self._at_work:
            helper.channel.send(message)

    def _next(self) -> tuple[_Helper, Done | Ended]:
        """What one of those at work says."""
        while True:
            said = self._said.get()
            if isinstance(said, BaseException):
                self._is_broken = True  # who waits for its batch waits for ever
                raise said
            helper, message = said
            if helper in self._at_work:
                if isinstance(message, Ended):
                    self._at_work.remove(helper)
                return helper, message

    def _listen(self, helper: _Helper) -> None:
        try:
            for message in helper.channel.messages():
                if isinstance(message, Infer):
                    self._inferring.submit(self._infer, helper, message.slot)
                else:
                    self._said.put((helper, message))
        except FlowersegError as error:  # it belongs to the thread that waits for the results
            self._said.put(error)
        self._said.put((helper, Ended(helper.died())))  # ignored, where it has told of its end

    def _infer(self, helper: _Helper, slot: int) -> None:
        """Answer one batch, in a stream's thread."""
        try:
            with self._inferring.taken() as backend:
                foreground = run(backend, helper.slots.images[slot])
            helper.slots.foregrounds[slot][...] = foreground
            helper.channel.send(Infer(slot))
        except BaseException as error:  # it belongs to the thread that waits for the results
            self._said.put(error)
