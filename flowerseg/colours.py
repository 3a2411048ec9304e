"""The colours of a mask: which there are, how often, and how far one is from another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowerseg.arrays import Labels, Rgb

Colour: TypeAlias = tuple[int, int, int]
"""Red, green, blue, 0 to 255 each."""


@dataclass(frozen=True)
class ColourMap:
    """An image as its K colours and the runs of equal pixels, row by row, that have them.

    Masks have few colours and long runs, so that a look at each run is far cheaper than one at
    each pixel.
    """

    colours: NDArray[np.uint8]  # (K, 3), each once
    pixels: NDArray[np.int64]  # (K,), how many have each colour
    runs: NDArray[np.int64]  # (K,), how many runs have each colour
    shape: tuple[int, int]  # height, width
    colour_of_run: NDArray[np.intp]  # places in `colours`, run by run
    length_of_run: NDArray[np.int64]

    def with_values(self, values: NDArray[np.uint8]) -> Labels:
        """The map (h, w) that has `values[k]` where the image has colour k."""
        return np.repeat(values[self.colour_of_run], self.length_of_run).reshape(self.shape)

    def counts(self, chosen: NDArray[np.bool_]) -> dict[Colour, int]:
        """Pixels of each of the chosen colours (K,)."""
        colours = [(red, green, blue) for red, green, blue in self.colours[chosen].tolist()]
        return dict(zip(colours, self.pixels[chosen].tolist(), strict=True))


def colour_map(colours: Rgb) -> ColourMap:
    """The colours of an image (h, w, 3) and where they are."""
    red, green, blue = (colours[..., channel].astype(np.int32).ravel() for channel in range(3))
    packed = red << 16 | green << 8 | blue
    begins = np.ones(packed.size, bool)
    np.not_equal(packed[1:], packed[:-1], out=begins[1:])
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=packed.size)
    found, which = np.unique(packed[starts], return_inverse=True)
    return ColourMap(
        np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(np.uint8),
        np.bincount(which, lengths, len(found)).astype(np.int64),
        np.bincount(which, minlength=len(found)),
        (colours.shape[0], colours.shape[1]),
        which,
        lengths,
    )


def distances(colours: NDArray[np.uint8], colour: Colour) -> NDArray[np.int16]:
    """The largest difference of a channel between each colour (K, 3) and one."""
    differences: NDArray[np.int16] = np.abs(colours.astype(np.int16) - np.array(colour, np.int16))
    return np.asarray(differences.max(axis=1), np.int16)


def most_common(pixels: Mapping[Colour, int]) -> list[Colour]:
    """The colours of a count, the one with the most pixels first."""
    return sorted(pixels, key=lambda colour: (-pixels[colour], colour))
