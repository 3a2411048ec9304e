"""One run at a time in an output folder, which stays the same folder while the run holds it."""

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flowerseg.errors import OutputError
from flowerseg.files import explained, make_folders
from flowerseg.predict.plainfile import require_plain, require_plain_status

LOCK = ".lock"

_OWNER = re.compile(r"process \d+ on [^\0-\x1f]*")  # what a run writes into the file
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # neither follow a link nor wait for a pipe


class HeldFolder:
    """An output folder that this run holds.

    Args:
        name: the folder as the user gave it; it may be a link to a folder.
    """

    def __init__(self, name: Path) -> None:
        self.path = name.resolve()  # of the folder itself, even if a link names another one later
        self._identities: dict[Path, tuple[int, int]] = {}
        self._handles: list[int] = []
        self.watch(self.path)
        self._identities[name] = self._identities[self.path]

    def watch(self, path: Path) -> None:
        """Remember what a path names now, which must stay so."""
        with explained(path):
            # While it is open, no other file gets its number. Closing such a handle leaves the
            # locks of SQLite alone, which closing any other one would drop.
            if hasattr(os, "O_PATH"):
                self._handles.append(os.open(path, os.O_PATH | os.O_CLOEXEC))
            self._identities[path] = _identity(path.stat())

    def watch_open_file(self, path: Path, handle: int) -> None:
        """Remember that a path names the file of a handle that stays open, which must stay so.

        Raises:
            OutputError: it names another file already.
        """
        self._identities[path] = _identity(os.fstat(handle))
        self.require_unchanged()

    def close(self) -> None:
        """Let go of what is watched."""
        while self._handles:
            os.close(self._handles.pop())

    def require_unchanged(self) -> None:
        """Find out whether all that is watched is there still.

        Raises:
            OutputError: it was removed, renamed or replaced.
        """
        for path, before in self._identities.items():
            try:
                is_same = _identity(path.stat()) == before
            except OSError:
                is_same = False
            if not is_same:
                raise OutputError(
                    f"{path}: removed or replaced while the run was writing into it, so that "
                    "outputs may be missing. Leave the folder alone and run the same again."
                )


@contextmanager
def locked(out: Path) -> Iterator[HeldFolder]:
    """Hold an output folder, which is made if need be.

    The system gives the lock back when its owner ends, however it ends: a dead owner's lock is
    taken over. The file stays, for removing it would race with those who have just opened it.

    Raises:
        OutputError: another process holds it; it is named. Or the folder cannot be written, or
            another file lies where the lock should be.
    """
    with explained(out / LOCK):
        make_folders(out)
    with closing(HeldFolder(out)) as held:
        path = held.path / LOCK
        require_plain(path)
        with explained(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        try:
            require_plain_status(path, os.fstat(handle))
            _lock(handle, out, fcntl.LOCK_EX)
            with explained(path):
                os.truncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            held.watch_open_file(path, handle)
            yield held
        finally:
            os.close(handle)


@contextmanager
def read_locked(out: Path) -> Iterator[None]:
    """Keep runs out of an output folder while it is read, without writing.

    Raises:
        OutputError: a run is writing into it.
    """
    path = out / LOCK
    require_plain(path, is_written=False)
    try:
        handle = os.open(path, os.O_RDONLY | _FLAGS)
    except FileNotFoundError:  # no run ever began there, or the file was removed
        yield
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be opened: {error.strerror}.") from error
    try:
        _lock(handle, out, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, out: Path, kind: int) -> None:
    content = os.pread(handle, 1000, 0).decode(errors="replace")
    if content and not _OWNER.fullmatch(content):
        raise OutputError(
            f"{out / LOCK}: not the lock of a run, which would overwrite it. Move it away, or "
            "choose another output folder."
        )
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        writer = f"{content or 'another process'} is writing into"
        doing = "another process is checking" if _is_read(handle) else writer
        raise OutputError(
            f"{out}: {doing} it. Wait for it to end, or choose another folder."
        ) from error
    except OSError as error:
        raise OutputError(
            f"{out / LOCK}: the file system does not lock files ({error.strerror}). Choose another "
            "output folder."
        ) from error


def _is_read(handle: int) -> bool:
    """Whether those who hold the lock only read: another reader gets it too."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
