"""The first directory of a TIFF, read and written. EXIF blocks have the same form.

Source: TIFF 6.0 (Adobe, 1992), section 2; BigTIFF as libtiff defines it.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF

_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_BYTES = {2: 1, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8}  # per value of the types that are no integers
_MOST_ENTRIES = 4096  # libtiff 4.7 takes more as a sign that this is not a directory


@dataclass(frozen=True)
class _Entry:
    kind: int
    count: int
    at: int  # offset of the first value


class TiffDirectory:
    """The tags of the first directory; of a tag that is repeated, the first one, as in libtiff.

    Args:
        data: the bytes of the file, or of an EXIF block without its `Exif` prefix.

    Raises:
        ValueError: there is no whole directory.
    """

    def __init__(self, data: bytes) -> None:
        if not data.startswith(STARTS):
            raise ValueError("no TIFF header")
        self._data = data
        self.byte_order = "<" if data.startswith(b"II") else ">"
        self.is_big = data[2:4] in (b"+\0", b"\0+")
        self._entries: dict[int, _Entry] = {}
        try:
            self.next_offset = self._read()
        except (struct.error, OverflowError) as error:
            raise ValueError("the TIFF directory is cut off") from error

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def integers(self, tag: int) -> tuple[int, ...]:
        """The values of a tag; empty if it is absent, cut off, or not of an integer type."""
        entry = self._entries.get(tag)
        if entry is None or entry.kind not in _INTEGERS:
            return ()
        layout = f"{self.byte_order}{entry.count}{_INTEGERS[entry.kind]}"
        return struct.unpack_from(layout, self._data, entry.at)

    def integer(self, tag: int, default: int = 0) -> int:
        """The only value of a tag; `default` if there is none, or several."""
        values = self.integers(tag)
        return values[0] if len(values) == 1 else default

    def raw_bytes(self, tag: int) -> bytes:
        """The bytes of a tag whose values are one byte each; empty if it is absent or cut off."""
        entry = self._entries.get(tag)
        is_bytes = entry is not None and entry.kind in (1, 2, 6, 7)
        return self._data[entry.at : entry.at + entry.count] if entry and is_bytes else b""

    def _read(self) -> int:
        """Read the entries; the offset of the next directory, 0 if there is none."""
        starts, offset, length, width = (8, "Q", "Q", 8) if self.is_big else (4, "I", "H", 4)
        at = self._number(offset, starts)
        count = self._number(length, at)
        at += struct.calcsize(length)
        for _ in range(min(count, _MOST_ENTRIES)):
            tag, kind = struct.unpack_from(f"{self.byte_order}HH", self._data, at)
            values = self._number(offset, at + 4)
            self._add(tag, kind, values, at + 4 + width, width)
            at += 4 + 2 * width
        try:
            return self._number(offset, at)
        except struct.error:
            return 0  # EXIF blocks may end here

    def _add(self, tag: int, kind: int, count: int, at: int, width: int) -> None:
        """Keep an entry, if its values lie within the data."""
        integer = _INTEGERS.get(kind)
        size = count * (struct.calcsize(integer) if integer else _BYTES.get(kind, 0))
        if size > width:
            at = self._number("Q" if self.is_big else "I", at)
        if 0 < size <= len(self._data) - at:
            self._entries.setdefault(tag, _Entry(kind, count, at))

    def _number(self, kind: str, at: int) -> int:
        return int(struct.unpack_from(self.byte_order + kind, self._data, at)[0])


def with_directory(
    data: bytes,
    byte_order: str,
    tags: Mapping[int, tuple[int, ...]],
    raw: Mapping[int, bytes],
) -> bytes:
    """A TIFF with the same bytes behind its header, and another directory, which ends it.

    Args:
        data: the file.
        byte_order: `<` or `>`; that of the file.
        tags: integers of each tag; SHORT where they fit, else LONG.
        raw: tags whose values are one byte each; empty ones are left out.

    Raises:
        struct.error: a number is negative, or has more than 32 bits.
    """
    values: dict[int, tuple[int, int, bytes]] = {}
    for tag, numbers in tags.items():
        kind, letter = (3, "H") if max(numbers, default=0) <= 0xFFFF else (4, "I")
        packed = struct.pack(f"{byte_order}{len(numbers)}{letter}", *numbers)
        values[tag] = (kind, len(numbers), packed)
    values |= {tag: (7, len(content), content) for tag, content in raw.items() if content}
    padding = bytes(len(data) % 2)
    start = len(data) + len(padding)
    behind_at = start + 2 + 12 * len(values) + 4
    entries = behind = b""
    for tag, (kind, count, content) in sorted(values.items()):
        place = content.ljust(4, b"\0")
        if len(content) > 4:
            place = struct.pack(f"{byte_order}I", behind_at + len(behind))
            behind += content + bytes(len(content) % 2)
        entries += struct.pack(f"{byte_order}HHI", tag, kind, count) + place
    header = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(f"{byte_order}I", start)
    length = struct.pack(f"{byte_order}H", len(values))
    return b"".join([header, data[8:], padding, length, entries, bytes(4), behind])
