"""Whether an output folder is still what its journal says, found out without a model.

Everything is read and compared: each row of the journal with its checksum, each output with its
hash, each photo with the hash that it had, results.csv and run.json with the journal, and the
folders of outputs with what the journal names. A check does not write there.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Any

from flowerseg.errors import OutputError
from flowerseg.files import as_path, sha256_of_regular
from flowerseg.limits import explained_start
from flowerseg.predict.endcheck import fault_of_results, faults_of_record
from flowerseg.predict.journal import PHOTO_COLUMNS, RUN_COLUMNS, is_whole_run
from flowerseg.predict.journalfile import (
    DATABASE_ERRORS,
    JOURNAL,
    damaged_journal,
    readable_journal,
)
from flowerseg.predict.lock import read_locked
from flowerseg.predict.outputs import OutputFolders, output_path
from flowerseg.predict.results import RESULTS, RUN, PhotoResult, utf8
from flowerseg.predict.rows import DamagedRow, Entry, entry_from_row, key_of, path_of
from flowerseg.predict.settings import Save

_THREADS = 8  # that hash files; most of their time they wait for the disk
_ROWS_AT_ONCE = 512


class Kind(StrEnum):
    """What may be wrong with an output folder."""

    UNFINISHED = "unfinished run"
    JOURNAL = "damaged journal"
    ROW = "damaged row"
    OUTPUT_MISSING = "missing output"
    OUTPUT_CHANGED = "changed output"
    FOREIGN = "foreign file"
    PHOTO_UNREADABLE = "unreadable photo"
    PHOTO_CHANGED = "changed photo"
    RESULTS = "results.csv"
    RUN = "run.json"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    kind: Kind
    path: str  # of a photo under its folder, or of an output under the output folder
    detail: str


@dataclass
class Checked:
    """What was compared."""

    rows: int = 0  # of the journal, damaged ones left out
    outputs: int = 0
    photos: int = 0
    photos_not_checked: int = 0  # they are no files here, or no longer in the folder of photos


@dataclass(frozen=True)
class _LastRun:
    run: int
    is_finished: bool
    folder: Path | None
    record: str


def check_folder(out: str | Path, report: Callable[[Finding], None]) -> Checked:
    """Compare all that an output folder holds with its journal; memory is bounded.

    Args:
        out: the output folder of a run, or of one part of a run in parts.
        report: is given each finding as it is found, in the calling thread.

    Raises:
        OutputError: a run is writing there, or there is no journal that can be read.
    """
    out = as_path(out, "out")
    path = out / JOURNAL
    with read_locked(out):
        try:
            with readable_journal(path) as db:
                return _Check(out, db, report).run()
        except DATABASE_ERRORS as error:
            raise damaged_journal(path, str(error)) from error


class _Check:
    """One check, with the journal open."""

    def __init__(
        self, out: Path, db: sqlite3.Connection, report: Callable[[Finding], None]
    ) -> None:
        self._out = out
        self._db = db
        self._tell = report
        self._folders = OutputFolders(out)
        self._checked = Checked()
        self._bases: dict[int, str] = {}

    def run(self) -> Checked:
        """Check everything, the journal first; where that cannot be read on, no more."""
        try:
            self._check_all()
        except DATABASE_ERRORS as error:
            detail = f"cannot be read to its end, and the rest was not checked: {error}"
            self._report(Kind.JOURNAL, JOURNAL, detail)
        return self._checked

    def _check_all(self) -> None:
        self._check_database()
        last = self._check_runs()
        if last is None:
            return
        self._check_rows(last)
        self._check_outputs_are_named()
        if last.is_finished:
            self._check_results(last)
            self._check_record(last)

    def _report(self, kind: Kind, path: str, detail: str) -> None:
        self._tell(Finding(kind, path, detail))

    def _check_database(self) -> None:
        (said,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            self._report(Kind.JOURNAL, JOURNAL, str(said))

    def _check_runs(self) -> _LastRun | None:
        rows = self._db.execute(f"SELECT {RUN_COLUMNS} FROM runs ORDER BY id").fetchall()
        for row in rows:
            if is_whole_run(row):
                self._bases[row[0]] = row[1]
            else:
                self._report(Kind.ROW, JOURNAL, f"run {row[0]}: its checksum is wrong")
        if not rows or rows[-1][0] not in self._bases:
            self._report(Kind.UNFINISHED, JOURNAL, "what the last run was is not known")
            return None
        run, _, finished, folder, record, _ = rows[-1]
        # One without a record ended in an older flowerseg: a later one was killed as it began.
        is_finished = bool(finished and record)
        if not is_finished:
            detail = "the last run did not come to its end; give its command again to go on"
            self._report(Kind.UNFINISHED, JOURNAL, detail)
        return _LastRun(run, is_finished, path_of(folder) if folder else None, record)

    def _check_rows(self, last: _LastRun) -> None:
        folder = self._readable(last)
        rows = self._db.execute(f"SELECT {PHOTO_COLUMNS} FROM photos ORDER BY path")
        before = b""
        with ThreadPoolExecutor(_THREADS, "flowerseg-check") as pool:
            while chunk := list(islice(rows, _ROWS_AT_ONCE)):
                work: list[tuple[Path, Entry, Path | None]] = []
                for row in chunk:
                    if entry := self._entry(row, before):
                        before = row[0]
                        place = folder if row[3] == last.run and entry.sha256 else None
                        self._count(entry, place)
                        work.append((path_of(row[0]), entry, place))
                with explained_start("another thread"):
                    compared = pool.map(self._files_of, work)
                for finding in chain.from_iterable(compared):
                    self._tell(finding)

    def _count(self, entry: Entry, place: Path | None) -> None:
        checked = self._checked
        checked.rows += 1
        checked.outputs += len(entry.outputs)
        if entry.sha256:  # else the photo could not be read then
            checked.photos += place is not None
            checked.photos_not_checked += place is None

    def _readable(self, last: _LastRun) -> Path | None:
        """The folder of the photos; None where they are no files here, or it cannot be opened."""
        if last.folder is None or last.folder.is_dir():
            return last.folder
        detail = "the folder of the photos cannot be opened, and none of them was checked"
        self._report(Kind.PHOTO_UNREADABLE, utf8(str(last.folder)), detail)
        return None

    def _entry(self, row: tuple[Any, ...], before: bytes) -> Entry | None:
        try:
            entry = entry_from_row(row, self._bases, set(self._bases))
            if row[0] <= before:
                raise DamagedRow("it stands twice, or in the wrong place")
        except DamagedRow as damage:
            self._report(Kind.ROW, _shown(row[0]), str(damage))
            return None
        return entry

    def _files_of(self, work: tuple[Path, Entry, Path | None]) -> list[Finding]:
        """Compare the files of one photo with their hashes, in a thread."""
        photo, entry, folder = work
        findings = [
            self._output_finding(output_path(self._out, photo, kind), digest)
            for kind, digest in entry.outputs.items()
        ]
        if folder is not None:
            findings.append(_photo_finding(folder / photo, photo, entry.sha256))
        return [finding for finding in findings if finding]

    def _output_finding(self, path: Path, sha256: str) -> Finding | None:
        name = utf8(path.relative_to(self._out).as_posix())
        try:
            if not self._folders.has(path):
                return Finding(Kind.OUTPUT_MISSING, name, "no such file")
            if sha256_of_regular(path) != sha256:
                return Finding(Kind.OUTPUT_CHANGED, name, "not as it was written")
        except OSError as error:
            return Finding(Kind.OUTPUT_CHANGED, name, f"cannot be read: {error.strerror}")
        except OutputError:  # of a link to a folder
            return Finding(Kind.OUTPUT_CHANGED, name, "behind a link, outside the output folder")
        return None

    def _check_outputs_are_named(self) -> None:
        for kind in Save:
            for path in self._files_below(self._out / kind.folder):
                name = path.relative_to(self._out / kind.folder)
                if not self._is_named(name, kind):
                    shown = utf8(path.relative_to(self._out).as_posix())
                    self._report(Kind.FOREIGN, shown, "the journal does not name it")

    def _files_below(self, top: Path) -> Iterator[Path]:
        """All that is no folder below a folder, links to folders too.

        Without recursion, since folders may be deeper than Python allows; no folder is listed in
        memory.
        """
        if top.is_symlink():
            yield top
            return
        waiting = [top] if top.exists() else []
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(Path(entry.path))
                        else:
                            yield Path(entry.path)
            except OSError as error:
                shown = utf8(folder.relative_to(self._out).as_posix())
                self._report(Kind.FOREIGN, shown, f"cannot be opened: {error.strerror}")

    def _is_named(self, name: Path, kind: Save) -> bool:
        if name.suffix != ".png":
            return False
        row = self._db.execute(
            f"SELECT {PHOTO_COLUMNS} FROM photos WHERE path = ?", [key_of(name.with_suffix(""))]
        ).fetchone()
        if row is None:
            return False
        try:
            return kind in entry_from_row(row, self._bases, set()).outputs
        except DamagedRow:  # which is reported
            return True

    def _check_results(self, last: _LastRun) -> None:
        if fault := fault_of_results(self._out / RESULTS, self._results(last)):
            self._report(Kind.RESULTS, RESULTS, fault)

    def _results(self, last: _LastRun) -> Iterator[PhotoResult]:
        query = f"SELECT {PHOTO_COLUMNS} FROM photos WHERE met = ? ORDER BY path"
        for row in self._db.execute(query, [last.run]):
            try:
                yield entry_from_row(row, self._bases, set()).result
            except DamagedRow:
                continue  # reported already

    def _check_record(self, last: _LastRun) -> None:
        query = "SELECT count(*), count(CASE WHEN ok THEN 1 END) FROM photos WHERE met = ?"
        photos, ok = self._db.execute(query, [last.run]).fetchone()
        for fault in faults_of_record(self._out / RUN, last.record, photos, ok):
            self._report(Kind.RUN, RUN, fault)


def _photo_finding(path: Path, photo: Path, sha256: str) -> Finding | None:
    name = utf8(photo.as_posix())
    try:
        if sha256_of_regular(path, follows_link=True) != sha256:
            return Finding(Kind.PHOTO_CHANGED, name, "not the photo that was segmented")
    except OSError as error:
        return Finding(Kind.PHOTO_UNREADABLE, name, f"cannot be read: {error.strerror}")
    return None


def _shown(key: object) -> str:
    return utf8(os.fsdecode(key)) if isinstance(key, bytes) else repr(key)
