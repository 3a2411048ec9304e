"""Any folder of photos and masks: pairs, classes, colours."""

import dataclasses
import hashlib
import json
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.data import FolderRules, PhotoSet, open_photos, rules_from_text
from flowerseg.errors import DataError, ImageError
from flowerseg.files import make_folders
from flowerseg.images import write_png
from flowerseg.jsonform import from_json
from flowerseg.pairs import photos_with_masks
from flowerseg.palette import UnknownColours

GREY_RAMP = np.array([[0, 1, 2, 128, 255]], np.uint8)  # class numbers, or grey levels
VAL = ["rose/b c", "tulip/deep/ä", "tulip/e", "x.v2"]


def _photo(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 5, 3), dtype=np.uint8)


def _folder(root: Path, names: list[str], mask: np.ndarray = GREY_RAMP) -> Path:
    """Photos and masks, and a list by which all of them are `val`."""
    for seed, name in enumerate(names):
        write_png(root / "photos" / f"{name}.png", _photo(seed))
        write_png(root / "masks" / f"{name}.png", mask)
    (root / "val.txt").write_text("\n".join(names), encoding="utf-8")
    return root


def _names(photos: PhotoSet) -> list[str]:
    return [item.name for item in photos.photos]


def _labels(root: Path, rules: FolderRules) -> list[int]:
    return open_photos(root, "val", rules).photos[0].read_labels()[0].tolist()


def test_nested_photos_have_paths_for_names_and_the_first_folder_for_class(tmp_path: Path) -> None:
    photos = open_photos(_folder(tmp_path / "mine", VAL), "val")
    assert photos.name == "mine/val"
    assert _names(photos) == VAL
    assert [item.group for item in photos.photos] == ["rose", "tulip", "tulip", ""]
    deep = photos.photos[1]
    assert deep.photo == tmp_path / "mine/photos/tulip/deep/ä.png"
    assert deep.annotation == tmp_path / "mine/masks/tulip/deep/ä.png"
    np.testing.assert_array_equal(deep.read_rgb(), _photo(1))


def test_suffixes_may_differ_in_kind_and_case(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["rose/a"])
    (root / "photos/rose/a.png").rename(root / "photos/rose/a.JPG")
    assert _names(open_photos(root, "val")) == ["rose/a"]


def test_letters_coded_in_two_ways_are_one_name(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["rose/ä"])
    (root / "masks/rose/ä.png").rename(root / "masks/rose/a\u0308.png")
    assert _names(open_photos(root, "val")) == ["rose/ä"]


def test_hidden_and_other_files_do_not_count(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["rose/a"])
    write_png(root / "photos/.thumbnails/a.png", _photo(0))
    write_png(root / "photos/rose/.b.png", _photo(0))
    (root / "masks/rose/notes.txt").write_text("all by hand")
    assert _names(open_photos(root, "val")) == ["rose/a"]


def test_linked_folders_count_and_loops_of_links_end(tmp_path: Path) -> None:
    root = _folder(tmp_path / "root", ["rose/a"])
    (root / "val.txt").unlink()
    for kind in ("photos", "masks"):
        (tmp_path / kind).mkdir()
        (root / kind / "rose").rename(tmp_path / kind / "rose")
        (root / kind / "rose").symlink_to(tmp_path / kind / "rose")
        (root / kind / "loop").symlink_to(root / kind)
    assert _names(open_photos(root, "train")) == ["rose/a"]


@pytest.mark.parametrize("lost", ["photos/tulip/e.png", "masks/tulip/e.png"])
def test_photo_without_mask_and_mask_without_photo_are_named(tmp_path: Path, lost: str) -> None:
    root = _folder(tmp_path, VAL)
    (root / lost).unlink()
    with pytest.raises(DataError, match=r"1 names have .* not both \(tulip/e\)"):
        open_photos(root, "val")


def test_same_name_in_another_folder_is_no_pair(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["rose/a"])
    (root / "masks/rose").rename(root / "masks/iris")
    with pytest.raises(DataError, match=r"2 names .* not both \(iris/a, rose/a\)"):
        open_photos(root, "val")


def test_mask_may_have_the_whole_name_of_its_photo(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["rose/a", "rose/b"])
    (root / "photos/rose/a.png").rename(root / "photos/rose/a.JPG")
    (root / "masks/rose/a.png").rename(root / "masks/rose/a.JPG.png")
    pairs = {p.name: p.annotation.name for p in open_photos(root, "val").photos}
    assert pairs == {"rose/a": "a.JPG.png", "rose/b": "b.png"}


def test_equal_names_come_before_whole_ones(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["a.png", "b"])
    write_png(root / "photos/a.png", _photo(9))  # named a; the other is a.png.png, named a.png
    with pytest.raises(DataError, match=r"1 names have .* not both \(a\)"):
        open_photos(root, "val")
    write_png(root / "masks/a.png", GREY_RAMP)
    pairs = {name: mask.name for name, (_, mask) in photos_with_masks(root).items()}
    assert pairs == {"a": "a.png", "a.png": "a.png.png", "b": "b.png"}


def test_two_masks_of_one_photo_are_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["a"])
    write_png(root / "masks/a.png.png", GREY_RAMP)
    with pytest.raises(DataError, match=r"1 names have .* not both \(a\.png\)"):
        open_photos(root, "val")


@pytest.mark.parametrize("pattern", ["{}_mask", "mask-{}", "{}.seg"])
def test_masks_that_are_named_by_a_pattern_are_told_it(tmp_path: Path, pattern: str) -> None:
    root = _folder(tmp_path, ["a0", "a1"])
    for name in ("a0", "a1"):
        (root / f"masks/{name}.png").rename(root / f"masks/{pattern.format(name)}.png")
    said = rf"If {re.escape(pattern.format('a0'))}\.png is the mask of a0, .* rename them to NAME"
    with pytest.raises(DataError, match=rf"4 names .*{said}"):
        open_photos(root, "val")


def test_labels_that_are_no_images_are_named(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["a"])
    (root / "masks/a.png").rename(root / "masks/a.txt")
    with pytest.raises(DataError, match=r"masks/ has files that are not read \(a\.txt\): JPEG, "):
        open_photos(root, "val")


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["a"])
    for kind in ("photos", "masks"):
        (root / kind / "a.png").rename(root / kind / "\udcff.png")
    with pytest.raises(DataError, match=r"1 names are not UTF-8 \('\\udcff'\)"):
        open_photos(root, "train")


def test_names_that_differ_only_in_extension_are_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["rose/a", "rose/b"])
    write_png(root / "photos/rose/a.bmp", _photo(9))
    with pytest.raises(DataError, match=r"1 names that differ only in extension: rose/a\."):
        open_photos(root, "train")


def test_photo_that_is_a_dead_link_is_missing(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["rose/a"])
    (root / "photos/rose/a.png").unlink()
    (root / "photos/rose/a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"1 photos are missing \(a\.png\)"):
        open_photos(root, "val")


def test_empty_folder_has_no_photo(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="split 'train' has no photo"):
        open_photos(tmp_path, "train")


def test_one_photo_trains_and_none_validates(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["rose/a"])
    (root / "val.txt").unlink()
    assert _names(open_photos(root, "train")) == ["rose/a"]
    with pytest.raises(DataError, match=r"split 'val' has no photo: 1 in photos/ .* takes two"):
        open_photos(root, "val")


def test_rules_decide_the_share_and_the_draw(tmp_path: Path) -> None:
    root = _folder(tmp_path, [f"rose/{i}" for i in range(10)])
    (root / "val.txt").unlink()
    assert len(open_photos(root, "val")) == 2
    assert len(open_photos(root, "val", FolderRules(val_share=0.4))) == 4
    drawn = {tuple(_names(open_photos(root, "val", FolderRules(split_seed=i)))) for i in range(4)}
    assert len(drawn) > 1


def test_masks_are_white_black_and_grey_unless_said_otherwise(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["a"], np.array([[255, 0, 128, 0, 255]], np.uint8))
    assert _labels(root, FolderRules()) == [FLOWER, BACKGROUND, VOID, BACKGROUND, FLOWER]


def test_class_numbers_are_grey_levels(tmp_path: Path) -> None:
    rules = rules_from_text(flower=["1"], background=["0", "2", "128"], void=["255"])
    labels = _labels(_folder(tmp_path, ["a"]), rules)
    assert labels == [BACKGROUND, FLOWER, BACKGROUND, BACKGROUND, VOID]


def test_any_other_class_is_background(tmp_path: Path) -> None:
    rules = rules_from_text(flower=["1", "2"], background=["any"], void=["255"])
    labels = _labels(_folder(tmp_path, ["a"]), rules)
    assert labels == [BACKGROUND, FLOWER, FLOWER, BACKGROUND, VOID]


def test_unknown_colours_are_told_the_options_that_give_them_a_meaning(tmp_path: Path) -> None:
    with pytest.raises(UnknownColours, match=r"2 pixels of 2 unknown colours \(\(1, 1, 1\), ") as e:
        _labels(_folder(tmp_path, ["a"]), FolderRules())
    for option in ("--flower-colour", "--void-colour", "--background-colour any"):
        assert option in str(e.value)


def test_masks_of_16_bits_are_refused_for_scaling_loses_their_classes(tmp_path: Path) -> None:
    root = _folder(tmp_path, ["a"])
    cv2.imwrite(str(root / "masks/a.png"), GREY_RAMP.astype(np.uint16))
    with pytest.raises(ImageError, match=r"a\.png: uint16 samples .* 8 bits"):
        _labels(root, rules_from_text(flower=["1"], background=["any"]))


def test_rules_without_texts_are_the_default() -> None:
    assert rules_from_text() == FolderRules()
    assert FolderRules() == FolderRules(
        ((255, 255, 255),),
        ((128, 128, 128),),
        ((0, 0, 0),),
        val_share=0.2,
        split_seed=0,
        mask_tolerance=0,
    )


def test_rules_are_what_the_texts_say() -> None:
    rules = rules_from_text(["1", "2,3,4"], ["255"], ["any"], 0.5, 7, mask_tolerance=3)
    assert rules == FolderRules(((1, 1, 1), (2, 3, 4)), ((255, 255, 255),), "any", 0.5, 7, 3)
    assert rules.palette.tolerance == 3


@pytest.mark.parametrize(
    ("flower", "background", "message"),
    [
        (["128"], [], r"\(128, 128, 128\) is given as flower and as void colour"),
        (["0"], [], r"\(0, 0, 0\) is given as flower and as background colour"),
        ([], ["white"], "'white' is no colour"),
    ],
)
def test_texts_that_make_no_rules_are_refused(
    flower: list[str], background: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rules_from_text(flower, background=background)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_share_that_leaves_a_side_empty_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="val_share must be between 0 and 1"):
        FolderRules(val_share=share)


@pytest.mark.parametrize(
    "rules",
    [
        FolderRules(),
        FolderRules(background_colours="any", void_colours=(), split_seed=3),
        FolderRules(((1, 1, 1), (2, 3, 4)), ((9, 9, 9),), ((0, 0, 0), (5, 5, 5)), 0.25, 7, 12),
    ],
)
def test_rules_come_back_from_a_manifest(rules: FolderRules) -> None:
    assert from_json(FolderRules, json.loads(json.dumps(dataclasses.asdict(rules)))) == rules


@pytest.mark.parametrize(
    "spoilt",
    [
        {"background_colours": "all"},
        {"background_colours": [[0, 0]]},
        {"flower_colours": "any"},
        {"flower_colours": [[0, 0, 1.5]]},
        {"flower_colours": [[0, 0, 300]]},
        {"val_share": 2},
        {"mask_tolerance": 128},
        {"mask_tolerance": 1.5},
    ],
)
def test_spoilt_rules_are_refused(spoilt: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(FolderRules, spoilt)


def test_rules_of_manifests_from_before_the_tolerance_are_exact() -> None:
    stored = dataclasses.asdict(FolderRules(background_colours="any"))
    del stored["mask_tolerance"]
    assert from_json(FolderRules, stored) == FolderRules(background_colours="any")


def test_fingerprint_tells_tolerances_apart_and_keeps_that_of_exact_masks(tmp_path: Path) -> None:
    root = _folder(tmp_path / "mine", ["a"], np.zeros((1, 5), np.uint8))
    prints = [
        open_photos(root, "val", FolderRules(mask_tolerance=n)).fingerprint for n in (0, 1, 12)
    ]
    assert len(set(prints)) == 3
    photo, mask = (
        hashlib.sha256((root / kind / "a.png").read_bytes()).hexdigest()
        for kind in ("photos", "masks")
    )
    # Spelt out: what models of earlier versions hold.
    meaning = "((255, 255, 255),) ((0, 0, 0),) ((128, 128, 128),)"
    line = f"a\0{photo}\0{mask}\0{meaning}\n"
    assert prints[0] == hashlib.sha256(line.encode()).hexdigest()


def test_masks_without_void_are_told_so_and_told_again() -> None:
    rules = rules_from_text(void=("none",))
    assert rules == FolderRules(void_colours=())
    assert rules.options() == [("void-colour", "none")]


def test_photos_and_masks_may_lie_deeper_than_python_recurses(tmp_path: Path) -> None:
    below = Path("/".join("a" * 1100))
    try:
        for name in ("photos", "masks"):
            make_folders(tmp_path / name / below)
            write_png(tmp_path / name / below / "p.png", np.zeros((2, 2, 3), np.uint8))
        pairs = photos_with_masks(tmp_path)
        name = (below / "p").as_posix()
        assert pairs == {name: tuple(tmp_path / k / below / "p.png" for k in ("photos", "masks"))}
    finally:  # pytest's own way of removing recurses
        subprocess.run(["find", tmp_path, "-mindepth", "1", "-delete"], check=True)
