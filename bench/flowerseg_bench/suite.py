"""What is measured, in which order, and what is said about it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeAlias

from flowerseg.arrays import Rgb
from flowerseg.artifact import Kind, open_artifact
from flowerseg.evaluate import signatures_of
from flowerseg.predict import PredictSettings
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg_bench.advice import advice_of
from flowerseg_bench.boundaries import STAGES, Boundary, engine_step, file_step, transfers_step
from flowerseg_bench.conditions import conditions_here, load_here
from flowerseg_bench.doubts import doubts_of, machine_doubts, with_early_returns
from flowerseg_bench.events import Events, events_of
from flowerseg_bench.jobs import (
    FolderJob,
    Job,
    StepJob,
    Turn,
    interleaved,
    predicting,
    wall_ms_of,
)
from flowerseg_bench.limits import limits_of, with_shares
from flowerseg_bench.monitor import Monitor, monitor_for
from flowerseg_bench.photos import Photos, batches_of, frames_from_files, open_bench_photos
from flowerseg_bench.quality import Reference, judge, masks_of, warnings_of
from flowerseg_bench.ratios import with_ratios
from flowerseg_bench.results import Measurement, Results, Round, Row, Scenario, Settings
from flowerseg_bench.rows import (
    ONE_ROW_EACH,
    OpenRow,
    Variants,
    null_row,
    open_rows,
    wanted_rows,
    with_first_run,
)
from flowerseg_bench.stats import latency, throughput
from flowerseg_bench.timing import Budget, Clock, WarmUp, WarmUpRule, resolution_s, wall_clock

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what comes next, how many measurements are done, and how many there are."""


@dataclass(frozen=True)
class Plan:
    """What the user asked for."""

    models: tuple[Path, ...]
    photos: Path | None = None
    data: Path | None = None
    split: str = "val"
    batches: tuple[int, ...] = (1, 8)
    seconds: float = 3.0  # per measurement and row; trtexec's default duration
    device: str = "auto"
    runtimes: tuple[str, ...] = ("auto",)
    variants: Variants = ONE_ROW_EACH
    leave_out: tuple[str, ...] = ()  # globs of names of rows
    boundaries: tuple[Boundary, ...] = tuple(Boundary)
    latency_bound_ms: float | None = None  # for a batch, to be advised within
    reference: Path | None = None
    allow_unproven: bool = False
    trust: bool = False  # open compiled files that another user can change
    rounds: int = 4

    def __post_init__(self) -> None:
        if not self.models or not self.batches or not self.boundaries:
            raise ValueError("models, batches and boundaries must all be there")
        if self.rounds < 1 or self.seconds <= 0:
            raise ValueError(f"{self.rounds} rounds of {self.seconds} s measure nothing")
        if min(self.batches) < 1:
            raise ValueError(f"batches must be 1 or more, not {self.batches}")

    @property
    def budget(self) -> Budget:
        """One round of one row: at least ten runs over all rounds."""
        return Budget(for_s=self.seconds / self.rounds, at_least=-(-10 // self.rounds))

    @property
    def limits_budget(self) -> Budget:
        """Half a second for each limit of a device, less in runs that are short anyway."""
        return Budget(for_s=min(0.5, self.seconds / 5))

    @property
    def warm_up_rule(self) -> WarmUpRule:
        """A fifth of a second, less in runs that are short anyway; given up after three times S."""
        return WarmUpRule(min_s=min(0.2, self.seconds / 5), max_s=3 * self.seconds)


@dataclass(frozen=True)
class Cell:
    """One thing to measure on every row."""

    boundary: Boundary
    scenario: Scenario
    batch: int

    def concerns(self, row: Row) -> bool:
        """Whether it means anything for a row.

        One photo at a time needs one stream. And at the engine, copies are left out of the time:
        with several streams, others compute meanwhile, and a run would look faster than it is.
        """
        is_single = self.scenario is Scenario.LATENCY or self.boundary is Boundary.ENGINE
        return row.streams == 1 or not is_single

    def __str__(self) -> str:
        return f"{self.boundary}, {self.scenario}, batch {self.batch}"


def run_suite(
    plan: Plan,
    out: Path,
    work: Path,
    clock: Clock = wall_clock,
    on_progress: Progress | None = None,
) -> Results:
    """Open everything, judge the masks, measure every cell on all rows in turns.

    Args:
        plan: what was asked for.
        out: where the report will go; it is never searched for photos.
        work: an empty folder for masks, on the disk that is to be measured.
        clock: read by `timing` only.
        on_progress: see `Progress`.

    Raises:
        FlowersegError: something is missing; most is found out before any time is spent.
    """
    conditions = conditions_here(resolution_s(clock))
    rules = open_artifact(plan.reference or plan.models[0], trust=plan.trust).manifest.rules
    photos = open_bench_photos(plan.photos, plan.data, plan.split, rules, out)
    with _opened(plan, photos, clock) as (rows, frames, notes):
        infos = [opened.row for opened in rows]
        monitor, unwatched = monitor_for([row.device for row in infos])
        resolution_ns = conditions.timer_resolution_ns
        bench = _Bench(plan, photos, frames, work, clock, resolution_ns, monitor)
        limits = limits_of(infos, plan.limits_budget, clock)
        measurements: list[Measurement] = []
        cells = cells_of(plan.batches, plan.boundaries)
        for done, cell in enumerate(cells):
            if on_progress:
                on_progress(str(cell), done, len(cells))
            measurements += bench.measure(cell, rows)
        notes += unwatched + [note for cell in cells for note in _beyond(cell, rows)]
    notes += [note for row in infos for note in _beyond_proof(plan.batches, row)]
    notes += warnings_of(infos)
    notes += _repeated_photos(plan, photos) + list(machine_doubts(conditions))
    settings = Settings(
        batches=plan.batches,
        seconds=plan.seconds,
        rounds=plan.rounds,
        photos=photos.source,
        photo_count=len(photos.files),
        photos_sha256=photos.sha256,
        latency_bound_ms=plan.latency_bound_ms,
    )
    results = Results(
        conditions=replace(conditions, load_at_end=load_here()),
        settings=settings,
        baseline=baseline_of(rows),
        rows=tuple(infos),
        measurements=tuple(with_shares(with_early_returns(measurements, infos), infos, limits)),
        notes=tuple(dict.fromkeys(notes)),
        limits=limits,
    )
    return replace(results, advice=advice_of(results))


def cells_of(
    batches: Sequence[int], boundaries: Sequence[Boundary] = tuple(Boundary)
) -> list[Cell]:
    """All cells. Folders come last: they hold OpenCV to one thread a call from then on."""
    wanted = [boundary for boundary in Boundary if boundary in boundaries]
    single = [Cell(boundary, Scenario.LATENCY, 1) for boundary in wanted]
    many = [Cell(boundary, Scenario.THROUGHPUT, n) for boundary in wanted for n in batches]
    return single + many


def baseline_of(rows: Sequence[OpenRow]) -> int:
    """The first PyTorch row, else the first."""
    kinds = [opened.row.kind for opened in rows]
    return kinds.index(Kind.CHECKPOINT) if Kind.CHECKPOINT in kinds else 0


def measurement_of(cell: Cell, row: int, warm: WarmUp, turns: Sequence[Turn]) -> Measurement:
    """Raw rounds and the numbers made of them. Doubts and ratios come later."""
    rounds = tuple(
        Round(
            samples_ms=tuple(round(1e3 * run_s, 4) for run_s in turn.laps.runs_s),
            images=turn.images,
            wall_ms=wall_ms_of(turn, cell.boundary),
            seen=turn.seen,
        )
        for turn in turns
    )
    samples_ms = [sample for item in rounds for sample in item.samples_ms]
    walls_ms = [item.wall_ms for item in rounds]
    is_throughput = cell.scenario is Scenario.THROUGHPUT
    return Measurement(
        row=row,
        boundary=cell.boundary,
        scenario=cell.scenario,
        batch=cell.batch,
        warm_up=warm,
        latency=latency(samples_ms) if samples_ms else None,
        throughput=throughput([r.images for r in rounds], walls_ms) if is_throughput else None,
        stages_ms=_stages_ms(cell.boundary, turns),
        ratio=None,
        ratio_note="",
        doubts=(),
        rounds=rounds,
    )


class _Bench:
    """What all cells share."""

    def __init__(
        self,
        plan: Plan,
        photos: Photos,
        frames: dict[Preprocess, list[Rgb]],
        work: Path,
        clock: Clock,
        timer_resolution_ns: float,
        monitor: Monitor,
    ) -> None:
        self._plan = plan
        self._photos = photos
        self._frames = frames
        self._work = work
        self._clock = clock
        self._timer_resolution_ns = timer_resolution_ns
        self._monitor = monitor

    def measure(self, cell: Cell, rows: Sequence[OpenRow]) -> list[Measurement]:
        """One cell on all rows that it concerns and that take its batch, in turns."""
        able = [
            index
            for index, opened in enumerate(rows)
            if cell.concerns(opened.row) and opened.row.takes(cell.batch)
        ]
        at_engine = cell.boundary is Boundary.ENGINE
        events = [events_of(rows[index].backend) if at_engine else None for index in able]
        jobs = [self._job(cell, rows[index], e) for index, e in zip(able, events, strict=True)]
        measured = interleaved(jobs, self._plan.rounds, self._monitor)
        items = [
            replace(measurement_of(cell, index, warm, turns), device_ms=e.median_ms if e else None)
            for index, e, (warm, turns) in zip(able, events, measured, strict=True)
        ]
        null = next((item for item in items if rows[item.row].row.is_null), None)
        judged = [
            item
            if item is null
            else replace(item, doubts=doubts_of(item, null, self._timer_resolution_ns))
            for item in items
        ]
        return with_ratios(judged, [opened.row for opened in rows], baseline_of(rows))

    def _job(self, cell: Cell, opened: OpenRow, events: Events | None) -> Job:
        plan, files = self._plan, self._photos.files
        if cell.boundary is Boundary.FILE and cell.scenario is Scenario.THROUGHPUT:
            segment = predicting(opened.segmenter, PredictSettings(batch=cell.batch))
            work, least = self._work / "folder", max(2 * cell.batch, 8)
            return FolderJob(segment, files, work, least, plan.budget, self._clock)
        if cell.boundary is Boundary.FILE:
            steps = [file_step(opened.segmenter, files, self._work, self._clock)]
            cycle = len(files)
        else:
            batches = batches_of(self._frames[opened.row.preprocess], cell.batch)
            if cell.boundary is Boundary.ENGINE:
                steps = [engine_step(opened.backend, batches, self._clock, events)]
            else:
                backends = opened.segmenter.backends
                steps = [transfers_step(backend, batches, self._clock) for backend in backends]
            cycle = len(batches)
        return StepJob(steps, cycle, cell.batch, plan.warm_up_rule, plan.budget, self._clock)


@contextmanager
def _opened(
    plan: Plan, photos: Photos, clock: Clock
) -> Iterator[tuple[list[OpenRow], dict[Preprocess, list[Rgb]], list[str]]]:
    """All rows, the null row last, with their first run timed and their masks judged."""
    wanted = wanted_rows(
        plan.models,
        plan.runtimes,
        device=plan.device,
        variants=plan.variants,
        leave_out=plan.leave_out,
        allow_unproven=plan.allow_unproven,
        trust=plan.trust,
    )
    kinds = dict.fromkeys(item.artifact.manifest.preprocess for item in wanted)
    frames = {preprocess: frames_from_files(photos.files, preprocess) for preprocess in kinds}
    with ExitStack() as stack:
        rows, notes = open_rows(wanted, plan.device, clock)
        for opened in rows:
            stack.callback(opened.segmenter.close)
        rows = [with_first_run(o, frames[o.row.preprocess][0], clock) for o in rows]
        reference = _reference(plan, photos, rows)
        labelled = photos.labelled_for_quality
        signatures = signatures_of(labelled) if labelled else []
        rows = [
            o.with_quality(judge(o.segmenter, photos, reference, o.data, signatures)) for o in rows
        ]
        rows.append(null_row(rows[baseline_of(rows)].row.preprocess))
        yield rows, frames, notes


def _reference(plan: Plan, photos: Photos, rows: Sequence[OpenRow]) -> Reference | None:
    if plan.reference is not None:
        with Segmenter.open(plan.reference, device=plan.device) as segmenter:
            return Reference(plan.reference.name, masks_of(segmenter, photos.for_quality))
    baseline = rows[baseline_of(rows)]
    if baseline.row.kind != Kind.CHECKPOINT:
        return None
    return Reference(Path(baseline.row.file).name, masks_of(baseline.segmenter, photos.for_quality))


def _stages_ms(boundary: Boundary, turns: Sequence[Turn]) -> dict[str, float]:
    runs = [stages_s for turn in turns for stages_s in turn.laps.stages_s]
    if not runs:
        return {}
    columns = zip(*runs, strict=True)
    return {
        stage: round(1e3 * median(seconds), 4)
        for stage, seconds in zip(STAGES[boundary], columns, strict=True)
    }


def _beyond(cell: Cell, rows: Sequence[OpenRow]) -> list[str]:
    return [
        f"{row.name} takes batches of {row.min_batch} to {row.max_batch}: "
        f"batch {cell.batch} is not measured"
        for row in (opened.row for opened in rows)
        if cell.concerns(row) and not row.takes(cell.batch)
    ]


def _beyond_proof(batches: Sequence[int], row: Row) -> list[str]:
    beyond = [b for b in batches if row.takes(b) and not row.is_proved_at(b)]
    if row.is_unproven or not beyond:
        return []
    return [
        f"{row.name} was proved with batches of up to {row.proved_batch}, and is measured with "
        f"{max(beyond)}: flowerseg-verify --largest-batch {max(beyond)} proves that"
    ]


def _repeated_photos(plan: Plan, photos: Photos) -> list[str]:
    count, largest = len(photos.files), max(plan.batches)
    if count >= largest:
        return []
    return [f"only {count} photos for batches of {largest}: photos repeat within a batch"]
