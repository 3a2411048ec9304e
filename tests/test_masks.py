"""Probability map to mask, by hand-computed levels and pictures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerseg.masks import (
    OVERLAY_RGB,
    cutout,
    foreground_at,
    level_of,
    mask_from_foreground,
    outline,
    overlay,
)


@pytest.mark.parametrize(
    ("threshold", "level"),
    [
        (0.5, 128),
        (0.25, 64),
        (0.75, 192),
        (0.55, 141),  # 140.8
        (0.45, 116),  # 115.2
        (1 / 256, 1),
        (0.001, 1),
        (0.999, 255),  # 255.7; no value is above 255
    ],
)
def test_level_is_the_first_value_at_the_threshold(threshold: float, level: int) -> None:
    assert level_of(threshold) == level


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_threshold_outside_zero_to_one_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must lie between 0 and 1"):
        level_of(threshold)


@given(st.floats(0, 1), st.integers(1, 255))
def test_value_reaches_the_level_exactly_where_the_probability_reaches_the_threshold(
    probability: float, step: int
) -> None:
    value = min(255, int(np.floor(256 * probability)))
    assert (value >= level_of(step / 256)) == (probability >= step / 256)


def test_map_is_resized_before_it_is_thresholded() -> None:
    # 100 and 200 at 0.5 and 1.5; enlarged four times, 0.125 a step from 0.5 on, so that the
    # values are 100, 100, 112.5, 137.5, 162.5, 187.5, 200, 200: a mask resized would change at 4.
    foreground = np.array([[100, 200]], np.uint8)
    mask = mask_from_foreground(foreground, (1, 8), 0.5)
    assert mask.tolist() == [[False, False, False, True, True, True, True, True]]
    assert mask.dtype == np.bool_


def test_map_of_the_photos_size_is_kept() -> None:
    foreground = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    np.testing.assert_array_equal(foreground_at(foreground, (5, 7)), foreground)


def test_mask_has_height_and_width_of_the_photo() -> None:
    foreground = np.zeros((64, 64), np.uint8)
    assert mask_from_foreground(foreground, (3, 500), 0.5).shape == (3, 500)


def test_outline_is_the_flowers_edge_and_not_the_photos() -> None:
    mask = np.zeros((5, 6), np.bool_)
    mask[1:5, 1:5] = True  # down to the photo's lower edge
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 0],
            [0, 1, 0, 0, 1, 0],
            [0, 1, 0, 0, 1, 0],
            [0, 1, 0, 0, 1, 0],
        ],
        np.bool_,
    )
    np.testing.assert_array_equal(outline(mask), expected)


def test_overlay_dims_background_and_draws_the_outline() -> None:
    mask = np.zeros((5, 5), np.bool_)
    mask[1:4, 1:4] = True
    rgb = np.full((5, 5, 3), 90, np.uint8)
    shown = overlay(rgb, mask)
    assert shown[2, 2].tolist() == [90, 90, 90]
    assert shown[0, 0].tolist() == [30, 30, 30]
    assert shown[1, 1].tolist() == list(OVERLAY_RGB)
    assert (rgb == 90).all()


def test_cutout_is_opaque_where_the_flower_is() -> None:
    mask = np.array([[True, False]])
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert cutout(rgb, mask).tolist() == [[[1, 2, 3, 255], [4, 5, 6, 0]]]
