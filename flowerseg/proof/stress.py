"""Frames unlike the photos of a proof: dark, bright, all flower, next to none, flat and noisy.

A fault may show only there: a file that gives an empty mask of a dark photo, for instance. Such
frames need no labels, because the file only has to agree with the reference.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from flowerseg.arrays import VOID, Rgb, SizeHW, size_of
from flowerseg.images import resize_area, resize_bilinear
from flowerseg.paint import MIN_SIDE, paint_photo
from flowerseg.proof.compare import Expected, distance_from_half, expect_frame
from flowerseg.segmenter import Segmenter

PHOTOS_USED = 3
_SEEDS = (3, 11)  # of painted photos
_DIMMED_TO = 0.2
_TINY = 5  # a photo is shrunk to this part of its height and width
_LEAST_RADIUS = 4  # pixels of the frame; a smaller flower would be all blur


def expect_stress(reference: Segmenter, expected: Sequence[Expected]) -> list[Expected]:
    """Frames made of some photos and painted ones, with the reference's results."""
    return [
        expect_frame(reference, name, frame, np.full(size_of(frame), VOID, np.uint8))
        for name, frame in stress_frames(expected, reference.preprocess.size_hw)
    ]


def stress_frames(expected: Sequence[Expected], size_hw: SizeHW) -> Iterator[tuple[str, Rgb]]:
    """Each frame with its name. The same photos give the same frames."""
    for item in sorted(expected, key=distance_from_half)[:PHOTOS_USED]:
        yield f"{item.name}, dark", _scaled(item.frame, _DIMMED_TO)
        yield f"{item.name}, bright", 255 - _scaled(255 - item.frame, _DIMMED_TO)
        yield f"{item.name}, tiny", _shrunk(item.frame)
        if (close := _close_up(item)) is not None:
            yield f"{item.name}, close", close
    for level in (0, 128, 255):
        yield f"flat {level}", np.full((*size_hw, 3), level, np.uint8)
    rng = np.random.default_rng(0)
    yield "noise", rng.integers(0, 256, (*size_hw, 3), np.uint8)
    if min(size_hw) >= MIN_SIDE:
        for seed in _SEEDS:
            yield f"painted {seed}", paint_photo(size_hw, seed).rgb


def _scaled(frame: Rgb, factor: float) -> Rgb:
    return (frame * factor).astype(np.uint8)


def _shrunk(frame: Rgb) -> Rgb:
    """The whole frame in the middle of its mean colour."""
    height, width = size_of(frame)
    small = resize_area(frame, (max(1, height // _TINY), max(1, width // _TINY)))
    canvas = np.empty_like(frame)
    canvas[:] = frame.reshape(-1, 3).mean(axis=0).astype(np.uint8)
    rows, columns = size_of(small)
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas[top : top + rows, left : left + columns] = small
    return canvas


def _close_up(item: Expected) -> Rgb | None:
    """The frame around the middle of the largest flower, which fills it; None of a small one."""
    distance = ndimage.distance_transform_edt(np.pad(item.foreground >= 128, 1))[1:-1, 1:-1]
    radius = int(distance.max())
    if radius < _LEAST_RADIUS:
        return None
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    rows = slice(max(0, int(row) - radius), int(row) + radius)
    columns = slice(max(0, int(column) - radius), int(column) + radius)
    cut = np.ascontiguousarray(item.frame[rows, columns])
    return resize_bilinear(cut, size_of(item.frame))
