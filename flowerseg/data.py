"""Labelled photos: Oxford 17 Flowers in its own layout, or any folder of photos and masks."""

from pathlib import Path

from flowerseg.errors import DataError, some_of
from flowerseg.files import as_path
from flowerseg.folder import (
    DEFAULT_RULES,
    MASK_PALETTE,
    FolderRules,
    is_folder,
    open_folder,
    rules_from_text,
)
from flowerseg.labelled import LabelledPhoto, PhotoSet
from flowerseg.oxford import OXFORD_CLASSES, OXFORD_PALETTE, is_oxford, open_oxford

__all__ = [
    "DEFAULT_RULES",
    "MASK_PALETTE",
    "OXFORD_CLASSES",
    "OXFORD_PALETTE",
    "FolderRules",
    "LabelledPhoto",
    "PhotoSet",
    "open_photos",
    "refuse_overlap",
    "rules_from_text",
]


def open_photos(root: str | Path, split: str, rules: FolderRules = DEFAULT_RULES) -> PhotoSet:
    """The photos of one split.

    Args:
        root: Oxford layout (`jpg/`, `trimaps/`, `datasplits.mat`), or `photos/` and `masks/` with
            equal paths in them, but for the suffix: `masks/x.png` or `masks/x.jpg.png` belongs to
            `photos/x.jpg`.
        split: in the Oxford layout `train`, `val`, `test`, `trn1` … `tst3`, or several of them
            joined by `+`; in a folder `train`, `val`, or a list `<split>.txt` in `root`.
        rules: what the colours of a folder's masks mean, and how it is split where no list says
            so. The Oxford layout has its own.

    Raises:
        DataError: the folder, the layout, the split or every photo of it is missing; photos and
            masks do not pair; a list names what is not there.
    """
    root = as_path(root, "root")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of labelled photos. Check --data.")
    if is_oxford(root):
        return open_oxford(root, split)
    if is_folder(root):
        return open_folder(root, split, rules)
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
            f"{train.name} and {val.name} share {len(shared)} photos ({some_of(shared)}): the "
            "validation would only measure memory. Remove them from one of the two."
        )
