"""What the tables of a GPU come to, against the bars that the project set itself."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.gpu.plan import Setup, missing, name_of
from flowerseg_bench.gpu.run import Ended, in_words
from flowerseg_bench.record import JSON, Finding, table_of
from flowerseg_bench.results import Measurement, Quality, Results, Row, Scenario, read_results

LEAST_BATCH = 64  # from which the share of the matrix rate is asked for


@dataclass(frozen=True)
class Figure:
    """A number that has a bar."""

    what: str
    bar: str
    value: float | None  # None: nothing to compute it from
    is_met: bool
    by: str  # the row, and the batch

    @property
    def cells(self) -> tuple[str, ...]:
        """A line of the table."""
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        state = "-" if self.value is None else "met" if self.is_met else "MISSED"
        return self.what, value, self.bar, state, self.by


def finding_of(setup: Setup, ended: Sequence[Ended]) -> Finding:
    """The figures of ResNet-101 at the smaller size, and how each step ended."""
    name = name_of(setup, "resnet101")
    main = _figures_in(setup.results / f"bench-{name}")
    folder = _folder_figure(setup.results / "folder" / JSON)
    tuned = [
        replace(figure, what=f"{figure.what}, with cuDNN's benchmark and torch.compile")
        for figure in _figures_in(setup.results / f"tuned-{name}")
    ]
    figures = [*main, folder]
    met = sum(figure.is_met for figure in figures)
    state = f"{met} of {len(figures)} bars are met" if main else "it was not measured"
    steps = tuple(f"{each.name}: {in_words(each)}" for each in ended)
    lacking = tuple(
        f"{module} is not installed for a GPU, so no row uses it: {line}"
        for module, line in missing(setup).items()
    )
    return Finding(
        headline=f"{name} on a GPU: {state}",
        table=table_of(
            "On a GPU",
            ("figure", "value"),
            [figure.cells for figure in (*figures, *tuned)],
            words=("bar", "state", "by"),
        ),
        notes=(*steps, *lacking),
        raw={
            "figures": [vars(figure) for figure in (*figures, *tuned)],
            "steps": [vars(each) for each in ended],
        },
    )


def _figures_in(folder: Path) -> list[Figure]:
    """The figures of one run of the bench; none where it left no results."""
    file = folder / "results.json"
    return figures_of(read_results(file)) if file.exists() else []


def figures_of(results: Results) -> list[Figure]:
    """Every figure that has a bar, of the fastest FP16 row that was proved."""
    throughput, latency = Scenario.THROUGHPUT, Scenario.LATENCY
    engine = [
        item
        for item in _of(results, Boundary.ENGINE, throughput, _is_candidate)
        if item.batch >= LEAST_BATCH
    ]
    best = max(engine, key=_speed, default=None)
    single = min(
        _of(results, Boundary.ENGINE, latency, _is_candidate), key=_median_ms, default=None
    )
    quality = results.rows[best.row].quality if best else Quality()
    base = results.rows[results.baseline].quality
    share = best.share_of_limit if best else None
    to_single, to_half = _times(results, best, "pytorch"), _times(results, best, "pytorch-fp16")
    return [
        _at_least("share of the FP16 matrix rate", 0.5, share, _by(results, best)),
        _at_least("times eager FP32, TF32 off", 8, to_single, _by(results, best)),
        _at_least("times eager FP16, channels last", 1.5, to_half, _by(results, best)),
        _at_most(
            "latency of one photo over eager FP16's",
            1 / 3,
            _latency_ratio(results, single),
            _by(results, single),
        ),
        _at_least("agreement with FP32 PyTorch", 0.998, quality.agreement_iou, _by(results, best)),
        _at_most("IoU lost", 0.002, _lost(base, quality), _by(results, best)),
    ]


def _is_candidate(row: Row) -> bool:
    """Every proved row in FP16, eager PyTorch too: a bar is met by whatever a user can run."""
    return row.precision == "fp16" and not row.is_unproven


def _is_eager(row: Row, runtime: str) -> bool:
    """A base of comparison: plain PyTorch, in any memory layout, with or without cuDNN's benchmark.

    What people write themselves is compared at its best, so the fastest of these rows counts.
    """
    return row.runtime == runtime and row.streams == 1 and not row.cuda_graph


def _of(
    results: Results, boundary: Boundary, scenario: Scenario, is_wanted: Callable[[Row], bool]
) -> list[Measurement]:
    return [
        item
        for item in results.measurements
        if (item.boundary, item.scenario) == (boundary, scenario)
        and is_wanted(results.rows[item.row])
    ]


def _speed(item: Measurement) -> float:
    return item.throughput.images_per_s if item.throughput else 0.0


def _median_ms(item: Measurement) -> float:
    return item.latency.median_ms if item.latency else float("inf")


def _times(results: Results, best: Measurement | None, runtime: str) -> float | None:
    """How many times the photos a second of the fastest eager PyTorch at the same batch."""
    if best is None:
        return None
    eager = _of(results, best.boundary, best.scenario, lambda row: _is_eager(row, runtime))
    fastest = max((_speed(item) for item in eager if item.batch == best.batch), default=0.0)
    return _speed(best) / fastest if fastest else None


def _latency_ratio(results: Results, single: Measurement | None) -> float | None:
    eager = _of(
        results,
        Boundary.ENGINE,
        Scenario.LATENCY,
        lambda row: _is_eager(row, "pytorch-fp16"),
    )
    if single is None or not eager:
        return None
    return _median_ms(single) / min(map(_median_ms, eager))


def _folder_figure(result: Path) -> Figure:
    """A folder of thousands from file to mask, against its engine with transfers."""
    what = "file to mask over engine and transfers"
    if not result.exists():
        return _at_least(what, 0.9, None, "-")
    found = json.loads(result.read_text(encoding="utf-8"))
    (share,), (speed,) = found["shares"], found["speeds"]
    return _at_least(what, 0.9, share, f"{speed['runtime']}, batch {speed['batch']}")


def _lost(base: Quality, found: Quality) -> float | None:
    if base.flower_iou is None or found.flower_iou is None:
        return None
    return max(0.0, base.flower_iou - found.flower_iou)


def _by(results: Results, item: Measurement | None) -> str:
    return f"{results.rows[item.row].name}, batch {item.batch}" if item else "-"


def _at_least(what: str, bar: float, value: float | None, by: str) -> Figure:
    return Figure(what, f"at least {bar:g}", value, value is not None and value >= bar, by)


def _at_most(what: str, bar: float, value: float | None, by: str) -> Figure:
    return Figure(what, f"at most {bar:.3g}", value, value is not None and value <= bar, by)
