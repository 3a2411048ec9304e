"""One run at a time in an output folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowerseg.errors import OutputError
from flowerseg.files import explained

LOCK = ".lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold an output folder, which is made if need be.

    The system gives the lock back when its owner ends, however it ends: a dead owner's lock is
    taken over. The file stays, for removing it would race with those who have just opened it.

    Raises:
        OutputError: another process holds it; it is named. Or the folder cannot be written.
    """
    path = out / LOCK
    with explained(path):
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(handle, 1000, 0).decode() or "another process"
            raise OutputError(
                f"{out}: {owner} is writing into it. Wait for it to end, or choose another folder."
            ) from error
        with explained(path):
            os.truncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)
