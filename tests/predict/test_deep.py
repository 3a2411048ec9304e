"""Photos in folders that lie in each other deeper than Python recurses."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from flowerseg.files import make_folders, remove_temporaries
from flowerseg.images import encode_png
from flowerseg.predict import check_folder, segment_folder
from flowerseg.segmenter import Segmenter

DEPTH = 1100  # more than sys.getrecursionlimit(), in less than 4096 bytes


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder that pytest need not remove: its own way recurses."""
    yield tmp_path
    subprocess.run(["find", tmp_path, "-mindepth", "1", "-delete"], check=True)


def test_photos_at_any_depth_are_segmented_and_kept(
    deep: Path, opened: Callable[[], Segmenter]
) -> None:
    below = Path("/".join("a" * DEPTH)) / "p.png"
    make_folders((deep / "photos" / below).parent)
    png = encode_png(np.zeros((8, 8, 3), np.uint8))
    (deep / "photos" / below).write_bytes(png)
    out = deep / "out"
    assert segment_folder(deep / "photos", opened(), out).run.counts.ok == 1
    mask = out / "masks" / below.with_name("p.png.png")
    assert mask.is_file()
    left = mask.with_name(".tmp-abcdefgh")
    left.write_bytes(b"")
    remove_temporaries(out, ["masks"])
    assert not left.exists()
    assert segment_folder(deep / "photos", opened(), out).run.effort.kept == 1
    assert check_folder(out, pytest.fail).outputs == 1


def test_photo_whose_path_is_too_long_is_reported_and_the_others_are_segmented(
    deep: Path, opened: Callable[[], Segmenter]
) -> None:
    photos = deep / "photos"
    make_folders(photos)
    (photos / "a.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    # The folder fits into 4095 bytes, the photo in it does not.
    room = 4095 - len(str(photos)) - 20
    folder = photos / "/".join(["b" * 99] * (room // 100))
    make_folders(folder)
    place = os.open(folder, os.O_RDONLY)
    name = "p" * 200 + ".png"
    os.close(os.open(name, os.O_CREAT, dir_fd=place))
    os.close(place)
    report = segment_folder(photos, opened(), deep / "out")
    assert report.run.counts.ok == 1
    (failed,) = report.failed
    assert failed.path.endswith(f"/{name}")
    assert "cannot be read: File name too long" in failed.error


def test_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in ("file", "file/a", "file/a/b"):
        with pytest.raises((FileExistsError, NotADirectoryError)):
            make_folders(tmp_path / folder)
    make_folders(tmp_path)
    make_folders(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()
