"""Which colours of an annotation mean flower, background and void, and the translation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Labels, Rgb
from flowerseg.errors import DataError, some_of

Colour: TypeAlias = tuple[int, int, int]
"""Red, green, blue, 0 to 255 each."""

Background: TypeAlias = Literal["any"] | tuple[Colour, ...]
"""The colours of background, or "any": all that are neither flower nor void."""

_MOST_MEANT = 32  # more unknown colours than this in one set are an accident, not classes


@dataclass(frozen=True)
class Palette:
    """What the colours of an annotation mean; a colour in none of the three roles is an error."""

    flower: tuple[Colour, ...]
    background: Background
    void: tuple[Colour, ...] = ()
    remedy: str = ""  # what to do about a colour that has no role, for the error

    def __post_init__(self) -> None:
        if not self.flower or not self.background:
            raise ValueError("flower and background need at least one colour each")
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
        return "; ".join(known + rest)

    def _roles(self) -> list[tuple[tuple[Colour, ...], int, str]]:
        background = () if self.background == "any" else self.background
        roles = (
            (self.flower, FLOWER, "flower"),
            (background, BACKGROUND, "background"),
            (self.void, VOID, "void"),
        )
        return [role for role in roles if role[0]]


class UnknownColours(DataError):
    """An annotation with colours that mean nothing here; `pixels` counts each of them."""

    def __init__(self, where: str, pixels: Mapping[Colour, int], palette: Palette) -> None:
        self.pixels = dict(pixels)
        self.palette = palette
        often = [str(colour) for colour in most_common(pixels)]
        super().__init__(
            f"{where}: {sum(pixels.values())} pixels of {len(pixels)} unknown colours "
            f"({some_of(often)}). Known are {palette}. {remedy(pixels, palette)}"
        )


def labels_from_colours(colours: Rgb, palette: Palette, name: Path) -> Labels:
    """Translate annotation colours (h, w, 3) exactly; nothing is rounded to the nearest colour.

    Raises:
        UnknownColours: a colour is not in the palette (an annotation that was resized smoothly,
            or saved as JPEG, has many).
    """
    packed = _packed(colours)
    labels = np.full(packed.shape, BACKGROUND, np.uint8)
    is_known = np.full(packed.shape, palette.background == "any")
    for colour, label in palette:
        here = packed == _packed(np.array(colour, np.uint8))
        labels[here] = label
        is_known |= here
    if not is_known.all():
        strange, counts = np.unique(packed[~is_known], return_counts=True)
        pixels = dict(zip(map(_unpacked, strange.tolist()), counts.tolist(), strict=True))
        raise UnknownColours(str(name), pixels, palette)
    return labels


def most_common(pixels: Mapping[Colour, int]) -> list[Colour]:
    """The colours of a count, the one with the most pixels first."""
    return sorted(pixels, key=lambda colour: (-pixels[colour], colour))


def remedy(pixels: Mapping[Colour, int], palette: Palette) -> str:
    """What to do about these unknown colours."""
    if len(pixels) <= _MOST_MEANT:
        return palette.remedy
    return (
        "So many mostly come from smooth resizing or from JPEG: then make the annotations again, "
        f"as PNG, resized by nearest neighbour only. {palette.remedy}"
    ).rstrip()


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


def _packed(colours: Rgb) -> NDArray[np.int32]:
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _unpacked(packed: int) -> Colour:
    return packed >> 16, packed >> 8 & 255, packed & 255
