"""What the commands print: the only place where text meets a terminal or a log.

Texts hold file names, so all of them pass `printable` here; see `flowerseg.printable`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TextColumn
from rich.segment import Segment
from rich.text import Text

from flowerseg.errors import FlowersegError
from flowerseg.printable import printable, printable_lines


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text on stdout, or on stderr; its line breaks are kept, names are escaped."""
    click.echo(printable_lines(text), err=err, nl=nl)


class PlainConsole(Console):
    """A console that prints text as it is: markup, emoji codes and control characters are text.

    Args:
        stderr: print there, not on stdout.
        soft_wrap: lines are printed whole and the terminal wraps them, so that a path can be
            copied.
        width: columns; None asks the terminal.
    """

    def __init__(
        self, *, stderr: bool = False, soft_wrap: bool = False, width: int | None = None
    ) -> None:
        super().__init__(
            stderr=stderr,
            soft_wrap=soft_wrap,
            width=width,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def render_str(self, text: str, **style: object) -> Text:
        """A string as text; rich itself would drop some control characters in silence."""
        return super().render_str(printable_lines(text), **style)  # type: ignore[arg-type]  # as above

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Anything as segments: the last place before codes of colour are put around the text."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


def stderr_console() -> PlainConsole:
    """Where progress and notes go, so that stdout holds only the result."""
    return PlainConsole(stderr=True, soft_wrap=True)


def description_column() -> TextColumn:
    """The column of a progress bar with the task's description, in which brackets are no markup."""
    return TextColumn("{task.description}", markup=False)


class _Shown(click.ClickException):
    """An error whose message can be printed."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))


@contextmanager
def printable_errors() -> Iterator[None]:
    """Turn a `FlowersegError` into click's error with exit code 1, and make click's own printable.

    Raises:
        click.ClickException: with a message that can be printed.
    """
    try:
        yield
    except FlowersegError as error:
        raise _Shown([printable(str(line)) for line in error.args]) from error
    except (_Shown, click.MissingParameter):  # what breaks their lines is no name
        raise
    except click.ClickException as error:
        message = error.format_message()
        if message == printable(message):
            raise
        shown = (
            click.UsageError(printable(message), error.ctx)
            if isinstance(error, click.UsageError)
            else click.ClickException(printable(message))
        )
        shown.exit_code = error.exit_code  # type: ignore[misc]  # click declares it for classes only
        raise shown from error
