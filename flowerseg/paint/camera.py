"""From a canvas to the pixels of a photo, as a camera would have taken it."""

from math import cos, sin

import numpy as np

from flowerseg.arrays import Rgb
from flowerseg.paint.brush import (
    Canvas,
    Field,
    Light,
    smooth_noise,
)


def develop(rng: np.random.Generator, canvas: Canvas, light: Light) -> Rgb:
    """The photo a camera takes: uneven light, warmth, vignette, a little blur and noise."""
    height, width = canvas.size_hw
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    sun = rng.uniform(0, 0.25) * (x * cos(light.angle) + y * sin(light.angle))
    falloff = rng.uniform(0, 0.18) * (x * x + y * y)
    dapple = float(rng.choice([0.0, 0.0, 0.16])) * np.tanh(2 * smooth_noise(rng, canvas.size_hw, 4))
    exposure = (rng.uniform(0.85, 1.25) * (1 + sun - falloff + dapple)).astype(np.float32)
    warmth = rng.normal(0, 0.05)
    white = np.array([1 + warmth, 1, 1 - warmth], np.float32)[:, None, None]
    colour = _softened(canvas.colour, rng.uniform(0.25, 0.6)) * (exposure * white)
    # Two dice make noise that is dense in the middle, at a tenth of the price of a normal one.
    dice = rng.integers(0, 256, (2, 3, height, width), np.uint8)
    colour += np.subtract(*dice, dtype=np.float32) * (rng.uniform(0.004, 0.03) / 255)
    return as_rgb(Canvas(colour, canvas.grain, canvas.flower, canvas.unlabelled))


def as_rgb(canvas: Canvas) -> Rgb:
    """The canvas as 8-bit pixels, (h, w, 3)."""
    pixels = (canvas.colour * 255 + 0.5).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _softened(colour: Field, amount: float) -> Field:
    """Blur over three pixels each way, `amount` 0 to 1 of the strongest such blur."""
    side = np.float32(amount / 3)
    rows = (1 - 2 * side) * colour
    rows[:, 1:] += side * colour[:, :-1]
    rows[:, :-1] += side * colour[:, 1:]
    rows[:, [0, -1]] += side * colour[:, [0, -1]]
    columns = (1 - 2 * side) * rows
    columns[:, :, 1:] += side * rows[:, :, :-1]
    columns[:, :, :-1] += side * rows[:, :, 1:]
    columns[:, :, [0, -1]] += side * rows[:, :, [0, -1]]
    return columns
