"""Plots as SVG that takes its colours and its font from the page, light or dark.

Matplotlib draws in placeholder colours; each is then replaced by the page's CSS variable.
"""

import io
import re
from collections.abc import Callable
from typing import TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

from flowerseg.printable import printable
from flowerseg_bench.boundaries import STAGES, Boundary
from flowerseg_bench.results import Measurement, Results, Scenario
from flowerseg_bench.tables import number

Floats: TypeAlias = NDArray[np.float64]

MOST_TICKS = 150  # single runs drawn for a row, beside the slowest
SERIES = 8  # colours of the page; rows beyond begin again, with the next marker and line
MARKERS = {"round": "o", "square": "s", "triangle": "^", "diamond": "D"}
"""What the page's legend calls a marker -> matplotlib's name."""

_LINES = ("-", "--", ":", "-.")  # of each marker
_TALLEST_IN = 4.5  # what needs no place for each row, beside plots that do
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_WIDTH_IN = 4.7


def latency_plot(results: Results, boundary: Boundary) -> str:
    """How the latency of single photos is distributed, a ridge for each row; empty: no data."""
    items = [
        item
        for item in results.measurements
        if item.boundary is boundary
        and item.scenario is Scenario.LATENCY
        # Around the engine alone the null row is microseconds, far left of everything else.
        and (boundary is Boundary.FILE or not results.rows[item.row].is_null)
    ]
    if not items:
        return ""

    def draw(axes: Axes) -> None:
        samples = [_samples_ms(item) for item in items]
        low, high = min(s.min() for s in samples), max(s.max() for s in samples)
        grid_ms = np.geomspace(0.85 * low, 1.15 * high, 240)
        for place, (item, values) in enumerate(zip(items, samples, strict=True)):
            _ridge(axes, -place, values, grid_ms, _colour(results, item.row))
            name = printable(results.rows[item.row].name)
            label = f"{name} · median {number(float(np.median(values)))} ms"
            axes.text(grid_ms[0], -place + 0.76, label, color=_INK, fontsize=7.5)
        axes.set_xscale("log")
        _plain_log_ticks(axes, grid_ms[0], grid_ms[-1])
        axes.set_xlim(grid_ms[0], grid_ms[-1])
        axes.set_ylim(-len(items) + 0.85, 1.05)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("milliseconds a photo (logarithmic)")

    return _svg(f"latency-{boundary}", _ridges_height_in(len(items)), draw)


def throughput_plot(results: Results, boundary: Boundary) -> str:
    """Photos a second over the batch size; empty: no data."""
    batches = results.settings.batches
    # The null row would set the scale, and flatten all others.
    shown = [index for index, row in enumerate(results.rows) if not row.is_null]
    apart = min(0.05, 0.6 / len(results.rows))

    def draw(axes: Axes) -> None:
        for index in shown:
            found = [
                (place, item.throughput)
                for place, batch in enumerate(batches)
                if (item := results.find(index, boundary, Scenario.THROUGHPUT, batch))
                and item.throughput
            ]
            places = np.array([place for place, _ in found], float)
            # A little apart, so that equal rows do not hide each other.
            places += apart * (index - (len(results.rows) - 1) / 2)
            speeds = np.array([speed.images_per_s for _, speed in found])
            lows = np.array([min(speed.rounds_images_per_s) for _, speed in found])
            highs = np.array([max(speed.rounds_images_per_s) for _, speed in found])
            colour = _colour(results, index)
            axes.plot(
                places, speeds, _LINES[_turn(index)], marker=_marker(index),
                color=colour, markersize=4, linewidth=1.4,
            )  # fmt: skip
            axes.vlines(places, lows, highs, colors=colour, linewidth=1.2, alpha=0.6)
        axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        axes.set_xlim(-0.4, len(batches) - 0.6)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        axes.set_xlabel("batch")
        axes.set_ylabel("photos a second")

    height_in = _ridges_height_in(len(results.rows) - (boundary is not Boundary.FILE))
    return _svg(f"throughput-{boundary}", min(max(2.2, height_in), _TALLEST_IN), draw)


def quality_plot(results: Results) -> str:
    """Speed from file to mask against flower IoU, or agreement; empty: neither was measured."""
    has_labels = any(row.quality.flower_iou is not None for row in results.rows)
    points = []
    for index, row in enumerate(results.rows):
        worth = row.quality.flower_iou if has_labels else row.quality.agreement_iou
        if worth is not None and (speed := _best_speed(results, index)):
            points.append((speed, worth, index))
    if not points:
        return ""

    def draw(axes: Axes) -> None:
        for speed, worth, index in points:
            is_open = results.rows[index].is_unproven
            colour = _colour(results, index)
            axes.plot(
                speed, worth, _marker(index), markersize=8, color=colour,
                markerfacecolor="none" if is_open else colour, clip_on=False,
            )  # fmt: skip
        worths = [worth for _, worth, _ in points]
        margin = max(0.02, 0.25 * (max(worths) - min(worths)))
        axes.set_ylim(max(0.0, min(worths) - margin), min(1.0, max(worths) + margin))
        axes.set_xlim(0, 1.12 * max(speed for speed, _, _ in points))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3f}"))
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_xlabel("photos a second, file to mask, best batch")
        axes.set_ylabel("flower IoU" if has_labels else "agreement IoU")

    height_in = _bars_height_in(len(results.rows))
    return _svg("quality", min(max(2.2, height_in), _TALLEST_IN), draw)


def stages_plot(results: Results) -> str:
    """Where the time of one photo goes from file to mask; empty: no data."""
    found = [
        (index, item.stages_ms)
        for index in range(len(results.rows))
        if (item := results.find(index, Boundary.FILE, Scenario.LATENCY, 1))
    ]
    if not found:
        return ""

    def draw(axes: Axes) -> None:
        for place, (index, stages_ms) in enumerate(found):
            left = 0.0
            for stage, name in enumerate(STAGES[Boundary.FILE]):
                axes.barh(
                    -place, stages_ms[name], 0.34, left=left, color=f"#06000{stage}", linewidth=0
                )
                left += stages_ms[name]
            label = f"{printable(results.rows[index].name)} · {number(left)} ms"
            axes.text(0, -place + 0.26, label, color=_INK, fontsize=7.5)
        axes.set_ylim(-len(found) + 0.7, 0.62)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("milliseconds, median of each stage")

    return _svg("stages", _bars_height_in(len(found)), draw)


def legend(results: Results) -> list[tuple[str, str, str]]:
    """Each row's name with its colour and its marker, as the page calls them."""
    shapes = list(MARKERS)
    return [
        (row.name, "muted" if row.is_null else f"s{index % SERIES}", shapes[_turn(index)])
        for index, row in enumerate(results.rows)
    ]


def _bars_height_in(rows: int) -> float:
    return 0.48 * rows + 0.6


def _ridges_height_in(rows: int) -> float:
    return 0.55 * rows + 0.6


def _ridge(axes: Axes, base: int, values_ms: Floats, grid_ms: Floats, colour: str) -> None:
    logs = np.log(values_ms)
    if np.ptp(logs) > 0:
        density = gaussian_kde(logs)(np.log(grid_ms))
        top = base + 0.6 * density / density.max()
        axes.fill_between(grid_ms, base, top, color=colour, alpha=0.35, linewidth=0)
    axes.vlines(float(np.median(values_ms)), base, base + 0.64, color=colour, linewidth=1.6)
    some = np.sort(values_ms)[:: max(1, len(values_ms) // MOST_TICKS)]
    axes.vlines([*some, values_ms.max()], base - 0.05, base, color=colour, linewidth=0.5)


def _plain_log_ticks(axes: Axes, low: float, high: float) -> None:
    subs = (1, 2, 5) if high / low > 4 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(10, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", which="major", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _samples_ms(item: Measurement) -> Floats:
    return np.array([sample for each in item.rounds for sample in each.samples_ms], np.float64)


def _best_speed(results: Results, row: int) -> float:
    speeds = [
        item.throughput.images_per_s
        for item in results.measurements
        if item.row == row and item.boundary is Boundary.FILE and item.throughput
    ]
    return max(speeds, default=0.0)


def _colour(results: Results, row: int) -> str:
    return _MUTED if results.rows[row].is_null else f"#05000{row % SERIES}"


def _marker(row: int) -> str:
    return list(MARKERS.values())[_turn(row)]


def _turn(row: int) -> int:
    """How often the colours have begun again before a row."""
    return row // SERIES % len(MARKERS)


def _svg(name: str, height_in: float, draw: Callable[[Axes], None]) -> str:
    buffer = io.StringIO()
    with mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "font.size": 8,
            "text.parse_math": False,  # a dollar sign in a file name is no formula
            "text.color": _INK,
            "axes.labelcolor": _MUTED,
            "axes.edgecolor": _MUTED,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": _MUTED,
            "ytick.color": _MUTED,
        }
    ):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", transparent=True)
    return _for_page(buffer.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """The SVG element alone, in the page's colours, without an address of anything."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every plot, and never referred to
    opening = rf'<svg viewBox="\1" role="img" aria-label="{name}">'
    svg = re.sub(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', opening, svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for placeholder, variable in ((_INK, "ink"), (_MUTED, "muted"), (_GRID, "line")):
        svg = svg.replace(placeholder, f"var(--{variable})")
    return re.sub(r"#0([56])000(\d)", lambda m: f"var(--{'st'[int(m[1]) - 5]}{m[2]})", svg)
