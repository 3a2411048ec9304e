"""Where the files made of photos lie: below one output folder, in real folders, never elsewhere.

A link to a folder in there would lead out of it: outputs would be written over, or removed from,
what is no output. So no folder is entered before it is known to be one.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from flowerseg.errors import OutputError
from flowerseg.files import explained, sha256_of_regular, write_bytes


class OutputFolders:
    """The folders below an output folder; used by any number of threads.

    Args:
        out: the output folder itself, resolved.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._known: set[Path] = set()  # real folders, found or made

    def make(self, folder: Path) -> None:
        """Make a folder and those above it, up to the output folder.

        Raises:
            OutputError: a link or a file lies in the way, or the system refuses.
        """
        for place in reversed(self._unknown(folder)):
            with explained(place), suppress(FileExistsError):
                place.mkdir()
            if not self._is_folder(place):
                raise OutputError(
                    f"{place}: cannot be written: {place} is a file, not a folder. Move it away, "
                    "or choose another output folder."
                )
            self._known.add(place)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file as `write_bytes` does; its folder is made once.

        Raises:
            OutputError: it cannot be written, or its folder was removed after it was made.
        """
        self.make(path.parent)
        write_bytes(path, content, makes_folder=False)

    def sha256(self, path: Path) -> str:
        """Hash of a file; empty where no regular file is.

        Raises:
            OutputError: a folder above it is a link.
        """
        if not self._holds(path.parent):
            return ""
        try:
            return sha256_of_regular(path)
        except OSError:  # not there, or not to be read: written anew, which says why if it fails
            return ""

    def has(self, path: Path) -> bool:
        """Whether a regular file is there.

        Raises:
            OutputError: a folder above it is a link.
        """
        if not self._holds(path.parent):
            return False
        try:
            return stat.S_ISREG(os.lstat(path).st_mode)
        except OSError:
            return False

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there.

        Raises:
            OutputError: the system refuses, or a folder above it is a link.
        """
        if self._holds(path.parent):
            with explained(path):
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Look at each folder again before it is next used."""
        self._known.clear()

    def _holds(self, folder: Path) -> bool:
        """Whether a folder is there, in real folders only."""
        for place in reversed(self._unknown(folder)):
            if not self._is_folder(place):
                return False
            self._known.add(place)
        return True

    def _unknown(self, folder: Path) -> list[Path]:
        """A folder and those above it that have not been looked at, the deepest first."""
        places = []
        while folder not in self._known and folder != self._out:
            places.append(folder)
            folder = folder.parent
        return places

    def _is_folder(self, folder: Path) -> bool:
        try:
            mode = folder.lstat().st_mode
        except OSError:
            return False
        if stat.S_ISLNK(mode):
            raise OutputError(
                f"{folder}: a link, and outputs are neither written nor replaced outside the "
                "output folder. Remove the link, or choose another output folder."
            )
        return stat.S_ISDIR(mode)
