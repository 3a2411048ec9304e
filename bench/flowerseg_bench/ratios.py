"""How rows compare, where they may be compared."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from flowerseg_bench.results import Measurement, Round, Row, Scenario
from flowerseg_bench.stats import Ratio, ratio


def with_ratios(
    items: Sequence[Measurement], rows: Sequence[Row], baseline: int
) -> list[Measurement]:
    """Add to each measurement of one cell how many times faster than the baseline it is."""
    theirs = next((item for item in items if item.row == baseline), None)
    compared = []
    for item in items:
        note = why_not_comparable(rows[item.row], rows[baseline], theirs is not None)
        found = None if note or theirs is None else _ratio(theirs, item)
        compared.append(replace(item, ratio=found, ratio_note=note))
    return compared


def why_not_comparable(mine: Row, baseline: Row, is_measured: bool) -> str:
    """Empty if a ratio between the two rows means something."""
    if mine.is_null:
        return "it does nothing"
    if mine.preprocess != baseline.preprocess:
        (height, width), (theirs_h, theirs_w) = mine.size_hw, baseline.size_hw
        if mine.size_hw != baseline.size_hw:
            return f"other contract: {height} × {width}, not {theirs_h} × {theirs_w}"
        return "other contract: another preprocess"
    return "" if is_measured else "the baseline was not measured here"


def duration_ms(rounds: Sequence[Round], scenario: Scenario) -> float:
    """What speed is judged by: the median run (latency), or wall time a photo (throughput)."""
    if scenario is Scenario.LATENCY:
        return median(sample for item in rounds for sample in item.samples_ms)
    return sum(item.wall_ms for item in rounds) / sum(item.images for item in rounds)


def _ratio(baseline: Measurement, mine: Measurement) -> Ratio:
    return ratio(
        duration_ms(baseline.rounds, mine.scenario),
        duration_ms(mine.rounds, mine.scenario),
        [
            (duration_ms([theirs], mine.scenario), duration_ms([ours], mine.scenario))
            for theirs, ours in zip(baseline.rounds, mine.rounds, strict=True)
        ],
    )
