"""TIFF decoded by Pillow, from a directory that is written anew.

OpenCV 5.0 is not used for TIFF: it shows black where it does not know the compression, ignores
errors in compressed data, exchanges tiles when it turns an image, and multiplies colours by their
opacity. Pillow reports such errors, and reads this form rightly where `_require_known` lets it.

The directory that Pillow sees holds only the tags of the pixels, after they were checked: no
metadata of the file reaches it, whose faults it would report as Python warnings.

Source of the tags: TIFF 6.0 (Adobe, 1992).
"""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowerseg import tiffccitt
from flowerseg.errors import ImageError
from flowerseg.tiffdirectory import TiffDirectory, with_directory
from flowerseg.tiffstrips import NO_COMPRESSION, Layout, require_sound_strips

if TYPE_CHECKING:
    from PIL.Image import Image

_SUBFILE_TYPE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 258, 259, 262, 266
_WIDTH, _HEIGHT, _STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES = 256, 257, 273, 277, 278, 279
_PLANAR, _PREDICTOR, _COLOUR_MAP, _SUB_DIRECTORIES = 284, 317, 320, 330
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_INK_SET, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _JPEG_TABLES, _SUBSAMPLING = 332, 338, 339, 347, 530
_T4_OPTIONS, _T6_OPTIONS = 292, 293  # of CCITT Group 3 and 4
_DNG_VERSION = 50706

_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate", 32773: "PackBits"}
_OTHER_COMPRESSIONS = {
    6: "old-style JPEG",
    9: "JBIG",
    10: "JBIG",
    22610: "JPEG XR",
    32766: "NeXT",
    32771: "CCITT RLE/W",
    32809: "ThunderScan",
    32867: "Kodak DCR",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34713: "Nikon NEF",
    34887: "LERC",
    34892: "lossy JPEG of a DNG",
    34925: "LZMA",
    34926: "Zstandard",
    34927: "WebP",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
    65000: "Kodak DCR",
}
_JPEG = 7

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOUR_SAMPLES = {
    _WHITE_IS_ZERO: 1,
    _BLACK_IS_ZERO: 1,
    _RGB: 3,
    _PALETTE: 1,
    _CMYK: 4,
    _YCBCR: 3,
}
_DEPTHS = {
    _WHITE_IS_ZERO: (1, 2, 4, 8),  # Pillow leaves 16 bits as they are, white as black
    _BLACK_IS_ZERO: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _CMYK: (8, 16),
    _YCBCR: (8,),
}
_OTHER_PHOTOMETRICS = {
    4: "a transparency mask",
    8: "CIE L*a*b* colours",
    9: "ICC L*a*b* colours",
    10: "ITU L*a*b* colours",
    32803: "raw sensor values",
    32844: "CIE log luminance",
    32845: "CIE log luminance",
    34892: "raw sensor values",
}
_UNNAMED, _ASSOCIATED_ALPHA, _ALPHA = _EXTRA_KINDS = (0, 1, 2)
_CONVERT = "Convert it to 8 bits and deflate: magick FILE -depth 8 -compress zip out.tif"


@dataclass(frozen=True)
class _Kind:
    """How the samples of a TIFF are to be understood."""

    photometric: int
    bits: int
    samples: int
    extra: tuple[int, ...]  # ExtraSamples: what the samples beyond the colours are

    @property
    def has_known_extra(self) -> bool:
        """Whether there is one more sample, beside colours with which Pillow reads it."""
        is_read = self.photometric == _RGB or (
            self.photometric == _BLACK_IS_ZERO and self.bits == 8
        )
        return len(self.extra) == 1 and self.extra[0] in _EXTRA_KINDS and is_read


def decode_tiff(data: bytes, name: str, *, is_annotation: bool = False) -> NDArray[np.uint8]:
    """Pixels (h, w, 3), or (h, w, 4) with opacity last, as stored: not turned; of the first page.

    16 bits are scaled to 8. Colours that the file multiplied by their opacity are divided again.

    Args:
        data: bytes of the file.
        name: for errors.
        is_annotation: refuse what does not keep the exact samples.

    Raises:
        ImageError: it is damaged, cut off, or of a kind that cannot be decoded rightly.
    """
    try:
        directory = TiffDirectory(data)
        kind, layout = _known_kind(directory), _layout(directory)
        if is_annotation:
            _require_exact(kind)
        require_sound_strips(data, layout)
        with _opened(_rewritten(data, directory, kind, layout)) as image:
            if layout.compression in tiffccitt.COMPRESSIONS:
                tiffccitt.require_same_code(image, data, layout, directory)
            return _pixels(image)
    except (ValueError, struct.error) as error:  # the latter of a negative number
        raise ImageError(f"{name}: a TIFF that {error}.") from error


def _known_kind(directory: TiffDirectory) -> _Kind:
    """The kind of a TIFF that Pillow decodes rightly.

    Raises:
        ValueError: saying in words why it is another.
    """
    if _DNG_VERSION in directory or (
        directory.integer(_SUBFILE_TYPE) & 1 and _SUB_DIRECTORIES in directory
    ):
        raise ValueError(
            "is a camera's raw photo: its first page is only a preview. Export it as JPEG"
        )
    samples = directory.integer(_SAMPLES, 1)
    bits = _one_value(directory, _BITS, 1, "bits in its samples")
    sample_format = _one_value(directory, _SAMPLE_FORMAT, 1, "types of samples")
    photometric = directory.integer(_PHOTOMETRIC, -1)
    if sample_format not in (1, 4):
        words = {2: "signed integers", 3: "floating-point numbers"}
        what = words.get(sample_format, "complex numbers")
        raise ValueError(
            f"holds {what} of {bits} bits, whose black and white are not known. {_CONVERT}"
        )
    if photometric not in _COLOUR_SAMPLES:
        if photometric < 0:
            raise ValueError(f"does not say what its samples mean. {_CONVERT}")
        what = _OTHER_PHOTOMETRICS.get(photometric, f"colours of kind {photometric}")
        raise ValueError(f"holds {what}. {_CONVERT}")
    extra = directory.integers(_EXTRA_SAMPLES)
    if not extra and samples == _COLOUR_SAMPLES[photometric] + 1:
        extra = (_UNNAMED,)  # OpenCV 5.0 writes RGBA without this tag
    kind = _Kind(photometric, bits, samples, extra)
    _require_known(kind, directory)
    return kind


def _one_value(directory: TiffDirectory, tag: int, default: int, what: str) -> int:
    values = set(directory.integers(tag)) or {default}
    if len(values) > 1:
        raise ValueError(f"has different {what}: {sorted(values)}. {_CONVERT}")
    return values.pop()


def _require_known(kind: _Kind, directory: TiffDirectory) -> None:
    """Refuse, in words, what Pillow 13 does not decode, or not rightly."""
    compression = directory.integer(_COMPRESSION, 1)
    known = dict(_COMPRESSIONS)
    if kind.bits == kind.samples == 1:
        known |= tiffccitt.COMPRESSIONS
    if compression not in known:
        names = _OTHER_COMPRESSIONS | tiffccitt.COMPRESSIONS
        words = names.get(compression, f"kind {compression}")
        raise ValueError(f"is compressed as {words}, which is not decoded. {_CONVERT}")
    if kind.bits not in _DEPTHS[kind.photometric]:
        raise ValueError(f"has {kind.bits} bits a sample, which is not decoded. {_CONVERT}")
    if kind.samples != _COLOUR_SAMPLES[kind.photometric] + len(kind.extra):
        raise ValueError(f"has {kind.samples} samples a pixel, of unknown meaning. {_CONVERT}")
    if kind.extra and not kind.has_known_extra:
        raise ValueError(f"has other samples beside its colours. {_CONVERT}")
    is_planar = directory.integer(_PLANAR, 1) == 2 and kind.samples > 1
    if is_planar and (kind.bits != 8 or kind.photometric != _RGB or kind.extra):
        raise ValueError(f"keeps its channels apart (planar), which is not decoded. {_CONVERT}")
    if kind.photometric == _CMYK and directory.integer(_INK_SET, 1) != 1:
        raise ValueError(f"has inks other than CMYK. {_CONVERT}")
    is_subsampled = directory.integers(_SUBSAMPLING) != (1, 1)
    if kind.photometric == _YCBCR and compression != _JPEG and is_subsampled:
        raise ValueError(f"has colours at half its size outside JPEG. {_CONVERT}")
    is_ccitt = compression in tiffccitt.COMPRESSIONS
    if is_ccitt and _TILES in directory:
        raise ValueError(f"has tiles of CCITT data, which are not decoded. {_CONVERT}")
    is_plain = compression == NO_COMPRESSION or is_ccitt
    if directory.integer(_FILL_ORDER, 1) != 1 and not (kind.bits <= 8 and is_plain):
        raise ValueError(f"has the bits of its bytes reversed. {_CONVERT}")


def _require_exact(kind: _Kind) -> None:
    """Refuse, in words, what does not keep the samples of an annotation."""
    if kind.bits > 8:
        raise ValueError(f"has {kind.bits} bits a sample. Save an annotation with 8")
    if _ASSOCIATED_ALPHA in kind.extra:
        raise ValueError("has colours that were multiplied by their opacity. Save it as PNG")
    if _UNNAMED in kind.extra:
        raise ValueError("has an unnamed channel beside its colours. Save it as PNG")


def _layout(directory: TiffDirectory) -> Layout:
    """Where the strips or tiles lie.

    Raises:
        ValueError: they do not make up the image.
    """
    width, height = directory.integer(_WIDTH), directory.integer(_HEIGHT)
    samples = directory.integer(_SAMPLES, 1)
    is_tiled = _TILES in directory or _TILE_WIDTH in directory
    if is_tiled:
        across, down = directory.integer(_TILE_WIDTH), directory.integer(_TILE_HEIGHT)
    else:
        across, down = width, min(directory.integer(_ROWS, height), height)
    if across <= 0 or down <= 0:
        raise ValueError("does not say how large its strips or tiles are. Copy it again")
    return Layout(
        width=width,
        height=height,
        is_tiled=is_tiled,
        across=across,
        down=down,
        samples=samples,
        bits=(directory.integers(_BITS) or (1,))[0],
        is_planar=directory.integer(_PLANAR, 1) == 2 and samples > 1,
        compression=directory.integer(_COMPRESSION, 1),
        offsets=directory.integers(_TILES if is_tiled else _STRIPS),
        byte_counts=directory.integers(_TILE_BYTES if is_tiled else _STRIP_BYTES),
    )


def _rewritten(data: bytes, directory: TiffDirectory, kind: _Kind, layout: Layout) -> bytes:
    """The file with a directory of its own at the end, which holds only the tags of its pixels."""
    tags: dict[int, tuple[int, ...]] = {
        _WIDTH: (layout.width,),
        _HEIGHT: (layout.height,),
        _BITS: (kind.bits,) * kind.samples,
        _COMPRESSION: (layout.compression,),
        _PHOTOMETRIC: (kind.photometric,),
        _SAMPLES: (kind.samples,),
        _PLANAR: (2 if layout.is_planar else 1,),
    }
    if layout.is_tiled:
        tags |= {_TILE_WIDTH: (layout.across,), _TILE_HEIGHT: (layout.down,)}
        tags |= {_TILES: layout.offsets, _TILE_BYTES: layout.byte_counts}
    else:
        tags |= {_ROWS: (layout.down,), _STRIPS: layout.offsets, _STRIP_BYTES: layout.byte_counts}
    for tag in (_FILL_ORDER, _PREDICTOR, _SUBSAMPLING, _T4_OPTIONS, _T6_OPTIONS):
        if values := directory.integers(tag):
            tags[tag] = values
    if kind.extra:
        tags[_EXTRA_SAMPLES] = kind.extra
    if kind.photometric == _PALETTE:
        tags[_COLOUR_MAP] = _colour_map(directory, kind.bits)
    return with_directory(
        data, directory.byte_order, tags, {_JPEG_TABLES: directory.raw_bytes(_JPEG_TABLES)}
    )


def _colour_map(directory: TiffDirectory, bits: int) -> tuple[int, ...]:
    colours = directory.integers(_COLOUR_MAP)
    if len(colours) != 3 << bits:
        raise ValueError(f"has {len(colours)} numbers in its palette, not {3 << bits}. {_CONVERT}")
    # Some programs write 8 bits where the specification has 16; libtiff recognises them too.
    return colours if max(colours) > 255 else tuple(257 * value for value in colours)


@contextmanager
def _opened(tiff: bytes) -> "Iterator[Image]":
    """The decoded image of a TIFF whose directory was checked.

    Raises:
        ValueError: Pillow refuses it.
    """
    # Imported here: it takes 80 ms, and few folders hold a TIFF. Image.open is not called, because
    # its limit of pixels and its warning belong to the whole process.
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        image = TiffImageFile(io.BytesIO(tiff))
        image.load()
    except Exception as error:  # Pillow raises many types here; each means the same to the user
        raise ValueError(
            f"is damaged, or not decoded ({error}). Copy it again, or save it anew"
        ) from error
    with image:
        yield image


def _pixels(image: "Image") -> NDArray[np.uint8]:
    """Pixels (h, w, 3), or (h, w, 4) with opacity last, of 8 bits."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "La":
        image = image.convert("LA")
    return np.asarray(image.convert("RGBA" if image.mode in ("LA", "RGBA") else "RGB"))
