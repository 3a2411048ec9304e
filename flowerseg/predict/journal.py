"""What an output folder holds and what it was made from, kept while it is being made.

A row says: this photo, by the hash of its bytes, was segmented in that run, and these are the
hashes of what was written of it. A row comes after its files, so that it never promises what is not
there; a file without its row is made again. Rows are written at once: a process that is killed
loses none. A machine that goes down may lose the last ones, and then those photos are done again.
A damaged row is as good as none: see `rows`.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowerseg.predict.journalfile import (
    DATABASE_ERRORS,
    JOURNAL,
    damaged_journal,
    explain_journal_error,
    opened_journal,
)
from flowerseg.predict.results import PhotoResult
from flowerseg.predict.rows import (
    DamagedRow,
    Entry,
    checksum,
    entry_from_row,
    key_of,
    loaded_json,
    path_of,
    photo_row,
)

PHOTO_COLUMNS = "path, sha256, made, met, ok, outputs, result, checksum"
RUN_COLUMNS = "id, basis, finished, folder, record, checksum"
_HIGHEST_RUN = 1 << 62  # far beyond what runs count up to: a higher number is damage


class Journal:
    """The journal of an output folder, open for one run. The folder has to be locked.

    Args:
        out: the output folder.
        basis: everything but the photo that the outputs depend on, JSON-like; what was made from
            another one is not current.
        folder: of the photos, from the root; None where their paths name no files.

    Raises:
        OutputError: it cannot be read or written. So do all methods.
    """

    def __init__(self, out: Path, basis: dict[str, Any], folder: Path | None = None) -> None:
        self.path = out / JOURNAL
        self._basis = json.dumps(basis, sort_keys=True)
        self._folder = os.fsencode(folder) if folder else None
        self.damaged = 0  # rows that were not used, so that their photos are done again
        with self._explained():
            self._db = opened_journal(self.path)
            try:
                runs = self._db.execute(f"SELECT {RUN_COLUMNS} FROM runs ORDER BY id").fetchall()
                before = [row[:3] for row in runs if is_whole_run(row)]
                self._run = self._begun(runs[-1][0] + 1 if runs else 1)
            except BaseException:
                self._db.close()
                raise
        self._bases: dict[int, str] = {run: text for run, text, _ in before}
        self._bases[self._run] = self._basis
        self._current = {run for run, text in self._bases.items() if text == self._basis}
        # The run before this one; one whose row is damaged may have been, too.
        self.was_interrupted = bool(runs) and not (is_whole_run(runs[-1]) and runs[-1][2])
        others = [text for _, text, _ in before if text != self._basis]
        self._other = _dictionary(others[-1] if others else self._basis)

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
        """The entry of a photo; None if it has none, or a damaged one, which is counted."""
        with self._explained():
            row = self._db.execute(
                f"SELECT {PHOTO_COLUMNS} FROM photos WHERE path = ?", [key_of(path)]
            ).fetchone()
        if row is None:
            return None
        try:
            return entry_from_row(row, self._bases, self._current)
        except DamagedRow:
            self.damaged += 1
            return None

    def record(self, path: Path, entry: Entry) -> None:
        """Write down a photo that this run has segmented, or found done by an earlier one."""
        made = entry.run or self._run
        row = photo_row(path, entry, made, self._run, self._bases[made])
        with self._explained():
            self._db.execute(
                f"INSERT OR REPLACE INTO photos ({PHOTO_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def entries(self) -> Iterator[tuple[Path, Entry]]:
        """All photos that this run came past, sorted by path."""
        yield from self._entries("met = ? ORDER BY path")

    def failures(self, most: int) -> Iterator[PhotoResult]:
        """The first photos, by path, that could not be segmented."""
        for _, entry in self._entries(f"met = ? AND NOT ok ORDER BY path LIMIT {int(most)}"):
            yield entry.result

    def finish(self, record: str) -> None:
        """Write down that the run came to its end.

        Args:
            record: what run.json holds.
        """
        fields = (self._run, self._basis, 1, self._folder, record)
        with self._explained():
            self._db.execute(
                f"REPLACE INTO runs ({RUN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                [*fields, checksum(*fields)],
            )

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

    def _begun(self, run: int) -> int:
        if not 0 < run < _HIGHEST_RUN:
            raise damaged_journal(self.path, f"it names a run {run}")
        fields = (run, self._basis, 0, self._folder, "")
        self._db.execute(
            f"INSERT INTO runs ({RUN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
            [*fields, checksum(*fields)],
        )
        return run

    def _count(self, which: str, value: object) -> int:
        query = f"SELECT count(*) FROM photos JOIN runs ON made = id WHERE ok AND {which}"
        with self._explained():
            (count,) = self._db.execute(query, [value]).fetchone()
        return int(count)

    def _entries(self, which: str) -> Iterator[tuple[Path, Entry]]:
        with self._explained():
            query = f"SELECT {PHOTO_COLUMNS} FROM photos WHERE {which}"
            rows = self._db.execute(query, [self._run])
        while True:
            with self._explained():
                row = rows.fetchone()
            if row is None:
                return
            try:
                entry = entry_from_row(row, self._bases, self._current)
            except DamagedRow:
                continue  # not of this run: one that is missing shows in the count of rows
            yield path_of(row[0]), entry

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DATABASE_ERRORS as error:
            raise explain_journal_error(self.path, error) from error


def is_whole_run(row: tuple[Any, ...]) -> bool:
    """Whether the row of a run, its columns those of RUN_COLUMNS, is as a run wrote it."""
    *fields, found = row
    return bool(found == checksum(*fields))


def _dictionary(text: str) -> dict[str, Any]:
    try:
        value = loaded_json(text)
    except DamagedRow:
        return {}
    return value if isinstance(value, dict) else {}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
