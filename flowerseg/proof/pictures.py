"""Where two masks of a photo differ, drawn so that a single pixel is seen."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from flowerseg.arrays import Mask, Rgb, SizeHW, size_of
from flowerseg.images import resize_area
from flowerseg.pictures import INVENTED_RGB, MISSED_RGB

SHOWN_PX = 420  # the longer side of a whole photo on the page
CLOSE_UP_PX = 48  # the side of the window that is enlarged
_FEW = 100  # pixels that change sides, which would be missed if they were not drawn much larger
_FRAME_RGB = (255, 214, 0)


@dataclass(frozen=True)
class Window:
    """A part of a photo, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, rgb: Rgb) -> Rgb:
        """The part of these pixels (h, w, 3)."""
        return rgb[self.top : self.top + self.height, self.left : self.left + self.width]


def difference(rgb: Rgb, mask: Mask, reference: Mask) -> Rgb:
    """The photo (h, w, 3) dimmed, with the pixels that change sides.

    Red is flower that the model's mask lacks, blue is background that it takes for flower.
    """
    shown = rgb // 3
    shown[reference & ~mask] = MISSED_RGB
    shown[mask & ~reference] = INVENTED_RGB
    return shown


def close_up_of(mask: Mask, reference: Mask) -> Window:
    """The window in which most pixels change sides, away from the photo's edges where it can be."""
    flipped = (mask != reference).astype(np.int64)
    height, width = (min(CLOSE_UP_PX, side) for side in flipped.shape)
    sums = np.pad(flipped, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:]
    inside -= sums[height:, :-width] - sums[:-height, :-width]
    # Of the many windows that hold them all, the middle one has them in its middle.
    tops, lefts = np.nonzero(inside == inside.max())
    best = np.argmin(abs(tops - np.median(tops)) + abs(lefts - np.median(lefts)))
    return Window(int(tops[best]), int(lefts[best]), height, width)


def overview(rgb: Rgb, mask: Mask, reference: Mask, window: Window) -> Rgb:
    """`difference` small enough for a page: pixels that change sides are thickened, not averaged.

    A frame shows where the window is.
    """
    size_hw = shown_size(size_of(rgb))
    shown = resize_area(rgb, size_hw) // 3
    shown[_frame(window, size_of(rgb), size_hw)] = _FRAME_RGB
    width = 7 if np.count_nonzero(mask != reference) <= _FEW else 3
    shown[_thickened(mask & ~reference, size_hw, width)] = INVENTED_RGB
    shown[_thickened(reference & ~mask, size_hw, width)] = MISSED_RGB
    return shown


def shown_size(size_hw: SizeHW) -> SizeHW:
    """The size of a photo on the page; small photos stay as they are."""
    scale = min(1.0, SHOWN_PX / max(size_hw))
    return max(1, round(scale * size_hw[0])), max(1, round(scale * size_hw[1]))


def _thickened(marked: Mask, size_hw: SizeHW, width: int) -> Mask:
    """Every marked pixel as a square in the smaller picture: averaging would lose it."""
    small = np.zeros(size_hw, np.bool_)
    rows, columns = np.nonzero(marked)
    small[
        rows * size_hw[0] // marked.shape[0],
        columns * size_hw[1] // marked.shape[1],
    ] = True
    return np.asarray(ndimage.binary_dilation(small, np.ones((width, width), np.bool_)))


def _frame(window: Window, full_hw: SizeHW, size_hw: SizeHW) -> Mask:
    """The border of the window in the smaller picture."""
    inside = np.zeros(full_hw, np.bool_)
    inside[window.top : window.top + window.height, window.left : window.left + window.width] = True
    rows = np.arange(size_hw[0]) * full_hw[0] // size_hw[0]
    columns = np.arange(size_hw[1]) * full_hw[1] // size_hw[1]
    small = inside[np.ix_(rows, columns)]
    # What lies beyond the photo is outside, so that a window at its edge has four sides too.
    return np.asarray(small & ~ndimage.binary_erosion(small))
