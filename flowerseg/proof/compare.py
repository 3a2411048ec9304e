"""One photo's result beside the reference's: both resized and thresholded by the same hands."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flowerseg.arrays import Foreground, Labels, Mask, Rgb, size_of
from flowerseg.data import PhotoSet
from flowerseg.evaluate import read_pair
from flowerseg.masks import level_of
from flowerseg.metrics import Counts, count, count_agreement
from flowerseg.preprocess import frame_from_photo
from flowerseg.segmenter import Segmenter

BAND_PX = 2
"""Half the width of the band along outlines, in pixels of the photo."""

UNDECIDED = (16, 240)
"""Steps of 1/256 from which on, and below which, a probability of the reference is undecided.

Everywhere else the sigmoid is flat and hides what happens to the logits. A fault that changes them
all by little, and next to no mask, shows here.
"""


OTHER_THRESHOLDS = (0.1, 0.9)
"""Where masks are compared besides the model's own threshold, for users who choose another."""


@dataclass(frozen=True)
class Steps:
    """Differences of probabilities over some pixels of a frame, in steps of 1/256. They add up."""

    pixels: int = 0
    steps: int = 0

    def __add__(self, other: "Steps") -> "Steps":
        return Steps(self.pixels + other.pixels, self.steps + other.steps)

    @property
    def mean(self) -> float:
        """Of a probability; 0 where there is no pixel."""
        return self.steps / self.pixels / 256 if self.pixels else 0.0


@dataclass(frozen=True)
class Expected:
    """One labelled photo as the model sees it, and what the reference makes of it."""

    name: str
    frame: Rgb  # (H, W, 3)
    labels: Labels  # (h, w)
    foreground: Foreground  # (H, W), the reference's
    mask: Mask  # (h, w), the reference's
    band: Mask  # (h, w), along the outlines of the reference's mask
    level: int = 128  # of `foreground`, from which a pixel is flower


@dataclass(frozen=True)
class Compared:
    """How far one photo's result is from the reference's, at the photo's size."""

    name: str
    agreement: Counts  # mask against the reference's
    band: Counts  # the same within BAND_PX of the reference's outlines
    truth: Counts  # mask against labels, void left out
    largest_difference: float  # of probabilities, at the frame's size
    undecided: Steps = Steps()  # where the reference's probability is `UNDECIDED`
    background: Steps = Steps()  # where it is lower
    flower: Steps = Steps()  # where it is higher
    other_thresholds: tuple[Counts, ...] = ()  # masks of the frame at each of `OTHER_THRESHOLDS`
    # Pixels of the frame on the other side of the threshold, by steps of 1/256 that they moved.
    flips: tuple[int, ...] = ()
    frame_pixels: int = 1

    @property
    def flipped(self) -> int:
        """Pixels on the other side of the threshold than in the reference."""
        return self.agreement.false_positive + self.agreement.false_negative

    @property
    def pixels(self) -> int:
        """Pixels of the photo."""
        same = self.agreement.true_positive + self.agreement.true_negative
        return self.flipped + same

    @property
    def flipped_share(self) -> float:
        """`flipped` over the photo's pixels."""
        return self.flipped / self.pixels

    def jumped_share(self, rounding: float) -> float:
        """Of the frame's pixels, those that change sides by more than `rounding` explains.

        A pixel of which the reference is undecided changes sides for next to any difference.
        """
        return sum(self.flips[int(256 * rounding) + 1 :]) / self.frame_pixels


def expect(reference: Segmenter, photos: PhotoSet) -> Iterator[Expected]:
    """Frames, labels and the reference's results of labelled photos."""
    for item in photos.photos:
        rgb, labels = read_pair(item)
        frame = frame_from_photo(rgb, reference.preprocess)
        yield expect_frame(reference, item.name, frame, labels)


def expect_frame(reference: Segmenter, name: str, frame: Rgb, labels: Labels) -> Expected:
    """A frame (H, W, 3) and labels (h, w), with the reference's results at their sizes."""
    foreground = reference.infer([frame])[0]
    mask = reference.mask(foreground, size_of(labels))
    level = level_of(reference.threshold)
    return Expected(name, frame, labels, foreground, mask, band_of(mask), level)


def distance_from_half(item: Expected) -> float:
    """Between the flower's share of a photo and half: sorted by it, the most telling come first."""
    return abs(float(item.mask.mean()) - 0.5)


def compare(expected: Expected, foreground: Foreground, mask: Mask) -> Compared:
    """Compare a model's probability map (H, W) and mask (h, w) of a photo with what is expected."""
    apart = np.abs(foreground.astype(np.int16) - expected.foreground)
    low, high = UNDECIDED
    undecided = (expected.foreground >= low) & (expected.foreground < high)
    flips = (foreground >= expected.level) != (expected.foreground >= expected.level)
    in_band = count_agreement(mask[expected.band], expected.mask[expected.band])
    return Compared(
        name=expected.name,
        agreement=count_agreement(mask, expected.mask),
        band=in_band,
        truth=count(mask, expected.labels),
        largest_difference=int(apart.max()) / 256,
        undecided=_steps(apart, undecided),
        background=_steps(apart, expected.foreground < low),
        flower=_steps(apart, expected.foreground >= high),
        other_thresholds=tuple(
            count_agreement(foreground >= level, expected.foreground >= level)
            for level in (level_of(threshold) for threshold in OTHER_THRESHOLDS)
        ),
        flips=tuple(np.bincount(apart[flips], minlength=256).tolist()),
        frame_pixels=foreground.size,
    )


def _steps(apart: NDArray[np.int16], where: Mask) -> Steps:
    return Steps(int(np.count_nonzero(where)), int(apart[where].sum()))


def band_of(mask: Mask) -> Mask:
    """Pixels up to BAND_PX steps, up, down, left or right, from the border of a mask's regions."""
    grown = ndimage.binary_dilation(mask, iterations=BAND_PX)
    # What lies beyond the photo's edge is no border of the flower.
    core = ndimage.binary_erosion(mask, iterations=BAND_PX, border_value=1)
    return np.asarray(grown & ~core)
