"""Who else can change a file whose content runs as a program: compiled models, caches of code.

A file is trusted where only its user and root can change it, as git has it with `safe.directory`.
Members of its group may write to it: with umask 002 each user has a group of his own.
"""

import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path


def distrust(paths: Iterable[Path]) -> str:
    """Which other user can change one of these files or folders; empty if none can.

    Links are followed. A folder that all may write to is trusted where its sticky bit keeps them
    from replacing files of others, as in /tmp.

    Raises:
        OSError: there is no such file.
    """
    for path in paths:
        found = path.stat()
        if found.st_uid not in _trusted_users():
            return f"{path} belongs to {_name_of(found.st_uid)}"
        is_sticky = stat.S_ISDIR(found.st_mode) and bool(found.st_mode & stat.S_ISVTX)
        if found.st_mode & stat.S_IWOTH and not is_sticky:
            return f"every user can write to {path}"
    return ""


def with_their_folders(*files: Path) -> list[Path]:
    """Files, what they lead to where they are links, and the folders that hold either."""
    places = [place for file in files for place in (file, file.resolve())]
    return list(dict.fromkeys([*places, *(place.parent for place in places)]))


def make_private_folder(folder: Path) -> None:
    """Make a folder that its user alone can read and change; one that is there is made private.

    Raises:
        OSError: it cannot be made, or belongs to another user.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        folder.chmod(0o700)
    if reason := distrust([folder]):
        raise PermissionError(f"{reason}, and code is kept there")


def _trusted_users() -> set[int]:
    own = os.geteuid()
    caller = os.environ.get("SUDO_UID", "")
    # Under sudo the files are those of the user who called it, as for git.
    is_sudo = own == 0 and caller.isascii() and caller.isdigit()
    return {own, 0, int(caller)} if is_sudo else {own, 0}


def _name_of(user: int) -> str:
    try:
        return f"user {pwd.getpwuid(user).pw_name}"
    except (KeyError, OverflowError):
        return f"user {user}"
