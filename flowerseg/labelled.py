"""A labelled photo, and a set of them: where they lie, how they are read, what they are called."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flowerseg.arrays import Labels, Rgb
from flowerseg.errors import DataError, some_of
from flowerseg.files import sha256_of
from flowerseg.images import read_mask_colours, read_rgb
from flowerseg.palette import Palette, labels_from_colours


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo on disk and the annotation that belongs to it."""

    name: str  # unique in the data set; in a folder with subfolders it has slashes
    photo: Path
    annotation: Path
    palette: Palette
    group: str = ""  # the class of flower, empty where nobody knows it

    def read_rgb(self) -> Rgb:
        """The photo (h, w, 3), upright.

        Raises:
            ImageError: it cannot be decoded.
        """
        return read_rgb(self.photo)

    def read_labels(self) -> Labels:
        """BACKGROUND, FLOWER or VOID for every pixel (h, w), at the annotation's own size.

        Raises:
            ImageError: it cannot be decoded.
            UnknownColours: it holds a colour that means nothing here.
        """
        colours = read_mask_colours(self.annotation)
        return labels_from_colours(colours, self.palette, self.annotation)


@dataclass(frozen=True)
class PhotoSet:
    """Labelled photos of one split."""

    name: str
    photos: tuple[LabelledPhoto, ...]

    def __len__(self) -> int:
        return len(self.photos)

    @cached_property
    def content_hashes(self) -> tuple[str, ...]:
        """SHA-256 of each photo's file."""
        return tuple(sha256_of(item.photo) for item in self.photos)

    @cached_property
    def fingerprint(self) -> str:
        """One hash over names, photos, annotations and what their colours mean."""
        digest = hashlib.sha256()
        for item, content in zip(self.photos, self.content_hashes, strict=True):
            known = item.palette
            meaning = f"{known.flower} {known.background} {known.void}"
            if known.tolerance:
                meaning += f" within {known.tolerance}"
            annotation = f"{sha256_of(item.annotation)}\0{meaning}"
            digest.update(f"{item.name}\0{content}\0{annotation}\n".encode())
        return digest.hexdigest()

    def part(self, places: Iterable[int]) -> "PhotoSet":
        """The photos at these places of the set, in this order."""
        return PhotoSet(self.name, tuple(self.photos[place] for place in places))

    def limited(self, limit: int | None) -> "PhotoSet":
        """The set, or `limit` photos spread evenly over it."""
        if limit is None or limit >= len(self.photos):
            return self
        picks = np.linspace(0, len(self.photos) - 1, limit).round().astype(int)
        return PhotoSet(f"{self.name}[{limit}]", tuple(self.photos[i] for i in picks))


def photo_set(root: Path, split: str, items: Iterable[LabelledPhoto]) -> PhotoSet:
    """The photos of one split of the data in `root`, all of them there.

    Raises:
        DataError: there is none, or a file is missing.
    """
    photos = tuple(items)
    if not photos:
        raise DataError(f"{root}: split {split!r} has no photo with an annotation on disk.")
    if missing := [item.photo.name for item in photos if not item.photo.is_file()]:
        raise DataError(f"{root}: {len(missing)} photos are missing ({some_of(missing)}).")
    return PhotoSet(f"{root.name}/{split}", photos)
