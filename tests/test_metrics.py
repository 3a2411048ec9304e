"""Scores against counts by hand and a plain loop."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Labels, Mask
from flowerseg.metrics import (
    Counts,
    Scores,
    agreement_iou,
    count,
    count_agreement,
    dice,
    iou,
    mean_iou,
    notebook_score,
    pixel_accuracy,
    score_text,
    scores,
    set_iou,
    total,
)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
MASKS = SHAPES.flatmap(lambda shape: hnp.arrays(np.bool_, shape))
LABELS = st.sampled_from([BACKGROUND, FLOWER, VOID])
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.bool_, shape), hnp.arrays(np.uint8, shape, elements=LABELS)
    )
)
COUNTS = st.builds(Counts, *[st.integers(0, 1000)] * 4)


def _counted(mask: Mask, labels: Labels) -> Counts:
    """Pixel by pixel, in words."""
    found = {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
    for is_flower, label in zip(mask.ravel().tolist(), labels.ravel().tolist(), strict=True):
        if label == VOID:
            continue
        right = is_flower == (label == FLOWER)
        found[("t" if right else "f") + ("p" if is_flower else "n")] += 1
    return Counts(found["tp"], found["fp"], found["fn"], found["tn"])


@given(PAIRS)
def test_counts_are_those_of_a_plain_loop(pair: tuple[Mask, Labels]) -> None:
    assert count(*pair) == _counted(*pair)


@given(PAIRS)
def test_what_lies_under_void_changes_no_count(pair: tuple[Mask, Labels]) -> None:
    mask, labels = pair
    assert count(mask ^ (labels == VOID), labels) == count(mask, labels)


@given(MASKS)
def test_mask_agrees_with_itself_fully(mask: Mask) -> None:
    assert agreement_iou(count_agreement(mask, mask)) == 1.0


@given(PAIRS)
def test_agreement_does_not_depend_on_which_mask_comes_first(pair: tuple[Mask, Labels]) -> None:
    mask, other = pair[0], pair[1] == FLOWER
    there, back = count_agreement(mask, other), count_agreement(other, mask)
    assert agreement_iou(there) == agreement_iou(back)


@given(COUNTS)
def test_dice_and_iou_are_one_measure_on_two_scales(counts: Counts) -> None:
    found = iou(counts)
    if found is None:
        assert dice(counts) is None
    else:
        assert dice(counts) == pytest.approx(2 * found / (1 + found))


@given(st.lists(COUNTS, min_size=1))
def test_scores_lie_between_zero_and_one_and_totals_are_sums(per_photo: list[Counts]) -> None:
    found = scores(per_photo)
    labels = [total(per_photo).flower, total(per_photo).background]
    assert (found.iou is None) == (0 in labels)
    values = (found.iou, found.mean_iou, found.dice, found.pixel_accuracy, found.notebook_score)
    assert all(value is None or 0 <= value <= 1 for value in values)
    assert total(per_photo).true_positive == sum(c.true_positive for c in per_photo)
    assert found.photos == len(per_photo)


def test_scores_by_hand() -> None:
    counts = Counts(true_positive=6, false_positive=2, false_negative=4, true_negative=8)
    assert iou(counts) == 0.5
    assert dice(counts) == pytest.approx(2 / 3)
    assert pixel_accuracy(counts) == 0.7


def test_large_photo_weighs_more_in_the_total_and_the_same_in_the_mean() -> None:
    per_photo = [Counts(100, 0, 0, 0), Counts(0, 5, 5, 0)]
    assert iou(total(per_photo)) == pytest.approx(100 / 110)
    assert mean_iou(per_photo) == 0.5


@pytest.mark.parametrize("labels", [[[0, 0]], [[VOID, 0]], [[VOID, VOID]]])
def test_no_flower_in_truth_or_mask_is_no_score(labels: list[list[int]]) -> None:
    counts = count(np.zeros((1, 2), np.bool_), np.array(labels, np.uint8))
    assert iou(counts) is dice(counts) is set_iou(counts) is None
    assert mean_iou([counts]) is notebook_score([counts]) is None


def test_accuracy_needs_a_labelled_pixel() -> None:
    void = count(np.ones((1, 2), np.bool_), np.full((1, 2), VOID, np.uint8))
    assert pixel_accuracy(void) is None
    assert pixel_accuracy(Counts(true_negative=2)) == 1.0


def test_two_empty_masks_agree_fully() -> None:
    empty = np.zeros((2, 3), np.bool_)
    assert agreement_iou(count_agreement(empty, empty)) == 1.0


@pytest.mark.parametrize(
    "counts",
    [
        Counts(true_positive=9, false_negative=1),  # only flower
        Counts(false_positive=1, true_negative=9),  # only background
        Counts(),  # only void
    ],
)
def test_a_set_of_one_class_has_no_flower_score_whatever_the_masks_are(counts: Counts) -> None:
    accuracy = pixel_accuracy(counts)
    assert set_iou(counts) is None
    assert scores([counts]) == Scores(1, None, None, None, accuracy, None)


def test_photos_without_a_score_are_left_out_of_the_means() -> None:
    per_photo = [Counts(1, 1, 0, 4), Counts(true_negative=6), Counts()]
    assert mean_iou(per_photo) == 0.5
    assert scores(per_photo).mean_iou == 0.5
    assert notebook_score([Counts(1), Counts()]) == 1.0


def test_no_photos_have_no_scores() -> None:
    assert scores([]) == Scores(0, None, None, None, None, None)


def test_a_score_that_is_not_defined_reads_na() -> None:
    assert (score_text(0.97442), score_text(1.0, 5), score_text(None)) == (
        "0.9744",
        "1.00000",
        "n/a",
    )


def test_flower_where_there_is_none_is_zero() -> None:
    assert iou(count(np.array([[True, False]]), np.zeros((1, 2), np.uint8))) == 0.0


@pytest.mark.parametrize(
    ("overlap", "steps"),
    [
        ("0", 0),
        ("3/10", 0),
        ("1/2", 0),
        ("51/100", 1),
        ("53/100", 1),
        ("11/20", 1),  # exactly on a step, where floats would give one more
        ("57/100", 2),
        ("62/100", 3),
        ("74/100", 5),
        ("93/100", 9),
        ("97/100", 10),
        ("1", 10),
    ],
)
def test_notebook_gives_a_tenth_for_each_twentieth_begun_above_a_half(
    overlap: str, steps: int
) -> None:
    share = Fraction(overlap)
    counts = Counts(share.numerator, share.denominator - share.numerator)
    assert notebook_score([counts]) == steps / 10


def test_notebook_score_is_the_mean_over_photos() -> None:
    per_photo = [Counts(1, 0), Counts(57, 43), Counts(0, 1)]
    assert notebook_score(per_photo) == pytest.approx((1.0 + 0.2 + 0.0) / 3)


def test_different_shapes_are_refused() -> None:
    mask = np.zeros((2, 3), np.bool_)
    with pytest.raises(ValueError, match="differ in shape"):
        count(mask, np.zeros((3, 2), np.uint8))
    with pytest.raises(ValueError, match="differ in shape"):
        count_agreement(mask, np.zeros((2, 4), np.bool_))
