"""Which photos lie in a folder: found by suffix, sorted, nothing dropped in silence."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from flowerseg.errors import DataError
from flowerseg.images import PHOTO_SUFFIXES

OUTPUT_FOLDERS = ("masks", "overlays", "cutouts")


@dataclass(frozen=True)
class Listing:
    """What lies in a folder."""

    folder: Path
    photos: tuple[Path, ...]  # under the folder, sorted
    unreadable: tuple[tuple[Path, str], ...]  # subfolders that cannot be opened, and why
    skipped: int  # hidden and other files, hidden and linked folders


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
        folders[:] = [name for name in entered if (here / name).resolve() != out.resolve()]
    if not photos:
        raise DataError(
            f"{folder}: no photos in it; {skipped} other files and folders, {len(errors)} that "
            f"cannot be opened. Photos end in {', '.join(sorted(PHOTO_SUFFIXES))}."
        )
    unreadable = tuple(_unreadable(folder, error) for error in errors)
    return Listing(folder, tuple(sorted(photos, key=Path.as_posix)), unreadable, skipped)


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
    here = folder.resolve()
    is_inside = any(here.is_relative_to((out / name).resolve()) for name in OUTPUT_FOLDERS)
    if is_inside or here == out.resolve():
        raise DataError(
            f"{out}: the masks would be written among the photos of {folder}, and be taken for "
            "photos the next time. Choose another output folder."
        )


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
