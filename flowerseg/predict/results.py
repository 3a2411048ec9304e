"""What became of the photos: of each one, of a folder, and as results.csv.

The columns of results.csv: `path` under the folder; `width` and `height` in pixels; `flower_share`,
flower pixels over all pixels; `x0`, `y0`, `x1`, `y1`, the box around the flower, from its first
column and row to the ones behind its last, empty where there is no flower; `status`, ok or error;
`error`, the reason; `milliseconds` that were worked on the photo, with its share of its batch. All
but the last are the same in every run on the same photos with the same model and settings.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flowerseg.arrays import SizeHW
from flowerseg.artifact import Parent
from flowerseg.backends import BackendInfo
from flowerseg.files import replacing
from flowerseg.predict.settings import Save
from flowerseg.preprocess import Preprocess

_BOX = ("x0", "y0", "x1", "y1")
COLUMNS = ("path", "width", "height", "flower_share", *_BOX, "status", "error", "milliseconds")


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


def write_results(path: Path, results: Iterable[PhotoResult]) -> None:
    """Write results.csv, one row at a time. Raises as `replacing` does."""
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_rows(results))


def utf8(name: str) -> str:
    """A file name that is not UTF-8 with its strange bytes spelled out, so that it can be written
    to a text file."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _rows(results: Iterable[PhotoResult]) -> Iterator[list[object]]:
    for result in results:
        height, width = result.size_hw or ("", "")
        share = "" if result.flower_share is None else f"{result.flower_share:.6f}"
        status = "ok" if result.ok else "error"
        box = result.box or ("", "", "", "")
        took = "" if result.milliseconds is None else f"{result.milliseconds:.1f}"
        yield [result.path, width, height, share, *box, status, result.error, took]
