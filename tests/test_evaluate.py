"""Scores over a labelled set: in order, at the photos' own size, void left out."""

from pathlib import Path

import numpy as np
import pytest

from flowerseg.arrays import Rgb
from flowerseg.backends.null import NullBackend
from flowerseg.data import MASK_PALETTE, LabelledPhoto, PhotoSet
from flowerseg.evaluate import count_labelled, segment_labelled
from flowerseg.images import write_png
from flowerseg.metrics import Counts
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

FRAME_HW = (32, 32)


@pytest.fixture
def segmenter() -> Segmenter:
    """Takes green for flower."""
    return Segmenter(NullBackend(FRAME_HW), Preprocess(FRAME_HW))


@pytest.fixture
def photos(tmp_path: Path) -> PhotoSet:
    """Photo i is green in its first 8 i columns of 32, and flower in its first 16; all at 64 x 32,
    with the last row not labelled."""
    items = []
    for i in range(5):
        rgb = np.zeros((64, 32, 3), np.uint8)
        rgb[:, : 8 * i, 1] = 255
        mask = np.zeros((64, 32), np.uint8)
        mask[:, :16] = 255
        mask[-1] = 128
        write_png(tmp_path / f"{i}.png", rgb)
        write_png(tmp_path / f"{i}-mask.png", mask)
        items.append(
            LabelledPhoto(str(i), tmp_path / f"{i}.png", tmp_path / f"{i}-mask.png", MASK_PALETTE)
        )
    return PhotoSet("columns", tuple(items))


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_counts_are_those_of_the_columns_whatever_the_batch(
    segmenter: Segmenter, photos: PhotoSet, batch: int
) -> None:
    rows = 63  # the last is void
    expected = [
        Counts(0, 0, 16 * rows, 16 * rows),
        Counts(8 * rows, 0, 8 * rows, 16 * rows),
        Counts(16 * rows, 0, 0, 16 * rows),
        Counts(16 * rows, 8 * rows, 0, 8 * rows),
        Counts(16 * rows, 16 * rows, 0, 0),
    ]
    assert count_labelled(segmenter, photos, batch) == expected


def test_photos_come_in_order_with_their_own_masks(segmenter: Segmenter, photos: PhotoSet) -> None:
    for i, segmented in enumerate(segment_labelled(segmenter, photos, 2)):
        assert segmented.item.name == str(i)
        greens: Rgb = segmented.rgb[..., 1]
        np.testing.assert_array_equal(segmented.mask, greens == 255)
