"""What the colours of annotations mean, and how the command line names them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.colours import Colour
from flowerseg.oxford import OXFORD_PALETTE
from flowerseg.palette import (
    Background,
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


WHITE, GREY, BLACK = (255,) * 3, (128,) * 3, (0,) * 3


def _greys(*levels: int) -> list[Colour]:
    return [(level, level, level) for level in levels]


def _advice(palette: Palette, *colours: Colour, lossy_format: str = "") -> str:
    """What the error about these colours, one pixel each, says after naming them."""
    with pytest.raises(UnknownColours) as caught:
        labels_from_colours(np.array([colours], np.uint8), palette, Path("a.png"), lossy_format)
    return str(caught.value).partition("Known are ")[2].partition(". ")[2]


def test_within_the_tolerance_the_nearest_colour_counts_and_one_level_further_none() -> None:
    palette = Palette((WHITE,), (BLACK,), (GREY,), tolerance=10)
    levels = _greys(0, 10, 118, 128, 138, 245, 255)
    expected = [BACKGROUND, BACKGROUND, VOID, VOID, VOID, FLOWER, FLOWER]
    assert _labels(palette, *levels) == expected
    # Every channel has to be within it.
    assert _labels(palette, (245, 255, 250), (0, 10, 3)) == [FLOWER, BACKGROUND]
    for beyond in (*_greys(11, 117, 139, 244), (244, 255, 255), (0, 0, 11)):
        with pytest.raises(UnknownColours):
            _labels(palette, beyond)


def test_colour_halfway_between_two_meanings_is_refused() -> None:
    palette = Palette((WHITE,), (BLACK,), (GREY,), tolerance=127)
    assert _labels(palette, *_greys(63, 65, 191, 192)) == [BACKGROUND, VOID, VOID, FLOWER]
    assert "as close to one known colour as to another" in _advice(palette, *_greys(64))
    # Halfway between two colours of one meaning is that meaning.
    assert _labels(Palette((WHITE,), (BLACK, (20, 20, 20)), tolerance=10), (10, 10, 10)) == [0]


def test_tolerance_and_any_make_background_of_what_is_far_from_flower_and_void() -> None:
    palette = Palette((WHITE,), "any", (GREY,), tolerance=20)
    assert _labels(palette, *_greys(235, 130, 100, 0)) == [FLOWER, VOID, BACKGROUND, BACKGROUND]


@pytest.mark.parametrize("tolerance", [-1, 128])
def test_tolerance_that_makes_no_sense_is_refused(tolerance: int) -> None:
    with pytest.raises(ValueError, match=f"tolerance must be 0 to 127, not {tolerance}"):
        Palette((WHITE,), (BLACK,), tolerance=tolerance)


USUAL = Palette((WHITE,), (BLACK,), (GREY,))


@pytest.mark.parametrize(
    ("levels", "numbers"),
    [([0, 1], "(1)"), ([0, 1, 255], "(1)"), ([0, 1, 2], "(1, 2)"), ([1, 2, 3], "(1, 2, 3)")],
)
def test_numbers_of_classes_are_named_and_how_to_name_the_flower(
    levels: list[int], numbers: str
) -> None:
    advice = _advice(USUAL, *_greys(*levels))
    assert f"numbers of classes {numbers}" in advice
    assert "--flower-colour 1," in advice


def test_few_distinct_colours_may_be_background_and_changed_ones_may_not() -> None:
    assert "--background-colour any" in _advice(USUAL, RED, GREEN, BLACK)
    many = [(0, level, 0) for level in range(100, 140)]
    for colours in (_greys(0, 254, 255), _greys(127), [(255, 240, 240)], [*_greys(0), *many]):
        assert "-colour" not in _advice(USUAL, *colours)
    assert "-colour" not in _advice(USUAL, RED, lossy_format="JPEG")


def test_masks_in_jpeg_are_named_with_the_tolerance_that_reads_them() -> None:
    advice = _advice(USUAL, *_greys(0, 7, 120, 250, 255), lossy_format="JPEG")
    assert "masks are JPEG, which changes colours" in advice
    assert "as PNG" in advice
    assert "--mask-tolerance 8," in advice  # 120 is 8 levels from 128


def test_no_tolerance_is_advised_for_masks_that_were_resized_smoothly() -> None:
    advice = _advice(USUAL, *_greys(*range(0, 256, 3)))
    assert "resized by nearest neighbour only" in advice
    assert "some are 63 levels away" in advice


def test_void_is_offered_where_classes_have_been_named() -> None:
    palette = Palette(((1, 1, 1),), (BLACK,), (GREY,))
    assert "--void-colour 255" in _advice(palette, BLACK, (1, 1, 1), WHITE)


ANY = Palette((WHITE,), "any", (GREY,))


def _ramp(top: int, bottom: int) -> np.ndarray:
    """A flower whose outline is three pixels of shades, each row with its own."""
    shades = np.linspace(top, bottom, 30).round().astype(np.uint8).reshape(10, 3)
    grey = np.hstack([np.full((10, 20), 255, np.uint8), shades, np.zeros((10, 20), np.uint8)])
    return np.repeat(grey[..., None], 3, axis=2)


def test_shades_along_outlines_do_not_silently_become_background() -> None:
    with pytest.raises(UnknownColours, match="close to flower or void but not equal") as caught:
        labels_from_colours(_ramp(250, 5), ANY, Path("a.png"))
    assert all(224 <= r <= 250 or 97 <= r <= 159 for r, _, _ in caught.value.pixels)
    assert "-colour" not in str(caught.value)
    assert "name the colours of background instead of any" in str(caught.value)
    # Nor does a tolerance within the shades make background of the rest of them.
    within = Palette((WHITE,), "any", (GREY,), tolerance=20)
    with pytest.raises(UnknownColours):
        labels_from_colours(_ramp(250, 5), within, Path("a.png"))
    tolerant = Palette((WHITE,), "any", (), tolerance=127)
    labels = labels_from_colours(_ramp(250, 5), tolerant, Path("a.png"))
    np.testing.assert_array_equal(labels == FLOWER, _ramp(250, 5)[..., 0] >= 128)


@pytest.mark.parametrize("near", [*_greys(254), (253, 252, 255)])
def test_flower_that_is_a_little_off_does_not_silently_become_background(near: Colour) -> None:
    assert "--mask-tolerance" in _advice(ANY, WHITE, near, BLACK)


def test_no_shade_of_a_jpeg_silently_becomes_background() -> None:
    assert "masks are JPEG" in _advice(ANY, WHITE, *_greys(240), BLACK, lossy_format="JPEG")
    black_and_white = np.array([[WHITE, BLACK]], np.uint8)
    assert labels_from_colours(black_and_white, ANY, Path("a.jpg"), "JPEG").tolist() == [[1, 0]]


def test_classes_close_to_that_of_the_flower_are_background() -> None:
    # The 34 classes of Cityscapes, of which 21 is the flower: areas, not shades.
    classes = np.repeat(np.arange(34, dtype=np.uint8), 12)[None].repeat(5, 0)
    palette = Palette(flower=((21, 21, 21),), background="any")
    labels = labels_from_colours(np.dstack([classes] * 3), palette, Path("a.png"))
    np.testing.assert_array_equal(labels == FLOWER, classes == 21)
    # Classes of other colours than grey, as VOC has them.
    voc = Palette(flower=((192, 0, 128),), background="any", void=((224, 224, 192),))
    others = ((128, 0, 128), (64, 0, 128), (192, 128, 128), (192, 64, 128))
    assert _labels(voc, (192, 0, 128), *others) == [FLOWER] + [BACKGROUND] * 4


@settings(deadline=None)
@given(st.data())
def test_labels_are_those_of_a_search_pixel_by_pixel(data: st.DataObject) -> None:
    channel = st.sampled_from([0, 5, 9, 100, 250, 255])
    colour = st.tuples(channel, channel, channel)
    named = data.draw(st.lists(colour, min_size=3, max_size=6, unique=True))
    palette = Palette(
        (named[0],), tuple(named[1:-1]), (named[-1],), "", data.draw(st.integers(0, 9))
    )
    pixels = data.draw(st.lists(colour, min_size=1, max_size=20))

    def expected(pixel: Colour) -> int:
        """The label, or -1 where there is none or more than one."""
        ranked = [(max(abs(a - b) for a, b in zip(pixel, n, strict=True)), n) for n in named]
        nearest = min(ranked)[0]
        roles = {n: BACKGROUND for n in named} | {named[0]: FLOWER, named[-1]: VOID}
        labels = {roles[n] for distance, n in ranked if distance == nearest}
        return labels.pop() if nearest <= palette.tolerance and len(labels) == 1 else -1

    labels = list(map(expected, pixels))
    if -1 in labels:
        with pytest.raises(UnknownColours) as caught:
            _labels(palette, *pixels)
        unknown = [p for p, label in zip(pixels, labels, strict=True) if label == -1]
        assert caught.value.pixels == {p: unknown.count(p) for p in unknown}
    else:
        assert _labels(palette, *pixels) == labels


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
