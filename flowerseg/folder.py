"""Any folder of labelled photos, `photos/` and `masks/`: how it is read and split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowerseg.colours import Colour
from flowerseg.labelled import LabelledPhoto, PhotoSet, photo_set
from flowerseg.pairs import photos_with_masks
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
    items = [
        LabelledPhoto(name, photo, mask, rules.palette, _group(name))
        for name, (photo, mask) in sorted(photos_with_masks(root).items())
    ]
    names = names_in_split(root, split, items, rules.val_share, rules.split_seed)
    return photo_set(root, split, (item for item in items if item.name in names))


def _group(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first if slash else ""
