"""The photos in a folder, sorted; what is left out is counted.

Those that a list names are in `flowerseg.photolist`.
"""

import hashlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from flowerseg.errors import DataError
from flowerseg.images import PHOTO_SUFFIXES

OUTPUT_FOLDERS = ("masks", "overlays", "cutouts", "probabilities")


@dataclass(frozen=True)
class Listing:
    """Photos, and what is beside them."""

    folder: Path
    photos: tuple[Path, ...]  # under the folder, sorted
    unreadable: tuple[tuple[Path, str], ...] = ()  # subfolders that cannot be opened, and why
    skipped: int = 0  # hidden and other files, hidden and linked folders; of a list, repetitions


def list_photos(folder: Path, out: Path) -> Listing:
    """Find the photos in a folder and below it, by suffix; `out` itself is never searched.

    Links to folders are not followed, so that a loop of them ends. Folders may lie in each other to
    any depth; one whose path is longer than the system takes counts as one that cannot be opened.

    Raises:
        DataError: no such folder, no photo in it, it changes too much while it is searched, or
            `out` would write among the photos.
    """
    _refuse_no_folder(folder)
    _refuse_out_among_photos(folder, out)
    search = _Search(folder, out)
    search.run()
    if not search.photos:
        raise DataError(
            f"{folder}: no photos in it; {search.skipped} other files and folders, "
            f"{len(search.unreadable)} that cannot be opened. Photos end in "
            f"{', '.join(sorted(PHOTO_SUFFIXES))}."
        )
    search.photos.sort()
    photos = tuple(map(Path, search.photos))
    return Listing(folder, photos, tuple(search.unreadable), search.skipped)


def shard(listing: Listing, part: int, parts: int) -> Listing:
    """One of several parts of a listing, counted from 1; together they are the whole, once.

    The path under the folder alone decides, by its hash: photos that come or go move no other one
    from part to part, and machines that mount the folder elsewhere agree. The parts are of nearly
    the same size. What was skipped is counted in the first.

    Raises:
        ValueError: there is no such part.
    """
    if not 1 <= part <= parts:
        raise ValueError(f"part {part} of {parts}: parts are counted from 1 to {parts}")
    return replace(
        listing,
        photos=tuple(path for path in listing.photos if _part(path, parts) == part),
        unreadable=tuple(pair for pair in listing.unreadable if _part(pair[0], parts) == part),
        skipped=listing.skipped if part == 1 else 0,
    )


def _part(path: Path, parts: int) -> int:
    digest = hashlib.blake2b(os.fsencode(path.as_posix()), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % parts


def _refuse_no_folder(folder: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except OSError as error:
        raise DataError(
            f"{folder}: the folder of photos cannot be opened: {error.strerror}. Check the path."
        ) from error
    if not is_folder:
        raise DataError(f"{folder}: a file, not a folder. Give the folder that the photo is in.")


def _refuse_out_among_photos(folder: Path, out: Path) -> None:
    photos = _real(folder)
    is_inside = any(photos.is_relative_to(_real(out / name)) for name in OUTPUT_FOLDERS)
    if is_inside or photos == _real(out):
        raise DataError(
            f"{out}: the masks would be written among the photos of {folder}, and be taken for "
            "photos the next time. Choose another output folder."
        )


def _real(path: Path) -> Path:
    """A path without links; of one whose links lead in a circle, as it is."""
    return Path(os.path.realpath(path))


class _Search:
    """A search for photos, folder by folder, without recursion: folders may be deep."""

    def __init__(self, folder: Path, out: Path) -> None:
        self._folder = folder
        self._out = _status(out)
        self._out_name = _real(out).name
        self._waiting = [""]
        self.photos: list[str] = []  # under the folder
        self.unreadable: list[tuple[Path, str]] = []
        self.skipped = 0

    def run(self) -> None:
        """Search the folder to its bottom.

        Raises:
            DataError: the folder itself cannot be searched.
        """
        while self._waiting:
            below = self._waiting.pop()
            try:
                with os.scandir(self._folder / below) as entries:
                    for entry in entries:
                        self._take(entry, f"{below}/{entry.name}" if below else entry.name)
            except OSError as error:  # also of a folder that goes while it is read
                self._note(below, error)

    def _take(self, entry: os.DirEntry[str], path: str) -> None:
        if entry.is_dir(follow_symlinks=False):
            if entry.name.startswith("."):
                self.skipped += 1
            elif not self._is_out(entry):
                self._waiting.append(path)
        elif _is_photo(entry):
            self.photos.append(path)
        else:
            self.skipped += 1

    def _is_out(self, entry: os.DirEntry[str]) -> bool:
        if self._out is None or entry.name != self._out_name:
            return False
        status = _status(entry)
        return status is not None and os.path.samestat(status, self._out)

    def _note(self, below: str, error: OSError) -> None:
        path = self._folder / below
        if not below:
            raise DataError(
                f"{path}: the folder of photos cannot be searched: {error.strerror}. Check the "
                "disk and the permissions, and run again."
            ) from error
        message = f"{path}: the folder cannot be opened: {error.strerror}. Its photos are missing."
        self.unreadable.append((Path(below), message))


def _is_photo(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    if name.startswith(".") or os.path.splitext(name)[1].lower() not in PHOTO_SUFFIXES:  # noqa: PTH122  # no path
        return False
    if entry.is_file(follow_symlinks=False):
        return True
    status = _status(entry)
    # Of a dead link, say, reading will tell why. What is a pipe, say, is no photo.
    return status is None or stat.S_ISREG(status.st_mode)


def _status(path: os.PathLike[str]) -> os.stat_result | None:
    """Of the file that a path leads to; None where there is none, or none that can be looked at."""
    try:
        return os.stat(path)  # noqa: PTH116  # of an entry too
    except OSError:
        return None
