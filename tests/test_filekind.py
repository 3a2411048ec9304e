"""Files that are no photo, under the name of one: named for what they are, with a way on."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowerseg.errors import ImageError
from flowerseg.filekind import foreign_kind
from flowerseg.images import decode_mask, decode_rgb, encode_image

RGB = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def _pillow(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(RGB).save(content, kind)
    return content.getvalue()


def _zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.jpg", b"photo")
    return content.getvalue()


def _boxes(brand: bytes, *others: bytes) -> bytes:
    body = brand + struct.pack(">I", 0) + b"".join(others)
    return struct.pack(">I4s", 8 + len(body), b"ftyp") + body + struct.pack(">I4s", 8, b"mdat")


def _tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    return content.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
FILES: list[tuple[Callable[[], bytes], str, str]] = [
    (lambda: _pillow("GIF"), "a GIF image", "magick"),
    (lambda: _pillow("AVIF"), "an AVIF photo", "magick"),
    (lambda: _pillow("JPEG2000"), "a JPEG 2000 image", "magick"),
    (lambda: _pillow("PPM"), "a PNM image", "magick"),
    (lambda: _pillow("ICO"), "a Windows icon", "magick"),
    (lambda: _pillow("PDF"), "a PDF document", "magick"),
    (lambda: _pillow("EPS"), "a PostScript document", "magick"),
    (lambda: _pillow("DDS"), "a DirectDraw texture", "magick"),
    (lambda: _pillow("SGI"), "an SGI image", "magick"),
    (lambda: _boxes(b"heic", b"mif1heic"), "a HEIC photo", "magick"),
    (lambda: _boxes(b"mif1", b"avif"), "an AVIF photo|a HEIF photo", "magick"),
    (lambda: _boxes(b"crx ", b"isom"), "a Canon CR3 raw photo", "camera"),
    (lambda: _boxes(b"isom", b"mp41"), "an MP4 or QuickTime video", "ffmpeg"),
    (lambda: _boxes(b"qt  "), "an MP4 or QuickTime video", "ffmpeg"),
    (lambda: b"RIFF\x10\0\0\0AVI LIST" + bytes(8), "an AVI video", "ffmpeg"),
    (lambda: b"\x1aE\xdf\xa3" + bytes(40), "a Matroska or WebM video", "ffmpeg"),
    (lambda: b"\xff\x0a" + bytes(20), "a JPEG XL image", "magick"),
    (lambda: b"8BPS\0\1" + bytes(20), "a Photoshop document", "magick"),
    (lambda: b"v/1\x01" + bytes(20), "an OpenEXR image", "magick"),
    (_zip, "a ZIP archive", "Unpack"),
    (_tar, "a tar archive", "Unpack"),
    (lambda: gzip.compress(b"photo"), "a gzip file", "Unpack"),
    (lambda: LFS, "a Git LFS pointer", "git lfs pull"),
    (lambda: b"<!DOCTYPE html><html><body>404</body></html>", "a web page", "fetch"),
    (lambda: b"\n  <HTML>\n<head>", "a web page", "fetch"),
    (lambda: b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>', "an XML file", "fetch"),
    (lambda: b'<?xml version="1.0"?><!-- x --><svg xmlns="">', "an SVG drawing", "magick"),
    (
        lambda: b'<?xml version="1.0"?>\n<!-- a > b -->\n<!DOCTYPE svg [<!ENTITY x "y">]>\n<svg>',
        "an SVG drawing",
        "magick",
    ),
    (lambda: b"<!-- a > b --> <!-- c -->\n<html>", "a web page", "fetch"),
    (lambda: json.dumps({"error": "not found"}).encode(), "a JSON file", "fetch"),
    (lambda: "\ufeffKörbe".encode(), "a text file", "Remove"),
    (lambda: "Körbe".encode("utf-16"), "a text file in UTF-16", "Remove"),
    (lambda: bytes(5000), "a file of zero bytes only", "Copy"),
    (
        lambda: b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI" + bytes(40),
        r"a PNG in Apple's own form",
        "pngcrush",
    ),
    (
        lambda: b"BM" + struct.pack("<IIIIiiHH", 62, 0, 54, 40, 1, 1, 1, 16) + bytes(30),
        "a BMP with 16 bits a pixel",
        "magick",
    ),
    (lambda: b"\0\x05\x16\x07\0\2\0\0Mac OS X", "an AppleDouble file", "Remove"),
]


@pytest.mark.parametrize(("make", "what", "remedy"), FILES, ids=[what for _, what, _ in FILES])
def test_file_is_named_with_a_way_on(make: Callable[[], bytes], what: str, remedy: str) -> None:
    for decode in (decode_rgb, decode_mask):
        with pytest.raises(ImageError, match=rf"a\.jpg: is ({what}).*{remedy}"):
            decode(make(), "a.jpg")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_photo_is_not_taken_for_another_kind(suffix: str) -> None:
    assert foreign_kind(encode_image(RGB, suffix)) is None


@pytest.mark.parametrize("start", [b"<!>", b"<!---->", b"<!-- -->\n", b"<?xml?>", b"<!doctype []>"])
def test_text_that_repeats_itself_is_named_at_once(start: bytes) -> None:
    """A pattern that backtracks takes exponential time over such a text."""
    assert foreign_kind(start * 500)


@given(st.binary(max_size=300))
def test_any_bytes_are_named_or_not(data: bytes) -> None:
    kind = foreign_kind(data)
    assert kind is None or all(kind)
