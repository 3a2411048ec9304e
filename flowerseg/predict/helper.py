"""A process that reads, decodes, encodes and writes photos for a model that another one holds.

`COMMAND SOCKET MEMORY` is such a process: a pipeline like that of a run in one process, whose
backends put their batches into shared memory and wait for the answer. It needs no runtime and knows
no journal. When the process that holds the model is gone, this one is gone at once: what it has not
renamed yet has no name that anybody looks at.
"""

import math
import mmap
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, TypeAlias

import numpy as np

from flowerseg.arrays import Foreground, Images, SizeHW
from flowerseg.backends.base import BackendInfo
from flowerseg.errors import FlowersegError
from flowerseg.isolate import opened_decoder
from flowerseg.limits import explained_start
from flowerseg.photofile import within
from flowerseg.predict.photo import Job, Making, Outcome, Task, begin
from flowerseg.predict.pipeline import Finished, ForBackend, ForDisk, Pipeline
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

# Not -m: the module would be there twice, and its messages not be its own.
COMMAND = (sys.executable, "-c", "from flowerseg.predict.helper import main; main()")


@dataclass(frozen=True)
class Setup:
    """What a helper has to know before its first photo."""

    job: Job
    folder: Path
    read: Callable[[Path], bytes]
    info: BackendInfo
    preprocess: Preprocess
    threshold: float
    slots: int
    batch: int
    workers: int
    max_pixels: int
    isolate_s: float | None


@dataclass(frozen=True)
class Tasks:
    """To a helper: photos to do."""

    tasks: list[Task]


@dataclass(frozen=True)
class NoMore:
    """To a helper: it has all its photos; with `at_once`, those not begun are left out."""

    at_once: bool


@dataclass(frozen=True)
class Infer:
    """From a helper: a batch lies in this slot. To it: its foreground does."""

    slot: int


@dataclass(frozen=True)
class Done:
    """From a helper: photos that are done."""

    finished: list[Finished[Outcome]]


@dataclass(frozen=True)
class Ended:
    """From a helper, as its last word: what went wrong, if anything did."""

    error: BaseException | None


class Slots:
    """Batches (N, H, W, 3) and their foregrounds (N, H, W) in memory that two processes share.

    Args:
        handle: of the memory; its size is set by whoever made it.
        count: of slots.
        batch: frames in each.
        size_hw: of a frame.
    """

    def __init__(self, handle: int, count: int, batch: int, size_hw: SizeHW) -> None:
        self.images: list[Images] = []
        self.foregrounds: list[Foreground] = []
        pixels = batch * math.prod(size_hw)
        memory = mmap.mmap(handle, slots_bytes(count, batch, size_hw))
        for start in range(0, 4 * pixels * count, 4 * pixels):
            images = np.frombuffer(memory, np.uint8, 3 * pixels, start)
            self.images.append(images.reshape(batch, *size_hw, 3))
            foreground = np.frombuffer(memory, np.uint8, pixels, start + 3 * pixels)
            self.foregrounds.append(foreground.reshape(batch, *size_hw))


def slots_bytes(count: int, batch: int, size_hw: SizeHW) -> int:
    """Memory of so many slots: three bytes a pixel in, one out."""
    return 4 * count * batch * math.prod(size_hw)


class Channel:
    """Messages to and from the other process, sent by any thread."""

    def __init__(self, handle: int) -> None:
        self._connection: Connection[Any, Any] = Connection(handle)
        self._sending = Lock()

    def send(self, message: object) -> None:
        """Send it. That the other process is no more is heard by whoever listens to it."""
        content = pickle.dumps(message)
        with self._sending, suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send_bytes(content)

    def messages(self) -> Iterator[Any]:
        """What the other process says, until it is no more; for one thread at a time."""
        with suppress(EOFError, ConnectionResetError):
            while True:
                yield self._connection.recv()

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()


class _Asking:
    """A stream of the process that holds the model."""

    def __init__(self, info: BackendInfo, slots: Slots, slot: int, channel: Channel) -> None:
        self.info = info
        self._slots = slots
        self._slot = slot
        self._channel = channel
        self.answered: SimpleQueue[None] = SimpleQueue()

    def upload(self, images: Images) -> None:
        """Put the batch, always a full one, where the other process sees it."""
        self._slots.images[self._slot][...] = images

    def execute(self) -> None:
        """Ask for it to be inferred."""
        self._channel.send(Infer(self._slot))

    def synchronize(self) -> None:
        """Wait for the answer."""
        self.answered.get()

    def download(self) -> Foreground:
        """The foreground (N, H, W)."""
        return self._slots.foregrounds[self._slot].copy()

    def close(self) -> None:
        """Nothing."""


_Step: TypeAlias = Callable[[], ForBackend[Outcome] | ForDisk[Outcome] | Outcome]


class _Helper:
    """This process: one thread listens, one reports, the others work."""

    def __init__(self, channel: Channel, memory: int) -> None:
        self._channel = channel
        self._messages = channel.messages()
        setup: Setup = next(self._messages)
        self._setup = setup
        slots = Slots(memory, setup.slots, setup.batch, setup.preprocess.size_hw)
        self._asking = [_Asking(setup.info, slots, i, channel) for i in range(setup.slots)]
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._is_over = Event()
        self._finished: SimpleQueue[Finished[Outcome] | None] = SimpleQueue()

    def run(self) -> None:
        """Do all photos; raises what the pipeline raises."""
        setup = self._setup
        reporter = Thread(target=self._report)
        with explained_start("another thread of a process that decodes photos"):
            Thread(target=self._listen, daemon=True).start()
            reporter.start()
        first, *others = self._asking
        segmenter = Segmenter(first, setup.preprocess, setup.threshold, others=others)
        pipeline: Pipeline[Outcome] = Pipeline(segmenter.streams, setup.batch, setup.workers)
        try:
            with opened_decoder(setup.max_pixels, setup.isolate_s) as decode:
                read = within(setup.read, setup.isolate_s)
                making = Making(setup.folder, segmenter, setup.job.save, decode, read)
                with closing(pipeline.run(self._steps(making))) as stream:
                    for finished in stream:
                        self._finished.put(finished)
        finally:
            self._finished.put(None)
            reporter.join()

    def _steps(self, making: Making) -> Iterator[_Step]:
        while (task := self._tasks.get()) and not self._is_over.is_set():
            yield partial(begin, self._setup.job, making, task)

    def _listen(self) -> None:
        try:
            for message in self._messages:
                self._hear(message)
        except Exception:
            traceback.print_exc()
        os._exit(1)

    def _hear(self, message: Infer | Tasks | NoMore) -> None:
        if isinstance(message, Infer):
            self._asking[message.slot].answered.put(None)
        elif isinstance(message, Tasks):
            for task in message.tasks:
                self._tasks.put(task)
        else:
            if message.at_once:
                self._is_over.set()
            self._tasks.put(None)

    def _report(self) -> None:
        """Send what is done: under load much at a time, else each photo at once."""
        is_last = False
        while not is_last:
            finished = [self._finished.get()]
            while not self._finished.empty():
                finished.append(self._finished.get())
            is_last = finished[-1] is None
            if done := [item for item in finished if item is not None]:
                self._channel.send(Done(done))


def _told(error: BaseException) -> BaseException:
    """An error as it can be sent: one of ours as it is, a fault with where it happened."""
    if isinstance(error, FlowersegError):
        return error
    where = f"in a process that decodes photos:\n{''.join(traceback.format_exception(error))}"
    try:
        error.add_note(where)
        pickle.dumps(error)
    except Exception:  # whatever an error's own pickling raises
        return RuntimeError(where)
    return error


def main() -> None:
    """Run as the helper that the command line tells of."""
    channel, memory = Channel(int(sys.argv[1])), int(sys.argv[2])
    error: BaseException | None = None
    try:
        _Helper(channel, memory).run()
    except BaseException as raised:  # it belongs to the process that holds the model
        error = _told(raised)
    channel.send(Ended(error))
