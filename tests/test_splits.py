"""Who validates in a folder: drawn by class, or as lists say."""

import os
from pathlib import Path

import pytest

from flowerseg.data import MASK_PALETTE, LabelledPhoto
from flowerseg.errors import DataError
from flowerseg.splits import draw_val, names_in_split

NAMES = ["rose/a", "rose/b c", "tulip/ä.v2", "tulip/d"]


def _groups(**sizes: int) -> dict[str, str]:
    return {f"{group}/{i}": group for group, size in sizes.items() for i in range(size)}


def _sizes(names: set[str]) -> dict[str, int]:
    groups = [name.split("/")[0] for name in names]
    return {group: groups.count(group) for group in groups}


def _split(root: Path, split: str, names: list[str] = NAMES) -> list[str]:
    photos = [
        LabelledPhoto(n, Path(f"{n}.jpg"), Path(f"{n}.png"), MASK_PALETTE, n.split("/")[0])
        for n in names
    ]
    return sorted(names_in_split(root, split, photos, val_share=0.5, seed=0))


@pytest.mark.parametrize(
    ("share", "sizes", "val"),
    [
        (0.2, {"rose": 10, "tulip": 5, "iris": 3}, {"rose": 2, "tulip": 1, "iris": 1}),
        (0.2, {"rose": 20, "tulip": 2, "iris": 1}, {"rose": 4}),
        (0.9, {"rose": 10, "tulip": 2, "iris": 1}, {"rose": 9, "tulip": 1}),
    ],
)
def test_each_class_gives_its_share_but_keeps_one(
    share: float, sizes: dict[str, int], val: dict[str, int]
) -> None:
    assert _sizes(draw_val(_groups(**sizes), share, seed=0)) == val


@pytest.mark.parametrize("seed", range(10))
def test_where_no_class_gives_one_a_larger_class_does(seed: int) -> None:
    assert _sizes(draw_val(_groups(rose=2, tulip=1, iris=1), 0.2, seed)) == {"rose": 1}


def test_of_photos_that_are_each_their_own_class_one_validates() -> None:
    assert len(draw_val(_groups(**{f"class{i}": 1 for i in range(4)}), 0.2, seed=0)) == 1


@pytest.mark.parametrize("photos", [0, 1])
def test_one_photo_alone_trains(photos: int) -> None:
    assert draw_val(_groups(rose=photos), 0.2, seed=0) == set()


def test_draw_is_the_stored_one() -> None:
    # Another hash would part everybody's photos anew, and old models would validate on photos
    # that they were trained on.
    expected = {"rose/2", "rose/8", "rose/0", "tulip/2", "tulip/3"}  # by SHA-256 of "0\0rose/2" …
    assert draw_val(_groups(rose=10, tulip=5), 0.3, seed=0) == expected


def test_another_seed_draws_others() -> None:
    draws = {frozenset(draw_val(_groups(rose=20), 0.2, seed)) for seed in range(5)}
    assert len(draws) == 5


def test_photos_of_other_classes_move_nothing() -> None:
    before = draw_val(_groups(rose=50), 0.2, seed=0)
    after = draw_val(_groups(rose=50, tulip=20), 0.2, seed=0)
    assert {name for name in after if name.startswith("rose")} == before


def test_photos_move_only_in_the_place_of_new_ones_of_their_class() -> None:
    groups = _groups(rose=50)
    before = draw_val(groups, 0.2, seed=0)
    after = draw_val(_groups(rose=55), 0.2, seed=0)
    assert (len(before), len(after)) == (10, 11)
    new = after - groups.keys()
    assert len(before - after) == max(0, len(new) - 1)  # there is one place more
    assert len(after - new - before) == max(0, 1 - len(new))


def test_drawn_splits_are_complementary(tmp_path: Path) -> None:
    train, val = _split(tmp_path, "train"), _split(tmp_path, "val")
    assert sorted(train + val) == sorted(NAMES)
    assert _sizes(set(val)) == {"rose": 1, "tulip": 1}


def test_list_names_photos_with_or_without_suffix(tmp_path: Path) -> None:
    text = "# the good ones\n\nrose/b c.jpg\n  tulip/ä.v2  \r\n"
    (tmp_path / "val.txt").write_text("\ufeff" + text, encoding="utf-8")
    assert _split(tmp_path, "val") == ["rose/b c", "tulip/ä.v2"]


def test_list_may_code_its_letters_in_the_other_way(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("tulip/a\u0308.v2\n", encoding="utf-8")
    assert _split(tmp_path, "val") == ["tulip/ä.v2"]


def test_lists_make_splits_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "fold1.txt").write_text("rose/a\n")
    assert _split(tmp_path, "fold1") == ["rose/a"]


def test_photos_held_out_for_the_test_are_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("rose/a\ntulip/d\n")
    assert _split(tmp_path, "test") == ["rose/a", "tulip/d"]
    drawn = _split(tmp_path, "train") + _split(tmp_path, "val")
    assert sorted(drawn) == ["rose/b c", "tulip/ä.v2"]


def test_names_that_are_not_there_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("rose/a\nrose/x\nrose/a.png\nrose\ntulip/d.JPG\n")
    message = r"val\.txt: 4 of 5 names are no photo .*\(rose/x, rose/a\.png, rose, …\)"
    with pytest.raises(DataError, match=message):
        _split(tmp_path, "val")


def test_names_that_are_repeated_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("rose/a\ntulip/d\nrose/a.jpg\n")
    with pytest.raises(DataError, match=r"1 names stand in it more than once \(rose/a\)"):
        _split(tmp_path, "val")


def test_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe\x00r")
    with pytest.raises(DataError, match=r"val\.txt: cannot be read as a list: .*UTF-8"):
        _split(tmp_path, "val")


@pytest.mark.parametrize(("there", "asked"), [("train", "val"), ("val", "train")])
def test_list_for_one_side_only_is_refused(tmp_path: Path, there: str, asked: str) -> None:
    (tmp_path / f"{there}.txt").write_text("rose/a\n")
    assert _split(tmp_path, there) == ["rose/a"]
    with pytest.raises(DataError, match=rf"{there}\.txt is there, but {asked}\.txt is not"):
        _split(tmp_path, asked)


@pytest.mark.parametrize(
    ("lists", "known"),
    [([], "train, val"), (["fold1"], "fold1, train, val"), (["val", "fold1"], "fold1, val")],
)
@pytest.mark.parametrize("split", ["test", "", "../other", "fold1.txt"])
def test_unknown_split_is_refused_with_those_that_are_there(
    tmp_path: Path, split: str, lists: list[str], known: str
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "other.txt").write_text("rose/a\n")
    for name in lists:
        (tmp_path / "root" / f"{name}.txt").write_text("rose/a\n")
    with pytest.raises(DataError, match=f"no split '{split}'. There are {known}; any"):
        _split(tmp_path / "root", split)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rose/a\n".encode("utf-16"), r"cannot be read as a list: .* Save it as .* UTF-8"),
        ("rose/a\n".encode("utf-16-le"), "has zero bytes, .* Save it as UTF-8"),
        (b"\x89PNG\r\n", "cannot be read as a list"),
        (b"\x1b[2Jrose", r"1 of 1 names are no photo .* \('\\x1b\[2Jrose'\)"),
        (b"../photos/rose/a\n", r"1 of 1 names are no photo .* \(\.\./photos/rose/a\)"),
        (b"/etc/passwd\n", r"1 of 1 names are no photo .* \(/etc/passwd\)"),
        (b"x" * 5000, r"1 of 1 names are no photo .* \(x{100}…\)"),
    ],
)
def test_file_that_is_no_list_of_names_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"val\.txt: {message}"):
        _split(tmp_path, "val")


def test_list_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "val.txt").mkdir()
    with pytest.raises(DataError, match=r"val\.txt: cannot be read as a list"):
        _split(tmp_path, "val")


def test_list_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "val.txt")
    with pytest.raises(DataError, match=r"val\.txt: cannot be read as a list: Not a regular file"):
        _split(tmp_path, "val")
