"""A labelled photo, and a set of them: where they lie, how they are read, what they are called."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from flowerseg.annotation import read_annotation
from flowerseg.arrays import Labels, Rgb, size_of
from flowerseg.errors import DataError, some_of
from flowerseg.files import sha256_of
from flowerseg.imageheader import exif_orientation
from flowerseg.images import decode_rgb, read_rgb
from flowerseg.palette import Palette
from flowerseg.photofile import photo_bytes


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
            ImageError, DataError: see `flowerseg.annotation.read_annotation`.
        """
        return read_annotation(self.annotation, self.palette).labels

    def read(self) -> "LabelledPixels":
        """The photo and what its annotation says of it.

        Raises:
            ImageError: one of them cannot be decoded.
            UnfitAnnotation: they differ in size.
            DataError: see `flowerseg.annotation.read_annotation`.
        """
        data = photo_bytes(self.photo)
        rgb = decode_rgb(data, str(self.photo))
        annotation = read_annotation(self.annotation, self.palette)
        pixels = LabelledPixels(
            rgb,
            annotation.labels,
            annotation.is_from_alpha,
            (exif_orientation(data), annotation.orientation),
        )
        if size_of(rgb) != size_of(annotation.labels):
            raise UnfitAnnotation(self, pixels)
        return pixels


@dataclass(frozen=True)
class LabelledPixels:
    """A photo (h, w, 3) with the label of each pixel (h, w), both upright."""

    rgb: Rgb
    labels: Labels
    is_from_alpha: bool  # the labels are the annotation's alpha channel
    orientations: tuple[int, int]  # EXIF orientations by which photo and annotation were turned

    @property
    def may_be_turned_apart(self) -> bool:
        """Whether photo and annotation have two orientations, and would fit in others too."""
        photo, annotation = self.orientations
        height, width = size_of(self.rgb)
        # From 5 on, an orientation exchanges the sides: that only one of the two does is proof.
        return photo != annotation and (height == width or (photo > 4) == (annotation > 4))


class UnfitAnnotation(DataError):
    """An annotation that has another size than its photo."""

    def __init__(self, item: LabelledPhoto, pixels: LabelledPixels) -> None:
        sizes = [f"{w} x {h}" for h, w in (size_of(pixels.rgb), size_of(pixels.labels))]
        super().__init__(
            f"{item.photo} is {sizes[0]}, but {item.annotation} is {sizes[1]} pixels. "
            f"{_orientation_text(*pixels.orientations)}"
            "Annotations must be made on the photo itself, upright."
        )


def _orientation_text(photo: int, annotation: int) -> str:
    """A sentence about the EXIF orientations, where one of the two files has one."""
    if photo == annotation == 1:
        return ""
    photo_text = f"EXIF orientation {photo}" if photo != 1 else "no EXIF orientation"
    mask_text = f"EXIF orientation {annotation}" if annotation != 1 else "none"
    return f"The photo has {photo_text}, the mask has {mask_text}: each was turned by its own. "


@dataclass(frozen=True)
class PhotoSet:
    """Photos of one split."""

    name: str
    photos: tuple[LabelledPhoto, ...]
    is_labelled: bool = True

    def __len__(self) -> int:
        return len(self.photos)

    @cached_property
    def content_hashes(self) -> tuple[str, ...]:
        """SHA-256 of each photo's file. Raises DataError where one cannot be read."""
        return tuple(_hash_of(item.photo) for item in self.photos)

    @cached_property
    def fingerprint(self) -> str:
        """One hash over names, photos, annotations and what their colours mean."""
        digest = hashlib.sha256()
        for item, content in zip(self.photos, self.content_hashes, strict=True):
            known = item.palette
            meaning = f"{known.flower} {known.background} {known.void}"
            if known.tolerance:
                meaning += f" within {known.tolerance}"
            annotation = f"{_hash_of(item.annotation)}\0{meaning}"
            digest.update(f"{item.name}\0{content}\0{annotation}\n".encode())
        return digest.hexdigest()

    def part(self, places: Iterable[int]) -> "PhotoSet":
        """The photos at these places of the set, in this order."""
        return replace(self, photos=tuple(self.photos[place] for place in places))

    def limited(self, limit: int | None) -> "PhotoSet":
        """The set, or `limit` photos spread evenly over it."""
        if limit is None or limit >= len(self.photos):
            return self
        picks = np.linspace(0, len(self.photos) - 1, limit).round().astype(int)
        return replace(self.part(picks.tolist()), name=f"{self.name}[{limit}]")


def _hash_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error


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
