"""What training minimises: cross-entropy and missing overlap. Void counts nowhere."""

import torch
from torch import Tensor
from torch.nn import functional

from flowerseg.arrays import FLOWER, VOID


def known_pixels(labels: Tensor) -> Tensor:
    """How many pixels of a batch (N, H, W) have a label."""
    return (labels != VOID).sum()


def masked_loss(
    logits: Tensor,
    labels: Tensor,
    overlap_weight: float = 0.0,
    known: Tensor | None = None,
    photos: int | None = None,
) -> Tensor:
    """Cross-entropy over pixels that are not VOID, and what the soft IoU lacks to 1, weighted.

    Args:
        logits: (N, H, W) float.
        labels: (N, H, W) uint8.
        overlap_weight: of the mean over photos of 1 - soft IoU.
        known: pixels with a label in the whole batch, where this is a part of it.
        photos: in the whole batch, where this is a part of it.
    """
    known = known_pixels(labels) if known is None else known
    # Weighted instead of indexed: shapes stay fixed, and a batch that is all void gives zero.
    # The sigmoid of a difference of two scores is their softmax, so this binary form equals the
    # two-class cross-entropy.
    losses = functional.binary_cross_entropy_with_logits(
        logits, (labels == FLOWER).float(), reduction="none"
    )
    loss = (losses * (labels != VOID)).sum() / known.clamp(min=1)
    if overlap_weight:
        missing = 1 - soft_iou(logits, labels)
        loss = loss + overlap_weight * missing.sum() / (photos or len(missing))
    return loss


def soft_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """IoU (N,) of the flower's probabilities with the truth, one pixel added to both areas.

    Source: Rahman and Wang 2016, "Optimizing Intersection-Over-Union in Deep Neural Networks for
    Image Segmentation", equation 3.
    """
    known = labels != VOID
    probability = torch.sigmoid(logits) * known
    truth = (labels == FLOWER).float()
    overlap = (probability * truth).sum((1, 2))
    union = (probability + truth).sum((1, 2)) - overlap
    return (overlap + 1) / (union + 1)
