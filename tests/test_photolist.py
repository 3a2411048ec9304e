"""Photos named on lists, and what is given for a list and is none."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerseg.errors import DataError
from flowerseg.images import encode_image
from flowerseg.listing import Listing
from flowerseg.photolist import photos_on_list, read_list


def _names(listing: Listing) -> list[str]:
    return [path.as_posix() for path in listing.photos]


def test_list_names_photos_from_the_working_folder_or_from_the_root() -> None:
    listing = photos_on_list(b"b/rose.jpg\n./a.jpg\nno suffix\n\na.jpg\r\n-.png\n", "list.txt")
    assert listing == Listing(
        Path(), (Path("-.png"), Path("a.jpg"), Path("b/rose.jpg"), Path("no suffix")), skipped=1
    )
    listing = photos_on_list(b"/data/b.jpg\n/data/a.jpg", "list.txt")
    assert listing == Listing(Path("/"), (Path("data/a.jpg"), Path("data/b.jpg")))


def test_list_may_be_separated_by_nul_for_names_with_line_breaks() -> None:
    listing = photos_on_list(b"a\n.jpg\0b\r\0\xe9.jpg\0", "standard input", b"\0")
    assert _names(listing) == ["a\n.jpg", "b\r", os.fsdecode(b"\xe9.jpg")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "list.txt: a list without a path"),
        (b"\n\r\n", "list.txt: a list without a path"),
        (b"a.jpg\n../b.jpg\nc/../d.jpg\n", r"2 paths with \.\.: \.\./b\.jpg, c/\.\./d\.jpg"),
        (b"a.jpg\n/data/b.jpg\nc.jpg", r"1 paths from the root, such as /data/b\.jpg, and 2 that"),
    ],
)
def test_list_whose_masks_would_have_no_place_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        photos_on_list(content, "list.txt")


def test_marks_of_windows_editors_are_no_part_of_a_name() -> None:
    assert _names(photos_on_list("\ufeffé.jpg\r\nb.jpg\r\n".encode(), "list.txt")) == [
        "b.jpg",
        "é.jpg",
    ]


def test_spaces_and_strange_bytes_are_part_of_a_name() -> None:
    assert _names(photos_on_list(b" a.jpg \n\xe9\x1b\n\t\n", "list.txt")) == [
        "\t",
        " a.jpg ",
        os.fsdecode(b"\xe9\x1b"),
    ]


def test_two_spellings_of_a_path_are_one_photo() -> None:
    listing = photos_on_list(b"//data//a.jpg\n/data/./a.jpg\n/data/a.jpg/\n", "list.txt")
    assert listing == Listing(Path("/"), (Path("data/a.jpg"),), skipped=2)


@pytest.mark.parametrize(
    ("content", "separator", "message"),
    [
        (b"g/a.jpg\0g/b.jpg\0", b"\n", r"ended by NUL, as by find -print0\. Give -0"),
        (b"a\nb.jpg\0c.jpg\0", b"\n", "Give -0"),
        (b"a.jpg\nb.jpg\n", b"\0", "it has line breaks and no NUL. Leave -0 out"),
        (b"a.jpg\0\0b.jpg\0", b"\0", "entry 2 is empty"),
        (b"\0", b"\0", "entry 1 is empty"),
        (b"a.jpg\rb.jpg\r", b"\n", "end with carriage returns alone"),
        ("g/a.jpg\n".encode("utf-16"), b"\n", "text in UTF-16"),
        ("g/a.jpg\n".encode("utf-16"), b"\0", "text in UTF-16"),
        ("g/a.jpg\n".encode("utf-16-le"), b"\n", "text in UTF-16"),
        ("g/a.jpg\n".encode("utf-16-be"), b"\n", "text in UTF-16"),
        ("g/a.jpg\n".encode("utf-32"), b"\n", "text in UTF-16 or UTF-32"),
        (bytes(1000), b"\n", "a file of zero bytes only, not a list"),
        (b"a.jpg\n\0\0\0", b"\n", "binary data, not a list"),
        (bytes(range(1, 256)) * 3, b"\n", "binary data, not a list"),
        (b"a.jpg\n" + b"x" * 4096, b"\n", "entry 2 has 4096 bytes, and a path has 4095 at most"),
        (b"a.jpg\n.\n./\n", b"\n", r"\., \./ names a folder, not a photo"),
        (b"/\n", b"\n", "/ names a folder, not a photo"),
    ],
)
def test_what_is_no_list_of_paths_is_refused(
    content: bytes, separator: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        photos_on_list(content, "list.txt", separator)


_RGB = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encode_image(_RGB, ".jpg"), "a JPEG photo, not a list of photos. Give the folder"),
        (encode_image(_RGB, ".png"), "a PNG photo"),
        (encode_image(_RGB, ".webp"), "a WebP photo"),
        (encode_image(_RGB, ".tif"), "a TIFF photo"),
        (encode_image(_RGB, ".bmp"), "a BMP photo"),
        (b"GIF89a", "a GIF image, not a list of photos. Convert it"),
        (b"\0\0\0\x18ftypheic", "a HEIC photo, not a list of photos. Convert it"),
        (b"\0\0\0\x18ftypmp42", "an MP4 or QuickTime video, not a list of photos. .* ffmpeg -i"),
        (b"RIFF\x10\0\0\0AVI LIST", "an AVI video"),
        (b"PK\x03\x04", "a ZIP archive, not a list of photos. Unpack it"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"d/".ljust(257, b"\0") + b"ustar\0", "a tar archive"),
    ],
)
def test_other_files_are_told_what_they_are_from_their_beginning(
    content: bytes, message: str
) -> None:
    stream = io.BytesIO(content.ljust(600, b"\0") + bytes(10_000))
    with pytest.raises(DataError, match=f"my clip: {message}"):
        read_list(stream, "my clip")
    assert stream.tell() < 10_000  # a video of gigabytes is not read


def test_names_that_begin_like_other_files_are_names() -> None:
    content = b"BMW/a.jpg\nMZ.jpg\nGIF89a.jpg\n[a]/{b}.jpg\nBZh.jpg\n"
    for line in content.splitlines():
        first = line + b"\n" + content
        assert read_list(io.BytesIO(first), "list.txt") == first
        assert len(photos_on_list(first, "list.txt").photos) == 5
        assert len(photos_on_list(first.replace(b"\n", b"\0"), "list", b"\0").photos) == 5


names = st.binary(min_size=1, max_size=30).map(lambda name: name.translate(None, b"\0/") or b"x")


@given(st.lists(st.lists(names, min_size=1, max_size=3), min_size=1), st.booleans())
def test_any_bytes_make_a_listing_or_an_error_in_words(
    entries: list[list[bytes]], is_from_root: bool
) -> None:
    written = [b"/" * is_from_root + b"/".join(parts) for parts in entries]
    for separator in (b"\0", b"\n"):
        try:
            listing = photos_on_list(separator.join(written), "list.txt", separator)
        except DataError:
            continue
        for photo in listing.photos:
            assert not photo.is_absolute()
            assert photo.name not in ("", ".", "..")
            assert ".." not in photo.parts
        if separator == b"\0":
            expected = {os.path.normpath(entry) for entry in written}
            found = {os.fsencode(listing.folder / photo) for photo in listing.photos}
            assert found == {
                b"/" + entry.lstrip(b"/") if is_from_root else entry for entry in expected
            }
