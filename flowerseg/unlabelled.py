"""Photos that have no labels: enough to compare a file with its checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowerseg.arrays import VOID, Labels, size_of
from flowerseg.errors import DataError
from flowerseg.folder import MASK_PALETTE
from flowerseg.labelled import LabelledPhoto, LabelledPixels, PhotoSet
from flowerseg.listing import list_photos


@dataclass(frozen=True)
class UnlabelledPhoto(LabelledPhoto):
    """A photo, all of it void: its annotation, and what its colours mean, is not read."""

    def read_labels(self) -> Labels:
        """VOID for every pixel (h, w)."""
        return np.full(size_of(self.read_rgb()), VOID, np.uint8)

    def read(self) -> LabelledPixels:
        """The photo, with VOID for every pixel."""
        rgb = self.read_rgb()
        return LabelledPixels(rgb, np.full(size_of(rgb), VOID, np.uint8), False, (1, 1))


def open_unlabelled(root: Path) -> PhotoSet:
    """All photos in a folder and below it, but for its `masks`, where segmented photos may lie.

    Raises:
        DataError: no such folder, no photo in it, or a part of it cannot be opened.
    """
    listing = list_photos(root, root / "masks")
    if listing.unreadable:
        raise DataError(f"{listing.unreadable[0]}: cannot be opened.")
    photos = tuple(
        UnlabelledPhoto(str(name), root / name, root / name, MASK_PALETTE)
        for name in listing.photos
    )
    return PhotoSet(root.name, photos, is_labelled=False)
