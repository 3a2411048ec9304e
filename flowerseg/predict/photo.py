"""What is done with one photo of a folder, from its file to the files made of it."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flowerseg.arrays import Foreground, Mask, Rgb, SizeHW, size_of
from flowerseg.errors import ImageError, NameTooLong
from flowerseg.files import explained, sha256_of, write_bytes
from flowerseg.images import decode_rgb, encode_mask, encode_png, photo_bytes
from flowerseg.isolate import Decode
from flowerseg.masks import cutout, foreground_at, overlay
from flowerseg.predict.journal import Entry
from flowerseg.predict.pipeline import ForBackend, ForDisk
from flowerseg.predict.results import PhotoResult, utf8
from flowerseg.predict.settings import Save
from flowerseg.preprocess import frame_from_photo
from flowerseg.segmenter import Segmenter


@dataclass(frozen=True)
class Job:
    """What is the same for all photos."""

    folder: Path
    out: Path
    segmenter: Segmenter  # in threads its data and `mask`; its backend has one thread
    save: tuple[Save, ...]
    decode: Decode = decode_rgb

    def output(self, photo: Path, kind: Save) -> Path:
        """Where a file made of a photo is: b.jpg -> b.jpg.png."""
        return self.out / kind.folder / photo.with_name(f"{photo.name}.png")


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


@dataclass(frozen=True)
class _Decoded:
    """A photo on its way to the backend and back."""

    task: Task
    sha256: str
    size_hw: SizeHW
    rgb: Rgb | None  # (h, w, 3), kept only where a picture of it will be written


def begin(job: Job, task: Task) -> ForBackend[Outcome] | Outcome:
    """Read a photo, and decode it unless everything that is asked of it is there."""
    path = job.folder / task.photo
    try:
        data = photo_bytes(path)
    except ImageError as error:
        return failed(job, task, str(error))
    sha256 = hashlib.sha256(data).hexdigest()
    if task.before is not None and _is_done(job, task.photo, task.before, sha256):
        return Outcome(task.photo, task.before, is_kept=True)
    try:
        rgb = job.decode(data, str(path))
    except ImageError as error:
        return failed(job, task, str(error), sha256)
    frame = frame_from_photo(rgb, job.segmenter.preprocess)
    is_shown = not {Save.OVERLAY, Save.CUTOUT}.isdisjoint(job.save)
    decoded = _Decoded(task, sha256, size_of(rgb), rgb if is_shown else None)
    return ForBackend(frame, partial(_encode, job, decoded))


def failed(job: Job, task: Task, error: str, sha256: str = "") -> Outcome:
    """A photo that cannot be segmented. What was made of it when it could goes.

    Raises:
        OutputError: that cannot be removed.
    """
    _remove(job, task.photo, Save)
    result = PhotoResult(utf8(task.photo.as_posix()), error=utf8(error))
    return Outcome(task.photo, Entry(sha256, {}, result))


def _is_done(job: Job, photo: Path, before: Entry, sha256: str) -> bool:
    """Whether every file that is asked for is the one that this model would write."""
    is_same = before.is_current and before.result.ok and before.sha256 == sha256
    return is_same and all(
        kind in before.outputs and _is_file(job.output(photo, kind), before.outputs[kind])
        for kind in job.save
    )


def _is_file(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except OSError:  # not there, or not to be read: written anew, which says why if it fails
        return False


def _encode(job: Job, decoded: _Decoded, foreground: Foreground) -> ForDisk[Outcome] | Outcome:
    """Make the mask of one photo and the files that are asked for."""
    mask = job.segmenter.mask(foreground, decoded.size_hw)
    try:
        files = {kind: _file(kind, mask, decoded, foreground) for kind in job.save}
    except ImageError as error:
        return failed(job, decoded.task, str(error), decoded.sha256)
    share = float(np.count_nonzero(mask) / mask.size)
    path = utf8(decoded.task.photo.as_posix())
    result = PhotoResult(path, decoded.size_hw, share, _box(mask))
    return ForDisk(partial(_write, job, decoded, files, result))


def _file(kind: Save, mask: Mask, decoded: _Decoded, foreground: Foreground) -> bytes:
    """The bytes of one output."""
    if kind is Save.MASK:
        return encode_mask(mask)
    if kind is Save.PROBABILITY:
        return encode_png(foreground_at(foreground, decoded.size_hw))
    assert decoded.rgb is not None  # `begin` keeps it for these
    picture = overlay if kind is Save.OVERLAY else cutout
    return encode_png(picture(decoded.rgb, mask))


def _write(
    job: Job, decoded: _Decoded, files: Mapping[Save, bytes], result: PhotoResult
) -> Outcome:
    """Write what was made of one photo.

    Raises:
        OutputError: it cannot be written, and neither could any other.
    """
    task = decoded.task
    try:
        for kind, content in files.items():
            write_bytes(job.output(task.photo, kind), content)
    except NameTooLong as error:  # the fault of this photo, not of the disk
        return failed(job, task, str(error), decoded.sha256)
    outputs = {kind: hashlib.sha256(content).hexdigest() for kind, content in files.items()}
    others = _others(job, decoded, files)
    return Outcome(task.photo, Entry(decoded.sha256, outputs | others, result))


def _others(job: Job, decoded: _Decoded, files: Mapping[Save, bytes]) -> dict[Save, str]:
    """What an earlier run wrote and this one does not: kept where it still fits, else removed."""
    before = decoded.task.before
    if before is None:
        return {}
    others = {kind: digest for kind, digest in before.outputs.items() if kind not in files}
    if before.is_current and before.sha256 == decoded.sha256:
        return others
    _remove(job, decoded.task.photo, others)
    return {}


def _remove(job: Job, photo: Path, kinds: Iterable[Save]) -> None:
    for kind in kinds:
        path = job.output(photo, kind)
        # What has a name too long, or a file for a folder, was never there.
        with suppress(NameTooLong, NotADirectoryError), explained(path):
            path.unlink(missing_ok=True)


def _box(mask: Mask) -> tuple[int, int, int, int] | None:
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
