"""What a benchmark leaves: one object, from which every table, page and plot is made."""

import dataclasses
import json
import re
import reprlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from flowerseg.arrays import SizeHW
from flowerseg.backends.base import Layout
from flowerseg.caveats import Caveat
from flowerseg.errors import DataError
from flowerseg.jsonform import from_json, read_json
from flowerseg.preprocess import Preprocess
from flowerseg.smallfiles import reason_of
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.conditions import Conditions
from flowerseg_bench.monitor import UNSEEN, Seen
from flowerseg_bench.stats import Latency, Ratio, Throughput
from flowerseg_bench.timing import WarmUp

SCHEMA = 4
"""Counts up whenever a field, or what a number means, changes; not for a new field whose default
says what older runs did. 2: the photos' SHA-256; 3: threads, what the machine did during each
round, the GPU's own clock, advice; 4: streams and CUDA graphs."""


class Scenario(StrEnum):
    """What is asked of a row."""

    LATENCY = "latency"  # one photo at a time
    THROUGHPUT = "throughput"  # batches back to back


@dataclass(frozen=True)
class Quality:
    """What the masks of a row are worth.

    None is not measured, and `note` says why; with `labels`, a flower IoU of None is not defined,
    and `caveats` say why.
    """

    photos: int = 0
    agreement_iou: float | None = None  # with the reference checkpoint
    reference: str = ""
    flower_iou: float | None = None  # with the labels, void left out
    labels: str = ""
    note: str = ""
    caveats: tuple[Caveat, ...] = ()  # about the flower IoU


@dataclass(frozen=True)
class Row:
    """One model file in one runtime."""

    name: str
    file: str  # empty: the null backend
    sha256: str
    kind: str
    architecture: str
    runtime: str
    version: str
    device: str
    device_name: str
    precision: str
    preprocess: Preprocess
    min_batch: int
    max_batch: int | None  # None: no limit
    proof: str
    is_unproven: bool
    opened_ms: float  # file to session, checks of the hash left out
    opened_note: str
    first_run_ms: float  # batch 1, upload to download, straight after opening
    quality: Quality
    multiply_adds: int | None = None  # of one photo; None: not counted
    threads: int | None = None  # of one run; None: the runtime's own choice
    streams: int = 1  # batches at a time
    cuda_graph: bool = False
    cudnn_benchmark: bool = False  # cuDNN timed its kernels before
    layout: Layout | None = None  # None: the runtime's own
    proved_batch: int | None = None  # the largest; None: not limited, or not proved

    @property
    def is_null(self) -> bool:
        """This row does nothing and measures the harness."""
        return not self.file

    def takes(self, batch: int) -> bool:
        """The file was made for this batch size."""
        return batch >= self.min_batch and (self.max_batch is None or batch <= self.max_batch)

    def is_proved_at(self, batch: int) -> bool:
        """Its masks at this batch size are proved, or are the reference's."""
        return not self.is_unproven and (self.proved_batch is None or batch <= self.proved_batch)

    @property
    def size_hw(self) -> SizeHW:
        """Size of its frames."""
        return self.preprocess.size_hw


@dataclass(frozen=True)
class Round:
    """Raw values of one row in one round. A folder has no single runs, only its wall time."""

    samples_ms: tuple[float, ...]
    images: int
    wall_ms: float
    seen: Seen = UNSEEN  # of the machine meanwhile


@dataclass(frozen=True)
class Measurement:
    """One row at one boundary, in one scenario, at one batch size."""

    row: int  # index into `Results.rows`
    boundary: Boundary
    scenario: Scenario
    batch: int
    warm_up: WarmUp
    latency: Latency | None  # of a whole run; None for folders
    throughput: Throughput | None  # None in the latency scenario
    stages_ms: dict[str, float]  # median of each stage; empty for folders
    ratio: Ratio | None
    ratio_note: str  # why there is none
    doubts: tuple[str, ...]
    rounds: tuple[Round, ...]
    share_of_limit: float | None = None  # of the matrix rate; throughput of the engine only
    device_ms: float | None = None  # median run by the GPU's own events; at the engine only

    @property
    def what(self) -> str:
        """Which number of a row and boundary this is."""
        is_single = self.scenario is Scenario.LATENCY
        return "latency" if is_single else f"photos/s at batch {self.batch}"


class Verdict(StrEnum):
    """What is said about a number of now and the same of an older run."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "within noise"


@dataclass(frozen=True)
class Change:
    """One number, then and now; durations are of a run (latency) or of a photo (throughput)."""

    row: str  # its name, the same in both runs
    boundary: Boundary
    scenario: Scenario
    batch: int
    then_ms: float
    now_ms: float
    times_faster: Ratio  # low and high: of any round of now and any round of then
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """This run against an older one."""

    against: str  # the older file
    date: str
    commit: str
    refusal: str  # why nothing is claimed; empty: `changes` holds
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def of(self, verdict: Verdict) -> list[Change]:
        """All changes of one kind."""
        return [change for change in self.changes if change.verdict is verdict]


@dataclass(frozen=True)
class Limit:
    """What a device does at most: the fastest of several repetitions, in the same run."""

    device: str
    matrix_gflop_per_s: dict[str, float]  # by the type computed in; of int8, operations on integers
    copy_gb_per_s: float  # within its memory, bytes read and written
    upload_gb_per_s: float | None  # from pinned host memory; None: the CPU


@dataclass(frozen=True)
class Choice:
    """The best of all measured settings for one goal."""

    goal: str
    row: int  # index into `Results.rows`
    batch: int
    images_per_s: float  # at the boundary that the goal names
    batch_ms: float  # of one batch, host memory to host memory: p90, or the slowest


@dataclass(frozen=True)
class Settings:
    """How it was measured."""

    batches: tuple[int, ...]
    seconds: float  # per measurement and row, shared out over the rounds
    rounds: int
    photos: str  # where the frames and files came from
    photo_count: int
    photos_sha256: str  # of all their bytes, in order
    latency_bound_ms: float | None = None  # for a batch, where advice within one was asked for


@dataclass(frozen=True)
class Results:
    """Everything: the content of results.json."""

    conditions: Conditions
    settings: Settings
    baseline: int  # index into `rows`: what ratios are against
    rows: tuple[Row, ...]
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...]
    limits: tuple[Limit, ...] = ()
    advice: tuple[Choice, ...] = ()
    comparison: Comparison | None = None  # with `--against`
    schema: int = SCHEMA

    def find(
        self, row: int, boundary: Boundary, scenario: Scenario, batch: int
    ) -> Measurement | None:
        """One measurement; None if it was not made."""
        key = (row, boundary, scenario, batch)
        for item in self.measurements:
            if (item.row, item.boundary, item.scenario, item.batch) == key:
                return item
        return None

    def to_json(self) -> str:
        """Readable JSON."""
        return readable_json(dataclasses.asdict(self))


def read_results(path: Path) -> Results:
    """Read a results.json.

    Raises:
        DataError: it is missing, of another schema, or not what `Results.to_json` writes.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable results.json: {reason_of(error)}.") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if type(found) is not int or found != SCHEMA:
        raise DataError(
            f"{path}: results of schema {reprlib.repr(found)}; this flowerseg-bench reads schema "
            f"{SCHEMA}, in which numbers may mean something else. Measure those files again with "
            "this version."
        )
    try:
        return from_json(Results, content)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not what flowerseg-bench writes: {error}.") from error


def readable_json(content: dict[str, Any]) -> str:
    """JSON in which lists of numbers stay on one line; NaN and infinity are refused."""
    text = json.dumps(content, indent=2, allow_nan=False, default=str)
    return _NUMBERS.sub(lambda found: " ".join(found.group().split()), text) + "\n"


_NUMBERS = re.compile(r"\[[-+\d.eE,\s]+\]")
