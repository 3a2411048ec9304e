"""Photos decoded in processes of their own: one that crashes or hangs the decoder takes only its
process along, and that is replaced.

A photo's bytes go out through a pipe and its pixels come back through another. `python -m
flowerseg.isolate` is such a process.
"""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from types import TracebackType
from typing import BinaryIO, Self, TypeAlias

import numpy as np

from flowerseg.arrays import Rgb, size_of
from flowerseg.errors import FlowersegError, ImageError
from flowerseg.images import MAX_PIXELS, decode_rgb, use_one_thread_per_call
from flowerseg.limits import explained_start, frugal_environment

Decode: TypeAlias = Callable[[bytes, str], Rgb]
"""Pixels (h, w, 3) of a photo from its bytes and its name, which stands in errors."""

COMMAND = (sys.executable, "-m", "flowerseg.isolate")

_READY = b"ready"
_PIPE_BYTES = 1 << 18  # Linux gives a user some hundred pipes of this size
# Seconds and pixels allowed, bytes of the name and of the photo; then name and photo.
_QUESTION = struct.Struct("<dQIQ")
# Bytes of the error, height and width; then the error or the pixels.
_ANSWER = struct.Struct("<III")


@contextmanager
def opened_decoder(
    max_pixels: int = MAX_PIXELS, isolate_s: float | None = None
) -> Iterator[Decode]:
    """A decoder for any number of threads at once.

    Args:
        max_pixels: photos of more are refused; see `decode_rgb`.
        isolate_s: seconds that decoding a photo may take, in a process of its own; None decodes
            here. For a limit on reading see `flowerseg.photofile.within`.
    """
    if isolate_s is None:
        yield partial(decode_rgb, max_pixels=max_pixels)
        return
    with IsolatedDecoder(isolate_s, max_pixels) as decode:
        yield decode


class IsolatedDecoder:
    """Decodes in as many processes as there are threads that call it at once.

    Args:
        longest_s: that decoding a photo may take. Starting a process does not count.
        max_pixels: photos of more are refused; see `decode_rgb`.
        command: of a process that runs `serve`.
    """

    def __init__(
        self,
        longest_s: float,
        max_pixels: int = MAX_PIXELS,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._longest_s = longest_s
        self._max_pixels = max_pixels
        self._command = command
        self._idle: list[_Process] = []

    def __call__(self, data: bytes, name: str) -> Rgb:
        """Pixels (h, w, 3) of a photo.

        Raises:
            ImageError: as `decode_rgb` does; or its process ended, or was ended for being late.
            FlowersegError: no process starts.
        """
        title = name.encode("utf-8", "surrogateescape")
        asked = _QUESTION.pack(self._longest_s, self._max_pixels, len(title), len(data)) + title
        process = self._process_with(asked, data)
        answer = process.answer()
        if answer is None:
            raise ImageError(f"{name}: {self._reason(process.end())}")
        self._idle.append(process)
        if isinstance(answer, str):
            raise ImageError(answer)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._idle:
            process.end()

    def _process_with(self, asked: bytes, data: bytes) -> "_Process":
        """A process that has taken a photo: an idle one, or a new one if there is none."""
        while self._idle:
            try:
                process = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if process.ask(asked, data):
                return process
            process.end()  # it died while it was idle, which is no fault of this photo
        process = _Process(self._command)
        process.ask(asked, data)
        return process

    def _reason(self, code: int) -> str:
        if code == -signal.SIGALRM:
            return f"decoding took longer than {self._longest_s:g} s, and was given up."
        if code == -signal.SIGKILL:
            return "its decoding was killed (SIGKILL): memory may have run out."
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"it crashes the decoder ({how}). Remove it, or save it anew from another program."


class _Process:
    """A process that decodes one photo after the other."""

    def __init__(self, command: Sequence[str]) -> None:
        # In a group of its own Ctrl-C does not reach it: the photo under way is finished.
        with explained_start("another process that decodes a photo (--isolate)"):
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
                pipesize=_PIPE_BYTES,
                env=frugal_environment(),
            )
        assert self._process.stdin
        assert isinstance(self._process.stdout, BufferedReader)
        self._to, self._from = self._process.stdin, self._process.stdout
        if self._from.read(len(_READY)) != _READY:
            code = self.end()
            raise FlowersegError(
                f"{' '.join(command)} ended with code {code} instead of decoding photos. Run "
                "flowerseg-doctor, or leave --isolate out."
            )

    def ask(self, question: bytes, data: bytes) -> bool:
        """Hand over a photo; False if the process is no more."""
        try:
            self._to.write(question)
            self._to.write(data)
            self._to.flush()
        except BrokenPipeError:
            return False
        return True

    def answer(self) -> Rgb | str | None:
        """Pixels (h, w, 3), or why there are none; None if the process ended over it."""
        head = self._from.read(_ANSWER.size)
        if len(head) < _ANSWER.size:
            return None
        length, height, width = _ANSWER.unpack(head)
        if length:
            return self._from.read(length).decode("utf-8", "surrogateescape")
        pixels = np.empty((height, width, 3), np.uint8)
        return pixels if self._from.readinto(pixels.data.cast("B")) == pixels.nbytes else None

    def end(self) -> int:
        """Its exit code, once it has seen that nothing more comes."""
        with suppress(BrokenPipeError):  # of what it was asked last and did not take
            self._to.close()
        code = self._process.wait()
        self._from.close()
        return code


def serve(decode: Callable[[bytes, str, int], Rgb]) -> None:
    """Decode what comes in on standard input until it ends, and answer on standard output.

    The system's timer ends the process, even inside the decoder, when a photo takes too long; so
    nothing hangs on when the process that asks is itself no more.

    Args:
        decode: from bytes, name and the most pixels allowed; raises ImageError.
    """
    # A shell that ignores or blocks the timer's signal hands that on: the process would not end.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    questions, answers = _pipes()
    answers.write(_READY)
    answers.flush()
    while head := questions.read(_QUESTION.size):
        longest_s, max_pixels, length, size = _QUESTION.unpack(head)
        name = questions.read(length).decode("utf-8", "surrogateescape")
        data = questions.read(size)
        signal.setitimer(signal.ITIMER_REAL, longest_s)
        try:
            pixels = np.ascontiguousarray(decode(data, name, max_pixels))
        except ImageError as error:
            words = str(error).encode("utf-8", "surrogateescape")
            body, head = memoryview(words), _ANSWER.pack(len(words), 0, 0)
        else:
            body, head = pixels.data.cast("B"), _ANSWER.pack(0, *size_of(pixels))
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(head)
        answers.write(body)
        answers.flush()


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output, the latter out of the reach of libraries that print.

    What they print to standard error goes nowhere too: the answer says what is wrong.
    """
    questions, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    return questions, answers


if __name__ == "__main__":
    use_one_thread_per_call()
    serve(decode_rgb)
