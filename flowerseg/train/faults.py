"""The original study's way with annotations, kept to show what each correction is worth."""

from collections.abc import Collection

import numpy as np

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Labels, SizeHW, size_of
from flowerseg.images import read_mask_colours, resize_bilinear
from flowerseg.labelled import LabelledPhoto
from flowerseg.train.config import Fault


def faulty_labels(item: LabelledPhoto, labels: Labels, faults: Collection[Fault]) -> Labels:
    """Labels (H, W) of one frame as the study would have made them; untouched without faults.

    Raises:
        ImageError: the annotation cannot be decoded.
    """
    if Fault.BLENDED_MASKS in faults:
        labels = _labels_from_blended_colours(item, size_of(labels))
    if Fault.VOID_AS_BACKGROUND in faults:
        labels = np.where(labels == VOID, np.uint8(BACKGROUND), labels)
    return labels


def _labels_from_blended_colours(item: LabelledPhoto, size_hw: SizeHW) -> Labels:
    """Every colour that came out of the blending and means nothing is background."""
    colours = resize_bilinear(read_mask_colours(item.annotation), size_hw)
    labels = np.full(size_hw, BACKGROUND, np.uint8)
    for label, known in ((FLOWER, item.palette.flower), (VOID, item.palette.void)):
        for colour in known:
            labels[(colours == colour).all(axis=2)] = label
    return labels
