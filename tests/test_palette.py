"""What the colours of annotations mean, and how the command line names them."""

from pathlib import Path

import numpy as np
import pytest

from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.oxford import OXFORD_PALETTE
from flowerseg.palette import (
    Background,
    Colour,
    Palette,
    UnknownColours,
    background_from_text,
    colour_from_text,
    labels_from_colours,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def _labels(palette: Palette, *colours: Colour) -> list[int]:
    return labels_from_colours(np.array([colours], np.uint8), palette, Path("a.png"))[0].tolist()


def test_several_colours_may_have_one_role() -> None:
    palette = Palette(flower=(RED, (1, 2, 3)), background=(GREEN,), void=(BLUE,))
    expected = [FLOWER, FLOWER, BACKGROUND, VOID]
    assert _labels(palette, RED, (1, 2, 3), GREEN, BLUE) == expected


def test_any_makes_background_of_all_that_is_neither_flower_nor_void() -> None:
    palette = Palette(flower=((1, 1, 1),), background="any", void=((255, 255, 255),))
    colours = ((1, 1, 1), (2, 2, 2), (0, 0, 0), (1, 1, 2), (255, 255, 255))
    assert _labels(palette, *colours) == [FLOWER, BACKGROUND, BACKGROUND, BACKGROUND, VOID]


def test_channels_are_not_mixed_up() -> None:
    palette = Palette(flower=((1, 2, 3),), background="any")
    assert _labels(palette, (3, 2, 1), (2, 1, 3), (1, 2, 3)) == [BACKGROUND, BACKGROUND, FLOWER]


def test_unknown_colours_are_counted_and_the_most_common_is_named_first() -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 0] = (127, 0, 0)
    colours[1, :2] = (1, 2, 3)
    with pytest.raises(
        UnknownColours,
        match=r"a\.png: 3 pixels of 2 unknown colours \(\(1, 2, 3\)"
        r", \(127, 0, 0\)\)\. Known are flower \(128, 0, 0\); background ",
    ) as caught:
        labels_from_colours(colours, OXFORD_PALETTE, Path("a.png"))
    assert caught.value.pixels == {(1, 2, 3): 2, (127, 0, 0): 1}


def test_many_unknown_colours_are_told_to_be_smooth_resizing() -> None:
    few = np.arange(1, 5, dtype=np.uint8)[None, :, None].repeat(3, 2)
    many = np.arange(1, 50, dtype=np.uint8)[None, :, None].repeat(3, 2)
    palette = Palette(flower=(RED,), background=(GREEN,), remedy="Mend it.")
    with pytest.raises(UnknownColours, match=r"Mend it\.") as of_few:
        labels_from_colours(few, palette, Path("a.png"))
    with pytest.raises(UnknownColours, match=r"smooth resizing .* Mend it\."):
        labels_from_colours(many, palette, Path("a.png"))
    assert "smooth" not in str(of_few.value)


@pytest.mark.parametrize(
    ("flower", "background", "void", "message"),
    [
        ((RED,), (RED,), (), r"\(255, 0, 0\) is given as flower and as background colour"),
        ((RED,), "any", (GREEN, RED), r"\(255, 0, 0\) is given as flower and as void colour"),
        ((RED,), (BLUE,), (BLUE,), r"\(0, 0, 255\) is given as background and as void colour"),
        (((0, 0, 256),), "any", (), r"\(0, 0, 256\) is no colour"),
        ((RED,), ((0, -1, 0),), (), r"\(0, -1, 0\) is no colour"),
        ((), "any", (), "flower and background need"),
        ((RED,), (), (), "flower and background need"),
    ],
)
def test_roles_that_make_no_sense_are_refused(
    flower: tuple[Colour, ...], background: Background, void: tuple[Colour, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Palette(flower, background, void)


@pytest.mark.parametrize(
    ("text", "colour"),
    [("255,0,7", (255, 0, 7)), (" 1, 2 ,3 ", (1, 2, 3)), ("7", (7, 7, 7)), ("255", (255,) * 3)],
)
def test_colour_is_three_numbers_or_one(text: str, colour: Colour) -> None:
    assert colour_from_text(text) == colour


@pytest.mark.parametrize(
    "text", ["", "red", "1,2", "1,2,3,4", "256", "-1", "1,,2", "#ff0000", "1.5"]
)
def test_text_that_is_no_colour_is_refused_and_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is no colour: write R,G,B or one"):
        colour_from_text(text)


def test_background_is_colours_or_any_alone() -> None:
    assert background_from_text(["any"]) == "any"
    assert background_from_text(["0", "1,2,3"]) == ((0, 0, 0), (1, 2, 3))
    with pytest.raises(ValueError, match="'any' includes every other colour"):
        background_from_text(["0", "any"])
