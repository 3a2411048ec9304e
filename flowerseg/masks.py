"""From a probability map at the network's size to a mask at the photo's size."""

import math

import numpy as np

from flowerseg.arrays import Foreground, Mask, Rgb, SizeHW
from flowerseg.images import resize_bilinear

OVERLAY_RGB = (255, 0, 160)  # a colour that is rare in flowers, leaves and soil


def level_of(threshold: float) -> int:
    """Smallest `foreground` value that counts as flower at this probability threshold.

    `foreground` is floor(256 p), so value >= ceil(256 t) is exactly p >= t for thresholds that are
    multiples of 1/256, and the next such multiple otherwise.

    Raises:
        ValueError: the threshold is not in (0, 1).
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold must lie between 0 and 1, not {threshold}")
    return min(255, math.ceil(256 * threshold))


def foreground_at(foreground: Foreground, size_hw: SizeHW) -> Foreground:
    """Resize one probability map (H, W) to the photo's size, bilinearly."""
    return resize_bilinear(foreground, size_hw)


def mask_from_foreground(foreground: Foreground, size_hw: SizeHW, threshold: float) -> Mask:
    """Mask (h, w) of the photo from a probability map (H, W).

    The map is resized first and thresholded after: interpolating a mask would eat thin petals.
    """
    return foreground_at(foreground, size_hw) >= level_of(threshold)


def overlay(rgb: Rgb, mask: Mask) -> Rgb:
    """The photo with everything but the flower dimmed, and the flower's outline drawn."""
    shown = np.where(mask[..., None], rgb, rgb // 3)
    shown[outline(mask)] = OVERLAY_RGB
    return shown.astype(np.uint8)


def cutout(rgb: Rgb, mask: Mask) -> Rgb:
    """RGBA (h, w, 4): the flower on transparency."""
    return np.dstack([rgb, np.where(mask, np.uint8(255), np.uint8(0))])


def outline(mask: Mask) -> Mask:
    """Flower pixels that touch background above, below, left or right."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
