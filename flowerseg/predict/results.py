r"""What became of the photos: of each one, of a folder, and as results.csv.

The columns of results.csv: `path` under the folder; `width` and `height` in pixels; `flower_share`,
flower pixels over all pixels; `x0`, `y0`, `x1`, `y1`, the box around the flower, from its first
column and row to the ones behind its last, empty where there is no flower; `status`, ok or error;
`error`, the reason; `milliseconds` that were worked on the photo, with its share of its batch. All
but the last are the same in every run on the same photos with the same model and settings.

Names are spelled so that no two are the same and every reader of CSV gets them back: a backslash is
doubled, and a byte that is no UTF-8 is `\xNN` (see `utf8`). Where a path or an error would begin
with a character that spreadsheets take for a formula, `./` is put before it: `./=1+1.jpg` is the
same file under the folder. Cells with line breaks, carriage returns, commas or quotes are quoted.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flowerseg.arrays import SizeHW
from flowerseg.artifact import Parent
from flowerseg.backends import BackendInfo
from flowerseg.files import replacing
from flowerseg.predict.settings import Save
from flowerseg.preprocess import Preprocess

RESULTS, RUN = "results.csv", "run.json"
_BOX = ("x0", "y0", "x1", "y1")
COLUMNS = ("path", "width", "height", "flower_share", *_BOX, "status", "error", "milliseconds")
# What makes a formula of a cell, in full width too; tabs and line breaks before it are dropped.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class PhotoResult:
    """What became of one photo."""

    path: str  # under the folder, with slashes
    size_hw: SizeHW | None = None
    flower_share: float | None = None
    box: tuple[int, int, int, int] | None = None  # x0, y0, x1, y1; None: no flower
    error: str = ""
    milliseconds: float | None = field(default=None, compare=False)  # of work, not of waiting

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
class Effort:
    """What this run did itself, beside what an earlier one had done."""

    segmented: int
    kept: int  # done before, by the same model with the same settings; still as they were written
    seconds: float
    waited_share: float  # of that time the backend had nothing to do


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
    processes: int
    save: tuple[Save, ...]
    counts: Counts
    left_behind: int  # photos of earlier runs that are not there now; their outputs stay
    effort: Effort
    versions: dict[str, str]


class TextSink(Protocol):
    """What rows are written to."""

    def write(self, text: str, /) -> object:
        """Take some text."""


class _EndingInLf:
    """Rows that end in CR LF, with LF: `csv` quotes only those line breaks that end its rows."""

    def __init__(self, sink: TextSink) -> None:
        self._sink = sink

    def write(self, line: str) -> None:
        self._sink.write(line.removesuffix("\r\n") + "\n")


def write_results(path: Path, results: Iterable[PhotoResult]) -> None:
    """Write results.csv, one row at a time. Raises as `replacing` does."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        write_rows(file, results)


def write_rows(sink: TextSink, results: Iterable[PhotoResult]) -> None:
    """Write the content of results.csv, one row at a time."""
    writer = csv.writer(_EndingInLf(sink), lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(results))


def utf8(name: str) -> str:
    r"""A file name as text: `\\` for a backslash, `\xNN` for a byte that is no UTF-8.

    Each name has a spelling of its own; names in UTF-8 without a backslash are spelled as they are.
    """
    escaped = name.replace("\\", r"\\")
    return escaped.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _rows(results: Iterable[PhotoResult]) -> Iterator[list[object]]:
    for result in results:
        height, width = result.size_hw or ("", "")
        share = "" if result.flower_share is None else f"{result.flower_share:.6f}"
        status = "ok" if result.ok else "error"
        box = result.box or ("", "", "", "")
        took = "" if result.milliseconds is None else f"{result.milliseconds:.1f}"
        path, error = _no_formula(result.path), _no_formula(result.error)
        yield [path, width, height, share, *box, status, error, took]


def _no_formula(text: str) -> str:
    return f"./{text}" if text.startswith(_FORMULA) else text
