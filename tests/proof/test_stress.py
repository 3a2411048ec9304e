"""Stress frames are what their names say."""

import numpy as np
import pytest

from flowerseg.arrays import VOID
from flowerseg.backends.null import NullBackend
from flowerseg.preprocess import Preprocess
from flowerseg.proof.compare import Expected, band_of
from flowerseg.proof.stress import PHOTOS_USED, expect_stress, stress_frames
from flowerseg.segmenter import Segmenter

SIDE = 60


def _photo(name: str, radius: int) -> Expected:
    """A green disc on grey; the reference, which answers with green, sees just that."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = (rows - 30) ** 2 + (columns - 20) ** 2 < radius**2
    frame = np.full((SIDE, SIDE, 3), 100, np.uint8)
    frame[disc] = (0, 200, 0)
    labels = np.full((SIDE, SIDE), VOID, np.uint8)
    return Expected(name, frame, labels, frame[..., 1].copy(), disc, band_of(disc))


def test_frames_are_dark_bright_tiny_and_close() -> None:
    frames = dict(stress_frames([_photo("a", 15)], (SIDE, SIDE)))
    own = _photo("a", 15).frame
    assert frames["a, dark"].tolist() == (own * 0.2).astype(np.uint8).tolist()
    assert frames["a, bright"].mean() > 0.8 * 255
    # A fifth of 60 x 60 around the middle; the disc of radius 15 is one of 3 there.
    green = frames["a, tiny"][..., 1] > 150
    assert 0 < green.sum() < 40
    assert green[24:36, 24:36].sum() == green.sum()
    # A square around the disc: pi / 4 of it is green.
    share = (frames["a, close"][..., 1] > 150).mean()
    assert share == pytest.approx(np.pi / 4, abs=0.08)
    assert {len(np.unique(frames[f"flat {level}"])) for level in (0, 128, 255)} == {1}
    assert frames["noise"].std() > 70


def test_flower_too_small_for_a_close_up_has_none() -> None:
    assert "a, close" not in dict(stress_frames([_photo("a", 3)], (SIDE, SIDE)))


def test_reference_says_what_is_expected_and_the_most_telling_photos_are_used() -> None:
    photos = [
        _photo(name, radius) for name, radius in zip("abcde", (3, 18, 17, 16, 1), strict=True)
    ]
    with Segmenter(NullBackend((SIDE, SIDE)), Preprocess((SIDE, SIDE))) as reference:
        found = expect_stress(reference, photos)
    used = {item.name[0] for item in found if item.name[1] == ","}
    assert used == {"b", "c", "d"}
    assert len(used) == PHOTOS_USED
    for item in found:
        assert (item.foreground == item.frame[..., 1]).all()
        assert (item.mask == (item.foreground >= 128)).all()
        assert (item.labels == VOID).all()
