import io
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.plots import throughput_plot
from flowerseg_bench.report import FILES, TUNED, html, markdown, terminal, write_report
from flowerseg_bench.results import Results, Scenario
from flowerseg_bench.tables import number

FETCHING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action"}


class Page(HTMLParser):
    """Text and the addresses that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in FETCHING]

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


@pytest.fixture(scope="module")
def report(tiny_results: Results, tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    out = tmp_path_factory.mktemp("report")
    write_report(tiny_results, out)
    return tiny_results, out


def test_page_table_and_summary_show_the_numbers_of_results_json(
    report: tuple[Results, Path],
) -> None:
    _, out = report
    page = Page()
    page.feed((out / "report.html").read_text())
    cells = {text.removesuffix("†") for text in page.text}
    summary = (out / "summary.md").read_text()

    measurements = json.loads((out / "results.json").read_text())["measurements"]

    for item in measurements:
        if item["throughput"]:
            shown = number(item["throughput"]["images_per_s"])
        else:
            shown = number(item["latency"]["median_ms"])
        assert shown in cells
        assert shown in summary


def test_page_opens_without_a_network(report: tuple[Results, Path]) -> None:
    _, out = report
    text = (out / "report.html").read_text()
    page = Page()
    page.feed(text)

    assert "://" not in text
    assert "@import" not in text
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"url\((?!#)", text)
    assert not page.tags & {"script", "link", "img", "iframe"}


def test_plots_take_their_colours_from_the_page(report: tuple[Results, Path]) -> None:
    _, out = report
    plots = re.findall(r"<svg.*?</svg>", (out / "report.html").read_text(), re.DOTALL)

    assert len(plots) == 8  # latency and throughput at three boundaries, stages, speed and IoU
    for plot in plots:
        assert "var(--ink)" in plot or "var(--muted)" in plot
        assert not re.search(r"#0[1-6]0[0-9]0[0-9]", plot)
        assert "#000000" not in plot


def test_no_two_rows_of_many_look_alike(tiny_results: Results) -> None:
    many = replace(
        tiny_results,
        rows=tuple(replace(tiny_results.rows[0], name=f"row {n}") for n in range(20)),
        measurements=tuple(
            replace(item, row=row)
            for row in range(20)
            for item in tiny_results.measurements
            if item.row == 0
        ),
    )
    marks = re.findall(r'<li><i class="(\w+)" style="background: var\((--\w+)\)', html(many))
    rows, stages = marks[:20], marks[20:]

    assert len(set(rows)) == 20
    assert [shape for shape, _ in stages] == ["square"] * 5
    # Every row lies inside the plot: right of where its grid lines begin.
    plot = throughput_plot(many, Boundary.FILE)
    grid = re.search(r'd="M ([\d.]+) [\d.]+ \nL [\d.]+ [\d.]+ \n" clip-path', plot)
    points = re.findall(r'<use [^>]*x="([\d.]+)"[^>]*fill: var\(--s', plot)
    assert grid is not None
    assert len(points) == 20 * len(many.settings.batches)
    assert min(map(float, points)) > float(grid[1])


def test_names_of_models_break_no_page_table_plot_or_terminal(tiny_results: Results) -> None:
    name = "a|[/][red]`$x$_{<b>&\n# \x1b[31m\udce9.onnx"
    shown = r"a|[/][red]`$x$_{<b>&\n# \x1b[31m\xe9.onnx"
    hostile = replace(
        tiny_results, rows=tuple(replace(row, name=name, file=name) for row in tiny_results.rows)
    )
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(terminal(hostile, 400))
    assert shown in console.export_text()
    page = html(hostile)
    assert "<b>" not in page
    assert any(escape(shown) in plot for plot in re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert escape(shown.replace(r"\n", "\n")) in page  # a line break is a space there
    assert "\x1b" not in page
    page.encode()
    lines = markdown(hostile).splitlines()
    assert r"a\|\[/\]\[red\]\`\$x\$\_{\<b\>\&\\n# \\x1b\[31m\\xe9.onnx" in "\n".join(lines)
    rows = [line for line in lines if line.startswith("| ")]
    pipes = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    rules = [index for index, row in enumerate(rows) if row.startswith("| ---")]
    for index, row in enumerate(rows):
        if row.startswith(r"| a\|"):
            assert pipes[index] == pipes[max(rule for rule in rules if rule < index)]


def test_doubts_stand_beside_the_numbers(report: tuple[Results, Path]) -> None:
    results, out = report
    item = results.find(0, Boundary.ENGINE, Scenario.LATENCY, 1)
    assert item is not None
    assert item.doubts  # a Gather of 32 x 32 pixels takes no longer than the harness

    for name in ("summary.md", "report.html"):
        assert item.doubts[0].split(":")[0] in (out / name).read_text()


def test_terminal_shows_speed_and_iou_in_the_same_row(report: tuple[Results, Path]) -> None:
    results, _ = report
    console = Console(width=200, record=True, file=io.StringIO())

    console.print(terminal(results, 200))

    text = console.export_text()
    (line, *_) = [line for line in text.splitlines() if "tiny.onnx · onnxruntime" in line]
    assert f"{results.rows[0].quality.flower_iou:.4f}" in line
    assert "not measured" in line  # there is no reference to agree with


def test_a_narrow_terminal_loses_columns_but_no_digits(report: tuple[Results, Path]) -> None:
    results, _ = report
    item = results.find(0, Boundary.FILE, Scenario.THROUGHPUT, 2)
    assert item is not None
    assert item.throughput is not None
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(terminal(results, 80))

    text = console.export_text()
    assert number(item.throughput.images_per_s) in text
    assert "tiny.onnx" in text
    assert "…" not in text


def test_all_files_are_written_and_what_is_not_borne_out_any_more_goes(
    tiny_results: Results, tmp_path: Path
) -> None:
    assert write_report(tiny_results, tmp_path) == [*FILES, TUNED]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, TUNED])

    assert write_report(replace(tiny_results, advice=()), tmp_path) == [*FILES]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0002, "0.0002"),
        (0.0162, "0.016"),
        (0.0, "0"),
        (0.5, "0.500"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (4.5e7, "45.0 M"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
