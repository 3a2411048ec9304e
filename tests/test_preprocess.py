"""Photo to frame: the one definition that travels with every model."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from flowerseg.arrays import FLOWER, VOID
from flowerseg.preprocess import Preprocess, frame_from_labels, frame_from_photo


def test_frame_is_stretched_and_keeps_red_first() -> None:
    rgb = np.zeros((100, 300, 3), np.uint8)
    rgb[:, 150:, 0] = 240
    frame = frame_from_photo(rgb, Preprocess((64, 32)))
    assert frame.shape == (64, 32, 3)
    assert (frame[:, :16] == 0).all()
    assert (frame[:, 16:] == [240, 0, 0]).all()


def test_frame_is_antialiased() -> None:
    stripes = np.zeros((64, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.unique(frame_from_photo(stripes, Preprocess((64, 64)))).tolist() == [128]


def test_labels_stay_labels() -> None:
    labels = np.random.default_rng(0).choice([0, FLOWER, VOID], (90, 70)).astype(np.uint8)
    frame = frame_from_labels(labels, Preprocess((64, 48)))
    assert frame.shape == (64, 48)
    assert set(np.unique(frame).tolist()) == {0, FLOWER, VOID}


@pytest.mark.parametrize("size_hw", [(31, 224), (224, 31), (4097, 224), (0, 0)])
def test_size_out_of_range_is_refused(size_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="between 32 and 4096"):
        Preprocess(size_hw)


@pytest.mark.parametrize("field", ["fit", "kernel", "colour", "orientation"])
def test_step_that_is_not_known_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {field} 'other'"):
        Preprocess(**{field: "other"})  # type: ignore[arg-type]  # that is the point


def test_default_is_the_studys_frame_and_is_plain_data() -> None:
    assert json.loads(json.dumps(asdict(Preprocess()))) == {
        "size_hw": [224, 224],
        "fit": "stretch",
        "kernel": "area",
        "colour": "rgb",
        "orientation": "exif",
    }
