"""Petals, leaves, stamens and flower centres: shapes with shading, painted in their own patch."""

from dataclasses import dataclass
from math import cos, pi, sin
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowerseg.images import resize_bilinear
from flowerseg.paint.brush import (
    Canvas,
    Field,
    Light,
    Patch,
    Planes,
    Pose,
    blend,
    look_up,
    patch_around,
)

PROFILE_STEPS = 257
_ALONG = np.linspace(0, 1, PROFILE_STEPS, dtype=np.float32)
CONTACT_MARGIN = 0.08  # radii that the darkness at the foot of a petal reaches
SHADOW_MARGIN = 0.13  # radii that a cast shadow takes to fade
SHADOW_STEP = 3  # pixels

_Place: TypeAlias = tuple[Field, Field, Field]


@dataclass(frozen=True)
class Skin:
    """How a petal's surface looks; `along` runs from 0 at its base to 1 at its tip."""

    ramp: Planes  # (3, 64) colours along the petal
    veins: float = 0.06  # how dark
    vein_count: int = 5  # from the middle to an edge
    is_pinnate: bool = False  # veins that branch off a midrib, as in a leaf
    cup: float = 0.16  # how strongly the two halves take the light differently
    grain: float = 0.04
    spots: float = 0.0  # how dark the spots of a lily are


@dataclass(frozen=True)
class Whorl:
    """Petals round one point. Lengths are in radii of the flower; per-petal arrays are (n,)."""

    angle: Field
    length: Field
    half_width: Field
    bend: Field  # sideways curl: the axis is v = bend u^2
    tone: Field  # brightness of each petal
    rank: Field  # 0 to 1, each different: higher lies in front
    profile: NDArray[np.float32]  # (PROFILE_STEPS,) half width along the petal, at most 1
    notch: float
    teeth: int
    is_ring: bool  # evenly spread, so that only the three nearest petals can cover a pixel
    skin: Skin


@dataclass(frozen=True)
class Disc:
    """A flower's centre: florets on a dome, or with `ruffle` the crown of a daffodil."""

    radius: float
    ramp: Planes  # (3, 64) from the middle to the rim
    florets: float = 0.2  # how strongly they stand out
    floret_rings: float = 9.0
    ruffle: float = 0.0
    dome: float = 0.2


@dataclass(frozen=True)
class _Cover:
    """Which petal a pixel of the patch shows, and where on it."""

    petal: NDArray[np.intp]
    along: Field
    across: Field  # -1 to 1 from edge to edge
    inside: Field  # distance to the outline of the whorl in its own unit, negative outside
    shade: Field  # 0 to 1: shadow of the petals in front


def petal_profile(
    peak: float, tip: float, base: float = 0.15, ruffle: float = 0.0
) -> NDArray[np.float32]:
    """Half width along a petal: widest at `peak`, with a round (0.3) to pointed (1.2) `tip`."""
    rise = tip * peak / (1 - peak)
    width = _ALONG**rise * (1 - _ALONG) ** tip / (peak**rise * (1 - peak) ** tip)
    width = np.where(peak > _ALONG, np.maximum(width, base), width)
    return np.asarray(width * (1 + ruffle * np.sin(_ALONG * 37)), np.float32)


def anther_profile() -> NDArray[np.float32]:
    """Half width along a stamen: a thread that ends in a knob."""
    knob = np.sqrt(np.clip(1 - ((_ALONG - 0.88) / 0.12) ** 2, 0, None))
    return np.asarray(np.maximum(knob, np.where(_ALONG < 0.9, 0.3, 0)), np.float32)


def ring_of_petals(
    rng: np.random.Generator,
    count: int,
    length: float,
    half_width: float,
    profile: NDArray[np.float32],
    skin: Skin,
    jitter: float = 0.05,
    bend: float = 0.1,
    notch: float = 0.0,
    teeth: int = 1,
) -> Whorl:
    """Petals spread evenly round the centre, none quite like its neighbour."""
    sector = 2 * pi / count
    angle = (np.arange(count) + rng.normal(0, 1.5 * jitter, count).clip(-0.4, 0.4)) * sector
    return Whorl(
        angle=angle.astype(np.float32),
        length=(length * rng.normal(1, jitter, count).clip(0.7, 1.15)).astype(np.float32),
        half_width=(half_width * rng.normal(1, jitter, count).clip(0.7, 1.3)).astype(np.float32),
        bend=rng.normal(0, bend, count).astype(np.float32),
        tone=rng.normal(1, 0.05, count).clip(0.85, 1.12).astype(np.float32),
        rank=(rng.permutation(count) / count).astype(np.float32),
        profile=profile,
        notch=notch,
        teeth=teeth,
        is_ring=count > 3,
        skin=skin,
    )


def fan_of_petals(
    angle: list[float],
    length: list[float],
    half_width: list[float],
    bend: list[float],
    tone: list[float],
    profile: NDArray[np.float32],
    skin: Skin,
) -> Whorl:
    """Petals that leave one point in given directions, the last one in front."""
    return Whorl(
        angle=np.asarray(angle, np.float32),
        length=np.asarray(length, np.float32),
        half_width=np.asarray(half_width, np.float32),
        bend=np.asarray(bend, np.float32),
        tone=np.asarray(tone, np.float32),
        rank=(np.arange(len(angle)) / len(angle)).astype(np.float32),
        profile=profile,
        notch=0.0,
        teeth=1,
        is_ring=False,
        skin=skin,
    )


def paint_whorl(
    canvas: Canvas, whorl: Whorl, pose: Pose, light: Light, is_flower: bool, contact: float = 0.0
) -> None:
    """Paint petals or leaves; `contact` darkens what lies right beside and under them."""
    patch = _patch_of(canvas, whorl, pose, CONTACT_MARGIN if contact > 0 else 0.0)
    if patch is None:
        return
    cover = _cover(whorl, *pose.plane(patch))
    if contact > 0:
        halo = np.clip(1 + cover.inside / CONTACT_MARGIN, 0, 1)
        canvas.colour[:, *patch] *= 1 - contact * halo
    alpha = np.clip(cover.inside * (pose.radius * cos(pose.tilt / 2)) + 0.5, 0, 1)
    colour = _shaded(whorl, cover, canvas.grain[patch], light.angle - pose.roll)
    blend(canvas, patch, alpha, colour, is_flower)


def cast_shadow(canvas: Canvas, whorl: Whorl, pose: Pose, light: Light, depth: float) -> None:
    """Darken what lies `depth` radii behind the petals, away from the light, with soft edges."""
    below = pose.moved(*light.away(depth * pose.radius))
    patch = _patch_of(canvas, whorl, below, SHADOW_MARGIN)
    if patch is None:
        return
    # Soft edges come from the distance to the outline, so no blur is needed, and softness bears
    # to be computed on a coarse grid.
    x, y = below.plane(patch, SHADOW_STEP)
    dark = np.clip(_cover(whorl, x, y).inside * (0.5 / SHADOW_MARGIN) + 0.5, 0, 1)
    height, width = canvas.flower[patch].shape
    coarse = np.asarray(dark * 255, np.uint8)
    canvas.colour[:, *patch] *= 1 - (0.42 / 255) * resize_bilinear(coarse, (height, width))


def paint_disc(canvas: Canvas, disc: Disc, pose: Pose, light: Light, is_flower: bool) -> None:
    """Paint a flower's centre, a berry or a pebble."""
    reach = pose.radius * disc.radius * (1 + disc.ruffle)
    corners = np.array([-reach, reach])
    patch = patch_around(canvas, pose.x + corners, pose.y + corners)
    if patch is None:
        return
    x, y = (axis / disc.radius for axis in pose.plane(patch))
    from_middle = np.hypot(x, y)
    around = np.arctan2(y, x)
    rim = 1 + disc.ruffle * (0.6 * np.cos(11 * around) + 0.4 * np.cos(17 * around + 2))
    place = from_middle / rim
    alpha = np.clip((1 - place) * (disc.radius * pose.radius) + 0.5, 0, 1)
    colour = look_up(disc.ramp, place) * _disc_light(disc, x, y, place, around, light, pose)
    colour = colour * (1 + 0.06 * canvas.grain[patch])
    blend(canvas, patch, alpha, colour, is_flower)


def _disc_light(
    disc: Disc, x: Field, y: Field, place: Field, around: Field, light: Light, pose: Pose
) -> Field:
    angle = light.angle - pose.roll
    shade = 1 + disc.dome * (x * cos(angle) + y * sin(angle)) - 0.25 * place**6
    if disc.ruffle > 0:
        return np.asarray(shade * (1 + 0.1 * np.cos(22 * around) * place), np.float32)
    # Two families of spirals that cross as 13 and 21 do in a sunflower's head.
    turn = 2 * pi * disc.floret_rings * np.sqrt(place + 0.05)
    florets = np.cos(13 * around + turn) * np.cos(21 * around - turn)
    return np.asarray(shade * (1 + disc.florets * florets), np.float32)


def _patch_of(canvas: Canvas, whorl: Whorl, pose: Pose, margin: float = 0.0) -> Patch | None:
    """The patch that holds all outlines, found by walking along them."""
    profile = whorl.profile[:: PROFILE_STEPS // 8]
    u = whorl.length[:, None] * (_ALONG[:: PROFILE_STEPS // 8] / (1 - whorl.notch))
    axis = whorl.bend[:, None] * u**2
    half = whorl.half_width[:, None] * profile
    v = np.stack([axis - half, axis + half])
    run, rise = np.cos(whorl.angle)[:, None], np.sin(whorl.angle)[:, None]
    x, y = u * run - v * rise, u * rise + v * run
    a, b, c, d = pose.plane_to_picture()
    reach = margin * pose.radius
    return patch_around(canvas, pose.x + a * x + b * y, pose.y + c * x + d * y, reach)


def _cover(whorl: Whorl, x: Field, y: Field) -> _Cover:
    """The petal in front at each point, or outside all of them the nearest one."""
    candidates = _candidates(whorl, x, y)
    shortcut = _shortcut(whorl)
    found = [_on_petal(whorl, shortcut, petal, x, y) for petal in candidates]
    ranks = [whorl.rank[petal] for petal in candidates]
    along, across, inside = found[0]
    petal = np.broadcast_to(candidates[0], x.shape).copy()
    score = np.where(inside > 0, ranks[0] + 1, inside)
    for index, rank, (t, q, distance) in zip(candidates[1:], ranks[1:], found[1:], strict=True):
        here = np.where(distance > 0, rank + 1, distance)
        better = here > score
        for kept, new in ((score, here), (petal, index), (along, t), (across, q)):
            np.copyto(kept, new, where=better)
        inside = np.maximum(inside, distance)
    return _Cover(petal, along, across, inside, _shade_from_front(score, ranks, found))


def _shade_from_front(score: Field, ranks: list[Field], found: list[_Place]) -> Field:
    """How near a petal lies in front of the one that is seen, 0 to 1."""
    nearest = np.full(score.shape, -1, np.float32)
    for rank, (_, _, distance) in zip(ranks, found, strict=True):
        # Of a petal that is behind, the distance must not count.
        np.maximum(nearest, distance, out=nearest, where=rank + 1 > score)
    return np.clip(1 + nearest * 11, 0, 1)


def _candidates(whorl: Whorl, x: Field, y: Field) -> list[NDArray[np.intp]]:
    """The petals that can cover each pixel, as places in the whorl's arrays."""
    count = len(whorl.angle)
    if not whorl.is_ring:
        return [np.asarray(petal, np.intp) for petal in range(count)]
    sector = np.arctan2(y, x) * (count / (2 * pi)) + count
    if count >= 8:  # narrow enough to end before the middle of their neighbours
        before = sector.astype(np.intp)
        return [_wrapped(before, count), _wrapped(before + 1, count)]
    nearest = (sector + 0.5).astype(np.intp)
    return [_wrapped(nearest + side, count) for side in (-1, 0, 1)]


def _wrapped(petal: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    # A table instead of the remainder, whose integer division is slow.
    return (np.arange(3 * count) % count).take(petal)


def _shortcut(whorl: Whorl) -> NDArray[np.float32]:
    """(PROFILE_STEPS,): where the outline is steep, the way to it is shorter than straight across.

    Not below 0.35: beyond a petal's round tip that would make everything near.
    """
    slope = np.diff(whorl.profile, prepend=whorl.profile[:1])
    slope *= PROFILE_STEPS * whorl.half_width[0] / whorl.length[0]
    return np.maximum(1 / np.hypot(1, slope), np.float32(0.35)).astype(np.float32)


def _on_petal(
    whorl: Whorl,
    shortcut: NDArray[np.float32],
    petal: NDArray[np.intp],
    x: Field,
    y: Field,
) -> _Place:
    """Place along and across a petal, and the distance inside its outline (negative outside)."""
    run, rise = np.cos(whorl.angle)[petal], np.sin(whorl.angle)[petal]
    u = x * run + y * rise
    v = y * run - x * rise - whorl.bend[petal] * (u * u)
    length, width = whorl.length[petal], whorl.half_width[petal]
    along = u / length
    if whorl.notch > 0:
        along = along * (1 + whorl.notch * np.cos((pi * whorl.teeth) * np.clip(v / width, -1, 1)))
    step = (along * (PROFILE_STEPS - 1) + 0.5).clip(0, PROFILE_STEPS - 1).astype(np.intp)
    half = whorl.profile.take(step) * width
    distance = np.minimum(
        (half - np.abs(v)) * shortcut.take(step), np.minimum(1 - along, along) * length
    )
    return along, np.clip(v / (half + 1e-3), -1, 1), distance


def _shaded(whorl: Whorl, cover: _Cover, grain: Field, light_angle: float) -> Planes:
    skin = whorl.skin
    facing = (whorl.angle - light_angle).astype(np.float32)
    # A petal that rises towards the light shows us its shaded side.
    tone = (whorl.tone * (1 - 0.1 * np.cos(facing)))[cover.petal]
    side = (skin.cup * np.sin(facing))[cover.petal]
    across, along = cover.across, cover.along
    light = tone * (1 - side * across - 0.1 * (across * across)) * (1 - 0.45 * cover.shade)
    light *= 1 - 0.3 * np.clip(1 - along * 3.5, 0, 1)
    light *= 1 - skin.veins * _veins(skin, along, across) + skin.grain * grain
    if skin.spots > 0:
        speckled = np.clip(2.5 * (grain - 0.8), 0, 1) * np.clip(1.6 - 2 * along, 0, 1)
        light *= 1 - skin.spots * speckled
    return np.asarray(look_up(skin.ramp, along) * light, np.float32)


def _veins(skin: Skin, along: Field, across: Field) -> Field:
    if not skin.is_pinnate:
        return np.asarray(np.cos(across * (pi * skin.vein_count)) * (1.1 - along), np.float32)
    midrib = np.clip(1 - np.abs(across) * 9, 0, 1)
    sides = np.cos((along * 2 * skin.vein_count - np.abs(across) * 2.2) * 2 * pi)
    return np.asarray(0.7 * np.clip(sides, 0, 1) ** 3 - 1.6 * midrib, np.float32)
