"""Whether results.csv and run.json, which a run writes at its end, say what its journal says."""

import json
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from flowerseg.files import open_regular
from flowerseg.predict.results import PhotoResult, write_rows


def fault_of_results(path: Path, results: Iterable[PhotoResult]) -> str:
    """The faults of results.csv; empty if there are none.

    Args:
        path: of the file.
        results: of the journal, sorted by path.
    """
    try:
        with open_regular(path) as file:
            sink = _Comparison(file)
            write_rows(sink, results)
            sink.require_end()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except _Differs as difference:
        return str(difference)
    return ""


def faults_of_record(path: Path, record: str, photos: int, ok: int) -> Iterator[str]:
    """What is wrong with run.json.

    Args:
        path: of the file.
        record: what the journal says that it holds.
        photos: rows of the last run in the journal.
        ok: those of them that were segmented.
    """
    content = record.encode()
    try:
        with open_regular(path) as file:
            if file.read(len(content) + 1) != content:
                yield "not as the run wrote it"
    except OSError as error:
        yield f"cannot be read: {error.strerror}"
    try:
        counts = json.loads(record)["counts"]
        counted = counts["photos"], counts["ok"], counts["failed"]
    except (ValueError, TypeError, LookupError, RecursionError):
        yield "the journal holds another text in its place"
        return
    if counted != (photos, ok, photos - ok):
        yield (
            f"it counts {counted[0]} photos, {counted[1]} of them segmented; the journal has "
            f"{photos} and {ok}"
        )


class _Differs(Exception):
    """Where a file is not what it should be."""


class _Comparison:
    """Takes the text that a file should hold, and compares it with what it holds."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._row = 0

    def write(self, text: str) -> None:
        """Compare one row.

        Raises:
            _Differs: the file holds something else there.
        """
        self._row += 1
        expected = text.encode()
        if self._file.read(len(expected)) != expected:
            raise _Differs(f"row {self._row} is not what the journal says")

    def require_end(self) -> None:
        """Find out whether the file ends there.

        Raises:
            _Differs: it goes on.
        """
        if self._file.read(1):
            raise _Differs(f"more than the {self._row} rows of the journal")
