"""Photos on object stores, whose names need not be paths."""

from pathlib import Path
from typing import Any

import pytest

from flowerseg.errors import DataError, ImageError
from flowerseg.photofile import MAX_BYTES
from flowerseg.predict.remote import RemoteFolder


class Store:
    """Objects by any name, as S3 keeps them."""

    def __init__(self, sizes: dict[str, int | None]) -> None:
        self.sizes = sizes

    def find(self, base: str, detail: bool) -> dict[str, dict[str, Any]]:
        assert detail
        return {name: {"size": size} for name, size in self.sizes.items()}

    def cat_file(self, name: str) -> bytes:
        if name not in self.sizes:
            raise FileNotFoundError(name)
        return name.encode()


def test_photos_are_read_by_the_names_that_they_have() -> None:
    # The address of a folder may have two slashes in a row, which no path has.
    folder = RemoteFolder(
        Store({"http://host/b/a.jpg": 5, "http://host/b/c/d e.png": None}), "http://host/b"
    )
    listing = folder.photos()
    assert listing.photos == (Path("a.jpg"), Path("c/d e.png"))
    assert [folder.read(listing.folder / photo) for photo in listing.photos] == [
        b"http://host/b/a.jpg",
        b"http://host/b/c/d e.png",
    ]
    with pytest.raises(ImageError, match=r"http://host/b/gone\.jpg"):
        folder.read(listing.folder / "gone.jpg")


@pytest.mark.parametrize(
    "name", ["b/../../x.jpg", "b//x.jpg", "b/./x.jpg", "b/x\0.jpg", "b/../x.jpg"]
)
def test_names_that_would_lead_out_of_the_output_folder_are_refused(name: str) -> None:
    folder = RemoteFolder(Store({"b/a.jpg": 5, name: 5}), "b")
    with pytest.raises(DataError, match=r"b: 1 photos whose names are no paths of files: .*Rename"):
        folder.photos()


def test_photo_that_is_too_large_is_not_fetched() -> None:
    listing = RemoteFolder(Store({"b/a.jpg": MAX_BYTES, "b/l.jpg": MAX_BYTES + 1}), "b").photos()
    assert listing.photos == (Path("a.jpg"),)
    ((path, error),) = listing.unreadable
    assert path == Path("l.jpg")
    assert error == f"b/l.jpg: {MAX_BYTES + 1} bytes, and an image has {MAX_BYTES} at most."


@pytest.mark.parametrize("uri", ["gopher://photos", "github://", "zip://none", "s3:///", "://"])
def test_address_that_cannot_be_opened_is_an_error_in_words(uri: str) -> None:
    with pytest.raises(DataError):
        RemoteFolder.at(uri).photos()
