"""Temporary files and folders, locked while a process writes them: leftovers can be recognised.

A process that is killed leaves its temporary file behind, and the system drops its lock. Where a
file system has no locks, no file counts as a leftover.
"""

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".tmp-"
TEMPORARY = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}(\.\w+)?")  # as tempfile names them


def keeps_as_ours(handle: int) -> bool:
    """Lock a file or folder that this process has just made, until the handle is closed.

    Returns:
        False where `remove_abandoned` of another process was faster, and the name is gone.
    """
    with suppress(OSError):  # no locks here
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.fstat(handle).st_nlink > 0


@contextmanager
def temporary_folder(parent: Path, prefix: str = PREFIX) -> Iterator[Path]:
    """A new folder in another one, which is removed at the end of the block.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if keeps_as_ours(handle):
            break
        os.close(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_abandoned(folder: Path, prefix: str = PREFIX) -> None:
    """Remove what killed processes left in a folder: temporary files, and folders of a prefix.

    What another process is writing now stays. Links are not followed, and what the system does not
    let go stays too.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and entry.name.startswith(prefix):
                _remove_if_unlocked(entry.path, stat.S_ISDIR, shutil.rmtree)
            elif TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_if_unlocked(entry.path, stat.S_ISREG, os.unlink)


def _remove_if_unlocked(
    path: str, is_expected: Callable[[int], bool], remove: Callable[[str], object]
) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: a process is writing
            if is_expected(os.fstat(handle).st_mode):
                remove(path)
        finally:
            os.close(handle)
