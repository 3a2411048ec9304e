"""Labelled photos: Oxford 17 Flowers in its own layout, or any folder of photos and masks."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Labels, Rgb
from flowerseg.errors import DataError
from flowerseg.files import sha256_of
from flowerseg.images import PHOTO_SUFFIXES, read_mask_colours, read_rgb

Palette: TypeAlias = tuple[tuple[tuple[int, int, int], int], ...]

# Colour -> label. Trimaps of flowers17 use the first three; some at full resolution the fourth.
OXFORD_PALETTE: Palette = (
    ((128, 0, 0), FLOWER),
    ((128, 128, 0), BACKGROUND),
    ((0, 0, 0), VOID),
    ((0, 128, 0), BACKGROUND),
)
MASK_PALETTE: Palette = (
    ((255, 255, 255), FLOWER),
    ((0, 0, 0), BACKGROUND),
    ((128, 128, 128), VOID),
)

_OXFORD_ALIASES = {"train": "trn1", "val": "val1", "test": "tst1"}
_ONE_IN = 5  # of a plain folder, every fifth photo by hash of its name validates


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo on disk and the annotation that belongs to it."""

    name: str
    photo: Path
    annotation: Path
    palette: Palette

    def read_rgb(self) -> Rgb:
        """The photo (h, w, 3).

        Raises:
            ImageError: it cannot be decoded.
        """
        return read_rgb(self.photo)

    def read_labels(self) -> Labels:
        """BACKGROUND, FLOWER or VOID for every pixel (h, w), at the annotation's own size.

        Raises:
            ImageError: it cannot be decoded.
            DataError: it holds a colour that means nothing here.
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
        """One hash over names, photos and annotations: equal only for equal data."""
        digest = hashlib.sha256()
        for item, content in zip(self.photos, self.content_hashes, strict=True):
            digest.update(f"{item.name}\0{content}\0{sha256_of(item.annotation)}\n".encode())
        return digest.hexdigest()

    def limited(self, limit: int | None) -> "PhotoSet":
        """The set, or `limit` photos spread evenly over it."""
        if limit is None or limit >= len(self.photos):
            return self
        picks = np.linspace(0, len(self.photos) - 1, limit).round().astype(int)
        return PhotoSet(f"{self.name}[{limit}]", tuple(self.photos[i] for i in picks))


def open_photos(root: Path, split: str) -> PhotoSet:
    """The photos of one split.

    Args:
        root: Oxford layout (`jpg/`, `trimaps/`, `datasplits.mat`), or `photos/` and `masks/` with
            equal names, masks being 255 flower, 0 background, 128 not labelled.
        split: `train`, `val` or `test`; in the Oxford layout also `trn1` … `tst3`, or several of
            them joined by `+`. A plain folder has no `test`.

    Raises:
        DataError: the folder, the layout, the split or every photo of it is missing.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of labelled photos. Check --data.")
    if (root / "datasplits.mat").is_file():
        return _open_oxford(root, split)
    if (root / "photos").is_dir() and (root / "masks").is_dir():
        return _open_folder(root, split)
    raise DataError(
        f"{root}: neither jpg/, trimaps/ and datasplits.mat (Oxford 17 Flowers) nor photos/ and "
        "masks/ are in it. Arrange the data in one of these two ways."
    )


def refuse_overlap(train: PhotoSet, val: PhotoSet) -> None:
    """Refuse sets that share photos, by content and not by name: their IoU would mean nothing.

    Raises:
        DataError: naming some of the shared photos.
    """
    seen = dict(zip(train.content_hashes, train.photos, strict=True))
    shared = [
        f"{item.photo.name} = {seen[content].photo.name}"
        for item, content in zip(val.photos, val.content_hashes, strict=True)
        if content in seen
    ]
    if shared:
        raise DataError(
            f"{train.name} and {val.name} share {len(shared)} photos ({_some(shared)}): the "
            "validation would only measure memory. Remove them from one of the two."
        )


def labels_from_colours(colours: Rgb, palette: Palette, name: Path) -> Labels:
    """Translate annotation colours (h, w, 3) exactly; nothing is rounded to the nearest colour.

    Raises:
        DataError: a colour is not in the palette (an annotation that was resized smoothly, or
            saved as JPEG, has many).
    """
    packed = _packed(colours)
    labels = np.full(packed.shape, BACKGROUND, np.uint8)
    known = np.zeros(packed.shape, np.bool_)
    for colour, label in palette:
        here = packed == _packed(np.array([[colour]], np.uint8))[0, 0]
        labels[here] = label
        known |= here
    if not known.all():
        strange = np.unique(packed[~known])
        listed = [f"({c >> 16}, {c >> 8 & 255}, {c & 255})" for c in strange[:4].tolist()]
        raise DataError(
            f"{name}: {np.count_nonzero(~known)} pixels of {len(strange)} unknown colours "
            f"({_some(listed)}). Known are {', '.join(str(c) for c, _ in palette)}."
        )
    return labels


def _open_oxford(root: Path, split: str) -> PhotoSet:
    splits = loadmat(root / "datasplits.mat")
    names = [_OXFORD_ALIASES.get(part, part) for part in split.split("+")]
    ids: set[int] = set()
    for name in names:
        if name.startswith("_") or name not in splits:
            known = ", ".join(sorted(key for key in splits if not key.startswith("_")))
            raise DataError(f"{root}: no split {name!r}. There are train, val, test and {known}.")
        ids |= set(splits[name].ravel().astype(int).tolist())
    items = (
        LabelledPhoto(
            f"image_{i:04d}",
            root / "jpg" / f"image_{i:04d}.jpg",
            root / "trimaps" / f"image_{i:04d}.png",
            OXFORD_PALETTE,
        )
        for i in sorted(ids)
    )
    # The official splits name photos that have no trimap; they cannot serve here.
    return _photo_set(root, "+".join(names), (i for i in items if i.annotation.is_file()))


def _open_folder(root: Path, split: str) -> PhotoSet:
    if split not in ("train", "val"):
        raise DataError(f"{root}: no split {split!r}; photos/ and masks/ have train and val.")
    photos = _by_stem(root / "photos")
    masks = _by_stem(root / "masks")
    if alone := sorted(photos.keys() ^ masks.keys()):
        raise DataError(
            f"{root}: {len(alone)} names have a photo or a mask but not both ({_some(alone)}). "
            "Give photos/x.jpg its masks/x.png, or remove it."
        )
    items = (LabelledPhoto(s, photos[s], masks[s], MASK_PALETTE) for s in sorted(photos))
    return _photo_set(root, split, (i for i in items if _validates(i.name) == (split == "val")))


def _photo_set(root: Path, split: str, items: Iterable[LabelledPhoto]) -> PhotoSet:
    photos = tuple(items)
    if not photos:
        raise DataError(f"{root}: split {split!r} has no photo with an annotation on disk.")
    if missing := [item.photo.name for item in photos if not item.photo.is_file()]:
        raise DataError(f"{root}: {len(missing)} photos are missing ({_some(missing)}).")
    return PhotoSet(f"{root.name}/{split}", photos)


def _by_stem(folder: Path) -> dict[str, Path]:
    files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in PHOTO_SUFFIXES]
    found = {file.stem: file for file in files}
    if len(found) < len(files):
        twice = sorted({f.stem for f in files if found[f.stem] != f})
        raise DataError(f"{folder}: names that differ only in extension: {_some(twice)}.")
    return found


def _validates(name: str) -> bool:
    # By hash of the name, so that a photo stays on its side when others are added.
    return hashlib.sha256(name.encode()).digest()[0] % _ONE_IN == 0


def _packed(colours: Rgb) -> NDArray[np.int64]:
    wide = colours.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
