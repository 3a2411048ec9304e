"""A folder of photos in, a folder of masks out, in bounded memory; bad photos stop nothing.

    OUT/masks/<path of the photo>.png      0 and 255, as large as the photo; b.jpg -> b.jpg.png
    OUT/overlays/…, OUT/cutouts/…          likewise, where asked for
    OUT/results.csv                        a row for each photo, sorted by path
    OUT/run.json                           what ran: model, settings, versions, counts

The columns of results.csv: `path` under the folder; `width` and `height` in pixels; `flower_share`,
flower pixels over all pixels; `x0`, `y0`, `x1`, `y1`, the box around the flower, from its first
column and row to the ones behind its last, empty where there is no flower; `status`, ok or error;
`error`, the reason.

results.csv and run.json come last and vanish first: where they are, the run they tell of finished.
"""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np

from flowerseg.arrays import Foreground, Mask, Rgb, SizeHW, size_of
from flowerseg.artifact import Batch, Parent, as_parent, versions_here
from flowerseg.backends import BackendInfo
from flowerseg.errors import ImageError, NameTooLong
from flowerseg.files import explained, write_text
from flowerseg.images import (
    read_rgb,
    use_one_thread_per_call,
    write_mask,
    write_png,
)
from flowerseg.listing import Listing, list_photos
from flowerseg.masks import cutout, overlay
from flowerseg.preprocess import Preprocess, frame_from_photo
from flowerseg.segmenter import Segmenter

UNTUNED_BATCH = 8  # for files that are tuned for no batch: enough to fill a GPU's pipeline

COLUMNS = ("path", "width", "height", "flower_share", "x0", "y0", "x1", "y1", "status", "error")


class Save(StrEnum):
    """What is written of each photo, in the folder of that name with an s."""

    MASK = "mask"
    OVERLAY = "overlay"
    CUTOUT = "cutout"


def default_workers() -> int:
    """Threads that decode and encode: one a core, but two at least and eight at most."""
    return max(2, min(8, os.cpu_count() or 1))


@dataclass(frozen=True)
class PredictSettings:
    """How a folder is segmented. The threshold is the segmenter's."""

    batch: int | None = None  # None: what an engine is tuned for, else 8
    workers: int = field(default_factory=default_workers)
    save: tuple[Save, ...] = (Save.MASK,)

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be 1 or more, not {self.batch}")
        if self.workers < 1:
            raise ValueError(f"workers must be 1 or more, not {self.workers}")
        if not self.save:
            raise ValueError("save names nothing to write")


@dataclass(frozen=True)
class PhotoResult:
    """What became of one photo."""

    path: str  # under the folder, with slashes
    size_hw: SizeHW | None = None
    flower_share: float | None = None
    box: tuple[int, int, int, int] | None = None  # x0, y0, x1, y1; None: no flower
    error: str = ""

    @property
    def ok(self) -> bool:
        """Everything that was asked of this photo is written."""
        return not self.error


@dataclass(frozen=True)
class Counts:
    """How many photos there were, and what became of them."""

    photos: int
    ok: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class RunRecord:
    """What ran: the content of run.json."""

    folder: str
    model: Parent | None
    backend: BackendInfo
    preprocess: Preprocess
    threshold: float
    batch: int
    workers: int
    save: tuple[Save, ...]
    counts: Counts
    versions: dict[str, str]


@dataclass(frozen=True)
class FolderReport:
    """A folder that was segmented."""

    run: RunRecord
    results: tuple[PhotoResult, ...]  # sorted by path

    @property
    def failed(self) -> list[PhotoResult]:
        """The photos that were not segmented, each with its reason."""
        return [result for result in self.results if not result.ok]


def segment_folder(
    folder: Path,
    segmenter: Segmenter,
    out: Path,
    settings: PredictSettings | None = None,
    on_progress: Callable[[PhotoResult], None] | None = None,
) -> FolderReport:
    """Segment every photo in a folder and below it.

    A photo that cannot be decoded is reported and the rest go on. Prints nothing.

    Args:
        folder: where the photos are; see `list_photos`.
        segmenter: used from the calling thread only.
        out: where masks, results.csv and run.json go.
        settings: None takes the defaults.
        on_progress: called in this thread with each result, in any order.

    Raises:
        DataError: the folder is missing or holds no photo; nothing was written.
        OutputError: an output cannot be written; those already written are whole.
        ValueError: the batch is larger than the model takes.
    """
    listing = list_photos(folder, out)
    return segment_listing(listing, segmenter, out, settings or PredictSettings(), on_progress)


def segment_listing(
    listing: Listing,
    segmenter: Segmenter,
    out: Path,
    settings: PredictSettings,
    on_progress: Callable[[PhotoResult], None] | None = None,
) -> FolderReport:
    """Segment the photos of a listing, then write results.csv and run.json.

    See `segment_folder`.
    """
    batch = batch_size(settings, segmenter.info.batch)
    _remove_records(out)
    results = [_failed(path, error) for path, error in listing.unreadable]
    with closing(
        segment_photos(listing.folder, listing.photos, segmenter, out, settings)
    ) as stream:
        for result in stream:
            results.append(result)
            if on_progress:
                on_progress(result)
    ok = sum(result.ok for result in results)
    run = RunRecord(
        folder=_utf8(str(listing.folder)),
        model=as_parent(segmenter.artifact) if segmenter.artifact else None,
        backend=segmenter.info,
        preprocess=segmenter.preprocess,
        threshold=segmenter.threshold,
        batch=batch,
        workers=settings.workers,
        save=settings.save,
        counts=Counts(len(results), ok, len(results) - ok, listing.skipped),
        versions=versions_here(),
    )
    report = FolderReport(run, tuple(sorted(results, key=lambda result: result.path)))
    _write_records(report, out)
    return report


def batch_size(settings: PredictSettings, takes: Batch | None) -> int:
    """The batch that will run on a model that takes these.

    Raises:
        ValueError: the settings ask for more than the model takes, or it takes no small batch.
    """
    if takes is None:
        return settings.batch or UNTUNED_BATCH
    if takes.min > 1:
        raise ValueError(
            f"this model takes batches of {takes.min} to {takes.max}, and a folder may end with "
            f"fewer. Build it with --batch 1:{takes.opt}:{takes.max}"
        )
    if settings.batch and settings.batch > takes.max:
        raise ValueError(f"a batch of {settings.batch}; this model takes at most {takes.max}")
    return settings.batch or takes.opt


def segment_photos(
    folder: Path,
    photos: Iterable[Path],
    segmenter: Segmenter,
    out: Path,
    settings: PredictSettings,
) -> Generator[PhotoResult, None, None]:
    """Segment the photos at these paths under `folder`; the results come in any order.

    Threads decode ahead of the backend and write behind it, while it runs in the calling thread.
    Closing the generator drops what has not begun and waits for what has, so that no file is left
    half done.
    """
    job = _Job(folder, out, segmenter, settings.save)
    batch = batch_size(settings, segmenter.info.batch)
    pool = ThreadPoolExecutor(settings.workers, "flowerseg-predict")
    use_one_thread_per_call()
    try:
        # Alive at most: a batch in the backend, one behind it, and two photos a worker.
        alive = 2 * batch + 2 * settings.workers
        yield from _overlapped(job, photos, batch, alive, pool)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Job:
    """What is the same for all photos."""

    folder: Path
    out: Path
    segmenter: Segmenter  # in the pool its data and `mask`; its backend has one thread
    save: tuple[Save, ...]


@dataclass(frozen=True)
class _Decoded:
    """A photo on its way to the backend and back."""

    photo: Path
    size_hw: SizeHW
    frame: Rgb  # (H, W, 3)
    rgb: Rgb | None  # (h, w, 3), kept only where a picture of it will be written


_Step: TypeAlias = Future[_Decoded | PhotoResult]


def _overlapped(
    job: _Job,
    photos: Iterable[Path],
    batch: int,
    most_alive: int,
    pool: ThreadPoolExecutor,
) -> Iterator[PhotoResult]:
    """Decode and write in the pool, infer here, with at most `most_alive` photos under way."""
    finished: SimpleQueue[_Step] = SimpleQueue()

    def start(step: Callable[..., _Decoded | PhotoResult], *arguments: object) -> _Step:
        future = pool.submit(step, job, *arguments)
        future.add_done_callback(finished.put)
        return future

    waiting = iter(photos)
    reading: set[_Step] = set()
    writing: set[_Step] = set()
    ready: list[_Decoded] = []
    while True:
        free = most_alive - len(reading) - len(ready) - len(writing)
        reading.update(start(_decode, photo) for photo in islice(waiting, free))
        # With room left and nothing being read, the photos are at their end.
        is_last = not reading and len(ready) + len(writing) < most_alive
        if len(ready) == batch or (ready and is_last):
            foregrounds = job.segmenter.infer([decoded.frame for decoded in ready])
            writing.update(start(_write, *pair) for pair in zip(ready, foregrounds, strict=True))
            ready = []
        elif reading or writing:
            step = finished.get()
            reading.discard(step)
            writing.discard(step)
            outcome = step.result()
            if isinstance(outcome, PhotoResult):
                yield outcome
            else:
                ready.append(outcome)
        else:
            return


def _decode(job: _Job, photo: Path) -> _Decoded | PhotoResult:
    try:
        rgb = read_rgb(job.folder / photo)
    except ImageError as error:
        return _failed(photo, str(error))
    frame = frame_from_photo(rgb, job.segmenter.preprocess)
    is_shown = any(kind is not Save.MASK for kind in job.save)
    return _Decoded(photo, size_of(rgb), frame, rgb if is_shown else None)


def _write(job: _Job, decoded: _Decoded, foreground: Foreground) -> PhotoResult:
    """Make the mask of one photo and write what is asked for.

    Raises:
        OutputError: it cannot be written, and neither could any other.
    """
    photo = decoded.photo
    mask = job.segmenter.mask(foreground, decoded.size_hw)
    for kind in job.save:
        path = job.out / f"{kind}s" / photo.with_name(f"{photo.name}.png")
        try:
            _write_picture(path, kind, mask, decoded.rgb)
        except (ImageError, NameTooLong) as error:  # the fault of this photo, not of the disk
            return _failed(photo, str(error))
    share = float(np.count_nonzero(mask) / mask.size)
    return PhotoResult(_utf8(photo.as_posix()), decoded.size_hw, share, _box(mask))


def _write_picture(path: Path, kind: Save, mask: Mask, rgb: Rgb | None) -> None:
    if kind is Save.MASK:
        write_mask(path, mask)
        return
    assert rgb is not None  # `_decode` keeps it for these
    write_png(path, overlay(rgb, mask) if kind is Save.OVERLAY else cutout(rgb, mask))


def _box(mask: Mask) -> tuple[int, int, int, int] | None:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _failed(photo: Path, error: str) -> PhotoResult:
    return PhotoResult(_utf8(photo.as_posix()), error=_utf8(error))


def _remove_records(out: Path) -> None:
    for path in (out / "results.csv", out / "run.json"):
        with explained(path):
            path.unlink(missing_ok=True)


def _write_records(report: FolderReport, out: Path) -> None:
    write_text(out / "results.csv", _csv(report.results))
    write_text(out / "run.json", json.dumps(dataclasses.asdict(report.run), indent=2) + "\n")


def _csv(results: Iterable[PhotoResult]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        height, width = result.size_hw or ("", "")
        share = "" if result.flower_share is None else f"{result.flower_share:.6f}"
        status = "ok" if result.ok else "error"
        box = result.box or ("", "", "", "")
        writer.writerow([result.path, width, height, share, *box, status, result.error])
    return text.getvalue()


def _utf8(name: str) -> str:
    """A file name that is not UTF-8 with its strange bytes spelled out, so that it can be written
    to a text file."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
