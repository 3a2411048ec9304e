"""What a measurement leaves: RESULT.json for machines and RESULT.md for people."""

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flowerseg.cli.options import stderr_console
from flowerseg.cli.terminal import echo
from flowerseg.files import require_writable, write_text
from flowerseg.markdown import markdown_line, markdown_row, markdown_text
from flowerseg_bench.conditions import Conditions, conditions_here, load_here
from flowerseg_bench.results import readable_json
from flowerseg_bench.tables import Column, Table
from flowerseg_bench.timing import resolution_s, wall_clock

SCHEMA = 1
JSON, MARKDOWN = "RESULT.json", "RESULT.md"
# Above that, something else computed as the measurement began: half a core over the last minute.
IDLE_LOAD = 0.5


@dataclass(frozen=True)
class Finding:
    """What was found out: a sentence, a table, what to know about it, and the raw numbers."""

    headline: str
    table: Table
    notes: tuple[str, ...]  # without a full stop
    raw: dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A finding, and under which conditions it was made."""

    finding: Finding
    conditions: Conditions
    load_at_end: float | None

    @property
    def notes(self) -> list[str]:
        """Those of the finding, and a doubt where the machine was not idle."""
        load = self.conditions.load_at_start
        busy = f"The machine was not idle at the start (load {load}): trust no times"
        return [*self.finding.notes, *([busy] if load is not None and load > IDLE_LOAD else [])]


def measure_into(out: Path, program: str, measure: Callable[[Path], Finding]) -> None:
    """Measure in a temporary folder, leave RESULT.json and RESULT.md, and show what was found.

    Args:
        out: gets the files; the temporary folder is in it, and goes.
        program: what was called, as `python -m flowerseg_bench.training`.
        measure: given the temporary folder.

    Raises:
        OutputError: `out` cannot be written.
    """
    require_writable(out)
    with TemporaryDirectory(prefix=".measuring-", dir=out) as work:
        record = recorded(lambda: measure(Path(work).resolve()), program)
    write_record(record, out)
    echo(text_of(record))
    stderr_console().print(f"Written to {out}: {JSON}, {MARKDOWN}")


def recorded(measure: Callable[[], Finding], program: str) -> Record:
    """Measure, between two looks at the machine."""
    import torch

    before = conditions_here(resolution_s(wall_clock))
    command = shlex.join(sys.argv[1:])
    before = dataclasses.replace(before, command=f"{program} {command}")
    finding = measure()
    finding.raw["torch_threads"] = torch.get_num_threads()
    return Record(finding, before, load_here())


def write_record(record: Record, out: Path) -> None:
    """Write RESULT.json and RESULT.md."""
    write_text(out / JSON, json_of(record))
    write_text(out / MARKDOWN, markdown_of(record))


def json_of(record: Record) -> str:
    """Everything; lists of numbers stay on one line."""
    content = {
        "schema": SCHEMA,
        "conditions": dataclasses.asdict(record.conditions),
        "load_at_end": record.load_at_end,
        "headline": record.finding.headline,
        "notes": record.notes,
        **record.finding.raw,
    }
    return readable_json(content)


def markdown_of(record: Record) -> str:
    """The finding first, the conditions after it."""
    here = record.conditions
    conditions = table_of(
        "Conditions",
        ("condition",),
        [
            ("date", here.date),
            ("command", here.command),
            ("processor", f"{here.processor}, {here.cores} cores for this process"),
            ("GPU", f"{here.gpu}, CUDA {here.cuda}" if here.gpu else "none"),
            ("system", here.system),
            ("load at start, at end", f"{here.load_at_start}, {record.load_at_end}"),
            ("commit", here.commit or "installed"),
            ("versions", ", ".join(f"{name} {v}" for name, v in here.versions.items())),
        ],
        words=("here",),
    )
    parts = [
        f"# {markdown_text(record.finding.table.title)}",
        f"{markdown_line(record.finding.headline)}.",
        "\n".join(_rows(record.finding.table)),
        "\n".join(f"- {markdown_line(note)}." for note in record.notes),
        "## Conditions",
        "\n".join(_rows(conditions)),
        f"Raw numbers are in {JSON}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def text_of(record: Record) -> str:
    """What the terminal shows: the sentence, the figures, the notes."""
    table = record.finding.table
    cells = [tuple(column.title for column in table.columns), *table.rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(
        [f"{record.finding.headline}.", "", *lines, "", *(f"{n}." for n in record.notes)]
    )


def table_of(
    title: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    words: tuple[str, ...] = (),
) -> Table:
    """A table whose first column is words, then numbers, then the columns `words`."""
    numbers = (Column(name) for name in columns[1:])
    others = (Column(name, is_number=False) for name in words)
    return Table(title, (Column(columns[0], is_number=False), *numbers, *others), tuple(rows))


def _rows(table: Table) -> list[str]:
    rules = ["---:" if column.is_number else "---" for column in table.columns]
    titles = [markdown_text(column.title) for column in table.columns]
    cells = [[markdown_text(cell) for cell in row] for row in table.rows]
    return [markdown_row(row) for row in (titles, rules, *cells)]
