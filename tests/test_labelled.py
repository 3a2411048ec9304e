"""A photo and its annotation as files: how they lie on each other, what the mask's pixels mean."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flowerseg.arrays import BACKGROUND, FLOWER
from flowerseg.data import MASK_PALETTE, LabelledPhoto
from flowerseg.evaluate import read_pair

SQUARE, WIDE = (6, 6), (6, 10)


def _save(path: Path, grey: np.ndarray, orientation: int | None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(grey).save(path, exif=exif)
    return path


@pytest.mark.parametrize("size_hw", [SQUARE, WIDE])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_is_turned_with_its_photo_where_both_have_an_orientation(
    tmp_path: Path, size_hw: tuple[int, int], orientation: int
) -> None:
    grey = np.where(np.random.default_rng(0).random(size_hw) < 0.5, 255, 0).astype(np.uint8)
    photo = _save(tmp_path / "photo.png", grey, orientation)
    mask = _save(tmp_path / "mask.png", grey, orientation)
    with Image.open(mask) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    rgb, labels = read_pair(LabelledPhoto("a", photo, mask, MASK_PALETTE))
    np.testing.assert_array_equal(rgb[..., 0], upright)
    np.testing.assert_array_equal(labels, np.where(upright == 255, FLOWER, BACKGROUND))


def test_mask_without_orientation_lies_on_the_upright_photo(tmp_path: Path) -> None:
    grey = np.where(np.random.default_rng(0).random(WIDE) < 0.5, 255, 0).astype(np.uint8)
    photo = _save(tmp_path / "photo.png", grey, 6)
    mask = _save(tmp_path / "mask.png", np.rot90(grey, -1), None)
    rgb, labels = read_pair(LabelledPhoto("a", photo, mask, MASK_PALETTE))
    np.testing.assert_array_equal(labels == FLOWER, rgb[..., 0] == 255)
