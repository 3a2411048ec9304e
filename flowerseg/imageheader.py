"""What the bytes of an image say of it before any pixel is decoded: its size, how it is turned.

Written out here because the readers at hand do more than read: Pillow gives a WebP to a decoder
that sets memory aside for it, and has one limit and its warnings for the whole process.
"""

import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

from flowerseg.arrays import SizeHW

FORMATS = "JPEG, PNG, WebP, TIFF and BMP"

# A number that lies behind the end of the bytes, or where no bytes could be.
_CUT_OFF = (struct.error, OverflowError)

# A marker may stand behind any number of fill bytes; 0xFF00 is a sample, not a marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_EXTRA_SAMPLES = 256, 257, 338
_ORIENTATION, _TIFF_SAMPLES = 274, 277
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_TIFF_ENTRIES = 4096  # libtiff 4.7 takes more for a sign that this is no directory


def stored_size_hw(content: bytes) -> SizeHW | None:
    """Height and width of the stored image, before its EXIF orientation may exchange them.

    None where these are not the bytes of one of `FORMATS`, or are cut off before the size; of a
    PNG that is cut off anywhere.
    """
    for starts, read in _READERS.items():
        if content.startswith(starts):
            try:
                size_hw = read(content)
            except _CUT_OFF:
                return None
            return size_hw if size_hw and min(size_hw) > 0 else None
    return None


def has_more_pictures(content: bytes) -> bool:
    """Whether a PNG or WebP is animated, or a TIFF has several pages."""
    with suppress(*_CUT_OFF):
        if content.startswith(b"\x89PNG"):
            control = content.find(b"acTL", 0, max(content.find(b"IDAT"), 0))
            return control > 0 and int(struct.unpack_from(">I", content, control + 4)[0]) > 1
        if content.startswith(b"RIFF"):
            return content[12:16] == b"VP8X" and bool(content[20] & 2)
        if content.startswith(_TIFF_STARTS):
            return _second_tiff_directory(content) != 0
    return False


def _second_tiff_directory(content: bytes) -> int:
    """Where the second directory of a TIFF begins, 0 if it has only one."""
    order = _byte_order(content)
    is_big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    starts, start, length, entry_bytes = (8, "Q", "Q", 20) if is_big else (4, "I", "H", 12)
    at = struct.unpack_from(order + start, content, starts)[0]
    entries = struct.unpack_from(order + length, content, at)[0]
    at += struct.calcsize(order + length) + entries * entry_bytes
    return int(struct.unpack_from(order + start, content, at)[0])


def tiff_samples(content: bytes) -> int | None:
    """How many samples a pixel of a TIFF has, opacity included; None where it says nothing."""
    if content.startswith(_TIFF_STARTS):
        with suppress(*_CUT_OFF):
            for tag, kind, at in _tiff_entries(content):
                if tag == _TIFF_SAMPLES and kind == 3:
                    return int(struct.unpack_from(f"{_byte_order(content)}H", content, at)[0])
    return None


def is_tiff(content: bytes) -> bool:
    """Whether these are the bytes of a TIFF."""
    return content.startswith(_TIFF_STARTS)


def exif_orientation(content: bytes) -> int:
    """The EXIF orientation of an image, 1 to 8; 1, which is upright, where it says none.

    Of several EXIF blocks the first counts, as for OpenCV. A TIFF is such a block itself.
    """
    with suppress(*_CUT_OFF):
        exif = content if is_tiff(content) else _exif_block(content)
        if is_tiff(exif):
            for tag, kind, at in _tiff_entries(exif):
                if tag == _ORIENTATION and kind == 3:
                    value = int(struct.unpack_from(f"{_byte_order(exif)}H", exif, at)[0])
                    return value if 1 <= value <= 8 else 1
    return 1


def _exif_block(content: bytes) -> bytes:
    """What begins with the first EXIF block of a JPEG, PNG or WebP; empty if there is none."""
    prefix = b"Exif\0\0"
    if content.startswith(b"\xff\xd8"):
        at = 2
        while (marker := _MARKER.search(content, at)) and marker[1] != b"\xda":  # start of scan
            at = marker.end()
            if marker[1] == b"\xe1" and content.startswith(prefix, at + 2):
                return content[at + 2 + len(prefix) :]
            if marker[1][0] not in _WITHOUT_LENGTH:
                at += struct.unpack_from(">H", content, at)[0]
    elif content.startswith(b"\x89PNG"):
        at = 8
        while at < len(content):
            length, kind = struct.unpack_from(">I4s", content, at)
            if kind == b"eXIf":
                return content[at + 8 :]
            at += 12 + length
    elif content.startswith(b"RIFF"):
        at = 12
        while at < len(content):
            kind, length = struct.unpack_from("<4sI", content, at)
            if kind == b"EXIF":
                return content[at + 8 :].removeprefix(prefix)
            at += 8 + length + length % 2
    return b""


def with_tiff_colours_kept(content: bytes) -> bytes:
    """A TIFF such that it decodes to the colours it stores; any other image as it is.

    libtiff, as OpenCV 5.0 calls it, multiplies colours by their opacity unless the file says that
    they are so already: a transparent TIFF comes out black where the same PNG keeps its colours.
    """
    if not content.startswith(_TIFF_STARTS):
        return content
    is_not_so, is_so = (struct.pack(f"{_byte_order(content)}H", value) for value in (2, 1))
    try:
        for tag, _, at in _tiff_entries(content):
            if tag == _TIFF_EXTRA_SAMPLES and content[at : at + 2] == is_not_so:
                return content[:at] + is_so + content[at + 2 :]
    except _CUT_OFF:  # as the decoder will say
        pass
    return content


def _jpeg(content: bytes) -> SizeHW | None:
    at = 2
    while marker := _MARKER.search(content, at):
        code, at = marker[1][0], marker.end()
        if code in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", content, at + 3)
            return height, width
        if code not in _WITHOUT_LENGTH:
            at += struct.unpack_from(">H", content, at)[0]
    return None


def _png(content: bytes) -> SizeHW | None:
    width, height = struct.unpack_from(">II", content, 16)
    return (height, width) if _has_all_chunks(content) else None


def _has_all_chunks(png: bytes) -> bool:
    # OpenCV 5.0 clears as much memory as a chunk says it is long before it looks for it: a file of
    # 90 bytes took 4 GiB.
    at = 8
    while at < len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        at += 12 + length  # with the checksum
        if kind == b"IEND":
            return at <= len(png)
    return False


def _webp(content: bytes) -> SizeHW | None:
    kind = content[8:16]
    if kind == b"WEBPVP8X":
        width_below, width_above, height_below, height_above = struct.unpack_from(
            "<HBHB", content, 24
        )
        return (height_above << 16 | height_below) + 1, (width_above << 16 | width_below) + 1
    if kind == b"WEBPVP8L":
        bits = struct.unpack_from("<I", content, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", content, 26)
        return height & 0x3FFF, width & 0x3FFF  # the upper two bits only ask for enlargement
    return None


def _bmp(content: bytes) -> SizeHW:
    is_short = struct.unpack_from("<I", content, 14)[0] == 12  # the header that OS/2 wrote
    width, height = struct.unpack_from("<HH" if is_short else "<ii", content, 18)
    return abs(height), width  # a height below 0 puts the first row on top


def _tiff(content: bytes) -> SizeHW | None:
    order = _byte_order(content)
    sides: dict[int, int] = {}
    for tag, kind, at in _tiff_entries(content):
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT) and kind in _TIFF_INTEGERS:
            value = struct.unpack_from(order + _TIFF_INTEGERS[kind], content, at)[0]
            sides.setdefault(tag, value)  # libtiff too takes the first of several
    return (sides[_TIFF_HEIGHT], sides[_TIFF_WIDTH]) if len(sides) == 2 else None


def _tiff_entries(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Tag, type and place of the value of those entries of the first directory that have one."""
    order = _byte_order(content)
    is_big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    starts, start, length, entry = (8, "Q", "Q", "HHQ8x") if is_big else (4, "I", "H", "HHI4x")
    at = struct.unpack_from(order + start, content, starts)[0]
    entries = struct.unpack_from(order + length, content, at)[0]
    at += struct.calcsize(order + length)
    for _ in range(min(entries, _MOST_TIFF_ENTRIES)):
        tag, kind, values = struct.unpack_from(order + entry, content, at)
        at += struct.calcsize(order + entry)
        if values == 1:
            yield tag, kind, at - (8 if is_big else 4)


def _byte_order(content: bytes) -> str:
    return "<" if content.startswith(b"II") else ">"


_READERS: dict[bytes, Callable[[bytes], SizeHW | None]] = {
    b"\xff\xd8": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"RIFF": _webp,
    b"BM": _bmp,
    **dict.fromkeys(_TIFF_STARTS, _tiff),
}
