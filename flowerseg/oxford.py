"""Oxford 17 Flowers in its own layout: `jpg/`, `trimaps/` and `datasplits.mat`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowerseg.errors import DataError, some_of
from flowerseg.labelled import LabelledPhoto, PhotoSet, photo_set
from flowerseg.matfile import read_integer_lists
from flowerseg.palette import Palette

# Trimaps of flowers17 use one background; some at full resolution also the second.
OXFORD_PALETTE = Palette(
    flower=((128, 0, 0),),
    background=((128, 128, 0), (0, 128, 0)),
    void=((0, 0, 0),),
    remedy="Copy the trimaps from the data set again.",
)

# The data set numbers its photos class by class, in this order.
OXFORD_CLASSES = (
    "daffodil",
    "snowdrop",
    "lily of the valley",
    "bluebell",
    "crocus",
    "iris",
    "tigerlily",
    "tulip",
    "fritillary",
    "sunflower",
    "daisy",
    "coltsfoot",
    "dandelion",
    "cowslip",
    "buttercup",
    "windflower",
    "pansy",
)
_PHOTOS_PER_CLASS = 80
_MOST_PHOTOS = 1_000_000  # a higher number is damage, not a photo
_ALIASES = {"train": "trn1", "val": "val1", "test": "tst1"}


def is_oxford(root: Path) -> bool:
    """Whether the folder is laid out as Oxford 17 Flowers."""
    return (root / "datasplits.mat").is_file()


def open_oxford(root: Path, split: str) -> PhotoSet:
    """The photos of one split, or of several joined by `+`, that have a trimap on disk.

    Their group is the class by the photo's number. Data in this layout with another number of
    photos than the real set, such as painted ones, has no classes.

    Raises:
        DataError: the list of splits is damaged, no such split, no photo in it, or a photo is
            missing.
    """
    splits = _read_splits(root / "datasplits.mat")
    names = [_ALIASES.get(part, part) for part in split.split("+")]
    if unknown := [name for name in names if name not in splits]:
        raise DataError(
            f"{root}: no split {unknown[0]!r}. There are train, val, test and "
            f"{', '.join(sorted(splits))}."
        )
    last = max(int(numbers.max(initial=0)) for numbers in splits.values())
    has_classes = last == len(OXFORD_CLASSES) * _PHOTOS_PER_CLASS
    items = (
        LabelledPhoto(
            f"image_{number:04d}",
            root / "jpg" / f"image_{number:04d}.jpg",
            root / "trimaps" / f"image_{number:04d}.png",
            OXFORD_PALETTE,
            OXFORD_CLASSES[(number - 1) // _PHOTOS_PER_CLASS] if has_classes else "",
        )
        for number in np.unique(np.concatenate([splits[name] for name in names])).tolist()
    )
    # The official splits name photos that have no trimap; they cannot serve here.
    return photo_set(root, "+".join(names), (i for i in items if i.annotation.is_file()))


def _read_splits(path: Path) -> dict[str, NDArray[np.int64]]:
    """Photo numbers, counted from 1, of every split in the file."""
    splits = read_integer_lists(path)
    if not splits:
        raise DataError(f"{path}: has no split in it. Copy it from the data set again.")
    for name, numbers in splits.items():
        if strange := numbers[(numbers < 1) | (numbers > _MOST_PHOTOS)].tolist():
            raise DataError(
                f"{path}: split {name!r} has numbers that no photo has "
                f"({some_of(map(str, strange))}). Copy it from the data set again."
            )
    return splits
