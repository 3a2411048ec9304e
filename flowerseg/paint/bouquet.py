"""How flowers stand in a picture, with the stems and leaves behind and in front of them."""

from math import cos, pi, sin
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowerseg.paint.brush import Canvas, Light, Pose
from flowerseg.paint.flower import Flower, Kind, Tint
from flowerseg.paint.things import (
    AUTUMN,
    GRASS,
    LEAF_GREENS,
    Stem,
    grass,
    paint_leaf,
    paint_stems,
    scatter_things,
)

Bouquet: TypeAlias = list[tuple[Flower, Pose]]


def arrange_bouquet(rng: np.random.Generator, canvas: Canvas, kind: Kind, tint: Tint) -> Bouquet:
    """One large flower, a few, or a group of small ones; the largest comes last, in front."""
    choice = rng.random()
    if choice < 0.4:
        count, smallest, largest = 1, 0.31, 0.48
    elif choice < 0.75:
        count, smallest, largest = int(rng.integers(2, 4)), 0.21, 0.33
    else:
        count, smallest, largest = int(rng.integers(4, 9)), 0.12, 0.21
    radii = np.sort(rng.uniform(smallest, largest, count)) * canvas.short
    places = _spread_places(rng, canvas, count, 0.15 if count == 1 else 0.38)
    lean, axis = rng.uniform(0, 0.9), rng.uniform(0, pi)
    flowers = [kind(rng, tint) for _ in range(count)]
    return [
        (flower, _pose(rng, flower, place, float(radius), lean, axis))
        for flower, place, radius in zip(flowers, places, radii, strict=True)
    ]


def paint_behind(rng: np.random.Generator, canvas: Canvas, light: Light, bouquet: Bouquet) -> None:
    """Stems and leaves of the flowers, and things that lie about."""
    if rng.random() < 0.85:
        paint_stems(rng, canvas, light, [_stem(rng, pose) for _, pose in bouquet], _hangs(bouquet))
    green = LEAF_GREENS[rng.integers(len(LEAF_GREENS))]
    for _, pose in bouquet[-3:]:
        for _ in range(int(rng.integers(0, 3))):
            size = pose.radius * rng.uniform(0.9, 1.7)
            drop = pose.radius * rng.uniform(0.5, 1.1) * (-1 if _hangs(bouquet) else 1)
            leaf = Pose(pose.x, pose.y + drop, size, rng.uniform(0, 2 * pi))
            paint_leaf(rng, canvas, light, leaf, green)
    scatter_things(rng, canvas, light)


def paint_in_front(
    rng: np.random.Generator, canvas: Canvas, light: Light, bouquet: Bouquet
) -> None:
    """Sometimes grass, a leaf or a stem that hides a part of the flowers."""
    choice = rng.random()
    _, pose = bouquet[int(rng.integers(len(bouquet)))]
    if choice < 0.15:
        grass(rng, canvas, light, int(rng.integers(2, 7)), GRASS)
    elif choice < 0.35:
        greens = (*LEAF_GREENS, AUTUMN[0])
        away = rng.uniform(0, 2 * pi)
        x = pose.x + 1.2 * pose.radius * cos(away)
        y = pose.y + 1.2 * pose.radius * sin(away)
        size = pose.radius * rng.uniform(0.7, 1.3)
        leaf = Pose(x, y, size, away + pi + rng.normal(0, 0.6))
        paint_leaf(rng, canvas, light, leaf, greens[rng.integers(len(greens))])
    elif choice < 0.42:
        stem = Stem(pose.x + rng.normal(0, 0.5) * pose.radius, -3.0, 0.013 * canvas.short)
        paint_stems(rng, canvas, light, [stem], upwards=False)


def _spread_places(
    rng: np.random.Generator, canvas: Canvas, count: int, reach: float
) -> NDArray[np.float64]:
    """(count, 2) places x, y: of three at random, each time the one farthest from the others."""
    height, width = canvas.size_hw
    groups = rng.uniform(0.5 - reach, 0.5 + reach, (count, 3, 2)) * (width, height)
    chosen = groups[:1, 0]
    for group in groups[1:]:
        clear = np.hypot(*(group[:, None] - chosen).transpose(2, 0, 1)).min(axis=1)
        chosen = np.concatenate([chosen, group[clear.argmax()][None]])
    return chosen


def _pose(
    rng: np.random.Generator,
    flower: Flower,
    place: NDArray[np.float64],
    radius: float,
    lean: float,
    axis: float,
) -> Pose:
    x, y = float(place[0]), float(place[1])
    if flower.attitude in ("standing", "hanging"):
        # The pose is that of its foot, and it is about 1.6 radii long.
        shift = 0.8 if flower.attitude == "standing" else -0.8
        return Pose(x, y + shift * radius, radius, rng.normal(0, 0.2))
    tilt = float(np.clip(lean + rng.normal(0, 0.2), 0, 1.05))
    roll = rng.normal(0, 0.25) if flower.attitude == "upright" else rng.uniform(0, 2 * pi)
    return Pose(x, y, radius, roll, tilt, axis + rng.normal(0, 0.3))


def _stem(rng: np.random.Generator, pose: Pose) -> Stem:
    return Stem(pose.x, pose.y, pose.radius * rng.uniform(0.035, 0.07))


def _hangs(bouquet: Bouquet) -> bool:
    return bouquet[0][0].attitude == "hanging"
