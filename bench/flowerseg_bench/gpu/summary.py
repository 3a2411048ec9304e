"""The end of what a run on a GPU prints: where only the last part is kept, this is it."""

from collections.abc import Sequence
from pathlib import Path

from flowerseg_bench.gpu.plan import Setup, name_of
from flowerseg_bench.gpu.run import LOG

MOST_COLUMNS = 220
"""Of a line: a table's last columns, percentiles, are in the results."""


def summary_of(setup: Setup) -> str:
    """ResNet-101's table, the probe's numbers and the tests' verdict: some 9,000 characters."""
    main = name_of(setup, "resnet101")
    parts = {
        f"bench-{main}": _table(setup.results / f"bench-{main}" / "summary.md"),
        "probe": _lines(setup.results / "probe" / LOG)[-40:],
        "tests": _lines(setup.results / "tests" / LOG)[-8:],
    }
    return "\n".join(f"== {name}\n{_cut(lines)}" for name, lines in parts.items() if lines)


def _table(path: Path) -> list[str]:
    """The first table of a summary, which is all of it where one boundary was measured."""
    lines = _lines(path)
    rows = [place for place, line in enumerate(lines) if line.startswith("|")]
    if not rows:
        return []
    end = next((n for n in range(rows[0], len(lines)) if not lines[n].startswith("|")), len(lines))
    return lines[rows[0] : end]


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip()]


def _cut(lines: Sequence[str]) -> str:
    return "\n".join(line[:MOST_COLUMNS] for line in lines)
