"""Leaves, stems and grass, and things of flower colours that are no flowers."""

from dataclasses import dataclass
from math import pi

import numpy as np

from flowerseg.paint.brush import (
    Canvas,
    Colour,
    Light,
    Pose,
    Strokes,
    colour_ramp,
    mixed,
    paint_strokes,
    varied,
)
from flowerseg.paint.flower import TINTS
from flowerseg.paint.petals import (
    Disc,
    Skin,
    cast_shadow,
    fan_of_petals,
    paint_disc,
    paint_whorl,
    petal_profile,
)

LEAF_GREENS: tuple[Colour, ...] = (
    (0.16, 0.34, 0.1), (0.28, 0.45, 0.12), (0.38, 0.52, 0.2), (0.2, 0.36, 0.24),
)  # fmt: skip
GRASS: Colour = (0.34, 0.52, 0.14)
STRAW: Colour = (0.62, 0.56, 0.3)
DRY: tuple[Colour, ...] = ((0.5, 0.33, 0.16), (0.66, 0.46, 0.22), (0.36, 0.22, 0.13))
AUTUMN: tuple[Colour, ...] = ((0.88, 0.62, 0.08), (0.8, 0.3, 0.06), (0.62, 0.1, 0.08))
BERRIES: tuple[Colour, ...] = ((0.75, 0.05, 0.07), (0.3, 0.15, 0.42), (0.93, 0.62, 0.1))


@dataclass(frozen=True)
class Stem:
    """Where a stem starts, at a flower, and how thick it is, in pixels."""

    x: float
    y: float
    half_width: float


def scatter_things(rng: np.random.Generator, canvas: Canvas, light: Light) -> None:
    """Sharp things in flower colours that are no flowers: autumn leaves, berries, butterflies."""
    kind = rng.random()
    if kind < 0.3:
        scatter_leaves(rng, canvas, light, int(rng.integers(1, 5)), AUTUMN, 0.14)
    elif kind < 0.42:
        berry = BERRIES[rng.integers(len(BERRIES))]
        for _ in range(int(rng.integers(3, 9))):
            paint_ball(rng, canvas, light, varied(rng, berry), 0.026)
    elif kind < 0.54:
        _butterfly(rng, canvas, light)


def scatter_leaves(
    rng: np.random.Generator,
    canvas: Canvas,
    light: Light,
    count: int,
    colours: tuple[Colour, ...],
    length: float,
) -> None:
    """Leaves anywhere, `length` short sides long."""
    height, width = canvas.size_hw
    for _ in range(count):
        colour = colours[rng.integers(len(colours))]
        x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 2 * pi)
        size = canvas.short * length * rng.uniform(0.6, 1.5)
        paint_leaf(rng, canvas, light, Pose(x, y, size, angle), colour)


def paint_leaf(
    rng: np.random.Generator, canvas: Canvas, light: Light, pose: Pose, colour: Colour
) -> None:
    """A veined leaf with its shadow; what it hides is no flower."""
    base = varied(rng, colour, 0.12)
    dark, bright = mixed(base, (0, 0, 0), 0.3), mixed(base, (0.9, 0.95, 0.6), 0.15)
    ramp = colour_ramp([(0, dark), (0.4, base), (0.9, bright), (1, dark)])
    skin = Skin(ramp, veins=0.14, vein_count=5, is_pinnate=True, cup=0.2, grain=0.05)
    profile = petal_profile(rng.uniform(0.3, 0.5), rng.uniform(0.7, 1.1), base=0.06)
    half_width = rng.uniform(0.13, 0.32)
    bend = rng.normal(0, 0.2)
    leaf = fan_of_petals([0.0], [1.0], [half_width], [bend], [1.0], profile, skin)
    cast_shadow(canvas, leaf, pose, light, depth=0.08)
    paint_whorl(canvas, leaf, pose, light, is_flower=False)


def grass(
    rng: np.random.Generator, canvas: Canvas, light: Light, count: int, colour: Colour
) -> None:
    """Blades from below the picture or anywhere in it, those lower down in front."""
    height, width = canvas.size_hw
    foot = np.sort(rng.uniform(0.5, 1.5, count)) * height
    x = rng.uniform(-0.1, 1.1, count) * width
    blade = rng.uniform(0.3, 0.9, count) * height
    hue = np.array(colour) * rng.normal(1, 0.2, (count, 1)).clip(0.5, 1.5)
    strokes = Strokes(
        x0=x,
        y0=foot,
        x1=x + rng.normal(0, 0.3, count) * blade,
        y1=foot - blade,
        bow=rng.normal(0, 0.06, count) * blade,
        half_width=rng.uniform(0.004, 0.014, count) * canvas.short,
        colour=hue + rng.normal(0, 0.03, (count, 3)),
        taper=1.0,
    )
    paint_strokes(canvas, strokes, light)


def paint_stems(
    rng: np.random.Generator, canvas: Canvas, light: Light, stems: list[Stem], upwards: bool
) -> None:
    """Stems from flowers to below the picture, or up to above it for flowers that hang."""
    height, _ = canvas.size_hw
    count = len(stems)
    x, y = np.array([stem.x for stem in stems]), np.array([stem.y for stem in stems])
    far_x = x + rng.normal(0, 0.12, count) * canvas.short
    far_y = np.full(count, -3.0 if upwards else height + 3.0)
    strokes = Strokes(
        x0=x if upwards else far_x,
        y0=y if upwards else far_y,
        x1=far_x if upwards else x,
        y1=far_y if upwards else y,
        bow=rng.normal(0, 0.04, count) * canvas.short,
        half_width=np.array([stem.half_width for stem in stems]),
        colour=np.array(LEAF_GREENS[1]) * rng.normal(1, 0.12, (count, 1)),
        taper=0.15,
    )
    paint_strokes(canvas, strokes, light)


def paint_ball(
    rng: np.random.Generator, canvas: Canvas, light: Light, colour: Colour, radius: float
) -> None:
    """A berry or pebble with a bright side, not wholly round."""
    height, width = canvas.size_hw
    size = canvas.short * radius * rng.uniform(0.6, 1.4)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    pose = Pose(x, y, size, 0.0, rng.uniform(0, 0.6), rng.uniform(0, pi))
    ramp = colour_ramp([(0, mixed(colour, (1, 1, 1), 0.15)), (1, mixed(colour, (0, 0, 0), 0.4))])
    paint_disc(canvas, Disc(1.0, ramp, florets=0.0, dome=0.5), pose, light, is_flower=False)


def _butterfly(rng: np.random.Generator, canvas: Canvas, light: Light) -> None:
    """Wings shaped and coloured like petals, and yet no flower."""
    height, width = canvas.size_hw
    hue, edge = TINTS[rng.integers(len(TINTS))], (0.07, 0.05, 0.05)
    ramp = colour_ramp([(0, hue.base), (0.6, hue.tip), (0.8, hue.base), (0.86, edge), (1, edge)])
    skin = Skin(ramp, veins=0.2, vein_count=3, spots=0.6)
    profile = petal_profile(0.72, 0.35, base=0.2)
    wings = fan_of_petals([0.75, -0.75, 2.39, 3.89], [0.75, 1, 0.75, 1], [0.3, 0.33, 0.3, 0.33],
                          [0.1, -0.1, -0.1, 0.1], [0.9, 1, 0.9, 1], profile, skin)  # fmt: skip
    body = fan_of_petals([pi / 2, -pi / 2], [0.5, 0.3], [0.06, 0.06], [0, 0], [1, 1],
                         petal_profile(0.4, 0.4), Skin(colour_ramp([(0, edge)])))  # fmt: skip
    size = canvas.short * rng.uniform(0.09, 0.16)
    turn = rng.uniform(-0.8, 0.8)
    pose = Pose(rng.uniform(0, width), rng.uniform(0, height), size, turn, rng.uniform(0, 0.8))
    for part in (wings, body):
        cast_shadow(canvas, part, pose, light, depth=0.1)
        paint_whorl(canvas, part, pose, light, is_flower=False)
