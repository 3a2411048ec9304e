"""A small TIFF writer for tests, written from the TIFF 6.0 specification (Adobe, 1992).

It makes what Pillow cannot write: tiles, planes, both byte orders, sample types, orientations.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773


@dataclass(frozen=True)
class Form:
    """How the pixels are laid out in the file."""

    order: str = "<"
    is_big: bool = False
    compression: int = NONE
    tile: int = 0  # side of its tiles, a multiple of 16; 0: strips
    rows: int = 7  # of a strip
    is_planar: bool = False
    is_predicted: bool = False
    photometric: int = 2
    tags: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # SHORT; in place of ours


def tiff(pixels: NDArray[np.integer | np.floating], form: Form) -> bytes:
    """The file of pixels (h, w, samples) of any type."""
    height, width, samples = pixels.shape
    across, down = (form.tile, form.tile) if form.tile else (width, form.rows)
    planes = [pixels[..., [i]] for i in range(samples)] if form.is_planar else [pixels]
    pieces = [
        _packed(piece, form)
        for plane in planes
        for piece in _pieces(plane, across, down, is_tiled=bool(form.tile))
    ]
    head = 16 if form.is_big else 8
    offsets = np.cumsum([head, *(len(piece) for piece in pieces)]).tolist()
    bits = 8 * pixels.dtype.itemsize
    places = (tuple(offsets[:-1]), tuple(len(piece) for piece in pieces))
    tags: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (bits,) * samples,
        259: (form.compression,),
        262: (form.photometric,),
        277: (samples,),
        284: (2 if form.is_planar else 1,),
    }
    tags |= (
        {322: (across,), 323: (down,), 324: places[0], 325: places[1]}
        if form.tile
        else {273: places[0], 278: (down,), 279: places[1]}
    )
    if form.is_predicted:
        tags[317] = (2,)
    return _file(b"".join(pieces), tags | dict(form.tags), form)


def _pieces(
    plane: NDArray[np.generic], across: int, down: int, *, is_tiled: bool
) -> Iterator[NDArray[np.generic]]:
    for top in range(0, plane.shape[0], down):
        for left in range(0, plane.shape[1], across):
            piece = plane[top : top + down, left : left + across]
            missing = (down - piece.shape[0], across - piece.shape[1])
            yield np.pad(piece, ((0, missing[0]), (0, missing[1]), (0, 0))) if is_tiled else piece


def _packed(piece: NDArray[np.generic], form: Form) -> bytes:
    if form.is_predicted:
        piece = np.concatenate([piece[:, :1], np.diff(piece, axis=1)], axis=1)
    rows = [row.tobytes() for row in piece.astype(piece.dtype.newbyteorder(form.order))]
    packers: dict[int, Callable[[list[bytes]], bytes]] = {
        LZW: lambda rows: lzw(b"".join(rows)),
        DEFLATE: lambda rows: zlib.compress(b"".join(rows)),
        PACKBITS: lambda rows: b"".join(map(packbits, rows)),
    }
    return packers.get(form.compression, b"".join)(rows)


def packbits(row: bytes) -> bytes:
    """Section 9: runs of equal bytes of up to 128, or up to 128 others."""
    packed, at = b"", 0
    while at < len(row):
        run = 1
        while at + run < len(row) and run < 128 and row[at + run] == row[at]:
            run += 1
        if run > 1:
            packed += bytes([257 - run, row[at]])
        else:
            while at + run < len(row) and run < 128 and row[at + run] != row[at + run - 1]:
                run += 1
            packed += bytes([run - 1]) + row[at : at + run]
        at += run
    return packed


def lzw(content: bytes) -> bytes:
    """Section 13, with the code widths changing one code early, as everybody writes it."""
    bits: list[str] = []
    table: dict[bytes, int] = {}
    known = b""

    def write(code: int) -> None:
        free = 258 + len(table)
        width = 9 + sum(free > limit for limit in (511, 1023, 2047))
        bits.append(f"{code:0{width}b}")

    def code_of(text: bytes) -> int:
        return text[0] if len(text) == 1 else table[text]

    bits.append(f"{256:09b}")
    for byte in content:
        longer = known + bytes([byte])
        if len(longer) == 1 or longer in table:
            known = longer
            continue
        write(code_of(known))
        table[longer] = 258 + len(table)
        known = bytes([byte])
        if 258 + len(table) == 4095:
            bits.append(f"{256:012b}")
            table.clear()
    write(code_of(known))
    table[b"one more"] = 0
    write(257)
    joined = "".join(bits)
    joined += "0" * (-len(joined) % 8)
    return bytes(int(joined[at : at + 8], 2) for at in range(0, len(joined), 8))


def _file(content: bytes, tags: Mapping[int, tuple[int, ...]], form: Form) -> bytes:
    order, is_big = form.order, form.is_big
    mark = b"II" if order == "<" else b"MM"
    start = (16 if is_big else 8) + len(content)
    width, offset = (8, "Q") if is_big else (4, "I")
    count = struct.pack(order + ("Q" if is_big else "H"), len(tags))
    behind_at = start + len(count) + (4 + 2 * width) * len(tags) + width
    entries, behind = b"", b""
    for tag in sorted(tags):
        values = tags[tag]
        is_long = max(values, default=0) > 0xFFFF or tag in (273, 279, 324, 325)
        body = struct.pack(f"{order}{len(values)}{'I' if is_long else 'H'}", *values)
        if len(body) > width:
            place = struct.pack(order + offset, behind_at + len(behind))
            behind += body
        else:
            place = body.ljust(width, b"\0")
        entries += struct.pack(f"{order}HH{offset}", tag, 4 if is_long else 3, len(values)) + place
    header = mark + struct.pack(order + "H", 43 if is_big else 42)
    header += struct.pack(f"{order}HHQ", 8, 0, start) if is_big else struct.pack(f"{order}I", start)
    return header + content + count + entries + bytes(width) + behind
