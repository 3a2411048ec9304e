"""The files that a run keeps for itself: regular ones, each of one name only.

A run writes into them, so what is at the other end of a link would be changed with them.
"""

import os
import stat
from pathlib import Path

from flowerseg.errors import OutputError


def require_plain(path: Path, *, is_written: bool = True) -> None:
    """Refuse what is no regular file, or is to be written under several names; missing is fine.

    Raises:
        OutputError: a link, a pipe, a folder, a device, or a file with several names.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be opened: {error.strerror}.") from error
    require_plain_status(path, status, is_written=is_written)


def require_plain_status(path: Path, status: os.stat_result, *, is_written: bool = True) -> None:
    """Refuse the status of anything but such a file. See `require_plain`."""
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(
            f"{path}: {_KINDS.get(stat.S_IFMT(status.st_mode), 'not a regular file')}, and the run "
            "keeps a file of its own there. Move it away, or choose another output folder."
        )
    if is_written and status.st_nlink > 1:
        raise OutputError(
            f"{path}: the file has {status.st_nlink} names (hard links), and the run would change "
            "it under all of them. Replace it by a copy, or choose another output folder."
        )


_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
