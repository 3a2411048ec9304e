"""What is done with one photo of a folder, from its file to the files made of it.

`make` computes and knows no output folder, so that it can run on another machine; `finish` writes.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from flowerseg.arrays import Foreground, Mask, Rgb, SizeHW, size_of
from flowerseg.errors import ImageError, NameTooLong
from flowerseg.images import bounding_box, decode_rgb, encode_mask, encode_png
from flowerseg.isolate import Decode
from flowerseg.masks import cutout, foreground_at, overlay
from flowerseg.photofile import photo_bytes
from flowerseg.predict.outputs import OutputFolders, output_path
from flowerseg.predict.pipeline import ForBackend, ForDisk
from flowerseg.predict.results import PhotoResult, utf8
from flowerseg.predict.rows import Entry
from flowerseg.predict.settings import Save
from flowerseg.preprocess import frame_from_photo
from flowerseg.segmenter import Segmenter


@dataclass(frozen=True)
class Making:
    """What files are made with, the same for all photos."""

    folder: Path
    segmenter: Segmenter  # in threads its data and `mask`; its backend has one thread
    save: tuple[Save, ...]
    decode: Decode = decode_rgb
    read: Callable[[Path], bytes] = photo_bytes


@dataclass(frozen=True)
class Made:
    """What was made of a photo, in memory."""

    photo: Path  # under the folder
    sha256: str  # of its bytes; empty where they could not be read
    result: PhotoResult | None = None  # None: nothing is made of these bytes, they are known
    files: Mapping[Save, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is asked of a folder, the same for all photos."""

    out: Path  # the folder itself, not a link to it
    save: tuple[Save, ...]
    folders: OutputFolders

    def output(self, photo: Path, kind: Save) -> Path:
        """Where a file made of a photo is: b.jpg -> b.jpg.png."""
        return output_path(self.out, photo, kind)


@dataclass(frozen=True)
class Task:
    """A photo, and what an earlier run knows about it."""

    photo: Path  # under the folder
    before: Entry | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    photo: Path
    entry: Entry
    is_kept: bool = False  # an earlier run had done it


def known_bytes(job: Job, task: Task) -> str:
    """SHA-256 of the photo that all files asked for were made of, with this model; else empty."""
    before = task.before
    if before is None or not (before.is_current and before.result.ok):
        return ""
    stand = all(
        kind in before.outputs
        and job.folders.sha256(job.output(task.photo, kind)) == before.outputs[kind]
        for kind in job.save
    )
    return before.sha256 if stand else ""


def make(making: Making, photo: Path, known: str) -> ForBackend[Made] | Made:
    """Read a photo, and decode it unless these are the bytes that are known by their SHA-256."""
    path = making.folder / photo
    try:
        data = making.read(path)
    except ImageError as error:
        return Made(photo, "", _bad(photo, str(error)))
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 == known:
        return Made(photo, sha256)
    try:
        rgb = making.decode(data, str(path))
    except ImageError as error:
        return Made(photo, sha256, _bad(photo, str(error)))
    frame = frame_from_photo(rgb, making.segmenter.preprocess)
    size_hw = size_of(rgb)
    shown = None if {Save.OVERLAY, Save.CUTOUT}.isdisjoint(making.save) else rgb
    return ForBackend(frame, partial(_encoded, making, photo, sha256, size_hw, shown))


def begin(job: Job, making: Making, task: Task) -> ForBackend[Outcome] | ForDisk[Outcome] | Outcome:
    """Make what is asked of a photo, and write it."""
    made = make(making, task.photo, known_bytes(job, task))
    if isinstance(made, Made):
        return finish(job, task, made)
    return ForBackend(made.frame, partial(_finished, job, task, made.then))


def finish(job: Job, task: Task, made: Made) -> ForDisk[Outcome] | Outcome:
    """Write what was made of a photo; nothing of one that is done already.

    Raises:
        OutputError: what an earlier run made of a photo that fails now cannot be removed.
    """
    if made.result is None:
        assert task.before is not None  # its bytes are known
        return Outcome(task.photo, _without_missing(job, task.photo, task.before), is_kept=True)
    if not made.result.ok:
        _remove(job, task.photo, Save)
        return Outcome(task.photo, Entry(made.sha256, {}, made.result))
    return ForDisk(partial(_write, job, task, made, made.result))


def failed(job: Job, task: Task, error: str, sha256: str = "") -> Outcome:
    """A photo that cannot be segmented. What was made of it when it could goes.

    Raises:
        OutputError: that cannot be removed.
    """
    _remove(job, task.photo, Save)
    return Outcome(task.photo, Entry(sha256, {}, _bad(task.photo, error)))


def _bad(photo: Path, error: str) -> PhotoResult:
    return PhotoResult(utf8(photo.as_posix()), error=utf8(error))


def _encoded(
    making: Making,
    photo: Path,
    sha256: str,
    size_hw: SizeHW,
    rgb: Rgb | None,
    foreground: Foreground,
) -> Made:
    """Make the mask of one photo and the files that are asked for."""
    mask = making.segmenter.mask(foreground, size_hw)
    try:
        files = {kind: _file(kind, mask, size_hw, rgb, foreground) for kind in making.save}
    except ImageError as error:
        return Made(photo, sha256, _bad(photo, str(error)))
    share = float(np.count_nonzero(mask) / mask.size)
    result = PhotoResult(utf8(photo.as_posix()), size_hw, share, bounding_box(mask))
    return Made(photo, sha256, result, files)


def _file(
    kind: Save, mask: Mask, size_hw: SizeHW, rgb: Rgb | None, foreground: Foreground
) -> bytes:
    """The bytes of one output."""
    if kind is Save.MASK:
        return encode_mask(mask)
    if kind is Save.PROBABILITY:
        return encode_png(foreground_at(foreground, size_hw))
    assert rgb is not None  # `make` keeps it for these
    picture = overlay if kind is Save.OVERLAY else cutout
    return encode_png(picture(rgb, mask))


def _finished(
    job: Job,
    task: Task,
    then: Callable[[Foreground], ForDisk[Made] | Made],
    foreground: Foreground,
) -> ForDisk[Outcome] | Outcome:
    made = then(foreground)
    assert isinstance(made, Made)  # making writes nothing
    return finish(job, task, made)


def _write(job: Job, task: Task, made: Made, result: PhotoResult) -> Outcome:
    """Write what was made of one photo.

    Raises:
        OutputError: it cannot be written, and neither could any other.
    """
    try:
        for kind, content in made.files.items():
            job.folders.write(job.output(task.photo, kind), content)
    except NameTooLong as error:  # the fault of this photo, not of the disk
        return failed(job, task, str(error), made.sha256)
    outputs = {kind: hashlib.sha256(content).hexdigest() for kind, content in made.files.items()}
    others = _others(job, task, made)
    return Outcome(task.photo, Entry(made.sha256, outputs | others, result))


def _others(job: Job, task: Task, made: Made) -> dict[Save, str]:
    """What an earlier run wrote and this one does not: kept where it still fits, else removed."""
    before = task.before
    if before is None:
        return {}
    is_kept = before.is_current and before.sha256 == made.sha256
    entry = _without_missing(job, task.photo, before) if is_kept else before
    others = {kind: digest for kind, digest in entry.outputs.items() if kind not in made.files}
    if is_kept:
        return others
    _remove(job, task.photo, others)
    return {}


def _without_missing(job: Job, photo: Path, entry: Entry) -> Entry:
    """An entry without the files that were removed and that this run does not make again."""
    outputs = {
        kind: digest
        for kind, digest in entry.outputs.items()
        if kind in job.save or job.folders.has(job.output(photo, kind))
    }
    return entry if len(outputs) == len(entry.outputs) else replace(entry, outputs=outputs)


def _remove(job: Job, photo: Path, kinds: Iterable[Save]) -> None:
    for kind in kinds:
        with suppress(NameTooLong):  # a file of such a name was never there
            job.folders.remove(job.output(photo, kind))
