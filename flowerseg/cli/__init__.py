"""The commands. `flowerseg` groups them and imports only the one that is called."""

import importlib
from typing import Any

import click

from flowerseg import __version__
from flowerseg.cli.streams import checked_streams

COMMANDS = {
    "train": ("flowerseg.cli.train", "Fine-tune DeepLabV3 on labelled photos."),
    "export": ("flowerseg_export.cli", "Write the deployable model, and prove it."),
    "verify": ("flowerseg.cli.verify", "Prove a model again: IoU parity with PyTorch."),
    "bench": ("flowerseg_bench.cli", "Latency and throughput, with IoU beside them."),
    "predict": ("flowerseg.cli.predict", "Segment a folder of photos."),
    "doctor": ("flowerseg.cli.doctor", "Say what this machine can run, and what is missing."),
    "demo": ("flowerseg.cli.demo", "Run the whole chain in a few minutes."),
}
"""Name -> module and summary. Modules are named, not imported: export and bench stand above us."""


class _LazyGroup(click.Group):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with checked_streams():
            return super().__call__(*args, **kwargs)

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        from flowerseg.cli.terminal import printable_errors

        with printable_errors():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        from flowerseg.cli.terminal import printable_errors

        with printable_errors():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[name][0]), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[name][0]}.{name} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=_LazyGroup)
@click.version_option(__version__)
def main() -> None:
    """From a folder of labelled photos to a GPU engine you can trust."""
