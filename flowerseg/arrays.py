"""What the arrays are called and how they are shaped, said once."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rgb: TypeAlias = NDArray[np.uint8]
"""One photo, (h, w, 3), red first, upright."""

Images: TypeAlias = NDArray[np.uint8]
"""A batch of frames for the network, (N, H, W, 3), RGB."""

Foreground: TypeAlias = NDArray[np.uint8]
"""Flower probability p as `min(255, floor(256 p))`: (N, H, W) of a batch, (h, w) of a photo."""

Mask: TypeAlias = NDArray[np.bool_]
"""(h, w), True is flower."""

Labels: TypeAlias = NDArray[np.uint8]
"""Ground truth, (h, w): BACKGROUND, FLOWER or VOID."""

SizeHW: TypeAlias = tuple[int, int]
"""Height first, then width, in pixels."""

BACKGROUND = 0
FLOWER = 1
VOID = 255  # not annotated: left out of the loss and of every metric


def size_of(pixels: NDArray[np.generic]) -> SizeHW:
    """Height and width of a photo (h, w, 3) or a map (h, w)."""
    return pixels.shape[0], pixels.shape[1]
