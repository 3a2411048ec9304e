"""A canvas to paint on, noise, light and the brushes that flowers and scenery share."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, sin
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowerseg.arrays import Mask, SizeHW

Field: TypeAlias = NDArray[np.float32]
"""One number a pixel, (h, w)."""

Planes: TypeAlias = NDArray[np.float32]
"""Colour, (3, h, w), 0 to 1: planes, because (h, w) fields broadcast over them at full speed."""

_RAMP_STEPS = np.linspace(0, 1, 64)

Colour: TypeAlias = tuple[float, float, float]
Patch: TypeAlias = tuple[slice, slice]


@dataclass(frozen=True)
class Canvas:
    """A picture in the making, painted in place, with what each pixel shows."""

    colour: Planes
    grain: Field  # zero mean, unit deviation: the texture that every surface takes its pixels from
    flower: Mask
    unlabelled: Mask  # flowers of the background that an annotator would have left out

    @property
    def size_hw(self) -> SizeHW:
        height, width = self.flower.shape
        return height, width

    @property
    def short(self) -> int:
        return min(self.size_hw)


@dataclass(frozen=True)
class Light:
    """Where the light comes from: an angle in the picture, x to the right and y down."""

    angle: float

    def away(self, distance: float) -> tuple[float, float]:
        """(dx, dy) of a shadow thrown that far."""
        return -distance * cos(self.angle), -distance * sin(self.angle)


@dataclass(frozen=True)
class Pose:
    """Where a flat thing of radius 1 lies in the picture, and how it is turned."""

    x: float
    y: float
    radius: float  # pixels
    roll: float = 0.0  # turns it in its own plane
    tilt: float = 0.0  # leans it away from the viewer ...
    axis: float = 0.0  # ... about this direction

    def plane_to_picture(self) -> tuple[float, float, float, float]:
        """Matrix, row by row, that takes a point of the thing's plane to pixels from its centre.

        A turn by roll - axis, a squeeze by the cosine of the tilt, a turn back by axis.
        """
        turn, squeeze = self.roll - self.axis, cos(self.tilt)
        to_x = cos(self.axis) * cos(turn) - squeeze * sin(self.axis) * sin(turn)
        to_y = sin(self.axis) * cos(turn) + squeeze * cos(self.axis) * sin(turn)
        from_y_to_x = -cos(self.axis) * sin(turn) - squeeze * sin(self.axis) * cos(turn)
        from_y_to_y = -sin(self.axis) * sin(turn) + squeeze * cos(self.axis) * cos(turn)
        r = self.radius
        return r * to_x, r * from_y_to_x, r * to_y, r * from_y_to_y

    def plane(self, patch: Patch, step: int = 1) -> tuple[Field, Field]:
        """x and y in the thing's plane of a patch's pixels, or of blocks of `step` pixels."""
        a, b, c, d = self.plane_to_picture()
        area = a * d - b * c
        rows = _centres(patch[0], step)[:, None] - self.y
        columns = _centres(patch[1], step)[None, :] - self.x
        x = (d / area) * columns - (b / area) * rows
        y = (a / area) * rows - (c / area) * columns
        return x, y

    def moved(self, dx: float, dy: float, scale: float = 1.0) -> "Pose":
        radius = self.radius * scale
        return Pose(self.x + dx, self.y + dy, radius, self.roll, self.tilt, self.axis)


@dataclass(frozen=True)
class Strokes:
    """Stems and blades of grass: tapered curves from (x0, y0) up to (x1, y1), arrays of (n,)."""

    x0: NDArray[np.float64]
    y0: NDArray[np.float64]
    x1: NDArray[np.float64]
    y1: NDArray[np.float64]
    bow: NDArray[np.float64]  # pixels that the middle stands off the straight line
    half_width: NDArray[np.float64]
    colour: NDArray[np.float64]  # (n, 3)
    taper: float  # 0 keeps the width, 1 ends in a point


def blank_canvas(size_hw: SizeHW, grain: Field) -> Canvas:
    """A black canvas without flowers."""
    return Canvas(
        colour=np.zeros((3, *size_hw), np.float32),
        grain=grain,
        flower=np.zeros(size_hw, np.bool_),
        unlabelled=np.zeros(size_hw, np.bool_),
    )


def patch_around(
    canvas: Canvas, x: NDArray[np.float64], y: NDArray[np.float64], margin: float = 0.0
) -> Patch | None:
    """The part of the canvas that points in pixels span; None if all outside."""
    height, width = canvas.size_hw
    top, bottom = max(0, int(y.min() - margin) - 2), min(height, int(y.max() + margin) + 4)
    left, right = max(0, int(x.min() - margin) - 2), min(width, int(x.max() + margin) + 4)
    if top >= bottom or left >= right:
        return None
    return slice(top, bottom), slice(left, right)


def blend(canvas: Canvas, patch: Patch, alpha: Field, colour: Planes, is_flower: bool) -> None:
    """Lay colour over a patch; where it covers at least half a pixel it also sets what is there."""
    region = canvas.colour[:, *patch]
    region += alpha * (colour - region)
    covered = alpha >= 0.5
    np.copyto(canvas.flower[patch], is_flower, where=covered)
    np.copyto(canvas.unlabelled[patch], False, where=covered)


def paint_strokes(canvas: Canvas, strokes: Strokes, light: Light) -> None:
    """Paint strokes, later ones over earlier ones, all at once; what they cover is no flower."""
    stroke, row = _rows_of(strokes, canvas.size_hw[0])
    share = (strokes.y0[stroke] - row) / np.maximum(strokes.y0 - strokes.y1, 1.0)[stroke]
    run = (strokes.x1 - strokes.x0)[stroke]
    centre = strokes.x0[stroke] + run * share + 4 * strokes.bow[stroke] * share * (1 - share)
    # A row cuts a leaning stroke at a slant, so it is wider there than across.
    slope = run / np.maximum(strokes.y0 - strokes.y1, 1.0)[stroke]
    half = strokes.half_width[stroke] * (1 - strokes.taper * share**1.5) * np.hypot(1, slope)
    spread = int(np.ceil(half.max(initial=0.5))) + 1
    column = np.rint(centre)[:, None] + np.arange(-spread, spread + 1)
    offset = column - centre[:, None]
    alpha = np.clip(half[:, None] - np.abs(offset) + 0.5, 0, 1)
    kept = (alpha > 0.02) & (column >= 0) & (column < canvas.size_hw[1])
    pair = np.nonzero(kept)[0]
    across = np.clip(offset[kept] / np.maximum(half, 0.5)[pair], -1, 1)
    shade = 1 - 0.22 * across**2 + 0.25 * across * cos(light.angle)
    shade *= (0.75 + 0.35 * share)[pair]
    index = (row[pair], column[kept].astype(np.intp))
    colour = (strokes.colour[stroke[pair]] * shade[:, None]).T
    below = canvas.colour[:, *index]
    # Where strokes cross, numpy keeps the last value assigned: the stroke in front.
    canvas.colour[:, *index] = below + alpha[kept] * (colour - below)
    covered = alpha[kept] >= 0.5
    canvas.flower[index[0][covered], index[1][covered]] = False
    canvas.unlabelled[index[0][covered], index[1][covered]] = False


def smooth_noise(rng: np.random.Generator, size_hw: SizeHW, cells: float) -> Field:
    """Noise of unit deviation whose bumps are 1 / cells of the short side wide."""
    step = max(min(size_hw) / cells, 1.0)
    (row, row_weights), (column, column_weights) = (
        _spline_taps(length, step, rng.random()) for length in size_hw
    )
    knots = rng.standard_normal((row[-1] + 4, column[-1] + 4), np.float32)
    # Four taps each way instead of matrix products: BLAS would wake its threads for them.
    across = sum(column_weights[tap] * knots[:, column + tap] for tap in range(4))
    down = sum(row_weights[tap][:, None] * np.asarray(across)[row + tap] for tap in range(4))
    # The B-spline averages its knots; 2.1 brings the deviation back to about one.
    return np.asarray(2.1 * down, np.float32)


def fractal_noise(
    rng: np.random.Generator, size_hw: SizeHW, cells: float, octaves: int, gain: float = 0.6
) -> Field:
    """A sum of noises, each twice as fine as the last and `gain` as strong, of unit deviation."""
    weights = gain ** np.arange(octaves)
    weights /= np.sqrt((weights**2).sum())
    total = np.zeros(size_hw, np.float32)
    for octave, weight in enumerate(weights):
        total += float(weight) * smooth_noise(rng, size_hw, cells * 2**octave)
    return total


def colour_ramp(stops: Sequence[tuple[float, Colour]]) -> Planes:
    """(3, 64): colours between stops at places from 0 to 1, to be looked up with `look_up`."""
    places = [place for place, _ in stops]
    channels = [
        np.interp(_RAMP_STEPS, places, [colour[c] for _, colour in stops]) for c in range(3)
    ]
    return np.asarray(channels, np.float32)


def look_up(table: NDArray[np.float32], place: Field) -> NDArray[np.float32]:
    """Values of a table of (..., n) at places from 0 to 1; those outside take the ends."""
    steps = table.shape[-1]
    index = (place * (steps - 1) + 0.5).clip(0, steps - 1).astype(np.intp)
    return np.asarray(table.take(index, axis=-1), np.float32)


def mixed(low: Colour, high: Colour, share: float) -> Colour:
    """A colour on the way from one to another."""
    red, green, blue = (a + share * (b - a) for a, b in zip(low, high, strict=True))
    return red, green, blue


def varied(rng: np.random.Generator, colour: Colour, amount: float = 0.05) -> Colour:
    """The same colour, a little brighter or darker and a little off."""
    brightness = rng.normal(1, amount)
    red, green, blue = (c * brightness + rng.normal(0, amount / 2) for c in colour)
    return red, green, blue


def _centres(span: slice, step: int) -> Field:
    length = span.stop - span.start
    blocks = -(-length // step)
    place = (np.arange(blocks, dtype=np.float32) + 0.5) * (length / blocks)
    return np.asarray(place + (span.start - 0.5), np.float32)


def _rows_of(strokes: Strokes, height: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    rows = np.arange(height)
    stroke, row = np.nonzero((rows >= strokes.y1[:, None]) & (rows <= strokes.y0[:, None]))
    return stroke, row


def _spline_taps(
    length: int, step: float, phase: float
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """First knot (length,) and weights (4, length) of a cubic B-spline: noise without a grid."""
    place = np.arange(length) / step + phase
    first = place.astype(np.intp)
    t = np.asarray(place - first, np.float32)
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3]
    return first, np.asarray(weights, np.float32) / np.float32(6)
