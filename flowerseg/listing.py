"""Which photos there are, in a folder or on a list: sorted, nothing dropped in silence."""

import hashlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from flowerseg.errors import DataError, some_of
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

    Links to folders are not followed, so that a loop of them ends.

    Raises:
        DataError: no such folder, no photo in it, or `out` would write among the photos.
    """
    _refuse_no_folder(folder)
    _refuse_out_among_photos(folder, out)
    photos: list[Path] = []
    errors: list[OSError] = []
    skipped = 0
    for parent, folders, files in os.walk(folder, onerror=errors.append):
        here = Path(parent)
        entered = [name for name in folders if _is_entered(here / name)]
        found = [here / name for name in files if _is_photo(here / name)]
        skipped += len(folders) - len(entered) + len(files) - len(found)
        photos += [path.relative_to(folder) for path in found]
        folders[:] = [name for name in entered if _real(here / name) != _real(out)]
    if not photos:
        raise DataError(
            f"{folder}: no photos in it; {skipped} other files and folders, {len(errors)} that "
            f"cannot be opened. Photos end in {', '.join(sorted(PHOTO_SUFFIXES))}."
        )
    unreadable = tuple(_unreadable(folder, error) for error in errors)
    return Listing(folder, tuple(sorted(photos, key=Path.as_posix)), unreadable, skipped)


def photos_on_list(content: bytes, name: str, separator: bytes = b"\n") -> Listing:
    """The photos that a list names, one path a line.

    The paths are from the working folder, or all from the root; masks/ repeats them as they are.
    Whatever is named is taken for a photo, and told of where it is none; a line that is empty is no
    name, and the carriage return that ends lines elsewhere is no part of one.

    Args:
        content: of the list.
        name: of the list, for errors.
        separator: what ends each path; NUL for names with line breaks.

    Raises:
        DataError: it names no photo, has paths of both kinds, or some that lead out of their
            folder by `..`, for which masks/ has no place.
    """
    ends = b"\r" if separator == b"\n" else b""
    lines = [line.removesuffix(ends) for line in content.split(separator)]
    named = [Path(os.fsdecode(line)) for line in lines if line]
    if not named:
        raise DataError(f"{name}: a list without a path. Give it one path a line.")
    if outside := [str(path) for path in named if ".." in path.parts]:
        raise DataError(
            f"{name}: {len(outside)} paths with ..: {some_of(outside)}. Give them from the root."
        )
    from_root = [path for path in named if path.is_absolute()]
    if from_root and len(from_root) < len(named):
        raise DataError(
            f"{name}: {len(from_root)} paths from the root, such as {from_root[0]}, and "
            f"{len(named) - len(from_root)} that are not. Give all from the root, or none."
        )
    folder = Path(from_root[0].anchor) if from_root else Path()
    photos = sorted({path.relative_to(folder) for path in named}, key=Path.as_posix)
    return Listing(folder, tuple(photos), skipped=len(named) - len(photos))


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
    here = _real(folder)
    is_inside = any(here.is_relative_to(_real(out / name)) for name in OUTPUT_FOLDERS)
    if is_inside or here == _real(out):
        raise DataError(
            f"{out}: the masks would be written among the photos of {folder}, and be taken for "
            "photos the next time. Choose another output folder."
        )


def _real(path: Path) -> Path:
    """A path without links. `Path.resolve` raises RuntimeError for a link to itself."""
    return Path(os.path.realpath(path))


def _is_entered(folder: Path) -> bool:
    return not folder.name.startswith(".") and not folder.is_symlink()


def _is_photo(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix.lower() not in PHOTO_SUFFIXES:
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)  # reading a pipe would never end
    except OSError:
        return True  # a dead link, say: reading it will tell why


def _unreadable(folder: Path, error: OSError) -> tuple[Path, str]:
    path = Path(os.fsdecode(error.filename))
    message = f"{path}: the folder cannot be opened: {error.strerror}. Its photos are missing."
    return path.relative_to(folder), message
