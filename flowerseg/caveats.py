"""Why a score against truth says less than it seems to: typed values, and the words for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from flowerseg.metrics import Counts, score_text, set_iou, total

LEAST_IOU = 0.5
MOST_LOST = 0.3
"""A model that scores less than `LEAST_IOU`, or loses more than this of the IoU that it had on the
photos that chose it, is a sign of wrong labels.

The model that comes with flowerseg scores 0.975 on the 94 photos of its test split, 0.004 where
their masks are inverted, and 0.53, 0.49 and 0.48 where each photo has the mask of another one.
"""


class CaveatKind(StrEnum):
    """What is wrong with a score against truth."""

    NO_LABELLED_PIXEL = "no-labelled-pixel"
    NO_LABELLED_FLOWER = "no-labelled-flower"
    NO_LABELLED_BACKGROUND = "no-labelled-background"
    LABELS_CONTRADICTED = "labels-contradicted"
    PHOTOS_SEEN = "photos-seen-in-training"
    TRAINING_PHOTOS_UNKNOWN = "training-photos-unknown"


@dataclass(frozen=True)
class Caveat:
    """One thing to know about the scores of a model on some labelled photos."""

    kind: CaveatKind
    photos: int  # that the scores are of
    seen: int = 0  # PHOTOS_SEEN: how many of them the model learned from
    iou: float | None = None  # LABELS_CONTRADICTED: the model's on these photos
    val_iou: float | None = None  # LABELS_CONTRADICTED: on those that chose it; None: not known


def label_caveats(per_photo: Sequence[Counts], val_iou: float | None) -> tuple[Caveat, ...]:
    """What the labels of a set, and the score of a trained model on it, give reason to doubt.

    Args:
        per_photo: the model's masks against the labels.
        val_iou: the model's IoU on the photos that chose it; None where that is not known.
    """
    whole, photos = total(per_photo), len(per_photo)
    if not whole.flower and not whole.background:
        return (Caveat(CaveatKind.NO_LABELLED_PIXEL, photos),)
    if not whole.flower:
        return (Caveat(CaveatKind.NO_LABELLED_FLOWER, photos),)
    if not whole.background:
        return (Caveat(CaveatKind.NO_LABELLED_BACKGROUND, photos),)
    found = set_iou(whole)
    least = max(LEAST_IOU, (val_iou or 0.0) - MOST_LOST)
    if found is not None and found < least:
        return (Caveat(CaveatKind.LABELS_CONTRADICTED, photos, iou=found, val_iou=val_iou),)
    return ()


def caveat_text(caveat: Caveat, model: str = "the model") -> str:
    """A caveat in a sentence or two.

    Args:
        caveat: what to say.
        model: what is scored, as the sentence names it.
    """
    photos = f"{caveat.photos} photo{'s' if caveat.photos != 1 else ''}"
    match caveat.kind:
        case CaveatKind.NO_LABELLED_PIXEL:
            return (
                f"no pixel of the {photos} is labelled, all masks are void: there is no score "
                "against truth. Check the masks and what their colours mean."
            )
        case CaveatKind.NO_LABELLED_FLOWER:
            return (
                f"no flower is labelled in the {photos}: scores against truth are n/a. Check the "
                "masks and which colour is flower, or give photos with flowers."
            )
        case CaveatKind.NO_LABELLED_BACKGROUND:
            return (
                f"no background is labelled in the {photos}: scores against truth are n/a, because "
                "a mask that is all flower would be perfect. Check the masks and which colour is "
                "background."
            )
        case CaveatKind.LABELS_CONTRADICTED:
            trained = (
                "" if caveat.val_iou is None else f" ({score_text(caveat.val_iou)} in training)"
            )
            return (
                f"{model} itself scores IoU {score_text(caveat.iou)}{trained} against these "
                "labels: they may be inverted, or belong to other photos, or the photos are of "
                "another kind than it was trained on. Look at photos and masks side by side."
            )
        case CaveatKind.PHOTOS_SEEN:
            return (
                f"{caveat.seen} of these {photos} {'was' if caveat.seen == 1 else 'were'} in the "
                f"training set of {model}: "
                "the IoU against truth is optimistic."
            )
        case CaveatKind.TRAINING_PHOTOS_UNKNOWN:
            return (
                f"it is not recorded which photos {model} learned from. If these {photos} were "
                "among them, the IoU against truth is optimistic."
            )
