"""The tables of a result, as text: terminal, Markdown and page show the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowerseg.artifact import Precision
from flowerseg.metrics import score_text
from flowerseg_bench.advice import FASTEST, with_bound
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.results import Choice, Measurement, Results, Row, Scenario
from flowerseg_bench.stats import Estimate, Ratio, least_samples

TITLES = {
    Boundary.FILE: "Photo file to mask file",
    Boundary.TRANSFERS: "Engine and transfers",
    Boundary.ENGINE: "Engine alone",
}
"""In the order in which they are told: what a user waits for first."""

MARK = "†"  # behind a number that a doubt is about


@dataclass(frozen=True)
class Column:
    """A column; brief ones are in the terminal too."""

    title: str
    is_number: bool = True
    is_brief: bool = True


@dataclass(frozen=True)
class Table:
    """A table as it is read."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


def measured_boundaries(results: Results) -> list[Boundary]:
    """The boundaries that a run measured, in the order of `TITLES`."""
    measured = {item.boundary for item in results.measurements}
    return [boundary for boundary in TITLES if boundary in measured]


def boundary_table(results: Results, boundary: Boundary) -> Table:
    """Speed at one boundary, with the worth of the masks in the same row."""
    batches = results.settings.batches
    columns = [
        Column("model · runtime", is_number=False),
        Column("proof", is_number=False, is_brief=False),
        Column("flower IoU"),
        Column("agreement"),
        Column("median ms"),
        Column("times faster", is_brief=False),
    ]
    for batch in batches:
        columns += [
            Column(f"photos/s, batch {batch}"),
            Column("times faster", is_brief=batch == max(batches)),
        ]
        if boundary is Boundary.ENGINE:
            columns.append(Column("of the limit", is_brief=False))
    columns += [
        Column(title, is_brief=False)
        for title in ("p90 ms", "p95 ms", "p99 ms", "min ms", "max ms", "CV", "n")
    ]
    rows = [_boundary_row(results, boundary, index) for index in range(len(results.rows))]
    return Table(TITLES[boundary], tuple(columns), tuple(rows))


def startup_table(results: Results) -> Table:
    """What happens once, and is in no other number."""
    columns = [
        Column("model · runtime", is_number=False),
        Column("opening ms"),
        Column("", is_number=False),
        Column("first run ms"),
        *(Column(f"warm-up ms, {b}") for b in TITLES),
        Column("runs"),
    ]
    rows = []
    for index, row in enumerate(results.rows):
        if row.is_null:
            continue
        found = [results.find(index, b, Scenario.LATENCY, 1) for b in TITLES]
        warm_ups = [item.warm_up for item in found if item]
        rows.append(
            (
                row.name,
                number(row.opened_ms),
                row.opened_note,
                number(row.first_run_ms),
                *(number(item.warm_up.wall_ms) if item else "-" for item in found),
                " / ".join(str(warm.runs) for warm in warm_ups),
            )
        )
    return Table("Opening, first run, warm-up", tuple(columns), tuple(rows))


def models_table(results: Results) -> Table:
    """What exactly was measured."""
    titles = ["model · runtime", "file", "SHA-256", "architecture", "frame", "runtime", "device"]
    rows = [
        (
            row.name,
            row.file,
            row.sha256[:12],
            row.architecture,
            "{} × {}".format(*row.size_hw),
            f"{row.runtime} {row.version}",
            row.device,
            "not counted" if row.multiply_adds is None else f"{number(row.multiply_adds / 1e9)} G",
        )
        for row in results.rows
        if not row.is_null
    ]
    columns = [Column(title, is_number=False) for title in titles]
    return Table("Models", (*columns, Column("multiply-adds")), tuple(rows))


def limits_table(results: Results) -> Table:
    """What the devices do at most."""
    rows = []
    for limit in results.limits:
        for computed_in, rate in limit.matrix_gflop_per_s.items():
            unit = "GOP/s" if computed_in == Precision.INT8 else "GFLOP/s"
            rows.append((limit.device, f"matrix product, {computed_in}", f"{number(rate)} {unit}"))
        rows.append((limit.device, "copy in memory", f"{number(limit.copy_gb_per_s)} GB/s"))
        if limit.upload_gb_per_s is not None:
            rows.append((limit.device, "upload", f"{number(limit.upload_gb_per_s)} GB/s"))
    columns = (Column("device", is_number=False), Column("", is_number=False), Column("at most"))
    return Table("The limit", columns, tuple(rows))


def limits_in_brief(results: Results) -> list[str]:
    """Each row's share of its device's matrix rate at the largest batch, in a line."""
    largest = max(results.settings.batches)
    shares = [
        f"{row.name} {percent(item.share_of_limit)}"
        for index, row in enumerate(results.rows)
        if (item := results.find(index, Boundary.ENGINE, Scenario.THROUGHPUT, largest))
        and item.share_of_limit is not None
    ]
    rates = [f"{device} {what} {rate}" for device, what, rate in limits_table(results).rows]
    told = [f"At most: {'; '.join(rates)}"] if rates else []
    return told + (
        [f"Of the matrix product, batch {largest}: {'; '.join(shares)}"] if shares else []
    )


def advice_table(results: Results) -> Table:
    """The best setting for each goal, with the worth of its masks."""
    rows = []
    for choice in results.advice:
        row = results.rows[choice.row]
        rows.append(
            (
                choice.goal,
                row.name,
                str(choice.batch),
                f"{number(choice.images_per_s)}{_mark(_advised(results, choice))}",
                number(choice.batch_ms),
                _flower_iou(row),
                share(row.quality.agreement_iou),
            )
        )
    words = (Column("goal", is_number=False), Column("model · runtime", is_number=False))
    titles = ("batch", "photos/s", "ms a batch", "flower IoU", "agreement")
    return Table("Advice", (*words, *map(Column, titles)), tuple(rows))


def advice_in_brief(results: Results) -> list[str]:
    """The best setting for each goal, in a line; the goal that nothing meets, too."""
    lines = [
        f"{goal}: {name}, batch {batch}: {speed} photos/s, {ms} ms a batch"
        for goal, name, batch, speed, ms, *_ in advice_table(results).rows
    ]
    return lines + [f"{goal}: none of these settings" for goal in unmet_goals(results)]


def unmet_goals(results: Results) -> list[str]:
    """What was asked for and no setting reaches."""
    bound_ms = results.settings.latency_bound_ms
    met = {choice.goal for choice in results.advice}
    return [] if bound_ms is None or with_bound(bound_ms) in met else [with_bound(bound_ms)]


def conditions_table(results: Results) -> Table:
    """Where, when and how."""
    here, how = results.conditions, results.settings
    load = _known(here.load_at_start)
    rows = [
        ("date", here.date),
        ("command", here.command),
        ("processor", f"{here.processor}, {here.cores} cores for this process"),
        ("GPU", f"{here.gpu}, CUDA {here.cuda}" if here.gpu else "none"),
        ("system", here.system),
        ("load at the start, at the end", f"{load}, {_known(here.load_at_end)}"),
        ("meanwhile", _seen_in_words(results)),
        ("timer resolution", f"{here.timer_resolution_ns:.0f} ns"),
        ("commit", here.commit or "not a checkout"),
        ("photos", f"{how.photo_count} of {how.photos}"),
        ("time", f"{how.seconds:g} s a measurement and row, in {how.rounds} rounds"),
        ("versions", ", ".join(f"{name} {v}" for name, v in here.versions.items())),
    ]
    columns = (Column("", is_number=False), Column("", is_number=False))
    return Table("Conditions", columns, tuple(rows))


def doubts_list(results: Results, boundary: Boundary) -> list[str]:
    """Every doubt about a boundary's numbers, one sentence each."""
    return [
        f"{results.rows[item.row].name}, {item.what}: {doubt}"
        for item in results.measurements
        if item.boundary is boundary
        for doubt in item.doubts
    ]


def doubts_in_brief(results: Results, boundary: Boundary) -> list[str]:
    """The same, a line a row: which kind of doubt is about which numbers."""
    lines = []
    for index, row in enumerate(results.rows):
        kinds: dict[str, list[Measurement]] = {}
        for item in results.measurements:
            if item.boundary is boundary and item.row == index:
                for doubt in item.doubts:
                    kinds.setdefault(doubt.partition(":")[0], []).append(item)
        if kinds:
            told = [f"{kind} ({_what_of(items)})" for kind, items in kinds.items()]
            lines.append(f"{row.name}: {'; '.join(told)}")
    return lines


def missing_ratios(results: Results) -> list[str]:
    """Which rows are not compared with the baseline, and why."""
    reasons = {
        results.rows[item.row].name: item.ratio_note
        for item in results.measurements
        if item.ratio_note and not results.rows[item.row].is_null
    }
    return [f"{name} is not compared: {why}" for name, why in reasons.items()]


def headline(results: Results) -> str:
    """The fastest proven row from file to mask, with its quality; empty if nothing is proven."""
    best: Measurement | None = None
    for item in results.measurements:
        row = results.rows[item.row]
        if item.boundary is not Boundary.FILE or row.is_null or row.is_unproven:
            continue
        if item.throughput and (
            best is None
            or best.throughput is None
            or item.throughput.images_per_s > best.throughput.images_per_s
        ):
            best = item
    if best is None or best.throughput is None:
        return ""
    row = results.rows[best.row]
    speed = f"{number(best.throughput.images_per_s)} photos/s at batch {best.batch}"
    return f"{row.name}: {speed} from photo file to mask file, {_quality_words(row)}"


def number(value: float) -> str:
    """Three significant digits, two below a tenth; whole numbers from 100 on; M is a million."""
    if value >= 1e6:
        return f"{value / 1e6:.1f} M"
    if value >= 100:
        return f"{value:.0f}"
    if value < 0.1:
        return f"{float(f'{value:.2g}'):.10f}".rstrip("0").rstrip(".")
    digits = 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """An IoU with four digits."""
    return "not measured" if value is None else f"{value:.4f}"


def percent(value: float | None) -> str:
    """A share of a limit."""
    return "-" if value is None else f"{value:.1%}"


def times(found: Ratio | None) -> str:
    """A ratio with its spread over the rounds."""
    return "-" if found is None else f"{found.times:.2f} ({found.low:.2f}–{found.high:.2f})"


def _advised(results: Results, choice: Choice) -> Measurement | None:
    """Where the number of an advice comes from."""
    boundary = Boundary.FILE if choice.goal == FASTEST else Boundary.TRANSFERS
    return results.find(choice.row, boundary, Scenario.THROUGHPUT, choice.batch)


def _known(value: float | None) -> str:
    return "unknown" if value is None else str(value)


def _seen_in_words(results: Results) -> str:
    """The most that was seen of the machine in any round."""
    seen = [each.seen for item in results.measurements for each in item.rounds]
    gpus = [one.gpu for one in seen if one.gpu]
    told = [
        f"{what} took up to {max(shares):.0%} of the cores' time in a round"
        for what, shares in (
            ("other processes", [one.others for one in seen if one.others is not None]),
            ("the hypervisor", [one.stolen for one in seen if one.stolen is not None]),
        )
        if shares
    ]
    if gpus:
        clocks = [gpu.sm_clock_mhz for gpu in gpus]
        told.append(
            f"GPU at {min(clocks)} to {max(clocks)} of {gpus[0].max_sm_clock_mhz} MHz, "
            f"up to {max(gpu.temperature_c for gpu in gpus)} °C"
        )
    return "; ".join(told) or "not told by this system"


def _boundary_row(results: Results, boundary: Boundary, index: int) -> tuple[str, ...]:
    row = results.rows[index]
    single = results.find(index, boundary, Scenario.LATENCY, 1)
    cells = [row.name, row.proof, "-" if row.is_null else _flower_iou(row)]
    cells += [_iou(row, row.quality.agreement_iou), _median(single), _times_cell(results, single)]
    for batch in results.settings.batches:
        item = results.find(index, boundary, Scenario.THROUGHPUT, batch)
        speed = item.throughput if item else None
        cells.append(f"{number(speed.images_per_s)}{_mark(item)}" if speed else "-")
        cells.append(_times_cell(results, item))
        if boundary is Boundary.ENGINE:
            cells.append(percent(item.share_of_limit if item else None))
    return (*cells, *_spread_cells(single))


def _median(item: Measurement | None) -> str:
    return f"{number(item.latency.median_ms)}{_mark(item)}" if item and item.latency else "-"


def _spread_cells(item: Measurement | None) -> list[str]:
    if item is None or item.latency is None:
        return ["-"] * 7
    found = item.latency
    return [
        _estimate(found.p90, 0.90),
        _estimate(found.p95, 0.95),
        _estimate(found.p99, 0.99),
        number(found.min_ms),
        number(found.max_ms),
        "-" if found.cv is None else f"{found.cv:.1%}",
        str(found.n),
    ]


def _times_cell(results: Results, item: Measurement | None) -> str:
    if item is not None and item.row == results.baseline:
        return "1"
    return times(item.ratio if item else None)


def _estimate(found: Estimate | None, share_below: float) -> str:
    """The percentile, or how many samples it would take."""
    return f"n < {least_samples(share_below)}" if found is None else number(found.value_ms)


def _what_of(items: Sequence[Measurement]) -> str:
    single = ["latency" for item in items if item.scenario is Scenario.LATENCY]
    batches = [str(item.batch) for item in items if item.scenario is Scenario.THROUGHPUT]
    return ", ".join([*single, *(["photos/s at batch " + ", ".join(batches)] if batches else [])])


def _flower_iou(row: Row) -> str:
    """Against the labels: not measured without any, n/a where they give no score."""
    quality = row.quality
    return score_text(quality.flower_iou) if quality.labels else share(quality.flower_iou)


def _iou(row: Row, value: float | None) -> str:
    return "-" if row.is_null else share(value)


def _mark(item: Measurement | None) -> str:
    return MARK if item is not None and item.doubts else ""


def _quality_words(row: Row) -> str:
    quality = row.quality
    known: Sequence[str] = [
        f"{name} {share(value)}"
        for name, value in (
            ("flower IoU", quality.flower_iou),
            (f"agreement with {quality.reference}", quality.agreement_iou),
        )
        if value is not None
    ]
    return f"{', '.join(known)} ({quality.photos} photos)" if known else "quality not measured"
