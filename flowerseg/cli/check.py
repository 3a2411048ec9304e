"""`flowerseg-predict --check OUT`: whether a finished folder is still as it was written."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flowerseg.cli.terminal import echo
from flowerseg.printable import printable

if TYPE_CHECKING:
    from flowerseg.predict import Checked, Finding

_SHOWN_FINDINGS = 20


def check_and_print(out: Path, *, as_json: bool) -> bool:
    """Check an output folder and print each fault as it is found; True if there is none."""
    from flowerseg.predict import check_folder

    printer = _JsonPrinter() if as_json else _TextPrinter()
    checked = check_folder(out, printer.print)
    printer.print_end(out, checked)
    return not printer.counts


class _TextPrinter:
    """A line for each of the first findings, then their numbers."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def print(self, finding: "Finding") -> None:
        self.counts[finding.kind] += 1
        if self.counts.total() <= _SHOWN_FINDINGS:
            echo(printable(f"{finding.kind}: {finding.path}: {finding.detail}"))

    def print_end(self, out: Path, checked: "Checked") -> None:
        if (more := self.counts.total() - _SHOWN_FINDINGS) > 0:
            echo(f"and {more} more, which --json lists")
        numbers = ", ".join(f"{kind} {count}" for kind, count in self.counts.items())
        verdict = numbers or "everything is as it was written"
        left_out = checked.photos_not_checked
        echo(
            f"{out}: {checked.rows} rows, {checked.outputs} outputs and {checked.photos} photos "
            f"checked{f', {left_out} photos not at hand' if left_out else ''}: {verdict}"
        )


class _JsonPrinter:
    """One JSON document, written as the findings come: there may be a million of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def print(self, finding: "Finding") -> None:
        echo(("," if self.counts else '{"findings": [') + "\n" + json.dumps(asdict(finding)))
        self.counts[finding.kind] += 1

    def print_end(self, out: Path, checked: "Checked") -> None:
        head = "\n]" if self.counts else '{"findings": []'
        rest = {"ok": not self.counts, "counts": dict(self.counts), "checked": asdict(checked)}
        echo(f"{head}, {json.dumps(rest)[1:]}")
