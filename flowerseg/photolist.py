"""Photos that a list names: one path a line, or each path ended by NUL.

Any other file is refused as a whole, by name: a photo, a video, UTF-16, or the output of
`find -print0` read as lines. So is a list with an entry that cannot be a path.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from flowerseg.errors import DataError, some_of
from flowerseg.filekind import foreign_kind
from flowerseg.imageheader import format_of
from flowerseg.listing import Listing

MAX_LIST_BYTES = 1 << 30  # some ten million paths

_HEAD_BYTES = 1024  # that show what a file is
_MAX_PATH_BYTES = 4095  # PATH_MAX of Linux, without the NUL that ends a path there
_UTF8_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")  # UTF-16, UTF-32; the third is rarest
# Bytes that no text has, but line ends, tabs and NUL, which are looked at apart.
_CONTROLS = bytes(set(range(1, 32)) - {*b"\t\n\r"})
_MOST_CONTROLS = 0.05  # of the first bytes: what is compressed has 0.11, a list of names none
_ENOUGH_BYTES = 256  # that the share of controls means something


def read_list(stream: BinaryIO, name: str, separator: bytes = b"\n") -> bytes:
    """The content of a list; of what is none, or has no end, only its beginning is read.

    See `photos_on_list`.

    Raises:
        DataError: it is known from its first bytes to be something else, or it is too long.
        OSError: it cannot be read.
    """
    head = stream.read(_HEAD_BYTES)
    _refuse_other_kind(head, name, separator)
    content = head + stream.read(MAX_LIST_BYTES + 1 - len(head))
    if len(content) > MAX_LIST_BYTES:
        raise DataError(f"{name}: a list of more than 1 GiB. Divide it into several.")
    return content


def photos_on_list(content: bytes, name: str, separator: bytes = b"\n") -> Listing:
    """The photos that a list names.

    The paths are from the working folder, or all from the root; masks/ repeats them as they are.
    Every entry is taken for a photo; reading it will say where it is none. Of lines, empty ones are
    passed over, and neither the carriage return that ends lines on Windows nor the byte order mark
    that its editors put before UTF-8 is part of a name.

    Args:
        content: of the list.
        name: of the list, for errors.
        separator: what ends each path; NUL for names with line breaks.

    Raises:
        DataError: it is no list of paths, or names no photo; or it has paths of both kinds, or
            some that lead out of their folder by `..`, for which masks/ has no place.
    """
    _refuse_other_kind(content[:_HEAD_BYTES], name, separator)
    if separator == b"\0":
        entries = _entries_ended_by_nul(content, name)
    else:
        entries = _entries_of_lines(content, name)
    if not entries:
        raise DataError(f"{name}: a list without a path. Give it one path a line.")
    _refuse_overlong(entries, name)
    paths, is_from_root = _normal_paths(entries, name)
    photos = tuple(map(Path, sorted(set(paths))))
    folder = Path("/") if is_from_root else Path()
    return Listing(folder, photos, skipped=len(paths) - len(photos))


def _refuse_other_kind(head: bytes, name: str, separator: bytes) -> None:
    if head.startswith(_OTHER_BOMS):
        raise _utf16(name)
    # A path may begin as another file does: BM, MZ, GIF8. It goes on otherwise.
    if b"\0\0" in head or len(head.translate(None, _CONTROLS)) < len(head):
        if format_of(head):
            raise DataError(
                f"{name}: a {format_of(head)} photo, not a list of photos. Give the folder that it "
                "is in."
            )
        if kind := foreign_kind(head):
            what, remedy = kind
            raise DataError(f"{name}: {what}, not a list of photos. {remedy}")
    is_lines = separator == b"\n" and len(head) >= _ENOUGH_BYTES  # with NUL a name may be anything
    if is_lines and len(head.translate(None, _CONTROLS)) < (1 - _MOST_CONTROLS) * len(head):
        raise _binary(name)


def _entries_of_lines(content: bytes, name: str) -> list[bytes]:
    if b"\0" in content:
        raise _error_of_nul(content, name)
    lines = content.removeprefix(_UTF8_BOM).split(b"\n")
    if len(lines) == 1 and b"\r" in lines[0].rstrip(b"\r"):
        raise DataError(
            f"{name}: its lines end with carriage returns alone. End them with line feeds, or give "
            "-0 and end each path with NUL if a carriage return is part of a name."
        )
    return [line for line in (line.removesuffix(b"\r") for line in lines) if line]


def _entries_ended_by_nul(content: bytes, name: str) -> list[bytes]:
    if b"\0" not in content and b"\n" in content:
        raise DataError(f"{name}: it has line breaks and no NUL. Leave -0 out.")
    entries = content.removesuffix(b"\0").split(b"\0") if content else []
    if b"" in entries:
        raise DataError(
            f"{name}: entry {1 + entries.index(b'')} is empty: two NULs in a row. Check what wrote "
            "the list."
        )
    return entries


def _error_of_nul(content: bytes, name: str) -> DataError:
    """What a list of lines is that has NULs in it, where no line can have one."""
    if _is_utf16(content):
        return _utf16(name)
    entries = content.removesuffix(b"\0").split(b"\0")
    if all(0 < len(entry) <= _MAX_PATH_BYTES for entry in entries):
        return DataError(f"{name}: its paths are ended by NUL, as by find -print0. Give -0.")
    return _binary(name)


def _is_utf16(content: bytes) -> bool:
    """Whether every second byte of the beginning is NUL, as in UTF-16 of Latin letters."""
    head = content[:_HEAD_BYTES]
    halves = head[::2], head[1::2]
    return len(head) > 3 and any(not any(half) for half in halves) and any(head)


def _utf16(name: str) -> DataError:
    return DataError(
        f"{name}: text in UTF-16 or UTF-32. Save the list as UTF-8, or convert it: "
        "iconv -f UTF-16 -t UTF-8"
    )


def _binary(name: str) -> DataError:
    return DataError(
        f"{name}: binary data, not a list of photos. Give a folder of photos, or a list with one "
        "path a line; for names that are no text, end each path with NUL and give -0."
    )


def _refuse_overlong(entries: Sequence[bytes], name: str) -> None:
    if max(map(len, entries)) > _MAX_PATH_BYTES:
        number, entry = next(
            (number, entry)
            for number, entry in enumerate(entries, 1)
            if len(entry) > _MAX_PATH_BYTES
        )
        raise DataError(
            f"{name}: entry {number} has {len(entry)} bytes, and a path has {_MAX_PATH_BYTES} at "
            "most. Give the list one path a line."
        )


def _normal_paths(entries: Sequence[bytes], name: str) -> tuple[list[str], bool]:
    """The paths below the folder that they are from, spelled in one way; whether it is the root."""
    texts = [os.fsdecode(entry) for entry in entries]
    from_root = [text for text in texts if text.startswith("/")]
    if from_root and len(from_root) < len(texts):
        raise DataError(
            f"{name}: {len(from_root)} paths from the root, such as {from_root[0]}, and "
            f"{len(texts) - len(from_root)} that are not. Give all from the root, or none."
        )
    parts = [[part for part in text.split("/") if part not in ("", ".")] for text in texts]
    if outside := [text for text, path in zip(texts, parts, strict=True) if ".." in path]:
        raise DataError(
            f"{name}: {len(outside)} paths with ..: {some_of(outside)}. Give them from the root."
        )
    if unnamed := [text for text, path in zip(texts, parts, strict=True) if not path]:
        raise DataError(
            f"{name}: {some_of(unnamed)} names a folder, not a photo. Give the folder itself in "
            "place of the list, or the photos in it."
        )
    return ["/".join(path) for path in parts], bool(from_root)
