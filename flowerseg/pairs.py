"""Which mask belongs to which photo of a folder: by equal paths under `photos/` and `masks/`."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn
from unicodedata import normalize

from flowerseg.errors import DataError, some_of
from flowerseg.imageheader import FORMATS
from flowerseg.images import PHOTO_SUFFIXES


def photos_with_masks(root: Path) -> dict[str, tuple[Path, Path]]:
    """Photo and mask by name, which is the photo's path under `photos/` without suffix.

    The mask of `photos/a/x.jpg` is `masks/a/x.png`, or `masks/a/x.jpg.png` as `flowerseg-predict`
    names masks; of any image format.

    Raises:
        DataError: photos without mask or masks without photo, two files of one name, a name that
            is not UTF-8, or a folder that cannot be opened.
    """
    photos = _files_by_name(root / "photos")
    masks = _files_by_name(root / "masks")
    for name in photos.keys() - masks.keys():
        with_suffix = name + photos[name].suffix
        if with_suffix in masks and with_suffix not in photos:
            masks[name] = masks.pop(with_suffix)
    if photos.keys() != masks.keys():
        raise DataError(_unpaired_text(root, photos, masks))
    return {name: (photos[name], masks[name]) for name in photos}


def _unpaired_text(root: Path, photos: Mapping[str, Path], masks: Mapping[str, Path]) -> str:
    alone = sorted(photos.keys() ^ masks.keys())
    hints = (
        _pattern_hint(sorted(photos.keys() - masks.keys()), masks),
        *(_other_files_hint(root / folder) for folder in ("photos", "masks")),
    )
    return " ".join(
        [
            f"{root}: {len(alone)} names have a photo or a mask but not both ({some_of(alone)}).",
            *filter(None, hints),
            "Give photos/x.jpg its masks/x.png, or remove it.",
        ]
    )


def _pattern_hint(names: Iterable[str], masks: Mapping[str, Path]) -> str:
    """How the masks seem to be named, by the first photo whose name is part of a mask's."""
    for name in names:
        for mask, path in masks.items():
            before, found, after = mask.rpartition(name)
            if found and "/" not in after and (not before or "/" not in name):
                return (
                    f"If {path.name} is the mask of {Path(name).name}, and others are named alike "
                    f"({before}NAME{after}), rename them to NAME{path.suffix}."
                )
    return ""


def _other_files_hint(folder: Path) -> str:
    """Files that are no images, which may be what is missing."""
    others = sorted(
        path.name for path in _files(folder) if path.suffix.lower() not in PHOTO_SUFFIXES
    )
    if not others:
        return ""
    return f"{folder.name}/ has files that are not read ({some_of(others)}): {FORMATS} are."


def _files_by_name(folder: Path) -> dict[str, Path]:
    """Images in a folder and below, by their path without suffix."""
    files: dict[str, list[Path]] = {}
    for path in _files(folder):
        if path.suffix.lower() in PHOTO_SUFFIXES:
            # The same letters may be coded in two ways, and a Mac's copy of a file in the other.
            name = normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
            files.setdefault(name, []).append(path)
    if unreadable := [name for name in files if not _is_utf8(name)]:
        raise DataError(
            f"{folder}: {len(unreadable)} names are not UTF-8 "
            f"({some_of(map(ascii, unreadable))}). Rename the files."
        )
    if twice := sorted(name for name, paths in files.items() if len(paths) > 1):
        raise DataError(
            f"{folder}: {len(twice)} names that differ only in extension: {some_of(twice)}. "
            "Keep one file of each."
        )
    return {name: paths[0] for name, paths in files.items()}


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _files(folder: Path) -> Iterator[Path]:
    """Files in a folder and below, links followed; hidden ones do not count.

    Not os.walk: before Python 3.12 it recurses, and folders may be deeper than that allows.
    """
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            _refuse_closed(error)
        for entry in shown:
            if not _is_folder(entry):
                yield place / entry.name
            elif not _is_loop(place / entry.name):
                waiting.append(place / entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed: reading it will say so
        return False


def _is_loop(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _refuse_closed(error: OSError) -> NoReturn:
    raise DataError(
        f"{error.filename}: the folder cannot be opened: {error.strerror}. Allow it, or move it."
    ) from error
