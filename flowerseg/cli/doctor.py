"""`flowerseg-doctor`."""

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flowerseg.cli.options import Command, json_option
from flowerseg.cli.terminal import echo
from flowerseg.printable import printable

if TYPE_CHECKING:
    from flowerseg.doctor import Finding

_COLOURS = {"works": "green", "doubt": "yellow", "missing": "yellow", "broken": "red"}
_WIDTH, _NAME_AT, _DETAIL_AT = 80, 9, 29


@click.command(cls=Command)
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can run, what is missing, and the command that mends it.

    Everything is tried, not listed: an ONNX Runtime session computes, TensorRT makes a builder, the
    compiler compiles. Exits with 1 when the chain cannot run at all.
    """
    from flowerseg.doctor import chain_runs
    from flowerseg.doctor.apart import examine_apart

    findings = examine_apart()
    if as_json:
        echo(json.dumps([dataclasses.asdict(f) for f in findings], indent=2))
    else:
        click.echo("\n".join(_lines(finding) for finding in findings))
    if not chain_runs(findings):
        absent = [f.name for f in findings if f.is_required and not f.is_usable]
        raise click.ClickException(f"the chain cannot run here without {', '.join(absent)}.")
    if not as_json:
        echo(f"\n{_verdict(findings)}")


def _lines(finding: "Finding") -> str:
    """State, name and detail in columns; below them what mends it, unbroken, to be copied."""
    state = click.style(f"{finding.state:{_NAME_AT}}", fg=_COLOURS[finding.state])
    name = f"{printable(finding.name):{_DETAIL_AT - _NAME_AT}}"
    detail = textwrap.wrap(
        printable(finding.detail),
        _WIDTH - _DETAIL_AT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    indent = "\n" + " " * _DETAIL_AT
    mends = [f"{' ' * _NAME_AT}→ {printable(line)}" for line in finding.mend.splitlines()]
    return "\n".join([state + name + indent.join(detail), *mends])


def _verdict(findings: "Sequence[Finding]") -> str:
    usable = {finding.name for finding in findings if finding.is_usable}
    where = "on the GPU and on the CPU" if "NVIDIA GPU" in usable else "on the CPU"
    engines = [name for name in ("TensorRT", "TensorRT-RTX") if name in usable]
    built = f", and builds {' and '.join(engines)} engines" if engines else ""
    return f"The chain runs here {where}{built}."
