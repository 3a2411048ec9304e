"""Labelled photos in both layouts, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.data import (
    MASK_PALETTE,
    OXFORD_PALETTE,
    LabelledPhoto,
    PhotoSet,
    labels_from_colours,
    open_photos,
    refuse_overlap,
)
from flowerseg.errors import DataError
from flowerseg.evaluate import read_pair
from flowerseg.images import write_png


def _photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def _oxford(root: Path, photos: int = 8) -> Path:
    """Photos 1 to `photos`; photo 4 has no trimap, as in the real data set."""
    for number in range(1, photos + 1):
        write_png(root / "jpg" / f"image_{number:04d}.jpg", _photo(number))
        if number != 4:
            trimap = np.full((8, 12, 3), (128, 128, 0), np.uint8)
            trimap[:, :3] = (128, 0, 0)
            trimap[:, 3] = 0
            write_png(root / "trimaps" / f"image_{number:04d}.png", trimap)
    splits = {"trn1": [1, 2, 4], "val1": [3, 5], "tst1": [6], "trn2": [2, 7, 8]}
    savemat(root / "datasplits.mat", {k: np.array([v], np.uint16) for k, v in splits.items()})
    return root


def _folder(root: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        write_png(root / "photos" / f"{name}.png", _photo(seed))
        write_png(root / "masks" / f"{name}.png", np.zeros((8, 12), np.uint8))
    return root


def _names(photos: PhotoSet) -> list[str]:
    return [item.name for item in photos.photos]


@pytest.mark.parametrize(
    ("split", "name", "ids"),
    [
        ("train", "trn1", [1, 2]),
        ("trn1", "trn1", [1, 2]),
        ("val", "val1", [3, 5]),
        ("test", "tst1", [6]),
        ("trn1+trn2", "trn1+trn2", [1, 2, 7, 8]),
        ("train+val1", "trn1+val1", [1, 2, 3, 5]),
    ],
)
def test_oxford_splits_hold_the_photos_that_have_a_trimap(
    tmp_path: Path, split: str, name: str, ids: list[int]
) -> None:
    photos = open_photos(_oxford(tmp_path / "flowers"), split)
    assert photos.name == f"flowers/{name}"
    assert _names(photos) == [f"image_{i:04d}" for i in ids]


def test_oxford_trimap_is_flower_background_and_void(tmp_path: Path) -> None:
    rgb, labels = read_pair(open_photos(_oxford(tmp_path), "train").photos[0])
    np.testing.assert_array_equal(rgb, _photo(1))
    expected = np.array([[FLOWER] * 3 + [VOID] + [BACKGROUND] * 8] * 8, np.uint8)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("split", ["trn9", "__header__", "train+", ""])
def test_unknown_oxford_split_is_refused_with_the_known_ones(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match="There are train, val, test and trn1, trn2, tst1, val1"):
        open_photos(_oxford(tmp_path), split)


def test_photo_that_a_split_names_and_nobody_has_is_refused(tmp_path: Path) -> None:
    root = _oxford(tmp_path)
    (root / "jpg/image_0002.jpg").unlink()
    with pytest.raises(DataError, match=r"1 photos are missing \(image_0002\.jpg\)"):
        open_photos(root, "train")


def test_plain_folder_is_parted_by_name_and_stays_so_when_photos_are_added(tmp_path: Path) -> None:
    names = [f"flower{i}" for i in range(40)]
    small = _folder(tmp_path / "small", names[:20])
    large = _folder(tmp_path / "large", names)
    for split in ("train", "val"):
        part = _names(open_photos(small, split))
        assert set(part) <= set(_names(open_photos(large, split)))
    train, val = (_names(open_photos(large, split)) for split in ("train", "val"))
    assert sorted(train + val) == sorted(names)
    assert 3 <= len(val) <= 14  # a fifth


def test_plain_masks_are_white_black_and_grey(tmp_path: Path) -> None:
    mask = np.array([[255, 0, 128]], np.uint8)
    write_png(tmp_path / "mask.png", mask)
    item = LabelledPhoto("a", tmp_path / "a.png", tmp_path / "mask.png", MASK_PALETTE)
    assert item.read_labels().tolist() == [[FLOWER, BACKGROUND, VOID]]


def test_plain_folder_has_no_test_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="photos/ and masks/ have train and val"):
        open_photos(_folder(tmp_path, ["a", "b"]), "test")


@pytest.mark.parametrize("lost", ["photos/b.png", "masks/b.png"])
def test_photo_without_mask_and_mask_without_photo_are_named(tmp_path: Path, lost: str) -> None:
    root = _folder(tmp_path, ["a", "b", "c"])
    (root / lost).unlink()
    with pytest.raises(DataError, match=r"not both \(b\)"):
        open_photos(root, "train")


def test_names_that_differ_only_in_extension_are_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["a", "b"])
    write_png(root / "photos/a.bmp", _photo(9))
    with pytest.raises(DataError, match="differ only in extension: a"):
        open_photos(root, "train")


@pytest.mark.parametrize("made", [[], ["photos"], ["jpg", "trimaps"]])
def test_folder_in_neither_layout_is_told_both(tmp_path: Path, made: list[str]) -> None:
    for name in made:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"neither jpg/.* nor photos/ and masks/"):
        open_photos(tmp_path, "train")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder of labelled photos"):
        open_photos(tmp_path / "none", "train")


def test_empty_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="split 'train' has no photo"):
        open_photos(tmp_path, "train")


def test_unknown_colours_are_counted_and_named() -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 0] = (127, 0, 0)
    colours[1, :2] = (1, 2, 3)
    with pytest.raises(DataError, match=r"a\.png: 3 pixels of 2 unknown colours \(\(1, 2, 3\), "):
        labels_from_colours(colours, OXFORD_PALETTE, Path("a.png"))


def test_annotation_of_another_size_is_refused(tmp_path: Path) -> None:
    root = _oxford(tmp_path)
    write_png(root / "trimaps/image_0001.png", np.zeros((12, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"is 12 x 8, but .* is 8 x 12 pixels"):
        read_pair(open_photos(root, "train").photos[0])


def test_sets_that_share_a_photo_under_another_name_are_refused(tmp_path: Path) -> None:
    root = _oxford(tmp_path)
    write_png(root / "jpg/image_0003.jpg", _photo(1))
    train, val = open_photos(root, "train"), open_photos(root, "val")
    with pytest.raises(DataError, match=r"share 1 photos \(image_0003\.jpg = image_0001\.jpg\)"):
        refuse_overlap(train, val)


def test_sets_without_a_shared_photo_pass(tmp_path: Path) -> None:
    root = _oxford(tmp_path)
    refuse_overlap(open_photos(root, "train"), open_photos(root, "val"))


@pytest.mark.parametrize("changed", ["jpg/image_0001.jpg", "trimaps/image_0002.png"])
def test_fingerprint_changes_with_any_photo_and_annotation(tmp_path: Path, changed: str) -> None:
    first, second = _oxford(tmp_path / "a"), _oxford(tmp_path / "b")
    before = open_photos(first, "train").fingerprint
    assert open_photos(second, "train").fingerprint == before
    write_png(second / changed, np.full((8, 12, 3), (128, 0, 0), np.uint8))
    assert open_photos(second, "train").fingerprint != before


@pytest.mark.parametrize(
    ("limit", "picks"),
    [(None, range(10)), (10, range(10)), (99, range(10)), (4, [0, 3, 6, 9]), (1, [0])],
)
def test_limit_spreads_over_the_set(tmp_path: Path, limit: int | None, picks: list[int]) -> None:
    items = [LabelledPhoto(str(i), tmp_path, tmp_path, MASK_PALETTE) for i in range(10)]
    assert _names(PhotoSet("ten", tuple(items)).limited(limit)) == [str(i) for i in picks]
