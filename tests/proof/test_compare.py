"""The comparator against plain loops, and after the same post-processing for both sides."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from flowerseg.arrays import FLOWER, VOID, Foreground, Labels, Mask
from flowerseg.backends.null import NullBackend
from flowerseg.masks import mask_from_foreground
from flowerseg.metrics import Counts
from flowerseg.preprocess import Preprocess
from flowerseg.proof.compare import (
    BAND_PX,
    Compared,
    Expected,
    Steps,
    band_of,
    compare,
)
from flowerseg.proof.faults import other_agreements, tail_difference, undecided_difference
from flowerseg.segmenter import Segmenter

FRAME_HW = (32, 32)


def _expected(foreground: Foreground, mask: Mask, labels: Labels) -> Expected:
    frame = np.zeros((*foreground.shape, 3), np.uint8)
    return Expected("photo", frame, labels, foreground, mask, band_of(mask))


def _blob(size_hw: tuple[int, int], seed: int) -> Foreground:
    """A smooth map (h, w) with values on both sides of the threshold."""
    noise = np.random.default_rng(seed).normal(size=size_hw)
    smooth = ndimage.gaussian_filter(noise, 3)
    return np.clip(128 + 90 * smooth / np.abs(smooth).max(), 0, 255).astype(np.uint8)


def _steps_to_the_other_side(mask: Mask, y: int, x: int) -> float:
    """Steps up, down, left or right to the nearest pixel of the other value, by looking at all."""
    others = [
        abs(y - v) + abs(x - u)
        for v in range(mask.shape[0])
        for u in range(mask.shape[1])
        if mask[v, u] != mask[y, x]
    ]
    return min(others, default=float("inf"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_band_is_what_lies_within_two_steps_of_the_other_side(seed: int) -> None:
    mask = _blob((19, 26), seed) >= 128
    height, width = mask.shape
    near = [
        [_steps_to_the_other_side(mask, y, x) <= BAND_PX for x in range(width)]
        for y in range(height)
    ]
    np.testing.assert_array_equal(band_of(mask), near)


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_without_outline_has_no_band(value: bool) -> None:
    assert not band_of(np.full((9, 9), value)).any()


@pytest.mark.parametrize("seed", [3, 4])
def test_counts_and_largest_difference_are_those_of_a_loop_over_pixels(seed: int) -> None:
    theirs, ours = _blob((21, 30), seed), _blob((21, 30), seed + 10)
    reference, mask = theirs >= 128, ours >= 128
    labels = np.random.default_rng(seed).choice([0, FLOWER, VOID], size=mask.shape).astype(np.uint8)

    compared = compare(_expected(theirs, reference, labels), ours, mask)

    band = band_of(reference)
    pixels = list(np.ndindex(mask.shape))
    assert compared.agreement == _counted(mask, reference, pixels)
    assert compared.band == _counted(mask, reference, [p for p in pixels if band[p]])
    known = [p for p in pixels if labels[p] != VOID]
    assert compared.truth == _counted(mask, labels == FLOWER, known)
    assert (
        compared.largest_difference == max(abs(int(ours[p]) - int(theirs[p])) for p in pixels) / 256
    )
    undecided = [p for p in pixels if 16 <= theirs[p] < 240]
    steps = sum(abs(int(ours[p]) - int(theirs[p])) for p in undecided)
    assert compared.undecided == Steps(len(undecided), steps)
    assert undecided_difference([compared]) == steps / len(undecided) / 256
    # 0.1 and 0.9 of 256 are 25.6 and 230.4.
    for found, level in zip(compared.other_thresholds, (26, 231), strict=True):
        assert found == _counted(ours >= level, theirs >= level, pixels)
    flipped = sum(bool(mask[p] != reference[p]) for p in pixels)
    assert (compared.flipped, compared.pixels) == (flipped, 21 * 30)
    assert compared.flipped_share == flipped / (21 * 30)


def test_tails_are_the_probabilities_of_which_the_reference_is_sure() -> None:
    labels = np.zeros((1, 6), np.uint8)
    theirs = np.array([[0, 10, 15, 128, 240, 255]], np.uint8)
    ours = np.array([[3, 10, 15, 0, 240, 251]], np.uint8)
    compared = compare(_expected(theirs, theirs >= 128, labels), ours, ours >= 128)
    assert (compared.background, compared.flower) == (Steps(3, 3), Steps(2, 4))
    assert tail_difference([compared]) == 4 / 2 / 256
    twice = dataclasses.replace(compared, flower=Steps())
    assert tail_difference([compared, twice]) == 4 / 2 / 256
    # At 0.1 theirs are flower from 128 on, of which ours lack one; at 0.9 both are the same.
    assert other_agreements([compared]) == {0.1: 2 / 3, 0.9: 1.0}


def test_mean_where_undecided_is_over_pixels_and_not_over_photos() -> None:
    labels = np.zeros((1, 4), np.uint8)

    def compared(reference: list[int], model: list[int]) -> Compared:
        theirs, ours = (np.array([values], np.uint8) for values in (reference, model))
        return compare(_expected(theirs, theirs >= 128, labels), ours, ours >= 128)

    # 15 and 240 are decided; of the others one differs by 2 steps, three by none.
    found = [
        compared([15, 240, 16, 0], [100, 0, 18, 9]),
        compared([239, 20, 30, 0], [239, 20, 30, 0]),
    ]
    assert undecided_difference(found) == 2 / 4 / 256
    assert undecided_difference([compared([0, 255, 0, 255], [9, 9, 9, 9])]) == 0.0


def _counted(mask: Mask, truth: Mask, pixels: list[tuple[int, ...]]) -> Counts:
    pairs = [(bool(mask[p]), bool(truth[p])) for p in pixels]
    return Counts(
        true_positive=pairs.count((True, True)),
        false_positive=pairs.count((True, False)),
        false_negative=pairs.count((False, True)),
        true_negative=pairs.count((False, False)),
    )


def test_uint8_does_not_wrap_in_differences() -> None:
    low, high = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    labels = np.zeros((4, 4), np.uint8)
    for one, other in ((low, high), (high, low)):
        compared = compare(_expected(one, one >= 128, labels), other, other >= 128)
        assert compared.largest_difference == 255 / 256


def test_mask_of_another_size_than_the_photos_is_refused() -> None:
    foreground = _blob((8, 8), 0)
    labels = np.zeros((8, 8), np.uint8)
    with pytest.raises((ValueError, IndexError)):
        compare(
            _expected(foreground, foreground >= 128, labels), foreground, np.zeros((8, 9), bool)
        )


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.93])
@pytest.mark.parametrize("photo_hw", [(1, 1), (3, 200), (32, 32), (33, 31), (150, 97)])
def test_equal_probabilities_give_no_difference_at_any_size_and_threshold(
    photo_hw: tuple[int, int], threshold: float
) -> None:
    compared = _through_the_segmenter(_blob(FRAME_HW, 5), _blob(FRAME_HW, 5), photo_hw, threshold)
    assert (compared.flipped, compared.largest_difference) == (0, 0.0)
    assert compared.agreement.true_positive + compared.agreement.true_negative == np.prod(photo_hw)


def test_masks_made_in_another_way_are_a_difference_of_the_model() -> None:
    """Thresholded first and resized after, as a graph does that gives masks for probabilities."""
    probabilities = _blob(FRAME_HW, 5)
    masks = np.where(probabilities >= 128, np.uint8(255), np.uint8(0))
    compared = _through_the_segmenter(probabilities, masks, (150, 97), 0.5)
    assert compared.flipped > 0
    assert compared.largest_difference > 0.25


def _through_the_segmenter(
    reference: Foreground, model: Foreground, photo_hw: tuple[int, int], threshold: float
) -> Compared:
    """Compare as `prove` does: both maps through the same resize and threshold."""
    labels = np.zeros(photo_hw, np.uint8)
    mask = mask_from_foreground(reference, photo_hw, threshold)
    with Segmenter(NullBackend(FRAME_HW), Preprocess(FRAME_HW), threshold) as segmenter:
        return compare(_expected(reference, mask, labels), model, segmenter.mask(model, photo_hw))
