"""The file of a journal: how it is recognised, made, adopted and opened.

The file names its application (`PRAGMA application_id`) and the version of its tables
(`PRAGMA user_version`). A journal of version 1 has no application id; its rows get checksums when a
run first opens it. Any other file is refused before SQLite opens it, since opening may change it.
"""

import os
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flowerseg.errors import OutputError
from flowerseg.files import open_regular
from flowerseg.predict.plainfile import require_plain
from flowerseg.predict.rows import checksum

JOURNAL = "journal.sqlite"
# What SQLite's refusals are in Python, which fails to decode the words about some damage.
DATABASE_ERRORS = (sqlite3.Error, UnicodeError)
APPLICATION_ID = int.from_bytes(b"FLSG", "big")
SCHEMA = 2

_TABLES = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    basis TEXT NOT NULL,         -- JSON: what the outputs depend on, but the photo
    finished INTEGER NOT NULL,
    folder BLOB,                 -- of the photos, from the root; NULL where fsspec opens them
    record TEXT NOT NULL DEFAULT '',  -- what run.json holds; empty before the run has finished
    checksum TEXT NOT NULL DEFAULT '' -- of all these
);
CREATE TABLE photos (
    path BLOB PRIMARY KEY,       -- under the folder, as the file system spells it
    sha256 TEXT NOT NULL,        -- of the photo's bytes; empty where they could not be read
    made INTEGER NOT NULL,       -- the run that segmented it
    met INTEGER NOT NULL,        -- the last run that came past it
    ok INTEGER NOT NULL,
    outputs TEXT NOT NULL,       -- JSON: SHA-256 of each file by its kind
    result TEXT NOT NULL,        -- JSON, see `rows`
    checksum TEXT NOT NULL DEFAULT '' -- of all these and the basis of `made`
) WITHOUT ROWID;
"""
_ADOPT = """
ALTER TABLE runs ADD COLUMN folder BLOB;
ALTER TABLE runs ADD COLUMN record TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN checksum TEXT NOT NULL DEFAULT '';
ALTER TABLE photos ADD COLUMN checksum TEXT NOT NULL DEFAULT '';
UPDATE runs SET checksum = checksum_of(id, basis, finished, folder, record);
UPDATE photos SET checksum = checksum_of(path, sha256, made, met, ok, outputs, result,
    (SELECT basis FROM runs WHERE id = made));
"""
_OWN_COLUMNS = {
    "runs": ["id", "basis", "finished", "folder", "record", "checksum"],
    "photos": ["path", "sha256", "made", "met", "ok", "outputs", "result", "checksum"],
}
_COLUMNS_OF_1 = {
    "runs": ["id", "basis", "finished"],
    "photos": ["path", "sha256", "made", "met", "ok", "outputs", "result"],
}
_UNDONE = ("-wal", "-journal")  # side files with what a killed program did not finish
_SIDE_FILES = (*_UNDONE, "-shm")
_MAGIC = b"SQLite format 3\0"
_NUMBERS = struct.Struct(">60x I 4x I 28x")  # user_version and application_id, of the 100 first
_DAMAGED = "Remove it: all photos are then segmented again."
_FOREIGN = "It belongs to another program. Choose another output folder, or move that file away."


def opened_journal(path: Path) -> sqlite3.Connection:
    """Open a journal for one run, which has locked its folder; create or adopt it if need be.

    Raises:
        OutputError: it is no journal of ours, or of a later version, or a link; it is untouched.
        sqlite3.Error, UnicodeError: SQLite refuses it.
    """
    _require_own(path, is_written=True)
    # Every statement is a transaction of its own. NORMAL: written, but flushed only now and then.
    db = _connected(path, "mode=rwc")
    try:
        # Exclusive before WAL: no memory is shared between processes, which network disks cannot.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        # The tables come before WAL: then the file itself says whose it is, without its WAL.
        _create_or_adopt(db, path)
        db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def readable_journal(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal that no process writes to, and write no file beside it.

    Raises:
        OutputError: it is missing, or no journal of this version.
        sqlite3.Error, UnicodeError: SQLite refuses it.
    """
    if not os.path.lexists(path):
        raise OutputError(
            f"{path.parent}: no {path.name} in it, so flowerseg-predict has not written it. Check "
            "the path; of a run with --shard, give one part, such as 1-of-8."
        )
    _require_own(path, is_written=False)
    with _opened_untouched(path) as db:
        if _columns(db) == _COLUMNS_OF_1:
            raise OutputError(
                f"{path}: an earlier flowerseg wrote it, without checksums. Run the same "
                "command again once: it keeps what is done and adds them."
            )
        _require_columns(db, path)
        yield db


def explain_journal_error(path: Path, error: Exception) -> OutputError:
    """What the user can do about SQLite's refusal: make room, close a program, or start anew."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR")):
        return OutputError(
            f"{path}: cannot be written: {error}. Free space, or choose another folder; run again "
            "to go on."
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return OutputError(f"{path}: another program has it open ({error}). Close that program.")
    what = "its text is damaged" if isinstance(error, UnicodeError) else str(error)
    return damaged_journal(path, what)


def damaged_journal(path: Path, what: str) -> OutputError:
    """The error of a journal that is ours and cannot be used."""
    return OutputError(f"{path}: the journal of earlier runs cannot be used: {what}. {_DAMAGED}")


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", isolation_level=None, uri=True)
    # Damaged text must fail its checksum, not its decoding.
    db.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return db


def _require_own(path: Path, *, is_written: bool) -> None:
    """Refuse a file that SQLite should not open; a missing or an empty one is for a new journal.

    Raises:
        OutputError: a link, another program's database, no database, or a later journal.
    """
    for file in (path, *(_side(path, end) for end in _SIDE_FILES)):
        require_plain(file, is_written=is_written)
    if not _size(path):
        return
    try:
        with open_regular(path) as content:
            head = content.read(_NUMBERS.size)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}. Allow reading it.") from error
    if len(head) < _NUMBERS.size or not head.startswith(_MAGIC):
        if _size(_side(path, "-journal")):
            return  # a power cut came while its first page was written: SQLite restores it
        raise damaged_journal(path, "file is not a database")
    version, application = _NUMBERS.unpack(head)
    _require_version(path, application, version)
    if application == 0:
        with _opened_untouched(path) as db:
            _require_none_or_version_1(db, path)


def _require_version(path: Path, application: int, version: int) -> None:
    if application not in (0, APPLICATION_ID) or (application == 0 and version not in (0, 1)):
        raise OutputError(f"{path}: not a journal of flowerseg. {_FOREIGN}")
    if application == APPLICATION_ID and version != SCHEMA:
        raise damaged_journal(path, f"of version {version}, this flowerseg writes {SCHEMA}")


def _require_none_or_version_1(db: sqlite3.Connection, path: Path) -> dict[str, list[Any]]:
    """The columns of a database without application id: none, or those of a journal."""
    columns = _columns(db)
    if columns not in ({}, _COLUMNS_OF_1):
        raise OutputError(f"{path}: not a journal of flowerseg. {_FOREIGN}")
    return columns


@contextmanager
def _opened_untouched(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database to read it; neither it nor a file beside it changes."""
    # A killed program leaves rows in a side file, which SQLite reads by writing: do that to a copy.
    if any(_size(_side(path, end)) for end in _UNDONE):
        with _copied(path) as copy, closing(_connected(copy, "mode=rw")) as db:
            yield db
    else:
        with closing(_connected(path, "immutable=1")) as db:
            yield db


@contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """A copy of a database and its side files, which goes at the end of the block."""
    with ExitStack() as stack:
        try:
            copy = Path(stack.enter_context(TemporaryDirectory())) / path.name
            for file in (path, *(_side(path, end) for end in _UNDONE)):
                if file.exists():
                    shutil.copyfile(file, copy.with_name(file.name))
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be copied to a temporary folder to be read: {error.strerror}. "
                "Free space, or set TMPDIR to another folder."
            ) from error
        yield copy


def _create_or_adopt(db: sqlite3.Connection, path: Path) -> None:
    application, version = _number(db, "application_id"), _number(db, "user_version")
    _require_version(path, application, version)
    if application == 0:
        columns = _require_none_or_version_1(db, path)
        db.create_function("checksum_of", -1, checksum, deterministic=True)
        db.executescript(
            f"BEGIN IMMEDIATE; {_ADOPT if columns else _TABLES} "
            f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA}; COMMIT;"
        )
    _require_columns(db, path)


def _require_columns(db: sqlite3.Connection, path: Path) -> None:
    if _columns(db) != _OWN_COLUMNS:
        raise damaged_journal(path, "its tables are not those of a journal")


def _columns(db: sqlite3.Connection) -> dict[str, list[Any]]:
    """Names of the columns of each table; of anything else in the database, none."""
    names = [
        name
        for (name,) in db.execute("SELECT name FROM sqlite_master")
        if not str(name).startswith("sqlite_")
    ]
    return {
        name: [row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", [name])]
        for name in names
    }


def _number(db: sqlite3.Connection, pragma: str) -> int:
    (value,) = db.execute(f"PRAGMA {pragma}").fetchone()
    return int(value) & 0xFFFFFFFF  # SQLite shows them signed


def _side(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
