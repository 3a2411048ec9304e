"""Rows of the journal: what each holds, its checksum, and how it is read back.

A checksum covers every field of a row and the basis of the run that segmented the photo. A row that
does not match its checksum, or holds what no run writes, is damaged and not used.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from flowerseg.predict.results import PhotoResult, utf8
from flowerseg.predict.settings import Save

_NO_NAMES = {b"", b".", b".."}  # parts of a path that no photo under a folder has

PhotoRow: TypeAlias = tuple[bytes, str, int, int, int, str, str, str]
"""path, sha256, made, met, ok, outputs, result, checksum; see `journalfile`."""


class DamagedRow(Exception):
    """A row that no run wrote as it is. Its message says how that shows."""


@dataclass(frozen=True)
class Entry:
    """What is known about one photo."""

    sha256: str  # of its bytes; empty where they could not be read
    outputs: dict[Save, str]  # SHA-256 of what was written
    result: PhotoResult
    is_current: bool = True  # segmented from the basis of this run
    run: int | None = None  # that segmented it; None: this run


def checksum(*fields: object) -> str:
    """Checksum of the fields of a row; a field of another type has another checksum."""
    return hashlib.blake2b(ascii(fields).encode(), digest_size=8).hexdigest()


def photo_row(path: Path, entry: Entry, made: int, met: int, basis: str) -> PhotoRow:
    """The row of a photo.

    Args:
        path: of the photo, under the folder.
        entry: what is known about it.
        made: the run that segmented it.
        met: the last run that came past it.
        basis: of the run that segmented it.
    """
    fields = (
        key_of(path),
        entry.sha256,
        made,
        met,
        int(entry.result.ok),
        json.dumps(entry.outputs),
        _result_json(entry.result),
    )
    return (*fields, checksum(*fields, basis))


def entry_from_row(row: tuple[Any, ...], bases: dict[int, str], current: set[int]) -> Entry:
    """What a row says.

    Args:
        row: the columns of a `PhotoRow`, of any type.
        bases: basis of each run, by its number.
        current: runs whose outputs this run would make again.

    Raises:
        DamagedRow: no run wrote this row as it is.
    """
    *fields, found = row
    path, sha256, made, _, ok, outputs, result = fields
    basis = bases.get(made) if isinstance(made, int) else None
    if basis is None:
        raise DamagedRow("it names a run that the journal does not know")
    if found != checksum(*fields, basis):
        raise DamagedRow("its checksum is wrong")
    if not isinstance(path, bytes) or not isinstance(sha256, str):
        raise DamagedRow("its path or its hash is of another type")
    if b"\0" in path or not _NO_NAMES.isdisjoint(path.split(b"/")):
        raise DamagedRow("its path is none under a folder")
    entry = Entry(sha256, _outputs(outputs), _result(path, result), made in current, made)
    if entry.result.ok is not bool(ok):
        raise DamagedRow("its status and its error disagree")
    return entry


def key_of(path: Path) -> bytes:
    """How the journal spells the path of a photo: as the file system does."""
    return os.fsencode(path.as_posix())


def path_of(key: bytes) -> Path:
    """The path that a key spells."""
    return Path(os.fsdecode(key))


def loaded_json(text: object) -> Any:
    """What a JSON column holds.

    Raises:
        DamagedRow: it is no JSON text that a run writes.
    """
    try:
        if isinstance(text, str):
            return json.loads(text)
    except (ValueError, RecursionError):
        pass
    raise DamagedRow("it holds something that is not JSON")


def _result_json(result: PhotoResult) -> str:
    """All but the path; by hand, for `asdict` and `from_json` took longer than the database."""
    box, error, took = result.box, result.error, result.milliseconds
    return json.dumps([result.size_hw, result.flower_share, box, error, took])


def _outputs(text: object) -> dict[Save, str]:
    hashes = loaded_json(text)
    if not isinstance(hashes, dict) or not all(isinstance(h, str) for h in hashes.values()):
        raise DamagedRow("its outputs are not hashes")
    try:
        return {Save(kind): digest for kind, digest in hashes.items()}
    except ValueError as error:
        raise DamagedRow("it names an output of an unknown kind") from error


def _result(key: bytes, text: object) -> PhotoResult:
    fields = loaded_json(text)
    if not isinstance(fields, list) or len(fields) != 5:
        raise DamagedRow("its result has other fields")
    size_hw, share, box, error, took = fields
    fits = (
        (size_hw is None or _are_integers(size_hw, 2))
        and (share is None or (_is_number(share) and 0 <= share <= 1))
        and (box is None or _are_integers(box, 4))
        and isinstance(error, str)
        and (took is None or _is_number(took))
    )
    if not fits:
        raise DamagedRow("its result holds values of other types")
    return PhotoResult(
        utf8(os.fsdecode(key)),
        tuple(size_hw) if size_hw else None,
        share,
        tuple(box) if box else None,
        error,
        took,
    )


def _are_integers(values: object, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) is int for value in values)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
