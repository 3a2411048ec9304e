"""Which of all measured settings to take: for most photos a second, and within a bound."""

from pathlib import Path

from flowerseg.tuned import Tuned, machine_here
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.results import Choice, Measurement, Results, Scenario

FASTEST = "most photos a second, file to mask"


def with_bound(bound_ms: float) -> str:
    """The goal of those who may not wait longer for a batch."""
    return f"most photos a second, a batch within {bound_ms:g} ms"


def advice_of(results: Results) -> tuple[Choice, ...]:
    """The best proven row and batch for each goal; a goal that nothing meets has none.

    For photos a second from file to mask, which is what `flowerseg-predict` does. Within a bound,
    for those who serve: of the settings whose batch takes no longer from host memory to host
    memory (p90, or the slowest run where there are too few), the one with most photos a second
    there.
    """
    files = _choices(results, FASTEST, Boundary.FILE)
    bound_ms = results.settings.latency_bound_ms
    kept: list[Choice] = []
    if bound_ms is not None:
        memory = _choices(results, with_bound(bound_ms), Boundary.TRANSFERS)
        kept = [choice for choice in memory if choice.batch_ms <= bound_ms]
    best = (max(found, key=_speed, default=None) for found in (files, kept))
    return tuple(choice for choice in best if choice is not None)


def tuned_from(results: Results) -> Tuned | None:
    """What `flowerseg-predict --tuned` takes: within the bound if one was asked for; None: no row.

    One number for one file: the last of the advice, so that a bound is never overlooked.
    """
    bound_ms = results.settings.latency_bound_ms
    goal = FASTEST if bound_ms is None else with_bound(bound_ms)
    choice = next((c for c in results.advice if c.goal == goal), None)
    if choice is None:
        return None
    row = results.rows[choice.row]
    return Tuned(
        model=Path(row.file).name,
        sha256=row.sha256,
        machine=machine_here(row.device),
        goal=goal,
        runtime=row.runtime,
        batch=choice.batch,
        threads=row.threads,
        streams=row.streams,
        cuda_graph=row.cuda_graph,
        cudnn_benchmark=row.cudnn_benchmark,
        layout=row.layout,
        images_per_s=choice.images_per_s,
        flower_iou=row.quality.flower_iou,
        agreement_iou=row.quality.agreement_iou,
        measured=results.conditions.date,
    )


def _choices(results: Results, goal: str, boundary: Boundary) -> list[Choice]:
    return [
        Choice(goal, item.row, item.batch, item.throughput.images_per_s, batch_ms)
        for item in results.measurements
        if item.boundary is boundary
        and item.throughput
        and not results.rows[item.row].is_null
        and results.rows[item.row].is_proved_at(item.batch)
        and (batch_ms := _batch_ms(results, item)) is not None
    ]


def _batch_ms(results: Results, item: Measurement) -> float | None:
    memory = results.find(item.row, Boundary.TRANSFERS, Scenario.THROUGHPUT, item.batch)
    if memory is None or memory.latency is None:
        return None
    found = memory.latency
    return found.p90.value_ms if found.p90 else found.max_ms


def _speed(choice: Choice) -> float:
    return choice.images_per_s
