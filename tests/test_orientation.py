"""Orientations of every kind of block in every format, against Pillow's `exif_transpose`."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from flowerseg.imageheader import exif_orientation
from flowerseg.images import decode_rgb
from flowerseg.orientation import orientation_of

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
XMP_ELEMENT = b"<x:xmpmeta><tiff:Orientation>%d</tiff:Orientation></x:xmpmeta>"
XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
SHORT, LONG = 3, 4


def _exif(orientation: int, kind: int = SHORT, order: str = ">", tag: int = 0x0112) -> bytes:
    value = struct.pack(order + {1: "Bxxx", SHORT: "Hxx", LONG: "I"}[kind], orientation)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark
        + struct.pack(f"{order}IHHHI", 8, 1, tag, kind, 1)
        + value
        + struct.pack(f"{order}I", 0)
    )


def _image() -> Image.Image:
    rows, columns = np.indices((24, 40))
    return Image.fromarray(np.stack([9 * rows, 6 * columns, 3 * (rows + columns)], -1).astype("u1"))


def _saved(kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    _image().save(content, kind, **options)
    return content.getvalue()


def _jpeg(*blocks: bytes) -> bytes:
    jpeg = _saved("JPEG")
    segments = [b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block for block in blocks]
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def _png(kind: bytes, content: bytes, *, is_last: bool = False, png: bytes = b"") -> bytes:
    png = png or _saved("PNG")
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    at = len(png) - 12 if is_last else 33
    return png[:at] + chunk + png[at:]


def _raw_profile(exif: bytes) -> bytes:
    """As ImageMagick writes it: the length in decimal, the bytes in hexadecimal digits."""
    content = b"Exif\0\0" + exif
    return b"\nexif\n%8d\n" % len(content) + content.hex().encode() + b"\n"


def _webp(exif: bytes = b"", xmp: bytes = b"", *, is_animated: bool = False) -> bytes:
    options: dict[str, object] = {"exif": exif} if exif else {}
    if is_animated:
        options |= {"save_all": True, "append_images": [ImageOps.invert(_image())]}
    return _saved("WEBP", lossless=True, xmp=xmp, **options)


def _without_flags(webp: bytes) -> bytes:
    """A WebP whose header does not say that it has EXIF and XMP."""
    return webp[:20] + bytes([webp[20] & ~0b1100]) + webp[21:]


BLOCKS: dict[str, Callable[[int], bytes]] = {
    "JPEG, SHORT": lambda n: _jpeg(b"Exif\0\0" + _exif(n)),
    "JPEG, little-endian": lambda n: _jpeg(b"Exif\0\0" + _exif(n, order="<")),
    "JPEG, LONG": lambda n: _jpeg(b"Exif\0\0" + _exif(n, LONG)),
    "JPEG, LONG, little-endian": lambda n: _jpeg(b"Exif\0\0" + _exif(n, LONG, "<")),
    "JPEG, BYTE": lambda n: _jpeg(b"Exif\0\0" + _exif(n, 1)),
    "JPEG, XMP": lambda n: _jpeg(XMP_PREFIX + XMP % n),
    "JPEG, XMP element": lambda n: _jpeg(XMP_PREFIX + XMP_ELEMENT % n),
    "JPEG, another tag": lambda n: _jpeg(b"Exif\0\0" + _exif(n, tag=0x0128)),
    "JPEG, two XMP": lambda n: _jpeg(XMP_PREFIX + XMP % 3, XMP_PREFIX + XMP % n),
    "PNG, eXIf": lambda n: _png(b"eXIf", _exif(n)),
    "PNG, LONG": lambda n: _png(b"eXIf", _exif(n, LONG)),
    "PNG, raw profile": lambda n: _png(
        b"tEXt", b"Raw profile type exif\0" + _raw_profile(_exif(n))
    ),
    "PNG, packed raw profile": lambda n: _png(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(_raw_profile(_exif(n)))
    ),
    "PNG, raw profile of another type": lambda n: _png(
        b"tEXt", b"Raw profile type APP1\0" + _raw_profile(_exif(n))
    ),
    "PNG, two blocks": lambda n: _png(b"eXIf", _exif(3), png=_png(b"eXIf", _exif(n))),
    "PNG, XMP": lambda n: _png(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % n),
    "WebP": lambda n: _webp(b"Exif\0\0" + _exif(n)),
    "WebP, LONG": lambda n: _webp(_exif(n, LONG, "<")),
    "WebP, animated": lambda n: _webp(_exif(n), is_animated=True),
    "WebP, XMP": lambda n: _webp(xmp=XMP % n),
    "WebP, not announced": lambda n: _without_flags(_webp(_exif(n), XMP % n)),
    "TIFF": lambda n: _saved("TIFF", tiffinfo={0x0112: n}),
    "TIFF, XMP": lambda n: _saved("TIFF", tiffinfo={700: XMP % n}),
}


UNKNOWN_TO_PILLOW = (
    *("JPEG, another tag", "JPEG, BYTE"),
    *("PNG, raw profile of another type", "WebP, not announced"),
)


@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("kind", BLOCKS)
def test_photo_is_turned_as_pillow_turns_it(kind: str, orientation: int) -> None:
    data = BLOCKS[kind](orientation)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    is_known = kind not in UNKNOWN_TO_PILLOW  # which is the judge
    assert (shown.shape == (40, 24, 3)) == (is_known and 5 <= orientation <= 8)
    np.testing.assert_allclose(decode_rgb(data, "a").astype(int), shown, atol=1)


def test_packed_texts_are_not_all_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    png, unpacked = _saved("PNG"), []
    for key in (b"Raw profile type exif", b"XML:com.adobe.xmp", b"Comment"):
        for _ in range(20):
            png = _png(b"zTXt", key + b"\0\0" + zlib.compress(bytes(1000)), png=png)
    unpack = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", lambda: unpacked.append(1) or unpack())
    assert exif_orientation(png) == 1
    assert len(unpacked) <= 2


def test_exif_counts_before_xmp() -> None:
    data = _jpeg(XMP_PREFIX + XMP % 3)
    data = data[:2] + _jpeg(b"Exif\0\0" + _exif(6))[2:]
    assert orientation_of(_exif(6), XMP % 3) == 6
    assert orientation_of(_exif(6, tag=0x0128), XMP % 3) == 3
    assert decode_rgb(data, "a").shape == (40, 24, 3)


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_block_gives_an_orientation(exif: bytes, xmp: bytes) -> None:
    for start in (b"", b"II*\0", b"MM\0*", b"II+\0", b"Exif\0\0II*\0\x08\0\0\0"):
        assert 1 <= orientation_of(start + exif, xmp) <= 8
