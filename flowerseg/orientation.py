"""How a camera was held, from the EXIF or XMP block of an image."""

import re
from contextlib import suppress

from flowerseg.tiffdirectory import TiffDirectory

UPRIGHT = 1
_TAG = 274
_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")


def orientation_of(exif: bytes = b"", xmp: bytes = b"") -> int:
    """The orientation, 1 to 8: see EXIF 2.32, tag 274. EXIF counts before XMP.

    Any other value counts as upright, as it does in Pillow's `ImageOps.exif_transpose`.

    Args:
        exif: the block, with or without its `Exif` prefix; empty if there is none.
        xmp: the block; empty if there is none.
    """
    directory = None
    if exif:
        with suppress(ValueError):
            directory = TiffDirectory(exif.removeprefix(b"Exif\0\0"))
    if directory and _TAG in directory:
        is_number = not directory.raw_bytes(_TAG)  # Pillow ignores one of the type BYTE
        return _valid(directory.integer(_TAG, UPRIGHT)) if is_number else UPRIGHT
    found = _XMP.search(xmp) if xmp else None
    return _valid(int(found[1])) if found else UPRIGHT


def _valid(value: int) -> int:
    return value if 1 <= value <= 8 else UPRIGHT
