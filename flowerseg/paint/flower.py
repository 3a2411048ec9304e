"""The kinds of flowers: which petals, stamens and centres make a daisy, a tulip or a lily."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi
from typing import Literal, TypeAlias

import numpy as np

from flowerseg.paint.brush import (
    Canvas,
    Colour,
    Light,
    Planes,
    Pose,
    colour_ramp,
    mixed,
    varied,
)
from flowerseg.paint.petals import (
    Disc,
    Skin,
    Whorl,
    anther_profile,
    cast_shadow,
    fan_of_petals,
    paint_disc,
    paint_whorl,
    petal_profile,
    ring_of_petals,
)

# Facing flowers may be turned any way and upright ones not; standing and hanging ones are seen
# from the side and have their foot, not their middle, where their pose is.
Attitude: TypeAlias = Literal["facing", "upright", "standing", "hanging"]


@dataclass(frozen=True)
class Flower:
    """What is painted in turn: whorls from the outermost in, a centre, then stamens."""

    whorls: tuple[Whorl, ...]
    disc: Disc | None = None
    stamens: Whorl | None = None
    attitude: Attitude = "facing"


@dataclass(frozen=True)
class Tint:
    """Colours of a flower's petals."""

    base: Colour
    tip: Colour
    heart: Colour  # what a two-coloured flower has in its middle


Kind: TypeAlias = Callable[[np.random.Generator, Tint], Flower]

WHITE = Tint((0.9, 0.91, 0.82), (1.0, 0.99, 0.97), (0.93, 0.82, 0.35))
CREAM = Tint((0.9, 0.78, 0.45), (0.98, 0.94, 0.8), (0.9, 0.5, 0.1))
YELLOW = Tint((0.88, 0.62, 0.03), (0.99, 0.86, 0.13), (0.82, 0.36, 0.04))
ORANGE = Tint((0.8, 0.3, 0.02), (0.98, 0.58, 0.1), (0.5, 0.1, 0.03))
RED = Tint((0.5, 0.02, 0.05), (0.86, 0.1, 0.11), (0.12, 0.03, 0.06))
PINK = Tint((0.76, 0.24, 0.47), (0.97, 0.7, 0.8), (0.98, 0.92, 0.75))
MAGENTA = Tint((0.5, 0.03, 0.33), (0.84, 0.2, 0.58), (0.96, 0.8, 0.85))
PURPLE = Tint((0.3, 0.12, 0.48), (0.62, 0.43, 0.82), (0.2, 0.05, 0.3))
BLUE = Tint((0.2, 0.22, 0.62), (0.47, 0.53, 0.92), (0.93, 0.93, 0.98))
TINTS = (WHITE, CREAM, YELLOW, ORANGE, RED, PINK, MAGENTA, PURPLE, BLUE)

POLLEN: Colour = (0.95, 0.75, 0.12)
GREEN: Colour = (0.42, 0.55, 0.18)


def paint_flower(
    canvas: Canvas, flower: Flower, pose: Pose, light: Light, has_shadow: bool = True
) -> None:
    """Paint a flower, and before it its shadow on what lies behind."""
    if has_shadow:
        cast_shadow(canvas, flower.whorls[0], pose, light, depth=0.14)
    for layer, whorl in enumerate(flower.whorls):
        paint_whorl(canvas, whorl, pose, light, is_flower=True, contact=0.3 if layer else 0.1)
    if flower.disc is not None:
        paint_disc(canvas, flower.disc, pose, light, is_flower=True)
    if flower.stamens is not None:
        paint_whorl(canvas, flower.stamens, pose, light, is_flower=True, contact=0.12)


def daisy(rng: np.random.Generator, tint: Tint) -> Flower:
    """Many narrow rays in two whorls round a domed yellow disc."""
    count = int(rng.integers(13, 26))
    profile = petal_profile(rng.uniform(0.55, 0.75), rng.uniform(0.25, 0.6), base=0.5)
    skin = Skin(_ramp(tint), veins=0.07, vein_count=2)
    width = rng.uniform(2.4, 3.2) / count
    whorls = tuple(
        ring_of_petals(rng, count, length, width, profile, skin, jitter=0.06, bend=0.12)
        for length in (1.0, 0.92)
    )
    ramp = colour_ramp([(0, (0.7, 0.55, 0.08)), (0.6, POLLEN), (1, (0.75, 0.45, 0.04))])
    return Flower(whorls, Disc(rng.uniform(0.2, 0.32), ramp))


def sunflower(rng: np.random.Generator, tint: Tint) -> Flower:
    """Pointed rays round a large dark head of florets."""
    count = int(rng.integers(15, 22))
    profile = petal_profile(0.45, rng.uniform(0.8, 1.0), base=0.5)
    skin = Skin(_ramp(tint, heart=0.25), veins=0.1, vein_count=3)
    whorls = tuple(
        ring_of_petals(rng, count, length, 2.6 / count, profile, skin, jitter=0.08, bend=0.2)
        for length in (1.0, 0.88)
    )
    dark, rim = mixed((0.2, 0.11, 0.05), GREEN, rng.uniform(0, 0.5)), (0.45, 0.24, 0.06)
    ramp = colour_ramp([(0, dark), (0.5, (0.16, 0.08, 0.04)), (0.8, rim), (1, (0.3, 0.15, 0.05))])
    return Flower(whorls, Disc(rng.uniform(0.38, 0.5), ramp, florets=0.4, floret_rings=14))


def buttercup(rng: np.random.Generator, tint: Tint) -> Flower:
    """Five or so broad overlapping petals and a tuft of stamens."""
    count = int(rng.integers(5, 8))
    profile = petal_profile(rng.uniform(0.6, 0.72), rng.uniform(0.3, 0.5), ruffle=0.015)
    skin = Skin(
        _ramp(tint, heart=float(rng.choice([0.0, 0.6]))), veins=0.05, vein_count=6, cup=0.22
    )
    width = rng.uniform(2.2, 3.0) / count
    notch, teeth = float(rng.choice([0.0, 0.04, 0.08])), int(rng.choice([1, 1, 3]))
    petals = ring_of_petals(rng, count, 0.95, width, profile, skin, 0.04, 0.1, notch, teeth)
    return Flower((petals,), _eye(rng, 0.13, GREEN), _stamens(rng, rng.uniform(0.24, 0.4)))


def poppy(rng: np.random.Generator, tint: Tint) -> Flower:
    """Two pairs of huge crumpled petals with a blotch at their base."""
    profile = petal_profile(0.68, 0.32, base=0.3, ruffle=0.05)
    skin = Skin(_ramp(tint, heart=1.0, to=0.3), veins=0.09, vein_count=9, cup=0.3, grain=0.07)
    whorls = tuple(
        ring_of_petals(rng, 4, length, 0.74, profile, skin, jitter=0.04, bend=0.08)
        for length in (0.97, 0.85)
    )
    turned = whorls[1].angle + np.float32(pi / 4)
    inner = replace(whorls[1], angle=turned)
    stamens = _stamens(rng, 0.3, mixed(tint.heart, (0.1, 0.08, 0.1), 0.6))
    return Flower((whorls[0], inner), _eye(rng, 0.12, (0.5, 0.55, 0.3)), stamens)


def dahlia(rng: np.random.Generator, tint: Tint) -> Flower:
    """Whorl upon whorl of petals that shorten towards a tight heart."""
    count = int(rng.integers(9, 15))
    profile = petal_profile(rng.uniform(0.55, 0.7), rng.uniform(0.35, 0.95), base=0.4)
    skin = Skin(_ramp(tint), veins=0.06, vein_count=3, cup=0.28)
    lengths = np.linspace(1, 0.2, int(rng.integers(5, 7)))
    whorls = tuple(
        ring_of_petals(rng, count, float(length), 3.1 / count * float(length) ** 0.7, profile, skin)
        for length in lengths
    )
    return Flower(whorls, _eye(rng, 0.08, mixed(tint.base, tint.tip, 0.4)))


def dandelion(rng: np.random.Generator, tint: Tint) -> Flower:
    """A shaggy head of very many thin rays."""
    profile = petal_profile(0.7, 0.3, base=0.6)
    skin = Skin(_ramp(tint), veins=0.0, cup=0.3)
    whorls = tuple(
        ring_of_petals(rng, 27, length, 0.065, profile, skin, jitter=0.13, bend=0.4, notch=0.04)
        for length in (0.98, 0.82, 0.62, 0.4)
    )
    return Flower(whorls, _eye(rng, 0.1, tint.base))


def lily(rng: np.random.Generator, tint: Tint) -> Flower:
    """Two whorls of three long pointed petals, spotted, with long stamens."""
    profile = petal_profile(0.45, rng.uniform(0.65, 0.9), base=0.25, ruffle=0.02)
    spots = float(rng.choice([0.0, 0.65]))
    skin = Skin(_ramp(tint, heart=0.5), veins=0.1, vein_count=2, cup=0.25, spots=spots)
    sepals, petals = (
        ring_of_petals(rng, 3, length, width, profile, skin, jitter=0.03, bend=0.15)
        for length, width in ((1.0, 0.24), (0.94, 0.3))
    )
    opposite = petals.angle + np.float32(pi / 3)
    stamens = _stamens(rng, 0.6, (0.5, 0.22, 0.06), count=6)
    return Flower((sepals, replace(petals, angle=opposite)), None, stamens)


def daffodil(rng: np.random.Generator, tint: Tint) -> Flower:
    """Six pointed petals behind a ruffled crown."""
    profile = petal_profile(0.5, rng.uniform(0.5, 0.7), base=0.3)
    skin = Skin(_ramp(tint), veins=0.06, vein_count=4, cup=0.22)
    petals = ring_of_petals(rng, 6, 1.0, rng.uniform(0.3, 0.36), profile, skin, 0.04)
    deep = mixed(tint.heart, (0.97, 0.62, 0.05), rng.uniform(0.2, 0.9))
    stops = [(0.0, mixed(deep, (0.2, 0.12, 0), 0.6)), (0.55, deep), (1.0, mixed(deep, POLLEN, 0.6))]
    crown = Disc(rng.uniform(0.33, 0.42), colour_ramp(stops), ruffle=0.09, dome=0.25)
    return Flower((petals,), crown, _stamens(rng, 0.16, count=7))


def pansy(rng: np.random.Generator, tint: Tint) -> Flower:
    """Two petals above, two at the sides and a broad one below, with a dark face."""
    profile = petal_profile(0.64, 0.36, base=0.35, ruffle=0.015)
    face = mixed(tint.heart, (0.12, 0.03, 0.16), rng.uniform(0.3, 1))
    stops = [(0.0, (0.95, 0.8, 0.2)), (0.12, face), (0.4, face), (0.62, tint.base), (1.0, tint.tip)]
    skin = Skin(colour_ramp(stops), veins=0.12, vein_count=8, cup=0.12)
    back = fan_of_petals([-2.1, -1.05], [0.95, 0.95], [0.5, 0.5], [0.1, -0.1], [0.85, 0.9],
                         profile, Skin(_ramp(tint), vein_count=6))  # fmt: skip
    front = fan_of_petals([0.28, pi - 0.28, pi / 2], [0.82, 0.82, 0.85], [0.44, 0.44, 0.58],
                          [-0.2, 0.2, 0], [1, 1, 1.04], profile, skin)  # fmt: skip
    return Flower((back, front), _eye(rng, 0.07, POLLEN), attitude="upright")


def tulip(rng: np.random.Generator, tint: Tint) -> Flower:
    """A cup seen from the side: back petals, sides that close in, one in front."""
    profile = petal_profile(rng.uniform(0.42, 0.55), rng.uniform(0.45, 0.75), base=0.25)
    skin = Skin(_ramp(tint, heart=0.35, to=0.25), veins=0.09, vein_count=4, cup=0.25)
    spread = rng.uniform(0.25, 0.55)
    up = -pi / 2
    angle = [up - 0.45 * spread, up + 0.5 * spread, up - spread, up + spread, up]
    length = [1.7, 1.75, 1.72, 1.68, 1.6]
    width = [0.42, 0.42, 0.4, 0.4, 0.5]
    curl = rng.uniform(0.05, 0.22)
    bend = [0.0, 0.0, curl, -curl, rng.normal(0, 0.03)]
    return Flower(
        (fan_of_petals(angle, length, width, bend, [0.72, 0.75, 0.95, 0.92, 1.05], profile, skin),),
        attitude="standing",
    )


def bell(rng: np.random.Generator, tint: Tint) -> Flower:
    """A nodding bell, seen from the side."""
    profile = petal_profile(0.55, rng.uniform(0.5, 0.8), base=0.3)
    skin = Skin(_ramp(tint), veins=0.08, vein_count=3, cup=0.25)
    flare = rng.uniform(0.04, 0.16)
    down = pi / 2 + rng.normal(0, 0.15)
    angle = [down - 0.12, down + 0.15, down - 0.22, down + 0.22, down]
    bend = [0.0, 0.0, -flare, flare, 0.0]
    shape = [1.5, 1.5, 1.55, 1.55, 1.5], [0.3, 0.3, 0.34, 0.34, 0.36]
    whorl = fan_of_petals(angle, *shape, bend, [0.7, 0.7, 0.95, 0.92, 1.04], profile, skin)
    return Flower((whorl,), _eye(rng, 0.16, GREEN), attitude="hanging")


KINDS: tuple[tuple[Kind, tuple[Tint, ...]], ...] = (
    (daisy, (WHITE, WHITE, PINK, PURPLE, YELLOW)),
    (sunflower, (YELLOW, YELLOW, ORANGE)),
    (buttercup, TINTS),
    (poppy, (RED, RED, ORANGE, PINK, CREAM)),
    (dahlia, (PINK, RED, MAGENTA, ORANGE, CREAM, WHITE)),
    (dandelion, (YELLOW, YELLOW, ORANGE)),
    (lily, (WHITE, ORANGE, PINK, YELLOW, CREAM)),
    (daffodil, (YELLOW, CREAM, WHITE)),
    (pansy, (PURPLE, BLUE, YELLOW, MAGENTA)),
    (tulip, (RED, PINK, YELLOW, PURPLE, ORANGE, WHITE)),
    (bell, (BLUE, PURPLE, WHITE, PINK)),
)


def pick_kind(rng: np.random.Generator) -> tuple[Kind, Tint]:
    """A kind of flower and one of the colours it comes in."""
    kind, tints = KINDS[rng.integers(len(KINDS))]
    tint = tints[rng.integers(len(tints))]
    shifted = [varied(rng, colour) for colour in (tint.base, tint.tip, tint.heart)]
    return kind, Tint(*shifted)


def _ramp(tint: Tint, heart: float = 0.0, to: float = 0.35) -> Planes:
    start = mixed(tint.base, tint.heart, heart)
    stops = [(0.0, start), (0.7 * to, start), (1.2 * to, mixed(start, tint.tip, 0.5))]
    return colour_ramp([*stops, (0.9, tint.tip), (1.0, mixed(tint.tip, tint.base, 0.15))])


def _eye(rng: np.random.Generator, radius: float, colour: Colour) -> Disc:
    ramp = colour_ramp([(0, mixed(colour, (1, 1, 0.8), 0.2)), (1, mixed(colour, (0, 0, 0), 0.35))])
    return Disc(radius * rng.uniform(0.8, 1.2), ramp, floret_rings=4)


def _stamens(
    rng: np.random.Generator, length: float, anther: Colour = POLLEN, count: int = 19
) -> Whorl:
    stops = [(0, (0.72, 0.7, 0.35)), (0.76, (0.85, 0.83, 0.5)), (0.8, anther), (1, anther)]
    skin = Skin(colour_ramp(stops), veins=0.0)
    profile = anther_profile()
    return ring_of_petals(rng, count, length, 0.035, profile, skin, jitter=0.16, bend=0.3)
