"""The bytes of a photo's file: a regular file of a size that an image can have, read in time.

No function here waits for ever. A pipe or device is refused even if it takes the place
of a photo at the last moment, a file without an end is given up at the size limit, and with a
deadline a disk or network mount that hangs costs one photo and not the run.
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TypeAlias

from flowerseg.errors import FlowersegError, ImageError
from flowerseg.limits import explained_start

Read: TypeAlias = Callable[[Path], bytes]
"""Bytes of the photo at a path; raises ImageError where they cannot be had."""

MAX_BYTES = (1 << 31) - 1  # OpenCV 5.0 counts the bytes of an image in 32 bits

_CHUNK_BYTES = 1 << 16
# Reads that were given up and still hang. Each keeps a thread, of which a process has thousands.
_MOST_HANGING = 256


def photo_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a photo's file, for `decode_rgb`. A link to a file is followed.

    Raises:
        ImageError: it cannot be read, is no regular file, has more than `max_bytes`, or has no end.
    """
    try:
        # Opening a device may do something to it, so what is no file is not even opened.
        _require_regular(path, path.stat())
        handle = _opened(path)
        try:
            status = os.fstat(handle)
            _require_regular(path, status)  # another file may have the name by now
            return _content(path, handle, status.st_size, max_bytes)
        finally:
            os.close(handle)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {_reason(path, error)}") from error


@dataclass(frozen=True)
class DeadlineRead:
    """Reads photos in threads that are given up when they take too long.

    A system call that hangs cannot be broken off, so its thread stays until it returns or the
    process ends, which does not wait for it. It can be pickled where `read` can.

    Args:
        read: bytes of the photo at a path; raises ImageError.
        longest_s: that reading a photo may take.
    """

    read: Read
    longest_s: float

    def __call__(self, path: Path) -> bytes:
        """The bytes of a photo.

        Raises:
            ImageError: as `read` does, or it takes too long.
            FlowersegError: so many reads hang that the disk, not a photo, must be at fault; or the
                system starts no more threads.
        """
        results: SimpleQueue[bytes | BaseException] = SimpleQueue()
        thread = Thread(target=self._put_bytes, args=[path, results], daemon=True)
        with explained_start("a thread that reads a photo"):
            thread.start()
        try:
            result = results.get(timeout=self.longest_s)
        except Empty:
            _hanging.add(results)
            raise ImageError(
                f"{path}: reading took longer than {self.longest_s:g} s, and was given up. Check "
                "the disk or network mount that it lies on."
            ) from None
        if isinstance(result, BaseException):
            raise result
        return result

    def _put_bytes(self, path: Path, results: "SimpleQueue[bytes | BaseException]") -> None:
        try:
            results.put(self.read(path))
        except BaseException as error:  # it belongs to the thread that waits for the bytes
            results.put(error)


class _HangingReads:
    """The reads of this process that were given up and have not returned."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._results: list[SimpleQueue[bytes | BaseException]] = []

    def add(self, results: "SimpleQueue[bytes | BaseException]") -> None:
        """Count one more.

        Raises:
            FlowersegError: there are too many.
        """
        with self._lock:
            self._results = [read for read in [*self._results, results] if read.empty()]
            count = len(self._results)
        if count >= _MOST_HANGING:
            raise FlowersegError(
                f"{count} photos were given up while they were read, and the system is still "
                "reading them: the disk or network mount hangs. Mend it and run the same again."
            )


_hanging = _HangingReads()


def within(read: Read, longest_s: float | None) -> Read:
    """A read that takes so many seconds at most; None sets no limit."""
    return read if longest_s is None else DeadlineRead(read, longest_s)


def _require_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path}: cannot be read: it is a folder, not a photo.")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path}: cannot be read: it is a pipe, socket or device, not a file.")


def _opened(path: Path) -> int:
    """A handle, without waiting for the writer of a pipe that has just taken the photo's place."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except BlockingIOError:  # another program has a lease on the file, and has to give it back
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _content(path: Path, handle: int, size: int, max_bytes: int) -> bytes:
    """All bytes. The size is a hint: files grow, and those of /proc say that they are empty."""
    parts: list[bytes] = []
    count = 0
    wanted = max(size + 1, _CHUNK_BYTES)  # more than there is, so that a file takes two calls
    while count <= max_bytes and size <= max_bytes:
        part = os.read(handle, min(wanted, max_bytes + 1 - count))
        if not part:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        parts.append(part)
        count += len(part)
        wanted = max(size + 1 - count, _CHUNK_BYTES)
    known = f"{size} bytes" if size > max_bytes else f"more than {max_bytes} bytes"
    raise ImageError(f"{path}: {known}, and an image has {max_bytes} at most.")


def _reason(path: Path, error: OSError) -> str:
    """Why a file cannot be read, as a sentence, with a hint where the list may be at fault."""
    if isinstance(error, BlockingIOError):
        return "it has no bytes to read now, and is no photo."
    if error.errno == errno.ENOENT and path.name != path.name.strip():
        return f"{error.strerror}. The name begins or ends with white space: is that meant?"
    return f"{error.strerror or error}."
