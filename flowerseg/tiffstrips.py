"""Whether the strips or tiles of a TIFF are all there, and unpack to as many bytes as they should.

libtiff stops where a strip has enough bytes: it overlooks that damaged data would go on, and looks
at no checksum behind them. These are the checks that the compressions allow:

deflate     an Adler-32 checksum: every changed bit is found
LZW         each code stands for a known number of bytes: their sum has to be the strip's
PackBits    the same, for each run
JPEG        the marker of its end; a changed bit before that is not found
CCITT       see `flowerseg.tiffccitt`
none        only the length
"""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Pixels of all tiles together, a multiple of the image's. Tiles at its edges reach beyond it, but
# libtiff unpacks a whole one into memory: a file of 1 MB took 2 GB for 10 x 10 pixels.
_MOST_PADDING = 4
_SMALL_PIXELS = 1 << 24  # an image with fewer may have the tiles of one that has so many

NO_COMPRESSION, _LZW, _JPEG, _PACKBITS = 1, 5, 7, 32773
_END_OF_JPEG = b"\xff\xd9"
_DEFLATE = (8, 32946)

_CLEAR, _END, _FIRST_FREE = 256, 257, 258
_SEGMENT_CODES = 4096 - _FIRST_FREE + 2  # between two clear codes at most, and one more


@dataclass(frozen=True)
class Layout:
    """Where the pixels of a TIFF lie."""

    width: int
    height: int
    is_tiled: bool
    across: int  # pixels of a strip or tile
    down: int  # rows of one
    samples: int
    bits: int
    is_planar: bool  # each channel has its own strips
    compression: int
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Of a strip or tile, unpacked."""
        samples = 1 if self.is_planar else self.samples
        return (self.across * samples * self.bits + 7) // 8

    def rows_of(self, place: int) -> int:
        """Rows of the strip or tile at a place: the last strip is shorter."""
        if self.is_tiled:
            return self.down
        per_plane = -(-self.height // self.down)
        return min(self.down, self.height - place % per_plane * self.down)


def require_sound_strips(data: bytes, layout: Layout) -> None:
    """Check that every strip or tile lies in the file and unpacks to its size.

    Raises:
        ValueError: one does not; the message completes the sentence "a TIFF that …".
    """
    planes = layout.samples if layout.is_planar else 1
    count = -(-layout.width // layout.across) * -(-layout.height // layout.down) * planes
    tiled_pixels = count // planes * layout.across * layout.down
    if tiled_pixels > _MOST_PADDING * max(layout.width * layout.height, _SMALL_PIXELS):
        raise ValueError(
            f"has tiles of {layout.across} x {layout.down} pixels, far more than its picture of "
            f"{layout.width} x {layout.height}. Save it anew with smaller ones"
        )
    if not layout.byte_counts:
        raise ValueError("does not say how long its strips or tiles are. Save it anew")
    if len(layout.offsets) < count or len(layout.byte_counts) < count:
        raise ValueError("lacks some of its strips or tiles. Copy it again")
    for place in range(count):
        start, length = layout.offsets[place], layout.byte_counts[place]
        if start == length == 0:
            raise ValueError("leaves out some of its strips or tiles (sparse). Save it anew, whole")
        if not 8 <= start <= len(data) - length:
            raise ValueError("is cut off. Copy it again")
        size = layout.rows_of(place) * layout.row_bytes
        if not _is_sound(data, start, length, size, layout):
            raise ValueError("is damaged: its data do not unpack to its pixels. Copy it again")


def _is_sound(data: bytes, start: int, length: int, size: int, layout: Layout) -> bool:
    strip = memoryview(data)[start : start + length]
    if layout.compression == NO_COMPRESSION:
        return length >= size
    whole = layout.down * layout.row_bytes  # some programs fill up the last strip
    if layout.compression in _DEFLATE:
        return _inflated_length(strip, whole) in (size, whole)
    if layout.compression == _LZW:
        return lzw_length(strip) in (size, whole)
    if layout.compression == _PACKBITS:
        return packbits_length(strip, whole) in (size, whole)
    if layout.compression == _JPEG:
        return data.rfind(_END_OF_JPEG, start, start + length) >= 0
    return length > 0


def _inflated_length(strip: memoryview, most: int) -> int:
    """Bytes that a zlib stream unpacks to; -1 where it is damaged, has no end, or is beyond `most`.

    Its end is the checksum of them.
    """
    unpack = zlib.decompressobj()
    try:
        length = len(unpack.decompress(strip, most + 1))
        if length <= most and not unpack.eof:
            unpack.decompress(unpack.unconsumed_tail, 1)  # reads the checksum
    except zlib.error:
        return -1
    return length if unpack.eof else -1


def packbits_length(strip: memoryview, most: int) -> int:
    """Bytes that a PackBits strip unpacks to; -1 where a run is cut off. See TIFF 6.0, section 9.

    Counting ends beyond `most`.
    """
    at = total = 0
    while at < len(strip) and total < most:
        head = strip[at]
        run = head + 1 if head < 128 else 257 - head
        if head == 128:  # no operation
            at += 1
            continue
        at += 1 + (run if head < 128 else 1)
        total += run
    return total if at <= len(strip) else -1


def lzw_length(strip: memoryview) -> int:
    """Bytes that an LZW strip unpacks to; -1 where it has a code that cannot be. See section 13.

    A code stands for one byte more than the code that the table entry was made from. These chains
    are followed for all codes between two clear codes at once.
    """
    bits = np.frombuffer(strip, np.uint8)
    at = total = 0
    while at + 9 <= 8 * len(bits):
        codes, at = _lzw_segment(bits, at)
        ends = bool(len(codes)) and codes[-1] == _END
        length = _segment_length(codes[:-1] if ends else codes)
        if length < 0:
            return -1
        total += length
        if ends:
            break
    return total


_WIDTHS = np.repeat([9, 10, 11, 12], [254, 512, 1024, 2049])[:_SEGMENT_CODES]
_STARTS = np.concatenate([[0], np.cumsum(_WIDTHS)[:-1]])


def _lzw_segment(bits: NDArray[np.uint8], at: int) -> tuple[NDArray[np.int64], int]:
    """The codes from a bit on, up to a clear code (left out) or an end code; where they end."""
    places = at + _STARTS
    ends = places + _WIDTHS
    places, widths = places[ends <= 8 * len(bits)], _WIDTHS[ends <= 8 * len(bits)]
    first = places // 8
    padded = np.concatenate(
        [bits[first[0] : first[-1] + 4].astype(np.int64), np.zeros(3, np.int64)]
    )
    near = first - first[0]
    word = padded[near] << 16 | padded[near + 1] << 8 | padded[near + 2]
    codes = word >> (24 - places % 8 - widths) & (1 << widths) - 1
    marks = np.flatnonzero((codes == _CLEAR) | (codes == _END))
    if not len(marks):
        return codes, int(places[-1] + widths[-1])
    mark = int(marks[0])
    kept = mark + (codes[mark] == _END)
    return codes[:kept], int(places[mark] + widths[mark])


def _segment_length(codes: NDArray[np.int64]) -> int:
    """Bytes of the codes behind a clear code; -1 where one names an entry that does not exist."""
    # Code number i makes entry i - 1, so it may name that one at most; the first is a byte.
    if np.any(codes - _FIRST_FREE > np.arange(len(codes)) - 1):
        return -1
    # Entry k is what code number k stands for, and one byte: its parent is that code's entry.
    parent = codes - _FIRST_FREE
    lengths = np.ones(len(codes), np.int64)
    is_open = parent >= 0
    while is_open.any():
        reached = np.where(is_open, parent, 0)
        lengths = np.where(is_open, lengths + lengths[reached], lengths)
        parent = np.where(is_open, parent[reached], -1)
        is_open = parent >= 0
    return int(lengths.sum())
