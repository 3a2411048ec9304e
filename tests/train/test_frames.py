"""Training frames: labels go wherever their photo goes, and are never recoloured or mixed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flowerseg.augment import TrainingFrames
from flowerseg.data import MASK_PALETTE, LabelledPhoto, PhotoSet
from flowerseg.images import write_png
from flowerseg.preprocess import Preprocess


@pytest.fixture
def photos(tmp_path: Path) -> PhotoSet:
    """Three photos that are green where flower is, red elsewhere; a stripe is not labelled."""
    items = []
    for i in range(3):
        flower = np.zeros((120, 160), np.bool_)
        flower[20 + 10 * i : 90, 30 : 100 + 15 * i] = True
        rgb = np.where(flower[..., None], (60, 160, 60), (160, 60, 60)).astype(np.uint8)
        mask = np.where(flower, 255, 0).astype(np.uint8)
        mask[:6] = 128
        write_png(tmp_path / f"{i}.png", rgb)
        write_png(tmp_path / f"{i}-mask.png", mask)
        items.append(
            LabelledPhoto(str(i), tmp_path / f"{i}.png", tmp_path / f"{i}-mask.png", MASK_PALETTE)
        )
    return PhotoSet("rectangles", tuple(items))


def test_labels_are_cropped_and_flipped_with_their_photo(photos: PhotoSet) -> None:
    frames = TrainingFrames(photos, Preprocess((224, 224)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [frames[i % 3] for i in range(12)]
    for image, labels in drawn:
        assert image.shape == (192, 192, 3)  # crops are a seventh smaller
        assert image.dtype is labels.dtype is torch.uint8
        assert set(labels.unique().tolist()) <= {0, 1, 255}
        is_green = image[..., 1] > image[..., 0]
        known = labels != 255
        # Edges blur by a pixel when the photo is resized; everything else must agree.
        assert (is_green == (labels == 1))[known].float().mean() > 0.97
    assert len({labels.numpy().tobytes() for _, labels in drawn}) == 12


def test_every_photo_is_there_once(photos: PhotoSet) -> None:
    assert len(TrainingFrames(photos, Preprocess((64, 64)))) == 3
