"""Which colours of an annotation mean flower, background and void, and the translation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Labels, Rgb
from flowerseg.colouradvice import MOST_CLASSES, NEAR, colour_advice
from flowerseg.colours import Colour, ColourMap, colour_map, distances, most_common
from flowerseg.errors import DataError, some_of

Background: TypeAlias = Literal["any"] | tuple[Colour, ...]
"""The colours of background, or "any": all that are neither flower nor void."""

MOST_TOLERANCE = 127  # with more, white and black would be one colour

# How changed colours show where all that is not named is background. Classes are few where they
# are close to each other, and lie in areas, not in lines of one or two pixels along outlines.
_MOST_CLOSE_CLASSES = 8
_SHORT_RUN = 4  # pixels
_OFF_BY_LITTLE = 3  # levels
# Numbers of classes, as grey levels or coded into the channels, are close to each other by nature.
_LAST_GREY_CLASS, _LAST_CODED_CLASS = 199, 63


@dataclass(frozen=True)
class Palette:
    """What the colours of an annotation mean; a colour in none of the three roles is an error."""

    flower: tuple[Colour, ...]
    background: Background
    void: tuple[Colour, ...] = ()
    remedy: str = ""  # what to do about an unknown colour, where no option gives it a meaning
    tolerance: int = 0  # a colour has the meaning of the nearest one, if no channel differs by more

    def __post_init__(self) -> None:
        if not self.flower or not self.background:
            raise ValueError("flower and background need at least one colour each")
        if not 0 <= self.tolerance <= MOST_TOLERANCE:
            raise ValueError(f"the tolerance must be 0 to {MOST_TOLERANCE}, not {self.tolerance}")
        roles = self._roles()
        for colour in (colour for colours, _, _ in roles for colour in colours):
            if not all(0 <= channel <= 255 for channel in colour):
                raise ValueError(f"{colour} is no colour: red, green and blue from 0 to 255")
        for (ours, _, our_role), (theirs, _, their_role) in combinations(roles, 2):
            if both := sorted(set(ours) & set(theirs)):
                raise ValueError(f"{both[0]} is given as {our_role} and as {their_role} colour")

    def __iter__(self) -> Iterator[tuple[Colour, int]]:
        """Each named colour with its label: FLOWER, BACKGROUND or VOID."""
        return ((colour, label) for colours, label, _ in self._roles() for colour in colours)

    def __str__(self) -> str:
        known = [f"{role} {some_of(map(str, colours))}" for colours, _, role in self._roles()]
        rest = ["background any other"] if self.background == "any" else []
        tolerance = [f"within {self.tolerance} levels"] if self.tolerance else []
        return "; ".join(known + rest + tolerance)

    def _roles(self) -> list[tuple[tuple[Colour, ...], int, str]]:
        background = () if self.background == "any" else self.background
        roles = (
            (self.flower, FLOWER, "flower"),
            (background, BACKGROUND, "background"),
            (self.void, VOID, "void"),
        )
        return [role for role in roles if role[0]]


class UnknownColours(DataError):
    """An annotation with colours that have no meaning; `pixels` counts each of them.

    Where the background is "any", they are colours close to that of flower or void, which would
    silently become background.
    """

    def __init__(
        self, where: str, pixels: Mapping[Colour, int], palette: Palette, lossy_format: str = ""
    ) -> None:
        self.pixels = dict(pixels)
        self.palette = palette
        self.lossy_format = lossy_format  # of the file, where it changes colours
        self.are_opacities = False  # grey levels that the alpha channel stands for
        often = [str(colour) for colour in most_common(self.pixels)]
        super().__init__(
            f"{where}: {sum(pixels.values())} pixels of {len(pixels)} {unknown_in_words(palette)} "
            f"({some_of(often)}). Known are {palette}. {remedy(pixels, palette, lossy_format)}"
        )


def unknown_in_words(palette: Palette) -> str:
    """What the colours of `UnknownColours` are."""
    is_any = palette.background == "any"
    return "colours close to flower or void but not equal" if is_any else "unknown colours"


def remedy(pixels: Mapping[Colour, int], palette: Palette, lossy_format: str = "") -> str:
    """What to do about these unknown colours."""
    if palette.remedy:
        is_noise = lossy_format or len(pixels) > MOST_CLASSES
        cause = "So many mostly come from smooth resizing or from JPEG. " if is_noise else ""
        return cause + palette.remedy
    return colour_advice(
        pixels.keys(),
        (*palette.flower, *palette.void),
        None if palette.background == "any" else palette.background,
        lossy_format=lossy_format,
        tolerance=palette.tolerance,
    )


def labels_from_colours(
    colours: Rgb, palette: Palette, name: Path | str, lossy_format: str = ""
) -> Labels:
    """Translate annotation colours (h, w, 3), exactly or within the palette's tolerance.

    Args:
        colours: red, green, blue.
        palette: what they mean.
        name: the file, for errors.
        lossy_format: the file's format, where it changes colours: "JPEG", for example.

    Raises:
        UnknownColours: a colour is not in the palette, or as near to one as to another of another
            meaning; or the background is "any", and the image has colours so close to flower or
            void that they were changed by JPEG or by smooth resizing.
    """
    found = colour_map(colours)
    nearest = _nearest(found.colours, palette)
    is_known = (nearest.distance <= palette.tolerance) & ~nearest.is_tied
    if palette.background == "any":
        is_far = nearest.distance > palette.tolerance
        is_known |= is_far & ~_are_changed(found, nearest, palette.tolerance, bool(lossy_format))
        nearest.labels[is_far] = BACKGROUND
    if not is_known.all():
        raise UnknownColours(str(name), found.counts(~is_known), palette, lossy_format)
    return found.with_values(nearest.labels)


@dataclass(frozen=True)
class _Nearest:
    """For each colour (K,) of an image, the one of a palette that is nearest."""

    labels: NDArray[np.uint8]
    distance: NDArray[np.int16]
    is_tied: NDArray[np.bool_]  # another one, with another label, is as near
    is_class: NDArray[np.bool_]  # it may be the number of a class


def _nearest(colours: NDArray[np.uint8], palette: Palette) -> _Nearest:
    count = len(colours)
    nearest = _Nearest(
        np.full(count, BACKGROUND, np.uint8),
        np.full(count, 256, np.int16),
        np.zeros(count, bool),
        np.zeros(count, bool),
    )
    for colour, label in palette:
        distance = distances(colours, colour)
        nearest.is_tied[(distance == nearest.distance) & (label != nearest.labels)] = True
        is_nearer = distance < nearest.distance
        nearest.labels[is_nearer] = label
        nearest.distance[is_nearer] = distance[is_nearer]
        nearest.is_tied[is_nearer] = False
        nearest.is_class[is_nearer] = _may_be_class(colour)
    return nearest


def _may_be_class(colour: Colour) -> bool:
    is_grey = len(set(colour)) == 1
    return max(colour) <= (_LAST_GREY_CLASS if is_grey else _LAST_CODED_CLASS)


def _are_changed(
    found: ColourMap, nearest: _Nearest, tolerance: int, is_lossy: bool
) -> NDArray[np.bool_]:
    """Which colours (K,) beyond the tolerance are changed ones of flower or void."""
    is_near = (nearest.distance > tolerance) & (nearest.distance <= tolerance + NEAR)
    runs, pixels = found.runs[is_near].sum(), found.pixels[is_near].sum()
    is_shading = is_near.sum() > _MOST_CLOSE_CLASSES and pixels < _SHORT_RUN * runs
    if is_lossy or is_shading:
        return is_near
    return is_near & (nearest.distance <= _OFF_BY_LITTLE) & ~nearest.is_class


def colour_from_text(text: str) -> Colour:
    """`255,0,0` is that colour; `7` is the grey (7, 7, 7), as which class 7 of a grey PNG reads.

    Raises:
        ValueError: it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(p.isdecimal() and int(p) <= 255 for p in parts):
        raise ValueError(
            f"{text!r} is no colour: write R,G,B or one grey level or class number, 0 to 255 each"
        )
    red, green, blue = map(int, parts if len(parts) == 3 else parts * 3)
    return red, green, blue


def colours_from_text(texts: Sequence[str]) -> tuple[Colour, ...]:
    """Several colours, each as `colour_from_text` takes it."""
    return tuple(map(colour_from_text, texts))


def background_from_text(texts: Sequence[str]) -> Background:
    """Several colours, or the one word `any`.

    Raises:
        ValueError: some is no colour, or `any` is given along with colours.
    """
    if "any" not in texts:
        return colours_from_text(texts)
    if set(texts) != {"any"}:
        raise ValueError("'any' includes every other colour: give it alone")
    return "any"
