"""This run against an older one: what became slower or faster beyond noise.

The rule is Wilcoxon's rank-sum test at its sharpest, with a margin: *every* round of one run must
be slower than *every* round of the other, by more than 5 %. bench/README.md says what that holds.
"""

from collections.abc import Iterator
from itertools import product

from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.doubts import MOST_DRIFT, machine_doubts
from flowerseg_bench.ratios import duration_ms, why_not_comparable
from flowerseg_bench.results import (
    Change,
    Comparison,
    Measurement,
    Results,
    Row,
    Scenario,
    Verdict,
)
from flowerseg_bench.stats import Ratio, ratio
from flowerseg_bench.tables import TITLES, Column, Table, number, times

MARGIN = MOST_DRIFT  # rounds of one run that lie further apart than this are doubted
LEAST_ROUNDS = 4  # all 4 beyond all 4 by chance: 1 of the C(8, 4) = 70 orders


def compared(now: Results, then: Results, against: str) -> Comparison:
    """Set every number of `now` beside the same number of `then`, read from the file `against`."""
    refusal = "; ".join(_refusals(now, then))
    changes, notes = [], _other_versions(now, then)
    if not refusal:
        pairs, left_out = _paired_rows(now, then)
        notes += left_out
        for mine, theirs in pairs:
            changes += list(_changes(now, then, mine, theirs))
        if not changes:
            refusal = "nothing that was measured now was measured then"
    return Comparison(
        against=against,
        date=then.conditions.date,
        commit=then.conditions.commit,
        refusal=refusal,
        changes=tuple(changes),
        notes=tuple(notes),
    )


def verdict_of(found: Ratio) -> Verdict:
    """Beyond noise is where even the two rounds that lie closest differ by more than the margin."""
    if found.high < 1 / (1 + MARGIN):
        return Verdict.SLOWER
    return Verdict.FASTER if found.low > 1 + MARGIN else Verdict.SAME


def comparison_table(comparison: Comparison) -> Table:
    """What changed, the slower first, the unchanged last."""
    columns = (
        Column("model · runtime", is_number=False),
        Column("boundary", is_number=False),
        Column("number", is_number=False),
        Column("then"),
        Column("now"),
        Column("times as fast"),
        Column("verdict", is_number=False),
    )
    changes = [change for verdict in Verdict for change in comparison.of(verdict)]
    return Table("Against an older run", columns, tuple(_cells(change) for change in changes))


def comparison_in_brief(comparison: Comparison) -> list[str]:
    """What was found, in sentences: every change beyond noise, then what is to be known of it."""
    when = f"{comparison.against} of {comparison.date[:10]}"
    if comparison.refusal:
        return [f"Nothing is claimed against {when}: {comparison.refusal}", *comparison.notes]
    slower, faster = comparison.of(Verdict.SLOWER), comparison.of(Verdict.FASTER)
    total = len(comparison.changes)
    return [
        f"Against {when}: of {total} numbers {len(slower)} slower, {len(faster)} faster",
        *(change_in_words(change) for change in (*slower, *faster)),
        *comparison.notes,
    ]


def change_in_words(change: Change) -> str:
    """`flower.onnx · openvino fp32, engine, latency: 12.0 ms, now 15.0 ms: slower, …`."""
    name, _, what, then, now, how, verdict = _cells(change)
    return f"{name}, {change.boundary}, {what}: {then}, now {now}: {verdict}, {how} times as fast"


def _refusals(now: Results, then: Results) -> Iterator[str]:
    """Why no number of the one run says anything about the other."""
    here, there = now.conditions, then.conditions
    for what in ("processor", "cores", "gpu"):
        mine, theirs = getattr(here, what), getattr(there, what)
        if mine != theirs:
            yield f"another machine: {what} {theirs or 'none'} then, {mine or 'none'} now"
    if now.settings.photos_sha256 != then.settings.photos_sha256:
        yield (
            f"other photos: {then.settings.photo_count} of {then.settings.photos} then, "
            f"{now.settings.photo_count} of {now.settings.photos} now, and not the same bytes"
        )
    if min(now.settings.rounds, then.settings.rounds) < LEAST_ROUNDS:
        yield f"it takes {LEAST_ROUNDS} rounds to tell a change from noise"
    for when, conditions in (("then", there), ("now", here)):
        if machine_doubts(conditions):
            yield f"the machine was busy {when}: load {conditions.load_at_start}"


def _other_versions(now: Results, then: Results) -> list[str]:
    mine, theirs = now.conditions.versions, then.conditions.versions
    return [
        f"{name} {theirs.get(name, 'not installed')} then, {mine.get(name, 'not installed')} now"
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def _paired_rows(now: Results, then: Results) -> tuple[list[tuple[int, int]], list[str]]:
    """Indices of the rows that may be compared, and what is said about the others."""
    names = [row.name for row in then.rows]
    pairs, notes = [], []
    for index, row in enumerate(now.rows):
        if row.name not in names:
            notes.append(f"{row.name} was not measured then")
            continue
        older = then.rows[names.index(row.name)]
        if reason := _other_contract(row, older):
            notes.append(f"{row.name} is not compared: {reason}")
            continue
        pairs.append((index, names.index(row.name)))
        if row.sha256 != older.sha256:
            notes.append(f"{row.name} is another file: {older.sha256[:12]} then")
    mine = {row.name for row in now.rows}
    return pairs, notes + [f"{name} was not measured now" for name in names if name not in mine]


def _other_contract(now: Row, then: Row) -> str:
    """Empty if the two rows did the same work in the same place."""
    if (now.device, now.device_name) != (then.device, then.device_name):
        return f"it ran on {then.device} ({then.device_name}) then"
    if now.is_null:
        return "" if now.preprocess == then.preprocess else "other contract: another preprocess"
    return why_not_comparable(now, then, is_measured=True)


def _changes(now: Results, then: Results, mine: int, theirs: int) -> Iterator[Change]:
    """Every number that both runs have of a row."""
    for item in now.measurements:
        # Away from files the null row is the harness: microseconds, which tell nobody anything.
        is_harness = now.rows[mine].is_null and item.boundary is not Boundary.FILE
        if item.row != mine or is_harness:
            continue
        older = then.find(theirs, item.boundary, item.scenario, item.batch)
        if older is not None:
            yield _change(now.rows[mine].name, item, older)


def _change(name: str, now: Measurement, then: Measurement) -> Change:
    scenario = now.scenario
    then_ms, now_ms = duration_ms(then.rounds, scenario), duration_ms(now.rounds, scenario)
    any_two = product(
        [duration_ms([each], scenario) for each in then.rounds],
        [duration_ms([each], scenario) for each in now.rounds],
    )
    found = ratio(then_ms, now_ms, list(any_two))
    return Change(
        row=name,
        boundary=now.boundary,
        scenario=scenario,
        batch=now.batch,
        then_ms=round(then_ms, 4),
        now_ms=round(now_ms, 4),
        times_faster=found,
        verdict=verdict_of(found),
    )


def _cells(change: Change) -> tuple[str, ...]:
    is_single = change.scenario is Scenario.LATENCY
    return (
        change.row,
        TITLES[change.boundary],
        "latency" if is_single else f"batch {change.batch}",
        *(
            f"{number(ms)} ms" if is_single else f"{number(1e3 / ms)} photos/s"
            for ms in (change.then_ms, change.now_ms)
        ),
        times(change.times_faster),
        change.verdict,
    )
