"""Where a ZIP archive has its directory: in one place only, for every reader."""

import struct
from typing import BinaryIO

# APPNOTE.TXT 4.3.14 to 4.3.16: the end of the directory, and of ZIP64 its record and its locator.
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")

_LARGEST_32_BIT = 0xFFFFFFFF  # stands in the short record for a number that only ZIP64 can hold


def require_one_directory(file: BinaryIO) -> None:
    """Refuse an archive in which two readers may find two directories.

    Python's zipfile reads the directory that ends where the last record begins, and PyTorch's
    reader the one at the offset that the record names. If they differ, the members that zipfile
    checks are not those that PyTorch unpacks. In the archives that PyTorch writes both are the
    same, and the file ends with the record.

    Raises:
        ValueError: the two places differ, or the file does not end with the record.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _LOCATOR64.size - _END64.size))
    tail = file.read()
    file.seek(0)
    ends_at = size - _END.size
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\5\6":
        raise ValueError("its directory is not at its end")
    *_, length, offset, comment_length = _END.unpack(tail[-_END.size :])
    before = tail[: -_END.size]
    if before[-_LOCATOR64.size :][:4] == b"PK\6\7" and len(before) == _LOCATOR64.size + _END64.size:
        ends_at -= len(before)
        length, offset = _zip64_directory(before, ends_at, length, offset)
    if comment_length or offset + length != ends_at:
        raise ValueError("it has two directories")


def _zip64_directory(records: bytes, begins_at: int, length: int, offset: int) -> tuple[int, int]:
    """Length and offset of the directory from the ZIP64 record, which must fit the short one.

    Raises:
        ValueError: the record is not where the locator names it, or the two records differ.
    """
    record, locator = records[: _END64.size], records[_END64.size :]
    _, _, record_at, _ = _LOCATOR64.unpack(locator)
    signature, *_, length64, offset64 = _END64.unpack(record)
    short = (min(length64, _LARGEST_32_BIT), min(offset64, _LARGEST_32_BIT))
    if signature != b"PK\6\6" or record_at != begins_at or (length, offset) != short:
        raise ValueError("it has two directories")
    return length64, offset64
