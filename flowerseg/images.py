"""Photos and masks in and out of files, and resized: the only module that knows OpenCV.

OpenCV 5 decodes JPEG, PNG, WebP and BMP, and refuses those that are cut off; OpenCV 4 fills what is
missing with grey. TIFF is decoded in `flowerseg.tiff`. Every format is turned here, by the
orientation that its header says.
"""

from pathlib import Path

import cv2
import numpy as np
from cv2.utils import logging as cv2_logging

from flowerseg.arrays import Labels, Mask, Rgb, SizeHW
from flowerseg.errors import ImageError
from flowerseg.filekind import foreign_kind
from flowerseg.files import as_path, write_bytes
from flowerseg.imageheader import FORMATS, ImageHeader, format_of, jpeg_kind, read_header
from flowerseg.photofile import photo_bytes
from flowerseg.tiff import decode_tiff

# The format is detected from the first bytes; the suffix only says which files are listed.
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})

# More than a telephone's 200 megapixels (16,320 x 12,240), and 0.8 GB decoded.
MAX_PIXELS = 1 << 28
MOST_MAX_PIXELS = 1 << 30  # OpenCV 5.0 decodes no more

_MOST_FLOATS = 1 << 24  # of a photo that is shrunk in floats: 64 MiB

# A decoder's complaint reaches the user as an ImageError that names the file, once.
cv2_logging.setLogLevel(cv2_logging.LOG_LEVEL_SILENT)


def read_rgb(path: str | Path, max_pixels: int = MAX_PIXELS) -> Rgb:
    """Read a photo as people see it: EXIF orientation applied, 8 bits, RGB.

    Grey photos get three equal channels, CMYK ones are converted without a profile, 16-bit samples
    are scaled to 8, transparency is dropped, of several pages or frames the first is taken.

    Damage is found where the format can show it: PNG has checksums, and so has deflate in a TIFF;
    LZW and PackBits have to unpack to their size, CCITT to an image of the same code. A changed bit
    in a JPEG or BMP is not found, and of a JPEG only its end mark is looked for: rows that are
    missing before it are grey.

    Raises:
        ImageError: the file cannot be read, is no image, is cut off, or larger than `max_pixels`.
    """
    return decode_rgb(photo_bytes(as_path(path, "path")), str(path), max_pixels)


def decode_rgb(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Rgb:
    """Decode the bytes of a photo; `name` stands in error messages. See `read_rgb`."""
    header = _checked_header(data, name, max_pixels)
    if header.format == "TIFF":
        pixels = _u8(decode_tiff(data, name)[..., :3])
    else:
        pixels = _decode(data, header, cv2.IMREAD_COLOR_RGB, name)
    return _turned(pixels, header.orientation)


def decode_rgb_reduced(data: bytes, name: str) -> Rgb:
    """Decode the bytes of a photo at half its width and height; see `decode_rgb`.

    For JPEG the decoder's own scaled transform gives that in half the time. The pixels are not
    those of a full decode that is resized after: see `flowerseg.proof.routes`.
    """
    header = _checked_header(data, name, MAX_PIXELS)
    if header.format == "TIFF":
        height, width = header.size_hw
        half_wh = (max(1, width // 2), max(1, height // 2))
        full = decode_tiff(data, name)[..., :3]
        half = cv2.resize(full, half_wh, interpolation=cv2.INTER_LINEAR_EXACT)
        return _turned(_u8(half), header.orientation)
    # The reduced modes know no RGB, so the channels are exchanged afterwards.
    reduced = _decode(data, header, cv2.IMREAD_REDUCED_COLOR_2, name)
    return _turned(reduced[..., ::-1], header.orientation)


def read_mask_colours(path: str | Path) -> Rgb:
    """Read an annotation image with its exact colours; see `decode_mask`. Opacity is dropped."""
    return np.ascontiguousarray(decode_mask(photo_bytes(Path(path)), str(path))[..., :3])


def decode_mask(data: bytes, name: str) -> Rgb:
    """Decode an annotation (h, w, 3), or (h, w, 4) with opacity last, with its exact samples.

    A palette is resolved, and no sample is interpolated. The image is turned by its own EXIF
    orientation, as any viewer shows it.

    Raises:
        ImageError: the bytes are no image, have several pages or frames, of which none is the whole
            annotation, or more than 8 bits a channel, of which scaling would leave 0 of every class
            number.
    """
    header = _checked_header(data, name, MAX_PIXELS)
    if header.has_more_pictures:
        raise ImageError(f"{name}: has several pages or frames. Save only the annotation, as PNG.")
    if header.format == "TIFF":
        pixels = decode_tiff(data, name, is_annotation=True)
    else:
        pixels = _rgb_from_bgr(_decode(data, header, cv2.IMREAD_UNCHANGED, name))
    return _turned(pixels, header.orientation)


def _rgb_from_bgr(pixels: Rgb) -> Rgb:
    """RGB or RGBA from what OpenCV decodes unchanged: grey, BGR or BGRA."""
    if pixels.ndim == 2:
        return _u8(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB))
    code = cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return _u8(cv2.cvtColor(pixels, code))


def _turned(pixels: Rgb, orientation: int) -> Rgb:
    """The picture as people see it, from one stored with an EXIF orientation of 1 to 8."""
    turned: object = np.ascontiguousarray(pixels)
    if orientation in (5, 6, 7, 8):
        turned = cv2.transpose(pixels)
    # Beyond the exchange of sides: mirrored (1), upside down (0), or both (-1).
    mirror = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return _u8(turned if mirror is None else cv2.flip(_u8(turned), mirror))


def write_mask(path: Path, mask: Mask) -> None:
    """Write a mask as PNG of 0 and 255, one bit a pixel on disk."""
    write_bytes(path, encode_mask(mask))


def encode_mask(mask: Mask) -> bytes:
    """Bytes of a mask as PNG of 0 and 255, one bit a pixel."""
    # Of zlib's strategies run lengths pack the even areas of a mask fastest. Unfiltered, as the PNG
    # specification advises below 8 bits, they are smaller than with OpenCV's default filter.
    how = [
        *(cv2.IMWRITE_PNG_BILEVEL, 1),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
    ]
    return _encode(".png", mask.view(np.uint8) * np.uint8(255), how)


def bounding_box(mask: Mask) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the flower, the last two beyond it; None: there is none."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (left, top, left + width, top + height) if width else None


def write_png(path: Path, pixels: Rgb | Labels) -> None:
    """Write grey (h, w), RGB (h, w, 3) or RGBA (h, w, 4) pixels as PNG."""
    write_bytes(path, _encode(".png", _bgr(pixels), []))


def write_jpeg(path: Path, rgb: Rgb, quality: int = 95) -> None:
    """Write a photo as JPEG; quality runs from 0 to 100."""
    write_bytes(path, encode_jpeg(rgb, quality))


def encode_jpeg(rgb: Rgb, quality: int = 95) -> bytes:
    """Bytes of a JPEG, for pages that carry their pictures inside."""
    return _encode(".jpg", _bgr(rgb), [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_image(rgb: Rgb, suffix: str) -> bytes:
    """Bytes of an image in the format of one of `PHOTO_SUFFIXES`."""
    return _encode(suffix, _bgr(rgb), [])


def encode_png(pixels: Rgb | Labels) -> bytes:
    """Bytes of a PNG, for pages that carry their pictures inside."""
    return _encode(".png", _bgr(pixels), [])


def resize_area(rgb: Rgb, size_hw: SizeHW) -> Rgb:
    """Resize by area averaging (antialiased) along sides that shrink, bilinearly along others.

    OpenCV's INTER_AREA averages only when both sides shrink, and silently becomes another kernel
    when one grows. Shrinking first and enlarging after keeps one meaning for every shape.
    """
    height, width = size_hw
    smaller_hw = (min(height, rgb.shape[0]), min(width, rgb.shape[1]))
    if smaller_hw != rgb.shape[:2]:
        rgb = _shrunk(rgb, smaller_hw)
    return resize_bilinear(rgb, size_hw) if size_hw != smaller_hw else rgb


def _shrunk(rgb: Rgb, size_hw: SizeHW) -> Rgb:
    """OpenCV's INTER_AREA; faster where the bytes are made floats first, which it adds up anyway.

    Whole factors have code of their own that adds up bytes, and rounds otherwise. Large photos
    would take four times their memory.
    """
    height, width = size_hw
    has_whole_factors = rgb.shape[0] % height == 0 and rgb.shape[1] % width == 0
    if has_whole_factors or rgb.size > _MOST_FLOATS:
        return _u8(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA))
    floats = cv2.resize(rgb.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return _u8(cv2.convertScaleAbs(floats))


def resize_bilinear(pixels: Rgb | Labels, size_hw: SizeHW) -> Rgb:
    """Resize a smooth map bilinearly, on half-pixel centres, without antialiasing."""
    height, width = size_hw
    return _u8(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR))


def resize_nearest(labels: Labels, size_hw: SizeHW) -> Labels:
    """Resize labels without inventing values: each pixel takes the one under its centre."""
    height, width = size_hw
    return _u8(cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def use_one_thread_per_call() -> None:
    """Keep OpenCV from starting threads of its own, for pools that already fill the machine."""
    cv2.setNumThreads(1)


def opencv_version() -> str:
    """Version of the OpenCV that decodes and resizes, for manifests and reports."""
    return str(cv2.__version__)


def _decode(data: bytes, header: ImageHeader, flags: int, name: str) -> Rgb:
    """Pixels as stored, not turned, of a format that OpenCV decodes."""
    try:
        buffer = np.frombuffer(data, np.uint8)
        if header.format == "WebP":
            # What lies behind the end is no part of the image. OpenCV would fill damaged data up
            # from there, and return what other decoders refuse.
            buffer = buffer[: 8 + int.from_bytes(data[4:8], "little")]
        pixels = cv2.imdecode(buffer, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        words = _words(data, header)
        raise ImageError(f"{name}: {words} cannot be decoded: {error.err or error}.") from error
    if pixels is None:
        words = _words(data, header)
        raise ImageError(f"{name}: {words} is cut off or damaged. Copy it again, or save it anew.")
    if pixels.dtype != np.uint8:
        raise ImageError(f"{name}: {pixels.dtype} samples in an annotation. Save it with 8 bits.")
    return _u8(pixels)


def _checked_header(data: bytes, name: str, max_pixels: int) -> ImageHeader:
    """The header of an image that may be decoded."""
    if not data:
        raise ImageError(f"{name}: is empty (0 bytes). Remove it or copy it again.")
    header = read_header(data)
    if header is None:
        raise ImageError(f"{name}: {_unknown(data)}")
    height, width = header.size_hw
    if height * width > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels in {len(data)} bytes: more than {max_pixels} are "
            "taken for a decompression bomb. If it is a photo, reduce it or raise --max-pixels."
        )
    if not header.has_end:
        raise ImageError(
            f"{name}: {_words(data, header)} is cut off: its end is missing. Copy it again."
        )
    if header.is_broken:
        raise ImageError(
            f"{name}: {_words(data, header)} is damaged in the middle. Copy it again, or save it "
            "anew."
        )
    return header


def _unknown(data: bytes) -> str:
    """What is wrong with bytes that have no header of an image, and what to do about it."""
    if kind := foreign_kind(data):
        what, remedy = kind
        return f"is {what}. Photos are read as {FORMATS}. {remedy}"
    if variant := jpeg_kind(data):
        return (
            f"is a {variant} JPEG, which is not decoded. Convert it: magick FILE -depth 8 out.png"
        )
    if known := format_of(data):
        return f"a {known} file that is cut off or damaged ({len(data)} bytes). Copy it again."
    return (
        f"is not an image that can be decoded ({len(data)} bytes). Photos are read as {FORMATS}. "
        "Remove it, or convert it."
    )


def _words(data: bytes, header: ImageHeader) -> str:
    height, width = header.size_hw
    return f"a {header.format} image of {width} x {height} pixels in {len(data)} bytes"


def _encode(suffix: str, pixels: Rgb | Labels, parameters: list[int]) -> bytes:
    ok, encoded = cv2.imencode(suffix, pixels, parameters)
    if not ok:
        raise ImageError(f"OpenCV could not encode {pixels.shape} pixels as {suffix}.")
    return bytes(encoded)


def _bgr(pixels: Rgb | Labels) -> Rgb | Labels:
    if pixels.ndim == 2:
        return pixels
    code = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    return _u8(cv2.cvtColor(pixels, code))


def _u8(pixels: object) -> Rgb:
    return np.asarray(pixels, dtype=np.uint8)
