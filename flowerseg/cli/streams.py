"""Standard output and error of a command: closed, on a full disk, or a pipe without a reader.

What a command prints on standard output is its result: if that is lost, the command fails and says
so. What it prints on standard error accompanies the work, which goes on without it.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from flowerseg.errors import OutputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@contextmanager
def checked_streams() -> Iterator[None]:
    """Run a command, the whole program, with streams that say what the system refuses.

    Ends the program with exit code 1 where its result could not be printed.
    """
    _open_closed_handles()
    sys.stdout = _text_stream(_Result(1, is_closed=sys.stdout is None), sys.stdout)
    # A handle of its own, which still prints while `library_messages_dropped` takes number 2 away.
    sys.stderr = _text_stream(_Notes(os.dup(2), "wb", closefd=False), sys.stderr)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError as error:  # of --help and --version; a command's own errors end in it
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def library_messages_dropped() -> Iterator[None]:
    """Drop what libraries print on standard error by its number; what Python prints still appears.

    The decoders of JPEG and TIFF print a line about a damaged photo, without its name. For the time
    in which a command decodes, inside `checked_streams`: it concerns the whole process.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _Result(io.FileIO):
    """Standard output. Its first failure raises OutputError; what comes later is dropped."""

    def __init__(self, handle: int, *, is_closed: bool) -> None:
        super().__init__(handle, "wb", closefd=False)
        self._is_closed = is_closed
        self._has_failed = False

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            if self._is_closed:
                raise OSError(errno.EBADF, "it is closed")
            if not self._has_failed:
                return super().write(content)
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                raise OutputError(
                    f"The result cannot be printed on standard output: {_reason(error)}. Files "
                    "that were written are complete."
                ) from error
        return memoryview(content).nbytes


class _Notes(io.FileIO):
    """Standard error. What it does not take is dropped."""

    def write(self, content: "ReadableBuffer", /) -> int:
        try:
            return super().write(content)
        except OSError:
            return memoryview(content).nbytes


def _open_closed_handles() -> None:
    """Give the handles 0 to 2 to no file of ours: what libraries print would be written into it."""
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free handle, which is this one


def _text_stream(raw: io.RawIOBase, like: TextIO | None) -> TextIO:
    encoding = like.encoding if like else "utf-8"
    # What the terminal's encoding lacks is printed as an escape: a name must not end the command.
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True
    )


def _reason(error: OSError) -> str:
    if error.errno == errno.EPIPE:
        return "the program that reads it has ended"
    return str(error.strerror)
