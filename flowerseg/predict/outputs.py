"""Where the files made of photos lie: below one output folder, in real folders, never elsewhere.

A link to a folder in there would lead out of it: outputs would be written over, or removed from,
what is no output. So no folder is entered before it is known to be one.
"""

import os
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from flowerseg.errors import DataError, OutputError
from flowerseg.files import explained, sha256_of_regular, write_bytes
from flowerseg.predict.settings import Save


def output_path(out: Path, photo: Path, kind: Save) -> Path:
    """Where a file made of a photo is, below the output folder: b.jpg -> masks/b.jpg.png."""
    return out / kind.folder / f"{photo}.png"


def require_distinct_outputs(photos: Collection[Path]) -> None:
    """Refuse a photo whose output needs the name that the folder of other outputs needs.

    The mask of a.jpg is masks/a.jpg.png, and that of a.jpg.png/b.jpg is in the folder of that name.

    Raises:
        DataError: there is such a photo.
    """
    parents = {photo.parent for photo in photos}
    folders = {folder for parent in parents for folder in (parent, *parent.parents)}
    if not any(folder.suffix == ".png" for folder in folders):  # as good as always
        return
    for photo in photos:
        if (folder := Path(f"{photo}.png")) in folders:
            raise DataError(
                f"{photo} and the folder {folder} need the same name among the outputs. Rename "
                "one of them."
            )


class OutputFolders:
    """The folders below an output folder; used by any number of threads.

    Each is looked at each time, since it may become a link while a run writes into it.

    Args:
        out: the output folder itself, resolved.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._known: set[Path] = set()  # made here: one that is missing was removed

    def make(self, folder: Path) -> None:
        """Make a folder and those above it, up to the output folder.

        Raises:
            OutputError: a link or a file lies in the way, the system refuses, or the folder was
                removed after it was made.
        """
        for place in self._down_to(folder):
            was_there = place in self._known  # before the look: another thread may make it now
            if not _is_folder(place):
                if was_there:
                    raise OutputError(
                        f"{place}: removed while the run was writing into it, so that outputs may "
                        "be missing. Leave the folder alone and run the same again."
                    )
                _make(place)
                self._known.add(place)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file as `write_bytes` does, and make its folder.

        Raises:
            OutputError: it cannot be written; see `make`.
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

    def _holds(self, folder: Path) -> bool:
        """Whether a folder is there, in real folders only."""
        return all(map(_is_folder, self._down_to(folder)))

    def _down_to(self, folder: Path) -> list[Path]:
        """The folders from the one in the output folder down to a folder."""
        places = []
        while folder != self._out:
            places.append(folder)
            folder = folder.parent
        places.reverse()
        return places


def _make(folder: Path) -> None:
    with explained(folder), suppress(FileExistsError):
        folder.mkdir()
    if not _is_folder(folder):
        raise OutputError(
            f"{folder}: cannot be written: {folder} is a file, not a folder. Move it away, "
            "or choose another output folder."
        )


def _is_folder(path: Path) -> bool:
    """Whether a folder is there.

    Raises:
        OutputError: a link is.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    if stat.S_ISLNK(mode):
        raise OutputError(
            f"{path}: a link, and outputs are neither written nor replaced outside the "
            "output folder. Remove the link, or choose another output folder."
        )
    return stat.S_ISDIR(mode)
