"""What all commands share: errors without tracebacks, common options, output for machines."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console

from flowerseg.cli.streams import checked_streams
from flowerseg.errors import FlowersegError

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


class Command(click.Command):
    """A command whose `FlowersegError` becomes a message on stderr and exit code 1.

    Wrong usage is click's own exit code 2. Any other exception is our bug and keeps its traceback.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program."""
        with checked_streams():
            return super().__call__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FlowersegError as error:
            raise click.ClickException(str(error)) from error


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


def unproven_option(command: F) -> F:
    """`--unproven`: use a file whose proof failed or was never run."""
    return click.option(
        "--unproven", is_flag=True, help="Use a model file whose proof failed or was never run."
    )(command)


def print_result(result: Any, text: str, *, as_json: bool) -> None:
    """Print a dataclass as JSON, or its text, on stdout."""
    click.echo(json.dumps(dataclasses.asdict(result), indent=2, default=str) if as_json else text)


def stderr_console() -> Console:
    """Where progress and notes go, so that stdout holds only the result.

    A line is printed as it is: the terminal wraps it where it must, so that a path can be copied,
    and a name in square brackets is no markup.
    """
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def _checked_device(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    kind, _, index = value.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdigit())):
        raise click.BadParameter(f"{value!r} is not auto, cpu, cuda or cuda:N")
    return value
