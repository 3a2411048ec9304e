"""Any folder of labelled photos: `photos/` and `masks/`, nested alike, paired by name."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from flowerseg.colours import Colour
from flowerseg.errors import DataError, some_of
from flowerseg.images import PHOTO_SUFFIXES
from flowerseg.labelled import LabelledPhoto, PhotoSet, photo_set
from flowerseg.palette import Background, Palette, background_from_text, colours_from_text
from flowerseg.splits import names_in_split

_NO_VOID = ("void-colour", "none")


@dataclass(frozen=True)
class FolderRules:
    """How to read a folder of photos and masks: what its colours mean, and who validates.

    Raises:
        ValueError: a colour has two roles or is none, flower or background have no colour,
            `val_share` is not between 0 and 1, or `mask_tolerance` not from 0 to 127.
    """

    flower_colours: tuple[Colour, ...] = ((255, 255, 255),)
    void_colours: tuple[Colour, ...] = ((128, 128, 128),)
    background_colours: Background = ((0, 0, 0),)
    val_share: float = 0.2  # of each class; counts only where no list parts the photos
    split_seed: int = 0
    mask_tolerance: int = 0  # levels by which a channel of a mask may differ from a colour above

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise ValueError(f"val_share must be between 0 and 1, not {self.val_share}")
        _ = self.palette  # which checks the colours

    @property
    def palette(self) -> Palette:
        """The colours as masks are read by them."""
        return Palette(
            self.flower_colours,
            self.background_colours,
            self.void_colours,
            tolerance=self.mask_tolerance,
        )

    def options(self) -> list[tuple[str, str]]:
        """Names and values of the command-line options that differ from the defaults."""
        usual = FolderRules()
        found: list[tuple[str, str]] = []
        if self.flower_colours != usual.flower_colours:
            found += [("flower-colour", _text(colour)) for colour in self.flower_colours]
        if self.void_colours != usual.void_colours:
            found += [("void-colour", _text(c)) for c in self.void_colours] or [_NO_VOID]
        if self.background_colours == "any":
            found.append(("background-colour", "any"))
        elif self.background_colours != usual.background_colours:
            found += [("background-colour", _text(colour)) for colour in self.background_colours]
        if self.val_share != usual.val_share:
            found.append(("val-share", str(self.val_share)))
        if self.split_seed != usual.split_seed:
            found.append(("split-seed", str(self.split_seed)))
        if self.mask_tolerance != usual.mask_tolerance:
            found.append(("mask-tolerance", str(self.mask_tolerance)))
        return found


def _text(colour: Colour) -> str:
    return ",".join(str(channel) for channel in colour)


DEFAULT_RULES = FolderRules()
MASK_PALETTE = DEFAULT_RULES.palette


def rules_from_text(
    flower: Sequence[str] = (),
    void: Sequence[str] = (),
    background: Sequence[str] = (),
    val_share: float = DEFAULT_RULES.val_share,
    split_seed: int = DEFAULT_RULES.split_seed,
    mask_tolerance: int = DEFAULT_RULES.mask_tolerance,
) -> FolderRules:
    """Rules as the command line gives them; a role without a text keeps its default colours.

    Args:
        flower: `R,G,B`, or one number for a grey level or a class.
        void: the same, or `none` alone: every pixel is labelled.
        background: the same, or `any` alone: all colours that are neither flower nor void.
        val_share: see `FolderRules`.
        split_seed: see `FolderRules`.
        mask_tolerance: see `FolderRules`.

    Raises:
        ValueError: saying which text is wrong.
    """
    return FolderRules(
        colours_from_text(flower) or DEFAULT_RULES.flower_colours,
        _void_from_text(void),
        background_from_text(background) or DEFAULT_RULES.background_colours,
        val_share,
        split_seed,
        mask_tolerance,
    )


def _void_from_text(texts: Sequence[str]) -> tuple[Colour, ...]:
    if list(texts) == [_NO_VOID[1]]:
        return ()
    return colours_from_text(texts) or DEFAULT_RULES.void_colours


def is_folder(root: Path) -> bool:
    """Whether there are photos/ and masks/."""
    return (root / "photos").is_dir() and (root / "masks").is_dir()


def open_folder(root: Path, split: str, rules: FolderRules) -> PhotoSet:
    """The photos of one split; their name is the path under photos/ without suffix.

    Their group is the first folder under photos/, empty for those in photos/ itself. See
    `flowerseg.splits` for what splits there are.

    Raises:
        DataError: photos without mask or masks without photo, two files of one name, no such
            split or none of its photos, a list that names what is not there.
    """
    photos = _files_by_name(root / "photos")
    masks = _files_by_name(root / "masks")
    if alone := sorted(photos.keys() ^ masks.keys()):
        raise DataError(
            f"{root}: {len(alone)} names have a photo or a mask but not both ({some_of(alone)}). "
            "Give photos/x.jpg its masks/x.png, or remove it."
        )
    items = [
        LabelledPhoto(name, photos[name], masks[name], rules.palette, _group(name))
        for name in sorted(photos)
    ]
    names = names_in_split(root, split, items, rules.val_share, rules.split_seed)
    return photo_set(root, split, (item for item in items if item.name in names))


def _group(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first if slash else ""


def _files_by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, list[Path]] = {}
    for path in _image_files(folder):
        # The same letters may be coded in two ways, and a Mac's copy of a file in the other.
        name = normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        files.setdefault(name, []).append(path)
    if twice := sorted(name for name, paths in files.items() if len(paths) > 1):
        raise DataError(
            f"{folder}: {len(twice)} names that differ only in extension: {some_of(twice)}. "
            "Keep one file of each."
        )
    return {name: paths[0] for name, paths in files.items()}


def _image_files(folder: Path) -> list[Path]:
    """Photos or masks in a folder and below, links followed; hidden ones do not count."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=_refuse_closed, followlinks=True):
        here = Path(parent)
        folders[:] = [n for n in folders if not n.startswith(".") and not _is_loop(here / n)]
        paths = (here / name for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in PHOTO_SUFFIXES]
    return found


def _is_loop(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _refuse_closed(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: the folder cannot be opened: {error.strerror}. Allow it, or move it."
    ) from error
