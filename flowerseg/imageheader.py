"""What an image says about itself before any pixel is decoded: format, size, orientation, end.

Written here because other readers do more than read: Pillow passes a WebP to a decoder that
allocates its memory, and has one limit and its warnings for the whole process.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from flowerseg import tiffdirectory
from flowerseg.arrays import SizeHW
from flowerseg.orientation import UPRIGHT, orientation_of
from flowerseg.tiffdirectory import TiffDirectory

Format: TypeAlias = Literal["JPEG", "PNG", "WebP", "TIFF", "BMP"]
FORMATS = "JPEG, PNG, WebP, TIFF and BMP"

# A number behind the end of the bytes, or an offset where no bytes could be.
_CUT_OFF = (struct.error, IndexError, OverflowError, ValueError)

# A marker may stand behind any number of fill bytes; 0xFF00 is a sample, not a marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_READ_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # sequential and progressive, of 8 bits
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xDA)})
_JPEG_START, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
_ANOTHER_JPEG = re.compile(rb"\xff\xd8\xff")  # cannot stand within a scan; faster than bytes.find
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_RAW_PROFILE_KEY, _XMP_KEY = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"

_WEBP_HAS_EXIF, _WEBP_HAS_XMP, _WEBP_IS_ANIMATED = 8, 4, 2
_LOSSY_WEBP = "lossy WebP"

# Markers that may stand between the scans of a JPEG: tables (DHT, DQT, DNL, DRI), the next scan,
# applications' data and comments.
_BETWEEN_SCANS = frozenset((0xC4, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)))

_IS_MARKER = np.ones(256, np.bool_)
_IS_MARKER[[0x00, 0xFF, *range(0xD0, 0xD8)]] = False
"""Bytes that end a scan behind an FF: not 00, filling FFs or restart markers."""

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_COMPRESSION, _TIFF_XMP = 256, 257, 259, 700
_TIFF_JPEG = (6, 7)

_MOST_PROFILE_BYTES = 1 << 20  # a compressed text of a PNG that unpacks to more is no EXIF block


@dataclass(frozen=True)
class ImageHeader:
    """What the image says about itself."""

    format: Format
    size_hw: SizeHW  # as stored, before the orientation may exchange the sides
    orientation: int = UPRIGHT  # 1 to 8; see `flowerseg.orientation`
    has_end: bool = True  # the mark that ends the image is there, where its format has one
    has_more_pictures: bool = False  # an animation, or several pages
    lossy_format: str = ""  # for messages: the format, if it changes colours
    is_broken: bool = False  # its structure is damaged, so that decoders fill pixels up


def read_header(data: bytes) -> ImageHeader | None:
    """The header of an image; None if this is not one of `FORMATS`, or is cut off in its header."""
    kind = format_of(data)
    if kind is None:
        return None
    with suppress(*_CUT_OFF):
        header = _READERS[kind](data)
        return header if header and min(header.size_hw) > 0 else None
    return None


def exif_orientation(data: bytes) -> int:
    """The orientation by which an image is turned, 1 to 8; 1 where it says none."""
    header = read_header(data)
    return header.orientation if header else UPRIGHT


def lossy_format_of(data: bytes) -> str:
    """The name of an image's format if it changes colours: `JPEG`; empty if it keeps them."""
    header = read_header(data)
    return header.lossy_format if header else ""


def format_of(data: bytes) -> Format | None:
    """The format of `FORMATS` that the first bytes announce."""
    if data.startswith(b"RIFF"):
        return "WebP" if data[8:12] == b"WEBP" else None
    return next((kind for start, kind in _STARTS if data.startswith(start)), None)


def _jpeg(data: bytes) -> ImageHeader | None:
    at, size_hw, exif, xmp = 2, None, b"", b""
    while marker := _MARKER.search(data, at):
        code, at = marker[1][0], marker.end()
        if code == _START_OF_SCAN:
            break
        if code in _START_OF_FRAME and size_hw is None:
            if unread_jpeg_kind(code, data[at + 2]):
                return None
            size_hw = struct.unpack_from(">HH", data, at + 3)
        if code in _WITHOUT_LENGTH:
            continue
        length = struct.unpack_from(">H", data, at)[0]
        if code == _APP1:
            block = data[at + 2 : at + length]
            if block.startswith(_EXIF):
                exif = exif or block
            elif block.startswith(_XMP):
                xmp = block
        at += length
    if size_hw is None:
        return None
    # Thumbnails end before the scan begins. Another image may follow, whose end is not this one's.
    following = _ANOTHER_JPEG.search(data, at)
    end = data.rfind(_END_OF_IMAGE, at, following.start() if following else None)
    orientation = orientation_of(exif, xmp)
    is_broken = end >= 0 and _has_stray_marker(data, at, end)
    return ImageHeader(
        "JPEG", size_hw, orientation, end >= 0, lossy_format="JPEG", is_broken=is_broken
    )


def _has_stray_marker(data: bytes, at: int, end: int) -> bool:
    """Whether a marker that has no place there stands among the pixels of a JPEG.

    A decoder stops at it, and fills the rest of the picture with grey. Source: ITU-T T.81, table
    B.1 and F.1.2.3: within a scan, FF is followed by 00 or by a restart marker.

    Args:
        data: the file.
        at: where the first scan begins.
        end: where the mark of the image's end is.
    """
    codes = np.frombuffer(data, np.uint8, end - at, at)
    after_ff = np.flatnonzero(codes[:-1] == 0xFF)  # few, so that the next step is cheap
    found = after_ff[_IS_MARKER[codes[after_ff + 1]]]
    skipped = 0  # up to here: the content of a segment between two scans
    for place in found.tolist():
        if place < skipped:
            continue
        code = int(codes[place + 1])
        if code == _END_OF_IMAGE[1]:
            return False  # what follows is no part of the image
        if code not in _BETWEEN_SCANS:
            return True
        skipped = place + 2 + int.from_bytes(data[at + place + 2 : at + place + 4], "big")
    return False


def unread_jpeg_kind(frame: int, bits: int) -> str:
    """What kind of JPEG OpenCV does not decode; empty if it does. Source: ITU-T T.81, table B.1.

    Args:
        frame: code of the marker that starts the frame.
        bits: of a sample.
    """
    if frame not in _READ_FRAMES:
        return "lossless" if frame in (0xC3, 0xCB) else "hierarchical"
    return "" if bits == 8 else f"{bits}-bit"


def jpeg_kind(data: bytes) -> str:
    """See `unread_jpeg_kind`; empty for what is no JPEG too."""
    at = 2
    while data.startswith(_JPEG_START) and (marker := _MARKER.search(data, at)):
        code, at = marker[1][0], marker.end()
        if code in _START_OF_FRAME and at + 2 < len(data):
            return unread_jpeg_kind(code, data[at + 2])
        if code not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return ""


def _png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR":  # Apple's own form for iPhones begins with another chunk
        return None
    width, height = struct.unpack_from(">II", data, 16)
    exif, profile, xmp, has_end, frames = b"", b"", b"", False, 1
    for kind, at, length in _png_chunks(data):
        if kind == b"IEND":
            has_end = True
        elif kind == b"eXIf":
            exif = data[at : at + length]
        elif kind == b"acTL":
            frames = struct.unpack_from(">I", data, at)[0]
        elif kind in _PNG_TEXTS:
            # Only the last one of each is unpacked: many would take minutes.
            if data.startswith(_RAW_PROFILE_KEY, at):
                profile = kind + data[at : at + length]
            elif data.startswith(_XMP_KEY, at):
                xmp = kind + data[at : at + length]
    orientation = orientation_of(exif or _raw_profile(_png_text(profile)), _png_text(xmp))
    return ImageHeader("PNG", (height, width), orientation, has_end, frames > 1)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, offset and length of the chunks that are whole.

    OpenCV 5.0 clears as much memory as a chunk says it is long before it looks for it: a file of
    90 bytes took 4 GiB. So a PNG whose chunks are not all there is never decoded.
    """
    at = 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if at + 12 + length > len(data):  # with the checksum
            return
        yield kind, at + 8, length
        if kind == b"IEND":
            return
        at += 12 + length


def _png_text(chunk: bytes) -> bytes:
    """The text of a chunk that begins with its kind (PNG specification, 11.3.4)."""
    kind, (_, _, text) = chunk[:4], chunk[4:].partition(b"\0")
    is_packed = kind == b"zTXt"
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        is_packed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    if not is_packed:
        return text
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(text, _MOST_PROFILE_BYTES)
    return b""


def _raw_profile(text: bytes) -> bytes:
    """The EXIF block that ImageMagick writes as text: a name, a length, then hex digits."""
    digits = b"".join(text.split(b"\n")[3:])
    with suppress(ValueError):
        return bytes.fromhex(digits.decode("ascii"))
    return b""


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[8:16]
    if kind == b"WEBPVP8X":
        width_below, width_above, height_below, height_above = struct.unpack_from("<HBHB", data, 24)
        height, width = (height_above << 16 | height_below), (width_above << 16 | width_below)
        flags, chunks = data[20], _webp_chunks(data)
        # A decoder skips what the flags do not announce.
        exif = chunks.get(b"EXIF", b"") if flags & _WEBP_HAS_EXIF else b""
        xmp = chunks.get(b"XMP ", b"") if flags & _WEBP_HAS_XMP else b""
        return ImageHeader(
            "WebP",
            (height + 1, width + 1),
            orientation_of(bytes(exif), bytes(xmp)),
            has_more_pictures=bool(flags & _WEBP_IS_ANIMATED),
            lossy_format=_LOSSY_WEBP if b"VP8 " in chunks else "",
        )
    if kind == b"WEBPVP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return ImageHeader("WebP", ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1))
    if kind == b"WEBPVP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        size_hw = (height & 0x3FFF, width & 0x3FFF)  # the other bits ask for scaling
        return ImageHeader("WebP", size_hw, lossy_format=_LOSSY_WEBP)
    return None


def _webp_chunks(data: bytes) -> dict[bytes, memoryview]:
    """The content of the chunks by their names; of those with the same name, of the first."""
    view, at, chunks = memoryview(data), 12, dict[bytes, memoryview]()
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.setdefault(data[at : at + 4], view[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return chunks


def _bmp(data: bytes) -> ImageHeader | None:
    is_short = struct.unpack_from("<I", data, 14)[0] == 12  # the header that OS/2 wrote
    width, height = struct.unpack_from("<HH" if is_short else "<ii", data, 18)
    if not is_short and data[28:30] == b"\x10\0":
        return None  # `flowerseg.filekind` names it
    return ImageHeader("BMP", (abs(height), width))  # a height below 0 puts the first row on top


def _tiff(data: bytes) -> ImageHeader:
    directory = TiffDirectory(data)
    is_lossy = directory.integer(_TIFF_COMPRESSION) in _TIFF_JPEG
    return ImageHeader(
        "TIFF",
        (directory.integer(_TIFF_HEIGHT), directory.integer(_TIFF_WIDTH)),
        orientation_of(data, directory.raw_bytes(_TIFF_XMP)),
        has_more_pictures=directory.next_offset != 0,
        lossy_format="JPEG in a TIFF" if is_lossy else "",
    )


_READERS: dict[Format, Callable[[bytes], ImageHeader | None]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WebP": _webp,
    "TIFF": _tiff,
    "BMP": _bmp,
}
_STARTS: tuple[tuple[bytes, Format], ...] = (
    (_JPEG_START, "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    *((start, "TIFF") for start in tiffdirectory.STARTS),
)
