"""Labelled photos in both layouts, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.data import (
    MASK_PALETTE,
    FolderRules,
    LabelledPhoto,
    PhotoSet,
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


def _real_oxford(root: Path, numbers: list[int]) -> Path:
    """The splits of the whole data set, 1360 photos, of which some are on disk."""
    for number in numbers:
        write_png(root / "jpg" / f"image_{number:04d}.jpg", _photo(number))
        write_png(root / "trimaps" / f"image_{number:04d}.png", np.zeros((8, 12, 3), np.uint8))
    splits = {"trn1": np.arange(1, 1360)[None], "val1": [[1360]], "tst1": [[1]]}
    savemat(root / "datasplits.mat", {k: np.array(v, np.uint16) for k, v in splits.items()})
    return root


def test_oxford_class_is_that_of_the_photos_number(tmp_path: Path) -> None:
    root = _real_oxford(tmp_path, [1, 80, 81, 161, 880, 881, 1360])
    groups = [item.group for item in open_photos(root, "trn1+val1").photos]
    expected = ["daffodil", "daffodil", "snowdrop", "lily of the valley", "daisy", "coltsfoot"]
    assert groups == [*expected, "pansy"]


def test_other_photos_in_the_layout_of_oxford_have_no_class(tmp_path: Path) -> None:
    assert {item.group for item in open_photos(_oxford(tmp_path), "train").photos} == {""}


def test_oxford_layout_has_its_own_colours(tmp_path: Path) -> None:
    rules = FolderRules(flower_colours=((128, 128, 0),), background_colours="any")
    item = open_photos(_oxford(tmp_path), "train", rules).photos[0]
    assert item.read_labels()[0, 0] == FLOWER
    assert item.read_labels()[0, 4] == BACKGROUND


@pytest.mark.parametrize("split", ["trn9", "__header__", "train+", ""])
def test_unknown_oxford_split_is_refused_with_the_known_ones(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match="There are train, val, test and trn1, trn2, tst1, val1"):
        open_photos(_oxford(tmp_path), split)


def test_photo_that_a_split_names_and_nobody_has_is_refused(tmp_path: Path) -> None:
    root = _oxford(tmp_path)
    (root / "jpg/image_0002.jpg").unlink()
    with pytest.raises(DataError, match=r"1 photos are missing \(image_0002\.jpg\)"):
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
    root = _oxford(tmp_path)
    (root / "trimaps/image_0006.png").unlink()
    with pytest.raises(DataError, match="split 'tst1' has no photo with an annotation"):
        open_photos(root, "test")


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


@pytest.mark.parametrize("gone", ["jpg/image_0001.jpg", "trimaps/image_0002.png"])
def test_file_that_is_gone_when_it_is_hashed_is_named(tmp_path: Path, gone: str) -> None:
    photos = open_photos(_oxford(tmp_path), "train")
    (tmp_path / gone).unlink()
    with pytest.raises(DataError, match=rf"{gone}: cannot be read: No such file"):
        _ = photos.fingerprint


@pytest.mark.parametrize(
    ("limit", "picks"),
    [(None, range(10)), (10, range(10)), (99, range(10)), (4, [0, 3, 6, 9]), (1, [0])],
)
def test_limit_spreads_over_the_set(tmp_path: Path, limit: int | None, picks: list[int]) -> None:
    items = [LabelledPhoto(str(i), tmp_path, tmp_path, MASK_PALETTE) for i in range(10)]
    assert _names(PhotoSet("ten", tuple(items)).limited(limit)) == [str(i) for i in picks]
