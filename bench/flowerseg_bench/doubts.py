"""Reasons not to believe a number, written beside it."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.conditions import Conditions
from flowerseg_bench.results import Measurement, Round, Row
from flowerseg_bench.stats import least_samples, variation

MOST_CV = 0.025  # trtexec's own limit (TensorRT 11.1, sampleReporting.cpp)
MOST_DRIFT = 0.05  # between the rounds of a row
MOST_HARNESS = 0.025  # of the row's own time
LEAST_TICKS = 100  # of the clock in one run
MOST_APART = 0.05  # the GPU's events from the wall clock
MOST_DOWNLOAD = 0.25  # of a run: a byte a pixel is copied in less
MOST_OTHERS = 0.05  # of the cores' time, by other processes
MOST_STOLEN = 0.01  # of the cores' time, by the hypervisor


def doubts_of(
    item: Measurement, null: Measurement | None, timer_resolution_ns: float
) -> tuple[str, ...]:
    """What is wrong with one measurement, in plain words; empty if nothing is.

    Args:
        item: the measurement.
        null: the null row's measurement of the same kind.
        timer_resolution_ns: of the clock that was used.
    """
    found = [
        _noisy(item),
        _few(item),
        _drifting(item.rounds),
        _never_warm(item),
        _mostly_harness(item, null),
        _below_the_clock(item, timer_resolution_ns),
        _clocks_apart(item),
        _other_work(item.rounds),
        _stolen(item.rounds),
        _frequency(item.rounds),
        _throttled(item.rounds),
    ]
    return tuple(doubt for doubt in found if doubt)


def with_early_returns(items: Sequence[Measurement], rows: Sequence[Row]) -> list[Measurement]:
    """Doubt the engine's time of rows whose download waits for something.

    A backend whose `synchronize` returns before its work is done looks fast at the engine, and
    pays when the result is fetched.
    """
    early = {
        (item.row, item.batch): share
        for item in items
        if item.boundary is Boundary.TRANSFERS and not rows[item.row].is_null
        if (share := _download_share(item)) > MOST_DOWNLOAD
    }
    doubted = []
    for item in items:
        key = (item.row, item.batch)
        if key in early and item.boundary is not Boundary.FILE:
            share = early[key]
            doubt = (
                f"early return: download takes {share:.0%} of a run with its transfers, so "
                f"the work may go on behind synchronize (believable up to {MOST_DOWNLOAD:.0%})"
            )
            item = replace(item, doubts=(*item.doubts, doubt))
        doubted.append(item)
    return doubted


def machine_doubts(conditions: Conditions) -> tuple[str, ...]:
    """What is wrong with the machine as a whole."""
    load = conditions.load_at_start
    if load is not None and load > conditions.cores:
        return (
            f"the machine was busy at the start: load {load} on {conditions.cores} cores. "
            "Other work took part in every number here.",
        )
    return ()


def per_image_ms(rounds: Sequence[Round]) -> tuple[float, ...]:
    """Milliseconds a photo, of each round: the median of its runs, or its wall time."""
    return tuple(
        (median(r.samples_ms) * len(r.samples_ms) if r.samples_ms else r.wall_ms) / r.images
        for r in rounds
    )


def _noisy(item: Measurement) -> str:
    if item.latency:
        cv, of = item.latency.cv, "runs"
    else:
        cv, of = variation(per_image_ms(item.rounds)), "rounds"
    if cv is None or cv <= MOST_CV:
        return ""
    return f"noisy: the {of} vary by {cv:.1%} (CV; believable up to {MOST_CV:.1%})"


def _few(item: Measurement) -> str:
    if item.latency is None or item.latency.p90 is not None:
        return ""
    return f"few samples: {item.latency.n}, and even p90 takes {least_samples(0.9)}"


def _drifting(rounds: Sequence[Round]) -> str:
    each = per_image_ms(rounds)
    drift = (max(each) - min(each)) / median(each) if len(each) > 1 and median(each) else 0.0
    if drift <= MOST_DRIFT:
        return ""
    return f"drift: the rounds lie {drift:.1%} apart (believable up to {MOST_DRIFT:.0%})"


def _never_warm(item: Measurement) -> str:
    if item.warm_up.is_stable is not False:
        return ""
    return f"not warm: the times did not settle in {item.warm_up.wall_ms / 1e3:.1f} s"


def _mostly_harness(item: Measurement, null: Measurement | None) -> str:
    # Around whole files there is no harness to speak of: the null row decodes and encodes there.
    if item.latency is None or null is None or item.boundary is Boundary.FILE:
        return ""
    # The null backend's download really copies; that is its own doing, not the harness's.
    harness_ms = sum(ms for stage, ms in null.stages_ms.items() if stage != "download")
    share = harness_ms / item.latency.median_ms if item.latency.median_ms else 1.0
    return f"harness: {share:.1%} of it is the measuring itself" if share > MOST_HARNESS else ""


def _below_the_clock(item: Measurement, resolution_ns: float) -> str:
    if item.latency is None or 1e6 * item.latency.median_ms >= LEAST_TICKS * resolution_ns:
        return ""
    return f"clock: a run is shorter than {LEAST_TICKS} ticks of {resolution_ns:.0f} ns"


def _clocks_apart(item: Measurement) -> str:
    if item.latency is None or item.device_ms is None or not item.latency.median_ms:
        return ""
    wall_ms = item.latency.median_ms
    if abs(wall_ms - item.device_ms) <= MOST_APART * wall_ms:
        return ""
    return (
        f"two clocks: the GPU's own events say {item.device_ms:.3f} ms, the wall clock "
        f"{wall_ms:.3f} ms (believable up to {MOST_APART:.0%} apart)"
    )


def _other_work(rounds: Sequence[Round]) -> str:
    taken = _mean([r.seen.others for r in rounds])
    if taken is None or taken <= MOST_OTHERS:
        return ""
    return (
        f"other work: other processes took {taken:.0%} of the cores' time meanwhile "
        f"(believable up to {MOST_OTHERS:.0%})"
    )


def _stolen(rounds: Sequence[Round]) -> str:
    taken = _mean([r.seen.stolen for r in rounds])
    if taken is None or taken <= MOST_STOLEN:
        return ""
    return (
        f"stolen: the hypervisor kept {taken:.1%} of the cores' time for itself or others "
        f"(believable up to {MOST_STOLEN:.0%})"
    )


def _frequency(rounds: Sequence[Round]) -> str:
    cores = [r.seen.core_mhz for r in rounds if r.seen.core_mhz]
    gpu = [float(r.seen.gpu.sm_clock_mhz) for r in rounds if r.seen.gpu]
    for what, mhz in (("the cores", cores), ("the GPU", gpu)):
        if mhz and max(mhz) - min(mhz) > MOST_DRIFT * median(mhz):
            return f"frequency: {what} ran at {min(mhz):.0f} to {max(mhz):.0f} MHz"
    return ""


def _throttled(rounds: Sequence[Round]) -> str:
    states = [r.seen.gpu for r in rounds if r.seen.gpu and r.seen.gpu.throttling]
    if not states:
        return ""
    reasons = dict.fromkeys(reason for state in states for reason in state.throttling)
    hottest = max(state.temperature_c for state in states)
    return f"throttled: {', '.join(reasons)} held the GPU back, at up to {hottest} °C"


def _download_share(item: Measurement) -> float:
    whole = sum(item.stages_ms.values())
    return item.stages_ms.get("download", 0.0) / whole if whole else 0.0


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
