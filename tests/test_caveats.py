"""Which labels and scores give reason to doubt, and that every reason has its words."""

import pytest

from flowerseg.caveats import Caveat, CaveatKind, caveat_text, label_caveats
from flowerseg.metrics import Counts

BAD = Counts(true_positive=3, false_positive=67, false_negative=30, true_negative=9)  # IoU 0.03
SO_SO = Counts(true_positive=60, false_positive=40, true_negative=9)  # IoU 0.6


@pytest.mark.parametrize(
    ("counts", "kinds"),
    [
        ([Counts(), Counts()], [CaveatKind.NO_LABELLED_PIXEL]),
        ([Counts(false_positive=3, true_negative=9)], [CaveatKind.NO_LABELLED_FLOWER]),
        ([Counts(true_positive=3, false_negative=9)], [CaveatKind.NO_LABELLED_BACKGROUND]),
        ([BAD], [CaveatKind.LABELS_CONTRADICTED]),
        ([SO_SO], []),
        ([Counts(9, 1, 1, 9), Counts()], []),
        # Photos of one class each are a set of both.
        ([Counts(true_positive=9), Counts(true_negative=9)], []),
    ],
)
def test_labels_of_a_set_are_doubted(counts: list[Counts], kinds: list[CaveatKind]) -> None:
    found = label_caveats(counts, None)
    assert [caveat.kind for caveat in found] == kinds
    assert all(caveat.photos == len(counts) for caveat in found)


def test_a_score_far_below_that_of_the_training_is_doubted() -> None:
    (caveat,) = label_caveats([SO_SO], 0.97)
    assert (caveat.kind, caveat.iou, caveat.val_iou) == ("labels-contradicted", 0.6, 0.97)
    assert "scores IoU 0.6000 (0.9700 in training) against these labels" in caveat_text(caveat)
    assert label_caveats([SO_SO], 0.8) == ()


@pytest.mark.parametrize("kind", CaveatKind)
def test_every_kind_has_words(kind: CaveatKind) -> None:
    text = caveat_text(Caveat(kind, 40, seen=37, iou=0.03), "the reference")
    assert "40 photos" in text or kind is CaveatKind.LABELS_CONTRADICTED
    assert text.endswith(".")


def test_photos_that_were_learned_from_are_counted_in_words() -> None:
    text = caveat_text(Caveat(CaveatKind.PHOTOS_SEEN, 40, seen=37), "this model")
    assert text == (
        "37 of these 40 photos were in the training set of this model: the IoU against truth is "
        "optimistic."
    )
