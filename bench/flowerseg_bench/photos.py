"""The photos that everything is measured on: real ones, another in every run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowerseg.arrays import Images, Rgb
from flowerseg.data import FolderRules, PhotoSet, open_photos
from flowerseg.files import sha256_of
from flowerseg.images import read_rgb
from flowerseg.listing import list_photos
from flowerseg.preprocess import Preprocess, frame_from_photo

MOST_PHOTOS = 256  # kept as frames in memory: 37 MiB at 224 x 224, 203 MiB at 520 x 520
MOST_FOR_QUALITY = 40


@dataclass(frozen=True)
class Photos:
    """Files to time, and labelled photos to judge by where there are some."""

    files: tuple[Path, ...]
    source: str
    labelled: PhotoSet | None

    @property
    def labelled_for_quality(self) -> PhotoSet | None:
        """The labelled photos that masks are judged on."""
        return None if self.labelled is None else self.labelled.limited(MOST_FOR_QUALITY)

    @property
    def sha256(self) -> str:
        """Of the files' own hashes, in order: the same for the same photos under any name."""
        hashes = "".join(sha256_of(file) for file in self.files)
        return hashlib.sha256(hashes.encode()).hexdigest()

    @property
    def for_quality(self) -> tuple[Path, ...]:
        """Files that masks are compared on, the labelled ones where there are some."""
        if (labelled := self.labelled_for_quality) is not None:
            return tuple(item.photo for item in labelled.photos)
        return spread(self.files, MOST_FOR_QUALITY)


def open_bench_photos(
    folder: Path | None, data: Path | None, split: str, rules: FolderRules, out: Path
) -> Photos:
    """Find the photos: those in `folder`, else those of the labelled data.

    Raises:
        DataError: a folder, a layout, a split or every photo is missing.
        ValueError: neither was given.
    """
    labelled = open_photos(data, split, rules) if data is not None else None
    if folder is not None:
        listing = list_photos(folder, out)
        files = tuple(listing.folder / path for path in listing.photos)
        return Photos(spread(files, MOST_PHOTOS), str(folder), labelled)
    if labelled is None:
        raise ValueError("photos are needed: a folder of them, or labelled data")
    files = tuple(item.photo for item in labelled.photos)
    return Photos(spread(files, MOST_PHOTOS), labelled.name, labelled)


def spread(files: Sequence[Path], most: int) -> tuple[Path, ...]:
    """All files, or `most` of them spread evenly."""
    if len(files) <= most:
        return tuple(files)
    picks = np.linspace(0, len(files) - 1, most).round().astype(int)
    return tuple(files[i] for i in picks)


def frames_from_files(files: Sequence[Path], preprocess: Preprocess) -> list[Rgb]:
    """Decoded and resized, before any clock starts.

    Raises:
        ImageError: one of them cannot be decoded; it has no place in a benchmark.
    """
    return [frame_from_photo(read_rgb(file), preprocess) for file in files]


def batches_of(frames: Sequence[Rgb], batch: int) -> list[Images]:
    """Batches (N, H, W, 3) that together show every frame; the last one borrows from the first.

    With fewer frames than a batch takes, photos repeat within it.
    """
    count = -(-len(frames) // batch)
    return [
        np.stack([frames[(first + i) % len(frames)] for i in range(batch)])
        for first in range(0, count * batch, batch)
    ]


def link_photos(files: Sequence[Path], first: int, count: int, folder: Path) -> None:
    """Make a folder of `count` photos, from the `first` on, around and around, as links."""
    folder.mkdir(parents=True)
    for i in range(count):
        file = files[(first + i) % len(files)]
        (folder / f"{i:06d}_{file.name}").symlink_to(file.resolve())
