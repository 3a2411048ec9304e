"""A result for people: the terminal's tables, summary.md and report.html, all of one object."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from flowerseg.files import write_text
from flowerseg.markdown import markdown_line, markdown_row, markdown_text
from flowerseg.page import printable_value
from flowerseg.printable import printable
from flowerseg.tuned import write_tuned
from flowerseg_bench import plots
from flowerseg_bench.advice import tuned_from
from flowerseg_bench.against import comparison_in_brief, comparison_table
from flowerseg_bench.boundaries import STAGES, Boundary
from flowerseg_bench.results import Results
from flowerseg_bench.tables import (
    MARK,
    Table,
    advice_in_brief,
    advice_table,
    boundary_table,
    conditions_table,
    doubts_in_brief,
    doubts_list,
    headline,
    limits_in_brief,
    limits_table,
    measured_boundaries,
    missing_ratios,
    models_table,
    startup_table,
    unmet_goals,
)

FILES = ("results.json", "summary.md", "report.html")
TUNED = "tuned.json"


def write_report(results: Results, out: Path) -> list[str]:
    """Write results.json, summary.md, report.html and, where a row may ship, tuned.json.

    Returns:
        The names of what was written. An old tuned.json that these results do not bear out goes.
    """
    for name, text in zip(
        FILES, (results.to_json(), markdown(results), html(results)), strict=True
    ):
        write_text(out / name, text)
    tuned = tuned_from(results)
    if tuned is None:
        (out / TUNED).unlink(missing_ok=True)
        return list(FILES)
    write_tuned(out / TUNED, tuned)
    return [*FILES, TUNED]


def terminal(results: Results, width: int) -> RenderableType:
    """The three boundaries in brief, with what is to be doubted, for so many columns."""
    parts: list[RenderableType] = []
    for boundary in measured_boundaries(results):
        parts.append(_rich(boundary_table(results, boundary), results, width))
        parts += [_line(f"{MARK} {doubt}", "dim") for doubt in doubts_in_brief(results, boundary)]
        if boundary is Boundary.ENGINE:
            parts += [_line(line, "dim") for line in limits_in_brief(results)]
        parts.append(Text())
    parts += [_line(f"{note}.".replace("..", ".")) for note in _notes(results)]
    if best := headline(results):
        parts.append(_line(f"Fastest proven: {best}.", "bold"))
    parts += [_line(f"Advice: {line}.") for line in advice_in_brief(results)]
    if results.comparison:
        parts += [Text(), *(_line(f"{line}.") for line in comparison_in_brief(results.comparison))]
    return Group(*parts)


def markdown(results: Results) -> str:
    """The same tables in Markdown, with all columns."""
    lines = ["# flowerseg-bench", ""]
    if best := headline(results):
        lines += [f"Fastest proven: {markdown_text(best)}.", ""]
    lines += [f"- {markdown_line(note)}" for note in _notes(results)] + [""]
    for boundary in measured_boundaries(results):
        lines += _markdown(boundary_table(results, boundary))
        lines += (
            [""]
            + [f"- {MARK} {markdown_text(doubt)}" for doubt in doubts_in_brief(results, boundary)]
            + [""]
        )
    if results.comparison:
        lines += [*_markdown(comparison_table(results.comparison)), ""]
        lines += [
            f"- {markdown_line(line)}" for line in comparison_in_brief(results.comparison)
        ] + [""]
    lines += [f"- Advice: {markdown_text(line)}." for line in advice_in_brief(results)] + [""]
    for table in (
        limits_table(results),
        startup_table(results),
        models_table(results),
        conditions_table(results),
    ):
        lines += [*_markdown(table), ""]
    lines.append("Every number is defined in bench/README.md; raw samples are in results.json.")
    return "\n".join(lines) + "\n"


def html(results: Results) -> str:
    """One self-contained page: no script, nothing to fetch, light and dark."""
    environment = Environment(
        loader=PackageLoader("flowerseg_bench", "."),
        autoescape=True,
        finalize=printable_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["svg"] = Markup
    return environment.get_template("report.html.j2").render(
        results=results,
        headline=headline(results),
        notes=_notes(results),
        sections=[_section(results, boundary) for boundary in measured_boundaries(results)],
        legend=plots.legend(results),
        stages=[(name, f"t{i}", "square") for i, name in enumerate(STAGES[Boundary.FILE])],
        stages_plot=plots.stages_plot(results),
        quality_plot=plots.quality_plot(results),
        comparison=_comparison(results),
        advice=advice_table(results),
        unmet=unmet_goals(results),
        limits=limits_table(results),
        startup=startup_table(results),
        models=models_table(results),
        conditions=conditions_table(results),
        mark=MARK,
    )


def _section(results: Results, boundary: Boundary) -> dict[str, object]:
    return {
        "boundary": str(boundary),
        "table": boundary_table(results, boundary),
        "doubts": doubts_list(results, boundary),
        "latency": plots.latency_plot(results, boundary),
        "throughput": plots.throughput_plot(results, boundary),
    }


def _comparison(results: Results) -> dict[str, object] | None:
    if results.comparison is None:
        return None
    return {
        "table": comparison_table(results.comparison),
        "lines": comparison_in_brief(results.comparison),
    }


def _notes(results: Results) -> list[str]:
    unproven = [
        f"{row.name} is not proven ({row.proof}): its masks may be wrong"
        for row in results.rows
        if row.is_unproven
    ]
    lacking = {row.quality.note for row in results.rows if row.quality.note and not row.is_null}
    return [*unproven, *missing_ratios(results), *sorted(lacking), *results.notes]


def _rich(table: Table, results: Results, width: int) -> RichTable:
    shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    # A name is folded, a number never: half a number is another number.
    shown.add_column("model · runtime\nproof", min_width=16, overflow="fold")
    brief = [i for i, column in enumerate(table.columns) if column.is_brief and column.is_number]
    speeds = [i for i in brief if table.columns[i].title.startswith("photos/s")]
    fitting = max(1, (width - 72) // 11)
    brief = [i for i in brief if i not in speeds[:-fitting]]
    for place in brief:
        title = table.columns[place].title.replace("photos/s, ", "photos/s ")
        shown.add_column(title.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for row, cells in zip(results.rows, table.rows, strict=True):
        name = Text.assemble(printable(row.name), "" if row.is_null else (f"\n{row.proof}", "dim"))
        shown.add_row(name, *(_line(cells[place]) for place in brief))
    return shown


def _markdown(table: Table) -> list[str]:
    titles = [column.title for column in table.columns]
    rules = ["---:" if column.is_number else "---" for column in table.columns]
    lines = [[markdown_text(cell) for cell in row] for row in table.rows]
    return [f"## {markdown_text(table.title)}", ""] + [
        markdown_row(cells) for cells in (titles, rules, *lines)
    ]


def _line(text: str, style: str = "") -> Text:
    """A line for the terminal, in which names are escaped."""
    return Text(printable(text), style)
