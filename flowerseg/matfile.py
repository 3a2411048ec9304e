"""Lists of whole numbers from a MATLAB file of version 5.

scipy's reader trusts the file: one changed byte in a type or a length ends the process with a
segmentation fault instead of an exception. This one reads only what a list of numbers needs, and
checks every length against the bytes at hand.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowerseg.errors import DataError

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15  # types of elements; the others that occur are those of numbers
_NUMBERS = dict(enumerate(("i1", "u1", "i2", "u2", "i4", "u4", "f4"), 1)) | {
    9: "f8",
    12: "i8",
    13: "u8",
}
_NUMERIC_CLASSES = range(6, 16)  # double, single, and integers of 8 to 64 bits
_COMPLEX = 0x800
_MOST_BYTES = 1 << 26  # of one variable unpacked: more is no list of photos
_MOST_EXACT = 1 << 53  # a double holds every whole number up to here


def read_integer_lists(path: Path) -> dict[str, NDArray[np.int64]]:
    """All variables of a MATLAB file, each of which is one row or column of whole numbers.

    They may be stored in any type of number: MATLAB itself saves doubles as small integers.

    Raises:
        DataError: the file cannot be read, is damaged or of another version, or has a variable of
            another kind.
    """
    try:
        return _variables(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, struct.error, zlib.error) as error:
        reason = "it ends within a variable" if isinstance(error, struct.error) else error
        raise DataError(
            f"{path}: cannot be used as a MATLAB file: {reason}. Copy it from the data set again, "
            "or write it anew in version 5 (save -v7 in MATLAB, scipy.io.savemat in Python)."
        ) from error


def _variables(content: bytes) -> dict[str, NDArray[np.int64]]:
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER_BYTES])
    if order is None or struct.unpack_from(f"{order}H", content, 124)[0] != 0x0100:
        raise ValueError("its first 128 bytes are not those of version 5")
    found: dict[str, NDArray[np.int64]] = {}
    for kind, data in _elements(content[_HEADER_BYTES:], order):
        name, numbers = _list(_matrix(kind, data, order), order)
        if name in found:
            raise ValueError(f"{name!r} is in it twice")
        found[name] = numbers
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and data of each element; data of up to four bytes may lie in the element's own tag."""
    at = 0
    while at < len(content):
        kind, length = struct.unpack_from(f"{order}II", content, at)
        start, at = at + 8, at + 8
        if kind >> 16:
            kind, length, start = kind & 0xFFFF, kind >> 16, at - 4
            if length > 4:
                raise ValueError(f"an element of 4 bytes says that it has {length}")
        if start + length > len(content):
            raise ValueError(f"it ends {start + length - len(content)} bytes too early")
        yield kind, content[start : start + length]
        at = max(at, start + length)
        # The next one begins at a multiple of 8 bytes, but directly after a compressed one.
        at += 0 if kind == _COMPRESSED else -at % 8


def _matrix(kind: int, data: bytes, order: str) -> bytes:
    """The data of a variable, unpacked."""
    if kind == _COMPRESSED:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(data, _MOST_BYTES)
        if not unpacker.eof:
            raise ValueError("a compressed variable is cut off or too large")
        kind, data = next(_elements(unpacked, order), (0, b""))
    if kind != _MATRIX:
        raise ValueError(f"an element of type {kind} is where a variable should be")
    return data


def _list(matrix: bytes, order: str) -> tuple[str, NDArray[np.int64]]:
    """Name and numbers of a variable."""
    elements = list(_elements(matrix, order))
    if len(elements) < 3:
        raise ValueError("a variable has no name or size")
    (_, flags), (_, dimensions), (_, name_bytes), *parts = elements
    name = name_bytes.decode("ascii", "backslashreplace")
    if not name.isprintable():
        raise ValueError(f"{name!r} is no name of a variable")
    kind = struct.unpack_from(f"{order}I", flags)[0]
    if kind & 0xFF not in _NUMERIC_CLASSES or kind & _COMPLEX or len(parts) != 1:
        raise ValueError(f"{name!r} is not an array of real numbers")
    [(type_of_numbers, data)] = parts
    if type_of_numbers not in _NUMBERS:
        raise ValueError(f"{name!r} has values of the unknown type {type_of_numbers}")
    numbers = np.frombuffer(data, order + _NUMBERS[type_of_numbers])
    _require_one_row(name, np.frombuffer(dimensions, f"{order}i4").tolist(), len(numbers))
    return name, _whole(name, numbers)


def _require_one_row(name: str, sides: list[int], values: int) -> None:
    longest = sorted(sides)[-1:]
    others = sorted(sides)[:-1]
    is_empty = values == 0 and 0 in sides
    if not is_empty and (longest != [values] or any(side != 1 for side in others)):
        shape = " x ".join(map(str, sides))
        raise ValueError(f"{name!r} has {values} values in {shape}, not in one row")


def _whole(name: str, numbers: NDArray[Any]) -> NDArray[np.int64]:
    for number in numbers.tolist():
        if not abs(number) <= _MOST_EXACT or number != int(number):
            raise ValueError(f"{name!r} has {number}, which is not a whole number")
    return numbers.astype(np.int64)
