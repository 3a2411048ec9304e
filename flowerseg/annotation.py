"""Labels from the file of an annotation: from its colours, or from its alpha channel."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowerseg.arrays import Labels, Rgb
from flowerseg.errors import DataError
from flowerseg.imageheader import exif_orientation, lossy_format_of
from flowerseg.images import decode_mask
from flowerseg.palette import Palette, UnknownColours, labels_from_colours
from flowerseg.photofile import photo_bytes


class AmbiguousAnnotation(DataError):
    """An annotation whose colours say one thing and whose alpha channel says another."""


@dataclass(frozen=True)
class Annotation:
    """What an annotation says of every pixel."""

    labels: Labels  # BACKGROUND, FLOWER or VOID, (h, w)
    is_from_alpha: bool  # all of it has one colour, and its alpha channel has the shape
    orientation: int  # the EXIF orientation by which it was turned, 1 to 8


def read_annotation(path: Path, palette: Palette) -> Annotation:
    """Read an annotation, upright, and translate it by a palette.

    Of an image in one colour that is transparent somewhere, the alpha channel is the annotation: it
    counts as a grey level, so that 255 is flower and 0 background by the usual palette.

    Raises:
        ImageError: the file cannot be decoded as an annotation; see `flowerseg.images.decode_mask`.
        UnknownColours: it has a colour without a meaning, or close to one that has.
        AmbiguousAnnotation: colours and alpha channel both vary, and do not say the same.
    """
    data = photo_bytes(path)
    samples = decode_mask(data, str(path))
    labels, is_from_alpha = _labels(samples, palette, path, lossy_format_of(data))
    return Annotation(labels, is_from_alpha, exif_orientation(data))


def _labels(
    samples: NDArray[np.uint8], palette: Palette, path: Path, lossy_format: str
) -> tuple[Labels, bool]:
    """Labels, and whether they are those of the alpha channel."""
    colours = samples[..., :3]
    if samples.shape[2] == 3 or samples[..., 3].min() == 255:
        return labels_from_colours(colours, palette, path, lossy_format), False
    alpha = samples[..., 3]
    alpha_levels = np.repeat(alpha[..., None], 3, axis=2)
    if _is_constant(colours):
        name = f"{path} (its alpha channel, since all of it has one colour)"
        try:
            return labels_from_colours(alpha_levels, palette, name, lossy_format), True
        except UnknownColours as error:
            error.are_opacities = True
            raise
    if not _is_constant(alpha):
        _require_agreement(colours, alpha_levels, palette, path)
    return labels_from_colours(colours, palette, path, lossy_format), False


def _is_constant(samples: NDArray[np.uint8]) -> bool:
    return bool((samples == samples[0, 0]).all())


def _require_agreement(colours: Rgb, alpha_levels: Rgb, palette: Palette, path: Path) -> None:
    """Programs that save white shapes on a transparent ground make it black: both agree."""
    try:
        by_colour, by_alpha = (
            labels_from_colours(read, palette, path) for read in (colours, alpha_levels)
        )
        agree = np.array_equal(by_colour, by_alpha)
    except UnknownColours:
        agree = False
    if not agree:
        raise AmbiguousAnnotation(
            f"{path}: its colours and its alpha channel differ in what they say, and either may be "
            "the annotation. Save it without an alpha channel."
        )
