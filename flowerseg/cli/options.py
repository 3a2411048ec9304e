"""What all commands share: errors without tracebacks, common options, output for machines."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from flowerseg.cli.streams import checked_streams
from flowerseg.cli.terminal import echo, printable_errors, stderr_console

__all__ = [
    "CHOSEN_RUNTIMES",
    "Command",
    "FiniteRange",
    "device_option",
    "json_option",
    "print_result",
    "runtime_option",
    "stderr_console",
    "trust_option",
    "unproven_option",
]

F = TypeVar("F", bound=Callable[..., Any])


CHOSEN_RUNTIMES = (
    "onnxruntime",
    "openvino",
    "openvino-bf16",
    "pytorch",
    "pytorch-fp16",
    "torch-compile",
    "torch-compile-fp16",
)
"""Those of files that several runtimes open; the others follow from the file."""


class FiniteRange(click.FloatRange):
    """Numbers in a range. Click lets NaN, and infinity where a side is open, pass as such."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Command(click.Command):
    """A command whose `FlowersegError` becomes a message on stderr and exit code 1.

    Wrong usage is click's own exit code 2. Any other exception is our bug and keeps its traceback.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program."""
        with checked_streams():
            return super().__call__(*args, **kwargs)

    def make_context(self, *arguments: Any, **settings: Any) -> click.Context:
        """Read the command line."""
        with printable_errors():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with printable_errors():
            return super().invoke(ctx)


def device_option(command: F) -> F:
    """`--device`: where the model runs."""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        callback=_checked_device,
        metavar="auto|cpu|cuda[:N]",
        help="auto takes the first CUDA GPU, else the CPU, and says which.",
    )(command)


def runtime_option(command: F) -> F:
    """`--runtime`: what opens the file, where several runtimes can."""
    return click.option(
        "--runtime",
        type=click.Choice(["auto", *CHOSEN_RUNTIMES]),
        default="auto",
        show_default=True,
        help="onnxruntime, openvino and openvino-bf16 (bfloat16, which some processors compute "
        "several times as fast) open .onnx files, the others .pt. auto is the fastest in "
        "which the file was proved, and says which; flowerseg-verify begins with the first.",
    )(command)


def json_option(command: F) -> F:
    """`--json`: the result for machines, on stdout."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."
    )(command)


def few_photos_option(command: F) -> F:
    """`--few-photos`: prove on fewer photos than a proof takes."""
    return click.option(
        "--few-photos",
        is_flag=True,
        help="Prove on fewer than 8 different photos too, which shows less.",
    )(command)


def unproven_option(command: F) -> F:
    """`--unproven`: use a file whose proof failed or was never run."""
    return click.option(
        "--unproven", is_flag=True, help="Use a model file whose proof failed or was never run."
    )(command)


def trust_option(command: F) -> F:
    """`--trust`: open a compiled file that another user can change."""
    return click.option(
        "--trust",
        is_flag=True,
        help="Open a compiled model file although another user owns it or can write to it.",
    )(command)


def print_result(
    result: Any, text: str, *, as_json: bool, warnings: Sequence[str] | None = None
) -> None:
    """Print a dataclass as JSON, or its text, on stdout.

    Args:
        result: the dataclass.
        text: what people read, with the warnings in it.
        as_json: print JSON.
        warnings: sentences that the JSON holds too, under `warnings`; None: it has no such field.
    """
    if not as_json:
        echo(text)
        return
    fields = dataclasses.asdict(result)
    if warnings is not None:
        fields["warnings"] = list(warnings)
    echo(json.dumps(fields, indent=2, default=str))


def _checked_device(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    from flowerseg.backends.base import is_device_name  # brings NumPy along: not for --help

    if not is_device_name(value):
        raise click.BadParameter(f"{value!r} is not auto, cpu, cuda or cuda:N")
    return value
