"""The study's annotations: outlines that blending loses, and void taught as background."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Labels
from flowerseg.data import OXFORD_PALETTE, LabelledPhoto
from flowerseg.images import write_png
from flowerseg.train import Fault
from flowerseg.train.faults import faulty_labels

COLOURS = {FLOWER: (128, 0, 0), BACKGROUND: (128, 128, 0), VOID: (0, 0, 0)}
F, B, V = FLOWER, BACKGROUND, VOID
# What a sound frame would say; the blended one does not look at it.
ANY = np.full((1, 1), FLOWER, np.uint8)


def _item(folder: Path, truth: Labels) -> LabelledPhoto:
    """An annotation in the colours of Oxford 17."""
    colours = np.zeros((*truth.shape, 3), np.uint8)
    for label, colour in COLOURS.items():
        colours[truth == label] = colour
    write_png(folder / "trimap.png", colours)
    return LabelledPhoto("a", folder / "a.jpg", folder / "trimap.png", OXFORD_PALETTE)


def _row(labels: list[int], height: int = 2) -> Labels:
    return np.array([labels] * height, np.uint8)


def _blended(folder: Path, truth: Labels, size_hw: tuple[int, int]) -> Labels:
    sound = np.resize(ANY, size_hw)
    return faulty_labels(_item(folder, truth), sound, [Fault.BLENDED_MASKS])


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        # Halved: each pixel is the mean of two, and the one on the outline has no colour.
        ([F, F, F, B, B, B], [F, B, B]),
        ([F, F, B, B], [F, B]),
        # A quarter: only the two pixels in the middle count, as there is no antialiasing.
        ([B, F, F, V, B, V, V, F], [F, V]),
        ([F, F, B, B, F, V, F, F], [B, B]),
        # Doubled: the two pixels at the outline are a quarter of the other side.
        ([F, B], [F, B, B, B]),
        ([F, V], [F, B, B, V]),
        ([V, B], [V, B, B, B]),
        ([B, F, B], [B, B, B, B, B, B]),  # a petal as thin as a pixel is gone
        # As large as it is: nothing is blended.
        ([F, V, B, F], [F, V, B, F]),
    ],
)
def test_blending_loses_the_outline_and_nothing_else(
    tmp_path: Path, truth: list[int], expected: list[int]
) -> None:
    size_hw = (2, len(expected))
    np.testing.assert_array_equal(_blended(tmp_path, _row(truth), size_hw), _row(expected))


def _share(truth: Labels, label: int) -> NDArray[np.float64]:
    """The share of one label in each pixel of a map of twice the size, blended bilinearly."""
    share = (truth == label).astype(float)
    for axis in (0, 1):
        padded = np.concatenate([share.take([0], axis), share, share.take([-1], axis)], axis)
        length = share.shape[axis]
        before, here, after = (padded.take(range(i, i + length), axis) for i in range(3))
        # Centres lie a quarter of a pixel to either side of the old one.
        pair = np.stack([0.25 * before + 0.75 * here, 0.75 * here + 0.25 * after], axis + 1)
        share = pair.reshape(*share.shape[:axis], 2 * length, *share.shape[axis + 1 :])
    return share


def test_only_pixels_of_one_colour_keep_their_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.kron(rng.choice([F, B, V], (5, 6)), np.ones((3, 2))).astype(np.uint8)
    found = _blended(tmp_path, truth, (30, 24))
    for label in (FLOWER, VOID):
        np.testing.assert_array_equal(found == label, _share(truth, label) == 1)
        assert (found == label).any()
    assert (found == BACKGROUND).sum() > (_share(truth, BACKGROUND) == 1).sum()


def test_void_becomes_background(tmp_path: Path) -> None:
    sound = _row([F, V, B, V])
    found = faulty_labels(_item(tmp_path, sound), sound, [Fault.VOID_AS_BACKGROUND])
    np.testing.assert_array_equal(found, _row([F, B, B, B]))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(sound, _row([F, V, B, V]))  # not changed in place


def test_void_that_blending_left_becomes_background_too(tmp_path: Path) -> None:
    faults = [Fault.VOID_AS_BACKGROUND, Fault.BLENDED_MASKS]
    found = faulty_labels(_item(tmp_path, _row([F, V])), np.resize(ANY, (2, 4)), faults)
    np.testing.assert_array_equal(found, _row([F, B, B, B]))


@pytest.mark.parametrize(
    "faults", [(), (Fault.SHARED_PHOTOS, Fault.DRIFTING_BATCHNORM, Fault.UNPADDED_HEAD)]
)
def test_labels_stay_where_no_fault_is_theirs(tmp_path: Path, faults: tuple[Fault, ...]) -> None:
    sound = _row([F, V, B])
    nowhere = tmp_path / "absent.png"  # nor is the annotation read again
    item = LabelledPhoto("a", nowhere, nowhere, OXFORD_PALETTE)
    np.testing.assert_array_equal(faulty_labels(item, sound, faults), _row([F, V, B]))
