"""What an output folder holds and what it was made from, kept while it is being made.

A row says: this photo, by the hash of its bytes, was segmented in that run, and these are the
hashes of what was written of it. A row comes after its files, so that it never promises what is not
there; a file without its row is made again. Rows are written at once: a process that is killed
loses none. A machine that goes down may lose the last ones, and then those photos are done again.
"""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowerseg.errors import OutputError
from flowerseg.predict.results import PhotoResult, utf8
from flowerseg.predict.settings import Save

JOURNAL = "journal.sqlite"
SCHEMA = 1

_TABLES = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, basis TEXT NOT NULL, finished INTEGER NOT NULL);
CREATE TABLE photos (
    path BLOB PRIMARY KEY,       -- under the folder, as the file system spells it
    sha256 TEXT NOT NULL,        -- of the photo's bytes; empty where they could not be read
    made INTEGER NOT NULL,       -- the run that segmented it
    met INTEGER NOT NULL,        -- the last run that came past it
    ok INTEGER NOT NULL,
    outputs TEXT NOT NULL,       -- JSON: SHA-256 of each file by its kind
    result TEXT NOT NULL         -- JSON, see `_fields`
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Entry:
    """What is known about one photo."""

    sha256: str  # of its bytes; empty where they could not be read
    outputs: dict[Save, str]  # SHA-256 of what was written
    result: PhotoResult
    is_current: bool = True  # made from the basis of this run


class Journal:
    """The journal of an output folder, open for one run. The folder has to be locked.

    Args:
        out: the output folder.
        basis: everything but the photo that the outputs depend on, JSON-like; what was made from
            another one is not current.

    Raises:
        OutputError: it cannot be read or written. So do all methods.
    """

    def __init__(self, out: Path, basis: dict[str, Any]) -> None:
        self._path = out / JOURNAL
        self._basis = json.dumps(basis, sort_keys=True)
        with self._explained():
            self._db = _opened(self._path)
            before = self._db.execute("SELECT basis, finished FROM runs ORDER BY id").fetchall()
            begun = self._db.execute("INSERT INTO runs VALUES (NULL, ?, 0)", [self._basis])
            self._run = begun.lastrowid
            same = self._db.execute("SELECT id FROM runs WHERE basis = ?", [self._basis])
            self._current = {run for (run,) in same}
        self.was_interrupted = bool(before) and not before[-1][1]  # the run before this one
        others = [text for text, _ in before if text != self._basis]
        self._other: dict[str, Any] = json.loads(others[-1] if others else self._basis)

    @property
    def changes(self) -> list[str]:
        """How the basis differs from the one before, in words: `threshold 0.5 -> 0.6`."""
        return [
            f"{name} {_short(self._other.get(name))} -> {_short(value)}"
            for name, value in json.loads(self._basis).items()
            if self._other.get(name) != value
        ]

    @property
    def current(self) -> int:
        """Photos that were segmented from this basis."""
        return self._count("basis = ?", self._basis)

    @property
    def outdated(self) -> int:
        """Photos that were segmented from another one."""
        return self._count("basis != ?", self._basis)

    @property
    def left_behind(self) -> int:
        """Segmented photos that this run has not come past."""
        return self._count("met != ?", self._run)

    def find(self, path: Path) -> Entry | None:
        """What is known about a photo."""
        with self._explained():
            row = self._db.execute(
                "SELECT sha256, made, outputs, result FROM photos WHERE path = ?", [_key(path)]
            ).fetchone()
        if row is None:
            return None
        sha256, made, outputs, result = row
        hashes = {Save(kind): digest for kind, digest in json.loads(outputs).items()}
        return Entry(sha256, hashes, _result(_key(path), result), made in self._current)

    def record(self, path: Path, entry: Entry) -> None:
        """Write down a photo that this run has done."""
        with self._explained():
            self._db.execute(
                "INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    _key(path),
                    entry.sha256,
                    self._run,
                    self._run,
                    entry.result.ok,
                    json.dumps(entry.outputs),
                    _fields(entry.result),
                ),
            )

    def keep(self, path: Path) -> None:
        """Write down that this run found a photo done."""
        with self._explained():
            self._db.execute("UPDATE photos SET met = ? WHERE path = ?", [self._run, _key(path)])

    def results(self) -> Iterator[PhotoResult]:
        """Of all photos that this run came past, sorted by path."""
        yield from self._results("SELECT path, result FROM photos WHERE met = ? ORDER BY path")

    def failures(self, most: int) -> Iterator[PhotoResult]:
        """The first photos, by path, that could not be segmented."""
        yield from self._results(
            "SELECT path, result FROM photos WHERE met = ? AND NOT ok ORDER BY path "
            f"LIMIT {int(most)}"
        )

    def finish(self) -> None:
        """Write down that the run came to its end."""
        with self._explained():
            self._db.execute("UPDATE runs SET finished = 1 WHERE id = ?", [self._run])

    def close(self) -> None:
        """Let go of the file."""
        with self._explained():
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _count(self, which: str, value: object) -> int:
        query = f"SELECT count(*) FROM photos JOIN runs ON made = id WHERE ok AND {which}"
        with self._explained():
            (count,) = self._db.execute(query, [value]).fetchone()
        return int(count)

    def _results(self, query: str) -> Iterator[PhotoResult]:
        with self._explained():
            for path, result in self._db.execute(query, [self._run]):
                yield _result(path, result)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise OutputError(_words(self._path, error)) from error


def _opened(path: Path) -> sqlite3.Connection:
    # Every statement is a transaction of its own. NORMAL: written, but flushed only now and then.
    db = sqlite3.connect(path, isolation_level=None)
    # Exclusive before WAL: no memory is shared between processes, which network disks cannot.
    db.executescript(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
    )
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
    elif version != SCHEMA:
        db.close()
        raise sqlite3.DatabaseError(f"of version {version}, this flowerseg writes {SCHEMA}")
    return db


def _words(path: Path, error: sqlite3.DatabaseError) -> str:
    """What the user can do about it: room and permission, or another journal."""
    of_the_disk = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")
    if getattr(error, "sqlite_errorname", "").startswith(of_the_disk):
        return (
            f"{path}: cannot be written: {error}. Free space, or choose another folder; run again "
            "to go on."
        )
    return (
        f"{path}: the journal of earlier runs cannot be used: {error}. Remove it: all photos are "
        "then segmented again."
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _key(path: Path) -> bytes:
    return os.fsencode(path.as_posix())


def _fields(result: PhotoResult) -> str:
    """All but the path; by hand, for `asdict` and `from_json` took longer than the database."""
    box, error, took = result.box, result.error, result.milliseconds
    return json.dumps([result.size_hw, result.flower_share, box, error, took])


def _result(key: bytes, fields: str) -> PhotoResult:
    size_hw, share, box, error, took = json.loads(fields)
    return PhotoResult(
        utf8(os.fsdecode(key)),
        tuple(size_hw) if size_hw else None,
        share,
        tuple(box) if box else None,
        error,
        took,
    )
