"""Painted photos of flowers with exact labels: data for the demo and for every test.

The same seed paints the same photo. What makes the task worth learning: flowers of many kinds,
tilted and overlapping, cut by stems and leaves, before backgrounds that hold their colours too.
"""

from dataclasses import dataclass
from math import pi
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.io import savemat

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Labels, Mask, Rgb, SizeHW
from flowerseg.files import replacing
from flowerseg.images import write_jpeg, write_png
from flowerseg.paint.backdrop import enlarged, far_canvas, paint_backdrop
from flowerseg.paint.bouquet import arrange_bouquet, paint_behind, paint_in_front
from flowerseg.paint.brush import Canvas, Light, Pose, fractal_noise
from flowerseg.paint.camera import develop
from flowerseg.paint.flower import Kind, Tint, paint_flower, pick_kind

MIN_SIDE = 16
VOID_WIDTH = 0.026  # of the short side; the outlines in Oxford 17's trimaps are about as wide

# Colours of the trimaps in the layout of Oxford 17 Flowers.
TRIMAP_FLOWER = (128, 0, 0)
TRIMAP_BACKGROUND = (128, 128, 0)
TRIMAP_VOID = (0, 0, 0)


@dataclass(frozen=True)
class PaintedPhoto:
    """A painted photo and what each of its pixels shows."""

    rgb: Rgb  # (h, w, 3)
    labels: Labels  # (h, w): BACKGROUND, FLOWER or VOID


def paint_photo(size_hw: SizeHW, seed: int) -> PaintedPhoto:
    """Paint one photo; the same size and seed give the same pixels on one machine.

    VOID is a band along every outline between flowers and the rest, and flowers of the
    background that are too blurred to label. Along the photo's own edge there is no band.

    Raises:
        ValueError: a side is shorter than 16 pixels.
    """
    if min(size_hw) < MIN_SIDE:
        raise ValueError(f"size_hw is {size_hw}, but both sides need at least {MIN_SIDE} pixels.")
    rng = np.random.default_rng(seed)
    kind, tint = pick_kind(rng)
    # From above, as daylight comes: straight up in the picture, or up to 70 degrees aside.
    light = Light(rng.uniform(-pi / 2 - 1.2, -pi / 2 + 1.2))
    canvas = _background(rng, size_hw, light, kind, tint)
    bouquet = arrange_bouquet(rng, canvas, kind, tint)
    paint_behind(rng, canvas, light, bouquet)
    for flower, pose in bouquet:
        paint_flower(canvas, flower, pose, light)
    paint_in_front(rng, canvas, light, bouquet)
    return PaintedPhoto(develop(rng, canvas, light), _labels(canvas))


def write_painted_dataset(
    root: Path, photos: int, size_hw: SizeHW = (256, 256), seed: int = 0
) -> None:
    """Write painted photos in the layout of Oxford 17 Flowers.

    `jpg/image_0001.jpg` and so on, `trimaps/image_0001.png` in the data set's colours, and
    `datasplits.mat` with three random partitions into trn (half), val and tst (a quarter each).
    Photo i depends on the seed and i alone: a small data set is the beginning of a larger one.

    Raises:
        ValueError: fewer than 4 photos, of which some split would be empty, or a side too short.
    """
    if photos < 4:
        raise ValueError(f"photos is {photos}, but three splits need at least 4.")
    for number in range(1, photos + 1):
        photo = paint_photo(size_hw, _photo_seed(seed, number))
        write_jpeg(root / "jpg" / f"image_{number:04d}.jpg", photo.rgb)
        write_png(root / "trimaps" / f"image_{number:04d}.png", _trimap(photo.labels))
    with replacing(root / "datasplits.mat") as temporary:
        savemat(temporary, _splits(photos, seed))


def _photo_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])


def _background(
    rng: np.random.Generator, size_hw: SizeHW, light: Light, kind: Kind, tint: Tint
) -> Canvas:
    far = far_canvas(rng, size_hw)
    paint_backdrop(rng, far, light, tint)
    if rng.random() < 0.3:
        for pose in _far_poses(rng, far):
            paint_flower(far, kind(rng, tint), pose, light, has_shadow=False)
    grain = fractal_noise(rng, size_hw, 24, 3, gain=0.8)
    return enlarged(far, size_hw, grain)


def _far_poses(rng: np.random.Generator, far: Canvas) -> list[Pose]:
    height, width = far.size_hw
    return [
        Pose(rng.uniform(0, width), rng.uniform(0, height), far.short * rng.uniform(0.06, 0.13))
        for _ in range(int(rng.integers(1, 4)))
    ]


def _trimap(labels: Labels) -> Rgb:
    trimap = np.full((*labels.shape, 3), TRIMAP_VOID, np.uint8)
    trimap[labels == FLOWER] = TRIMAP_FLOWER
    trimap[labels == BACKGROUND] = TRIMAP_BACKGROUND
    return trimap


def _splits(photos: int, seed: int) -> dict[str, NDArray[np.uint16]]:
    """Ids as in the data set's own file: (1, n), counted from 1, sorted."""
    splits = {}
    half, quarter = photos // 2, photos // 4
    for partition in (1, 2, 3):
        ids = np.random.default_rng((seed, 0, partition)).permutation(photos) + 1
        parts = np.split(ids.astype(np.uint16), [half, half + quarter])
        for name, part in zip(("trn", "val", "tst"), parts, strict=True):
            splits[f"{name}{partition}"] = np.sort(part)[None, :]
    return splits


def _labels(canvas: Canvas) -> Labels:
    """FLOWER and BACKGROUND, and VOID wherever the two would come within the band of each other."""
    labels = np.where(canvas.flower, np.uint8(FLOWER), np.uint8(BACKGROUND))
    labels[canvas.unlabelled | _outline_band(canvas.flower, VOID_WIDTH * canvas.short)] = VOID
    return labels


def _outline_band(mask: Mask, width: float) -> Mask:
    """A band over the outline of a mask, half of it inside; at least the pixels that touch it."""
    cross = ndimage.generate_binary_structure(2, 1)
    # At the photo's edge nothing is known to end: what lies outside counts as more of the same.
    inner = ndimage.binary_erosion(mask, cross, border_value=1)
    outline = ndimage.binary_dilation(mask, cross) & ~inner
    reach = round(width / 2) - 1
    if reach < 1:
        return outline
    y, x = np.nonzero(outline)
    round_y, round_x = np.nonzero(_disc_brush(reach))
    # Few pixels are outline: stamping a disc on each beats dilating the whole photo.
    band = np.zeros((mask.shape[0] + 2 * reach, mask.shape[1] + 2 * reach), np.bool_)
    band[y[:, None] + round_y, x[:, None] + round_x] = True
    return band[reach:-reach, reach:-reach]


def _disc_brush(reach: int) -> Mask:
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x * x + y * y <= (reach + 0.3) ** 2)
