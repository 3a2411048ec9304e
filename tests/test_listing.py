"""Photos found in folders, and divided among machines."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowerseg.errors import DataError
from flowerseg.listing import Listing, list_photos, shard
from flowerseg.photolist import photos_on_list


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def _names(listing: Listing) -> list[str]:
    return [path.as_posix() for path in listing.photos]


def test_photos_are_found_by_suffix_at_any_depth_in_order(tmp_path: Path) -> None:
    odd = [
        "two words.jpg",
        "-dash.JPG",
        "Blüte 花.Tiff",
        "line\nbreak.webp",
        os.fsdecode(b"\xe9.bmp"),
    ]
    _touch(tmp_path, *odd, "a/b/c.png", "a/b.jpeg", "notes.txt", ".hidden.jpg", ".cache/d.jpg")
    listing = list_photos(tmp_path, tmp_path / "out")
    assert _names(listing) == sorted([*odd, "a/b/c.png", "a/b.jpeg"])
    assert listing.folder == tmp_path
    assert (listing.unreadable, listing.skipped) == ((), 3)


def test_loops_of_links_end_and_links_to_photos_are_followed(tmp_path: Path) -> None:
    _touch(tmp_path, "a/rose.jpg", "elsewhere")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "a/self.jpg").symlink_to("self.jpg")
    (tmp_path / "a/linked.jpg").symlink_to(tmp_path / "elsewhere")
    listing = list_photos(tmp_path, tmp_path / "out")
    assert _names(listing) == ["a/linked.jpg", "a/rose.jpg", "a/self.jpg"]
    assert listing.skipped == 2  # the loop, and the file without a suffix


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder that pytest need not remove: its own way recurses."""
    yield tmp_path
    subprocess.run(["find", tmp_path, "-mindepth", "1", "-delete"], check=True)


def _nest(top: Path, depth: int, name: str) -> None:
    """Folders in each other, however long their path, with an empty photo in each."""
    place = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=place)
        below = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
        os.close(os.open("p.jpg", os.O_CREAT, dir_fd=place))
    os.close(place)


def test_folders_deeper_than_recursion_allows_are_searched(deep: Path) -> None:
    _nest(deep, 1500, "a")
    listing = list_photos(deep, deep / "out")
    assert {len(path.parts) for path in listing.photos} == set(range(2, 1502))
    assert listing.unreadable == ()


def test_folder_whose_path_is_too_long_for_the_system_is_named(deep: Path) -> None:
    _nest(deep, 30, "b" * 200)
    listing = list_photos(deep, deep / "out")
    ((path, error),) = listing.unreadable
    assert path.parts == ("b" * 200,) * (len(listing.photos) + 1)
    assert "the folder cannot be opened: File name too long. Its photos are missing." in error


def test_folder_that_goes_while_it_is_searched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path, "a/1.jpg", "gone/2.jpg", "z.jpg")
    really = os.scandir

    def scandir(folder: Path) -> object:
        if folder.name == "gone":
            (folder / "2.jpg").unlink()
            folder.rmdir()
        return really(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_photos(tmp_path, tmp_path / "out")
    assert _names(listing) == ["a/1.jpg", "z.jpg"]
    assert [(path.name, "No such file" in error) for path, error in listing.unreadable] == [
        ("gone", True)
    ]


def test_folder_of_photos_that_cannot_be_searched_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> object:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be searched: Permission denied"):
        list_photos(tmp_path, tmp_path / "out")


def test_output_folder_among_the_photos_and_pipes_are_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg", "sub/out/masks/a.jpg.png", "out/own.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert _names(list_photos(tmp_path, tmp_path / "sub/out")) == ["a.jpg", "out/own.jpg"]
    (tmp_path / "link").symlink_to("sub/out")
    assert _names(list_photos(tmp_path, tmp_path / "link")) == ["a.jpg", "out/own.jpg"]
    (tmp_path / "loop").symlink_to("loop")
    assert len(list_photos(tmp_path, tmp_path / "loop").photos) == 3


file_names = st.binary(min_size=1, max_size=40).filter(
    lambda name: not set(name) & {0, 0x2F} and name not in (b".", b"..") and name[0] != 0x2E
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.sets(file_names, min_size=1, max_size=5))
def test_photos_of_any_name_are_found_and_named_on_a_list(
    tmp_path: Path, names: set[bytes]
) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as made:
        folder = Path(made)
        for name in names:
            (folder / os.fsdecode(name + b".jpg")).write_bytes(b"")
        listing = list_photos(folder, folder / "out")
        assert {os.fsencode(path) for path in listing.photos} == {name + b".jpg" for name in names}
        assert listing.skipped == 0
    written = b"".join(os.fsencode(folder / path) + b"\0" for path in listing.photos)
    listed = photos_on_list(written, "list", b"\0")
    assert [listed.folder / path for path in listed.photos] == [
        folder / path for path in listing.photos
    ]


paths = st.lists(
    st.text("abc/.é", min_size=1).map(Path).filter(lambda path: path.name != ""), unique=True
)


@given(paths, st.integers(1, 9))
def test_parts_are_together_the_whole_and_share_nothing(photos: list[Path], parts: int) -> None:
    unreadable = tuple((path, "closed") for path in photos[::3])
    whole = Listing(Path("photos"), tuple(photos), unreadable, skipped=5)
    found = [shard(whole, part, parts) for part in range(1, parts + 1)]
    assert sorted(path for part in found for path in part.photos) == sorted(photos)
    assert sorted(pair for part in found for pair in part.unreadable) == sorted(unreadable)
    assert sum(part.skipped for part in found) == 5
    assert {part.folder for part in found} == {whole.folder}


@given(paths, paths, st.integers(1, 9))
def test_photos_that_come_move_no_other(before: list[Path], new: list[Path], parts: int) -> None:
    earlier = Listing(Path(), tuple(before))
    later = Listing(Path("/elsewhere"), tuple(sorted({*before, *new})))
    for part in range(1, parts + 1):
        assert set(shard(earlier, part, parts).photos) <= set(shard(later, part, parts).photos)


def test_parts_are_the_same_on_every_machine_and_of_nearly_the_same_size() -> None:
    listing = Listing(Path(), tuple(Path(f"{i:05}.jpg") for i in range(10_000)))
    parts = [shard(listing, part, 8) for part in range(1, 9)]
    sizes = [len(part.photos) for part in parts]
    assert max(abs(size - 1250) for size in sizes) < 4 * 1250**0.5
    # A golden: were it another, a run that goes on after an update would do photos twice.
    assert _names(parts[0])[:4] == ["00015.jpg", "00017.jpg", "00021.jpg", "00029.jpg"]


@pytest.mark.parametrize(("part", "parts"), [(0, 3), (4, 3), (-1, 3), (1, 0)])
def test_part_that_is_none_is_refused(part: int, parts: int) -> None:
    with pytest.raises(ValueError, match=f"part {part} of {parts}"):
        shard(Listing(Path(), ()), part, parts)
