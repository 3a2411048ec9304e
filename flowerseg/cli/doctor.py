"""`flowerseg-doctor`."""

import dataclasses
import json

import click

from flowerseg.cli.options import Command, json_option

_COLOURS = {"works": "green", "missing": "yellow", "broken": "red"}


@click.command(cls=Command)
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine can run, what is missing, and the command that mends it.

    Everything is tried, not listed: an ONNX Runtime session computes, TensorRT makes a builder.
    Exits with 1 when the chain cannot run at all.
    """
    from flowerseg.doctor import chain_runs, examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(f) for f in findings], indent=2))
    else:
        for f in findings:
            click.echo(f"{_marked(f.state)}  {f.name}: {f.detail}")
            if f.state != "works":
                click.echo(f"         {f.mend}")
    if not chain_runs(findings):
        broken = [f.name for f in findings if f.is_required and f.state != "works"]
        raise click.ClickException(f"the chain cannot run here without {', '.join(broken)}.")


def _marked(state: str) -> str:
    return click.style(f"{state:7}", fg=_COLOURS[state])
