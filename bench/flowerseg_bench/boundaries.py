"""What lies between two readings of the clock: three boundaries, never mixed.

Each is a `Step`: the stages of one run, each timed by the same clock, for every backend.
"""

import itertools
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from flowerseg.arrays import Foreground, Images, Mask, Rgb, size_of
from flowerseg.backends import Backend
from flowerseg.images import read_rgb, write_mask
from flowerseg.preprocess import frame_from_photo
from flowerseg.segmenter import Segmenter
from flowerseg_bench.events import Events
from flowerseg_bench.timing import Clock, Step, timed


class Boundary(StrEnum):
    """Where the clock starts and stops."""

    ENGINE = "engine"
    TRANSFERS = "engine+transfers"
    FILE = "file-to-mask"


STAGES: dict[Boundary, tuple[str, ...]] = {
    Boundary.ENGINE: ("execute", "synchronize"),
    Boundary.TRANSFERS: ("upload", "execute", "synchronize", "download"),
    Boundary.FILE: ("read", "prepare", "infer", "mask", "write"),
}
"""The stages of each boundary, in the order in which they run."""


def engine_step(
    backend: Backend, batches: Sequence[Images], clock: Clock, events: Events | None = None
) -> Step:
    """Execute and synchronize, on a batch that was uploaded before the clock started.

    `events` are put around execute on the device's own clock, where it has one.
    """
    execute = backend.execute if events is None else partial(events.around, backend.execute)

    def step(index: int) -> tuple[float, ...]:
        backend.upload(batches[index % len(batches)])
        backend.synchronize()  # an upload may return before it is done
        stages_s = timed(clock, execute, backend.synchronize)
        if events:
            events.read()
        return stages_s

    return step


def transfers_step(backend: Backend, batches: Sequence[Images], clock: Clock) -> Step:
    """Upload, execute, synchronize and download, from host memory to host memory.

    A stage that only starts its work is short, and the next one longer: the sum is what counts.
    """

    def step(index: int) -> tuple[float, ...]:
        images = batches[index % len(batches)]
        return timed(
            clock,
            lambda: backend.upload(images),
            backend.execute,
            backend.synchronize,
            backend.download,
        )

    return step


def file_step(segmenter: Segmenter, photos: Sequence[Path], out: Path, clock: Clock) -> Step:
    """One photo file to one mask file on disk, everything in turn: `Segmenter.segment` in steps.

    Every mask is a new file, and stays in `out`: see `jobs.FolderJob`.
    """
    folder, numbers = Path(mkdtemp(dir=out)), itertools.count()

    def step(index: int) -> tuple[float, ...]:
        job = _PhotoJob(segmenter, photos[index % len(photos)], folder / f"{next(numbers)}.png")
        return timed(clock, job.read, job.prepare, job.infer, job.mask, job.write)

    return step


class _PhotoJob:
    """One photo on its way: what a stage leaves is what the next one takes."""

    def __init__(self, segmenter: Segmenter, photo: Path, out: Path) -> None:
        self._segmenter = segmenter
        self._photo = photo
        self._out = out
        self._rgb: Rgb
        self._frame: Rgb
        self._foreground: Foreground
        self._mask: Mask

    def read(self) -> None:
        """Read and decode the file."""
        self._rgb = read_rgb(self._photo)

    def prepare(self) -> None:
        """Resize to the network's frame."""
        self._frame = frame_from_photo(self._rgb, self._segmenter.preprocess)

    def infer(self) -> None:
        """All four verbs of the backend."""
        (self._foreground,) = self._segmenter.infer([self._frame])

    def mask(self) -> None:
        """Resize the probabilities to the photo and threshold them."""
        self._mask = self._segmenter.mask(self._foreground, size_of(self._rgb))

    def write(self) -> None:
        """Encode, write, and flush to the disk."""
        write_mask(self._out, self._mask)
