"""What lies behind the flowers, in focus or not: hedges, grass, soil, sky, coloured walls."""

from collections.abc import Callable
from math import ceil
from typing import TypeAlias

import numpy as np

from flowerseg.arrays import SizeHW
from flowerseg.images import resize_bilinear, resize_nearest
from flowerseg.paint.brush import (
    Canvas,
    Colour,
    Field,
    Light,
    Pose,
    blank_canvas,
    blend,
    fractal_noise,
    mixed,
    patch_around,
    smooth_noise,
    varied,
)
from flowerseg.paint.camera import as_rgb
from flowerseg.paint.flower import TINTS, Tint
from flowerseg.paint.things import DRY, GRASS, LEAF_GREENS, STRAW, grass, paint_ball, scatter_leaves

Backdrop: TypeAlias = Callable[[np.random.Generator, Canvas, Light, Tint], None]


def far_canvas(rng: np.random.Generator, size_hw: SizeHW) -> Canvas:
    """A smaller canvas for what lies far behind: enlarged later, it is out of focus."""
    shrink = rng.choice([1.0, 1.5, 2.5, 4.0], p=[0.2, 0.25, 0.3, 0.25])
    height, width = (max(8, ceil(length / shrink)) for length in size_hw)
    grain = fractal_noise(rng, (height, width), 20, 3, gain=0.9)
    return blank_canvas((height, width), grain)


def enlarged(far: Canvas, size_hw: SizeHW, grain: Field) -> Canvas:
    """The far canvas at the photo's size; its flowers are too blurred for anyone to label."""
    colour = resize_bilinear(as_rgb(far), size_hw)
    unlabelled = resize_nearest(far.flower.view(np.uint8), size_hw).astype(np.bool_)
    planes = np.ascontiguousarray(colour.transpose(2, 0, 1), np.float32)
    planes /= 255
    return Canvas(planes, grain, np.zeros(size_hw, np.bool_), unlabelled)


def foliage(rng: np.random.Generator, canvas: Canvas, light: Light, tint: Tint) -> None:
    """Greens of a hedge, with leaves and lights in it."""
    greens = LEAF_GREENS[rng.integers(len(LEAF_GREENS))]
    _wash(rng, canvas, mixed(greens, (0, 0, 0), rng.uniform(0.2, 0.8)), greens)
    scatter_leaves(rng, canvas, light, int(rng.integers(4, 9)), LEAF_GREENS, 0.25)
    _lights(rng, canvas, (greens, GRASS, (0.75, 0.8, 0.55)), int(rng.integers(0, 8)))


def meadow(rng: np.random.Generator, canvas: Canvas, light: Light, tint: Tint) -> None:
    """Grass, blade over blade."""
    lawn = varied(rng, mixed(GRASS, STRAW, rng.uniform(0, 0.8)))
    _wash(rng, canvas, mixed(lawn, (0.02, 0.05, 0), 0.7), lawn)
    grass(rng, canvas, light, int(rng.integers(25, 60)), lawn)


def soil(rng: np.random.Generator, canvas: Canvas, light: Light, tint: Tint) -> None:
    """Earth with dry leaves and pebbles."""
    earth = mixed((0.3, 0.21, 0.13), (0.5, 0.43, 0.35), rng.random())
    _wash(rng, canvas, mixed(earth, (0, 0, 0), 0.6), earth)
    canvas.colour[:] *= 1 + 0.16 * canvas.grain
    scatter_leaves(rng, canvas, light, int(rng.integers(4, 9)), DRY, 0.16)
    for _ in range(int(rng.integers(0, 8))):
        paint_ball(rng, canvas, light, varied(rng, (0.6, 0.58, 0.54), 0.15), 0.03)


def sky(rng: np.random.Generator, canvas: Canvas, light: Light, tint: Tint) -> None:
    """Sky with clouds over a dim row of trees."""
    height, _ = canvas.size_hw
    blue = mixed((0.3, 0.52, 0.85), (0.62, 0.75, 0.88), rng.random())
    _wash(rng, canvas, blue, (0.93, 0.94, 0.95))
    crest = rng.uniform(0.5, 1.1) + 0.05 * smooth_noise(rng, canvas.size_hw, 6)[0]
    depth = np.arange(height, dtype=np.float32)[:, None] / height - crest
    wood = np.array(LEAF_GREENS[rng.integers(len(LEAF_GREENS))], np.float32)[:, None, None]
    trees = wood * (0.7 + 0.25 * canvas.grain)
    canvas.colour[:] += np.clip(depth * 12, 0, 1).astype(np.float32) * (trees - canvas.colour)


def darkness(rng: np.random.Generator, canvas: Canvas, light: Light, tint: Tint) -> None:
    """The near black behind a flower in full light."""
    _wash(rng, canvas, (0.015, 0.02, 0.015), varied(rng, (0.1, 0.15, 0.06)))
    scatter_leaves(rng, canvas, light, 4, ((0.08, 0.14, 0.05), (0.05, 0.09, 0.05)), 0.25)


def flower_bed(rng: np.random.Generator, canvas: Canvas, light: Light, tint: Tint) -> None:
    """A wall, cloth or fence in the very colours of the flowers: colour alone must not do."""
    other = TINTS[rng.integers(len(TINTS))]
    hue = tint if rng.random() < 0.5 else other
    _wash(rng, canvas, mixed(hue.base, (0.2, 0.2, 0.2), 0.35), mixed(hue.tip, (0.5, 0.5, 0.5), 0.3))
    if rng.random() < 0.5:
        grass(rng, canvas, light, 20, GRASS)
    _lights(rng, canvas, (tint.tip, other.tip, GRASS), int(rng.integers(3, 9)))


BACKDROPS: tuple[tuple[Backdrop, float], ...] = (
    (foliage, 0.3), (meadow, 0.24), (soil, 0.16), (sky, 0.1), (darkness, 0.1), (flower_bed, 0.1),
)  # fmt: skip


def paint_backdrop(rng: np.random.Generator, canvas: Canvas, light: Light, tint: Tint) -> None:
    """Fill a canvas with one of the backdrops, often with blurred discs of flower colours."""
    chances = [chance for _, chance in BACKDROPS]
    backdrop, _ = BACKDROPS[rng.choice(len(BACKDROPS), p=chances)]
    backdrop(rng, canvas, light, tint)
    if rng.random() < 0.45:
        other = TINTS[rng.integers(len(TINTS))]
        _lights(rng, canvas, (tint.tip, tint.base, other.tip), int(rng.integers(2, 7)))


def _wash(rng: np.random.Generator, canvas: Canvas, low: Colour, high: Colour) -> None:
    """Cover the canvas with clouds between two colours, brighter towards one side."""
    height, width = canvas.size_hw
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    slope = rng.normal(0, 0.5) * y + rng.normal(0, 0.3) * x
    clouds = fractal_noise(rng, canvas.size_hw, rng.uniform(2, 6), 4, gain=rng.uniform(0.4, 0.8))
    share = 0.5 + 0.5 * np.tanh(0.7 * clouds + slope)
    start = np.array(low, np.float32)[:, None, None]
    canvas.colour[:] = start + (np.array(high, np.float32)[:, None, None] - start) * share


def _lights(
    rng: np.random.Generator, canvas: Canvas, colours: tuple[Colour, ...], count: int
) -> None:
    """Discs of confusion: lights and flowers so far away that only their colour is left."""
    height, width = canvas.size_hw
    radius = rng.uniform(0.03, 0.12) * canvas.short
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        size = radius * rng.uniform(0.7, 1.4)
        patch = patch_around(canvas, np.array([x - size, x + size]), np.array([y - size, y + size]))
        if patch is None:
            continue
        across, down = Pose(x, y, size).plane(patch)
        alpha = np.clip((1 - np.hypot(across, down)) * 2, 0, 1) * np.float32(rng.uniform(0.3, 0.9))
        hue = np.array(varied(rng, colours[rng.integers(len(colours))]), np.float32)
        blend(canvas, patch, alpha, hue[:, None, None], is_flower=False)
