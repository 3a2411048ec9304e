"""Whether the CCITT data of a TIFF are undamaged: libtiff only warns, and fills with white.

These codes have no checksum and no length, but there is one way to write an image in them. So the
decoded image is written again, strip by strip, and has to give the bytes that were read.
"""

import io
from typing import TYPE_CHECKING

from flowerseg.tiffdirectory import TiffDirectory
from flowerseg.tiffstrips import Layout

if TYPE_CHECKING:
    from PIL.Image import Image

COMPRESSIONS = {2: "CCITT RLE", 3: "CCITT Group 3", 4: "CCITT Group 4"}
_PILLOW_NAMES = {2: "tiff_ccitt", 3: "group3", 4: "group4"}
_PHOTOMETRIC, _FILL_ORDER, _STRIPS, _STRIP_BYTES, _T4_OPTIONS = 262, 266, 273, 279, 292
_WHITE_IS_ZERO = 0
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def require_same_code(
    image: "Image", data: bytes, layout: Layout, directory: TiffDirectory
) -> None:
    """Check that the decoded image, written again, gives the strips that it was read from.

    Args:
        image: mode `1`, as decoded.
        data: the file.
        layout: of its strips.
        directory: of the file.

    Raises:
        ValueError: it gives others; the message completes the sentence "a TIFF that …".
    """
    is_reversed = directory.integer(_FILL_ORDER) == 2
    options = directory.integer(_T4_OPTIONS)
    if directory.integer(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        image = image.point(lambda value: 255 - value, "1")
    for place, (start, length) in enumerate(zip(layout.offsets, layout.byte_counts, strict=False)):
        top = place * layout.down
        if top >= layout.height:
            return
        rows = image.crop((0, top, layout.width, top + layout.rows_of(place)))
        found = data[start : start + length]
        if is_reversed:
            found = found.translate(_REVERSED_BITS)
        # Programs may fill the last strip, or each one, up to a whole number of words.
        if found.rstrip(b"\0") != _strip_of(rows, layout.compression, options).rstrip(b"\0"):
            raise ValueError(
                "is damaged, or written by other rules than those of its CCITT code. "
                "Convert it: magick FILE -compress zip out.tif"
            )


def _strip_of(rows: "Image", compression: int, options: int) -> bytes:
    """The CCITT code of a bilevel image, in one strip."""
    from PIL.TiffImagePlugin import TiffImageFile

    content = io.BytesIO()
    rows.save(
        content,
        "TIFF",
        compression=_PILLOW_NAMES[compression],
        strip_size=1 << 30,
        tiffinfo={_T4_OPTIONS: options} if options else {},
    )
    with TiffImageFile(io.BytesIO(content.getvalue())) as written:
        (start,), (length,) = written.tag_v2[_STRIPS], written.tag_v2[_STRIP_BYTES]
    return content.getvalue()[start : start + length]
