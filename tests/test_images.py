"""Photos and masks in and out of files, against PNGs made by hand, Pillow, and kernels in numpy."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flowerseg import images
from flowerseg.arrays import Labels, Rgb, SizeHW
from flowerseg.errors import ImageError
from flowerseg.images import (
    bounding_box,
    decode_mask,
    decode_rgb,
    encode_jpeg,
    read_mask_colours,
    read_rgb,
    resize_area,
    resize_bilinear,
    resize_nearest,
    write_jpeg,
    write_mask,
    write_png,
)

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6


def _noise(size_hw: SizeHW, seed: int = 0) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def _png(
    pixels: NDArray[np.integer],
    colour_type: int,
    palette: bytes = b"",
    passes: tuple[tuple[int, int, int, int], ...] = ((0, 1, 0, 1),),
) -> bytes:
    """A PNG from pixels (h, w, channels) of 8 or 16 bits, by the book (ISO/IEC 15948).

    Each pass holds some rows and columns: first row, step, first column, step.
    """
    height, width = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, down, left, across in passes
        for row in big_endian[top::down, left::across]
    )
    return _png_file((width, height, depth, colour_type, 0, 0, len(passes) > 1), palette, rows)


def _png_file(fields: tuple[int, ...], palette: bytes, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", *fields)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
        if body or kind == b"IEND"
    )


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def _smooth(size_hw: SizeHW) -> Image.Image:
    """Colours that lossy formats keep, with a little noise that no format packs away."""
    rows, columns = np.indices(size_hw)
    ramps = np.stack([5 * rows, 3 * columns, 4 * (rows + columns) % 200], axis=-1)
    return Image.fromarray((ramps % 240 + _noise(size_hw) % 8).astype(np.uint8))


def _images() -> dict[str, bytes]:
    """An image of each kind that people have, by a word for it."""
    rgb = _smooth((32, 48))
    clear = rgb.convert("RGBA")
    clear.putalpha(Image.fromarray(np.indices((32, 48))[1].astype(np.uint8) * 5))
    few = rgb.quantize(60)
    cmyk = _saved(rgb.convert("CMYK"), "JPEG")
    adobe = cmyk.index(b"Adobe")
    made = {
        "JPEG": _saved(rgb, "JPEG"),
        "JPEG, 4:4:4": _saved(rgb, "JPEG", subsampling=0),
        "JPEG, progressive": _saved(rgb, "JPEG", progressive=True),
        "JPEG, grey": _saved(rgb.convert("L"), "JPEG"),
        "JPEG, RGB": _saved(rgb, "JPEG", keep_rgb=True),
        "JPEG, CMYK": cmyk,
        "JPEG, YCCK": cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :],
        "JPEG, two pictures": _saved(rgb, "MPO", save_all=True, append_images=[few.convert("RGB")]),
        "PNG": _saved(rgb, "PNG"),
        "PNG, grey": _saved(rgb.convert("L"), "PNG"),
        "PNG, bilevel": _saved(rgb.convert("1"), "PNG"),
        "PNG, palette": _saved(few, "PNG"),
        "PNG, palette of 4 bits": _saved(rgb.quantize(16), "PNG", bits=4),
        "PNG, palette with transparency": _saved(few, "PNG", transparency=bytes(range(0, 240, 4))),
        "PNG, grey and alpha": _saved(clear.convert("LA"), "PNG"),
        "PNG, alpha": _saved(clear, "PNG"),
        "PNG, interlaced": _png(np.asarray(rgb), COLOUR, passes=ADAM7),
        "PNG, 16 bits": _png(np.asarray(rgb).astype(np.uint16) * 257, COLOUR),
        "WebP": _saved(rgb, "WEBP"),
        "WebP, lossless": _saved(rgb, "WEBP", lossless=True),
        "WebP, alpha": _saved(clear, "WEBP", lossless=True, exact=True),
        "WebP, lossy with alpha": _saved(clear, "WEBP"),
        "WebP, animated": _saved(rgb, "WEBP", save_all=True, append_images=[few.convert("RGB")]),
        "TIFF": _saved(rgb, "TIFF"),
        "TIFF, BigTIFF": _saved(rgb, "TIFF", big_tiff=True),
        "TIFF, LZW": _saved(rgb, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
        "TIFF, deflate": _saved(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF, PackBits": _saved(rgb, "TIFF", compression="packbits"),
        "TIFF, JPEG": _saved(rgb, "TIFF", compression="jpeg"),
        "TIFF, Group 4": _saved(rgb.convert("1"), "TIFF", compression="group4"),
        "TIFF, grey": _saved(rgb.convert("L"), "TIFF"),
        "TIFF, palette": _saved(few, "TIFF"),
        "TIFF, CMYK": _saved(rgb.convert("CMYK"), "TIFF"),
        "TIFF, YCbCr": _saved(rgb.convert("YCbCr"), "TIFF"),
        "TIFF, alpha": _saved(clear, "TIFF"),
        "TIFF, BigTIFF with alpha": _saved(clear, "TIFF", big_tiff=True),
        "TIFF, LZW with alpha": _saved(clear, "TIFF", compression="tiff_lzw"),
        "TIFF, grey and alpha": _saved(clear.convert("LA"), "TIFF"),
        "TIFF, two pages": _saved(rgb, "TIFF", save_all=True, append_images=[few.convert("RGB")]),
        "BMP": _saved(rgb, "BMP"),
        "BMP, palette": _saved(few, "BMP"),
        "BMP, bilevel": _saved(rgb.convert("1"), "BMP"),
        "BMP, alpha": _saved(clear, "BMP"),
    }
    top_down = bytearray(made["BMP"])
    struct.pack_into("<i", top_down, 22, -32)
    return made | {"BMP, from the top down": bytes(top_down)}


ADAM7 = (
    *((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4)),
    *((2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)),
)
IMAGES = _images()


def _with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    """The JPEG with an EXIF block that says how the camera was held."""
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff + thumbnail
    jfif_ends = 2 + 18  # start of image, APP0
    exif = b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body
    return jpeg[:jfif_ends] + exif + jpeg[jfif_ends:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda rgb: rgb),
        (2, lambda rgb: rgb[:, ::-1]),
        (3, lambda rgb: rgb[::-1, ::-1]),
        (4, lambda rgb: rgb[::-1]),
        (5, lambda rgb: rgb.transpose(1, 0, 2)),
        (6, lambda rgb: np.rot90(rgb, -1)),
        (7, lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda rgb: np.rot90(rgb)),
    ],
)
def test_photo_is_turned_as_the_camera_was_held(
    kind: str, orientation: int, upright: object
) -> None:
    rgb = _smooth((24, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert callable(upright)
    expected = upright(decode_rgb(_saved(rgb, kind), "plain"))
    found = decode_rgb(_saved(rgb, kind, exif=exif), "turned")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", IMAGES)
def test_photo_is_what_pillow_shows(kind: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # Pillow would rather keep transparency
        shown = ImageOps.exif_transpose(Image.open(io.BytesIO(IMAGES[kind]))).convert("RGB")
    found = decode_rgb(IMAGES[kind], kind).astype(int)
    # The two round CMYK and YCbCr apart.
    assert np.abs(found - np.asarray(shown)).max() <= 1
    assert np.ptp(found) > 100  # something is on it


@pytest.mark.parametrize("kind", IMAGES)
def test_image_that_is_cut_off_is_refused_or_lacks_nothing(kind: str) -> None:
    whole = IMAGES[kind]
    expected = decode_rgb(whole, "whole")
    refused = 0
    for kept in (len(whole) * i // 100 for i in range(100)):
        try:
            found = decode_rgb(whole[:kept], "cut")
        except ImageError:
            refused += 1
        else:  # what is missing belongs to a second picture, say
            np.testing.assert_array_equal(found, expected)
    assert refused > (40 if "two p" in kind else 95)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "BMP"])
def test_image_without_its_last_byte_is_refused(kind: str) -> None:
    with pytest.raises(ImageError, match=r"a: a .* cut off"):
        decode_rgb(IMAGES[kind][:-1], "a")


@pytest.mark.parametrize("behind", [b"", bytes(500), b"\xff" * 40])
@pytest.mark.parametrize(("kind", "end"), [("JPEG", 2), ("JPEG, progressive", 2), ("PNG", 12)])
def test_image_without_the_mark_of_its_end_is_cut_off_whatever_fills_its_place(
    kind: str, end: int, behind: bytes
) -> None:
    with pytest.raises(ImageError, match="is cut off: its end is missing"):
        decode_rgb(IMAGES[kind][:-end] + behind, "a")


@pytest.mark.parametrize("between", [b"", bytes(100)])
@pytest.mark.parametrize("kept", [0.5, 0.9, -2])
def test_jpeg_that_is_cut_off_before_another_one_is_refused(kept: float, between: bytes) -> None:
    """As in files recovered from a disk: the second one's end is not the first one's."""
    jpeg = IMAGES["JPEG"]
    cut = jpeg[: int(kept * len(jpeg))] if kept > 0 else jpeg[:kept]
    with pytest.raises(ImageError, match="is cut off"):
        decode_rgb(cut + between + IMAGES["JPEG, progressive"], "a")


@pytest.mark.parametrize(
    ("frame", "bits", "kind"),
    [
        (0xC1, 12, "12-bit"),
        (0xC2, 12, "12-bit"),
        (0xC3, 8, "lossless"),
        (0xC3, 16, "lossless"),
        (0xC5, 8, "hierarchical"),
        (0xCB, 8, "lossless"),
        (0xCE, 8, "hierarchical"),
    ],
)
def test_jpeg_of_a_kind_that_is_not_decoded_is_named(frame: int, bits: int, kind: str) -> None:
    jpeg = bytearray(IMAGES["JPEG"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 1], jpeg[at + 4] = frame, bits
    for decode in (decode_rgb, decode_mask):
        with pytest.raises(ImageError, match=f"a: is a {kind} JPEG, which is not decoded. Convert"):
            decode(bytes(jpeg), "a")


@pytest.mark.parametrize("kind", ["JPEG", "JPEG, progressive"])
@pytest.mark.parametrize("code", [0x01, 0x08, 0xBD, 0xC0, 0xF0, 0xFD])
def test_jpeg_with_a_stray_marker_among_its_pixels_is_refused(kind: str, code: int) -> None:
    """libjpeg stops at it, and fills the rest with grey."""
    jpeg = IMAGES[kind]
    middle = (jpeg.rindex(b"\xff\xda") + 12 + len(jpeg)) // 2  # of the last scan
    spoilt = jpeg[:middle] + bytes((0x55, 0xFF, code)) + jpeg[middle + 3 :]
    with pytest.raises(ImageError, match="is damaged in the middle"):
        decode_rgb(spoilt, "a")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_comments_tables_and_restart_markers_between_scans_are_no_damage(
    options: dict[str, Any],
) -> None:
    rgb = np.random.default_rng(4).integers(0, 256, (64, 48, 3), np.uint8)
    jpeg = _saved(Image.fromarray(rgb), "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(jpeg)))
    np.testing.assert_allclose(decode_rgb(jpeg, "a").astype(int), expected, atol=4)
    if "progressive" in options:  # a comment that holds a stray marker, before the second scan
        first = jpeg.index(b"\xff\xda")
        second = jpeg.index(b"\xff\xc4", first)
        comment = b"\xff\xfe\x00\x06\xff\x08\xff\xbd"
        found = decode_rgb(jpeg[:second] + comment + jpeg[second:], "a")
        np.testing.assert_array_equal(found, decode_rgb(jpeg, "a"))


def test_stray_bytes_before_the_end_of_a_jpeg_do_no_harm() -> None:
    jpeg = IMAGES["JPEG"]
    found = decode_rgb(jpeg[:-2] + bytes(range(1, 17)) + jpeg[-2:], "a")
    np.testing.assert_array_equal(found, decode_rgb(jpeg, "a"))


@pytest.mark.parametrize("kind", ["JPEG", "JPEG, progressive", "PNG", "PNG, interlaced"])
def test_image_whose_second_half_was_never_written_is_refused(kind: str) -> None:
    whole = IMAGES[kind]
    with pytest.raises(ImageError, match="cut off"):
        decode_rgb(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2), "sparse")


def test_annotation_is_turned_as_its_own_exif_says(tmp_path: Path) -> None:
    path = tmp_path / "mask.jpg"
    jpeg = encode_jpeg(_noise((24, 40)))
    path.write_bytes(_with_exif(jpeg, 6))
    clockwise = np.rot90(decode_rgb(jpeg, "plain"), -1)
    np.testing.assert_array_equal(read_mask_colours(path), clockwise)


def test_red_is_first() -> None:
    red = np.zeros((2, 3, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_array_equal(decode_rgb(_png(red, COLOUR), "red"), red)


def test_grey_photo_has_three_equal_channels() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    expected = np.repeat(grey, 3, axis=2)
    np.testing.assert_array_equal(decode_rgb(_png(grey, GREY), "grey"), expected)


@pytest.mark.parametrize(("colour_type", "channels"), [(GREY, 1), (COLOUR, 3)])
def test_sixteen_bits_are_scaled_to_eight(colour_type: int, channels: int) -> None:
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16)
    wide = np.repeat(levels.reshape(8, 8, 1), channels, axis=2)
    found = decode_rgb(_png(wide, colour_type), "wide").astype(float)
    assert np.abs(found - np.repeat(levels.reshape(8, 8, 1), 3, axis=2) / 257).max() <= 1
    assert (found[0, 0, 0], found[-1, -1, 0]) == (0, 255)


def test_transparency_is_dropped_and_changes_no_colour() -> None:
    rgba = np.dstack([_noise((5, 6)), np.arange(30, dtype=np.uint8).reshape(5, 6)])
    np.testing.assert_array_equal(decode_rgb(_png(rgba, COLOUR_ALPHA), "rgba"), rgba[..., :3])
    faint = rgba[..., [0, 3]]
    expected = np.repeat(rgba[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decode_rgb(_png(faint, GREY_ALPHA), "faint"), expected)


def test_palette_of_an_annotation_is_resolved_exactly(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [128, 0, 0], [128, 128, 0]], np.uint8)
    indices = np.random.default_rng(0).integers(0, 3, (7, 9), dtype=np.uint8)
    path = tmp_path / "trimap.png"
    path.write_bytes(_png(indices[..., None], PALETTE, colours.tobytes()))
    np.testing.assert_array_equal(read_mask_colours(path), colours[indices])


def test_end_marker_of_a_thumbnail_is_not_taken_for_the_photos() -> None:
    thumbnail = encode_jpeg(_noise((8, 8)))
    whole = _with_exif(encode_jpeg(_noise((64, 96))), 1, thumbnail)
    assert decode_rgb(whole, "whole").shape == (64, 96, 3)
    with pytest.raises(ImageError, match="cut off"):
        decode_rgb(whole[: len(whole) * 3 // 4], "cut")


@pytest.mark.parametrize("behind", [bytes(64), b"film \xff\xda of the moment before"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "BMP"])
def test_bytes_behind_the_image_are_left_alone(kind: str, behind: bytes) -> None:
    found = decode_rgb(IMAGES[kind] + behind, "followed")
    np.testing.assert_array_equal(found, decode_rgb(IMAGES[kind], "alone"))


@pytest.mark.parametrize("kind", ["WebP", "WebP, lossless", "WebP, alpha", "WebP, animated"])
def test_webp_with_bytes_too_many_inside_is_refused_where_pillow_refuses_it(kind: str) -> None:
    """What was pushed behind the end by them must not complete the image."""
    whole, refused = IMAGES[kind], 0
    for at in np.linspace(30, len(whole), 60, dtype=int):
        spoilt = whole[:at] + b"\x5a" * 24 + whole[at:]
        try:
            Image.open(io.BytesIO(spoilt)).load()
        except (OSError, EOFError):
            refused += 1
            with pytest.raises(ImageError):
                decode_rgb(spoilt, "a")
    assert refused > 0


@pytest.mark.parametrize("kind", ["PNG", "WebP", "TIFF", "BMP"])
def test_content_decides_and_not_the_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(IMAGES[kind])
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), decode_rgb(IMAGES[kind], "a"))


def test_photo_of_more_pixels_than_allowed_is_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", _noise((8, 12)))
    assert read_rgb(tmp_path / "a.png", max_pixels=96).shape == (8, 12, 3)
    with pytest.raises(ImageError, match=r"a\.png: 12 x 8 pixels .* more than 95 .*bomb"):
        read_rgb(tmp_path / "a.png", max_pixels=95)


def _bombs() -> dict[str, bytes]:
    """Small files of 0.4 to 4 gigapixels: a whole PNG, and headers of the others."""
    side = 20_000
    extended = struct.pack("<IIHBHB", 10, 0, 0xFFFF, 0, 0xFFFF, 0)
    entries = struct.pack("<HHHIIHHII", 2, 256, 4, 1, 0xFFFF, 257, 4, 1, 0xFFFF)
    return {
        "PNG": _png_file((side, side, 1, GREY, 0, 0, 0), b"", bytes((1 + side // 8) * side)),
        "JPEG": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff",
        "WebP": b"RIFF\x16\0\0\0WEBPVP8X" + extended,
        "TIFF": b"II*\0\x08\0\0\0" + entries,
        "BMP": b"BM" + bytes(12) + struct.pack("<Iii", 40, 0xFFFF, -0xFFFF),
    }


BOMBS = _bombs()


@pytest.mark.parametrize("kind", BOMBS)
def test_bomb_is_refused_before_it_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.cv2, "imdecode", pytest.fail)
    assert len(BOMBS[kind]) < 60_000
    with pytest.raises(ImageError, match=r"a: \d{5} x \d{5} pixels in \d+ bytes: .*bomb"):
        decode_rgb(BOMBS[kind], "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Dear diary, no photo today.\n", "is a text file"),
        (b"\x05\x06\x07 strange", "is not an image that can be decoded"),
        (b"", r"is empty \(0 bytes\)"),
        (b"\xff\xd8", "a JPEG file that is cut off"),
        (b"\x89PNG\r\n\x1a\n", "a PNG file that is cut off"),
        (b"\xff\xd8\xff\xd9", "a JPEG file that is cut off"),
    ],
)
def test_file_that_is_no_photo_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "diary.jpg"
    path.write_bytes(content)
    for read in (read_rgb, read_mask_colours):
        with pytest.raises(ImageError, match=rf"diary\.jpg: {message}"):
            read(path)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.jpg: cannot be read: No such file"):
        read_rgb(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="cannot be read: it is a folder"):
        read_rgb(tmp_path)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(
        ImageError, match=r"pipe\.jpg: cannot be read: it is a pipe, socket or device"
    ):
        read_rgb(tmp_path / "pipe.jpg")


def test_file_that_is_larger_than_an_image_can_be_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film.jpg"
    path.write_bytes(b"")
    os.truncate(path, 1 << 31)  # a hole, which takes no room on the disk
    with pytest.raises(ImageError, match=r"film\.jpg: 2147483648 bytes"):
        read_rgb(path)


def test_mask_is_one_bit_a_pixel_and_reads_back_as_black_and_white(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((37, 53)) < 0.5
    write_mask(tmp_path / "mask.png", mask)
    content = (tmp_path / "mask.png").read_bytes()
    width, height, depth, colour_type = struct.unpack(">IIBB", content[16:26])
    assert (width, height, depth, colour_type) == (53, 37, 1, GREY)
    found = read_mask_colours(tmp_path / "mask.png")
    np.testing.assert_array_equal(found, np.repeat(np.where(mask, 255, 0)[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_every_pixel(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 14, channels), dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels[..., 0] if channels == 1 else pixels)
    expected = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[..., :3]
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), expected)


def test_jpeg_keeps_colours_nearly(tmp_path: Path) -> None:
    orange = np.full((16, 16, 3), (250, 140, 20), np.uint8)
    write_jpeg(tmp_path / "a.jpg", orange)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - orange).max() <= 3


def _area_matrix(size: int, target: int) -> NDArray[np.float64]:
    """Row i averages the source pixels under target pixel i, each by the part that it covers."""
    edges = np.arange(target + 1) * size / target
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) / (size / target)


def _bilinear_matrix(size: int, target: int) -> NDArray[np.float64]:
    """Row i interpolates at the centre of target pixel i, the border repeated."""
    centres = (np.arange(target) + 0.5) * size / target - 0.5
    return np.stack([np.interp(centres, np.arange(size), row) for row in np.eye(size)], axis=1)


def _resized(
    rgb: Rgb, down: NDArray[np.float64], across: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.einsum("ih,hwc,jw->ijc", down, rgb.astype(float), across)


def test_shrinking_by_whole_factors_is_the_mean_of_blocks() -> None:
    rgb = _noise((120, 180))
    blocks = rgb.reshape(20, 6, 60, 3, 3).mean(axis=(1, 3))
    assert np.abs(resize_area(rgb, (20, 60)) - blocks).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size_hw", [(40, 33), (99, 100), (100, 7), (1, 1)])
def test_shrinking_weighs_every_pixel_by_its_share(size_hw: SizeHW) -> None:
    rgb = _noise((100, 101))
    expected = _resized(rgb, _area_matrix(100, size_hw[0]), _area_matrix(101, size_hw[1]))
    assert np.abs(resize_area(rgb, size_hw) - expected).max() <= 1


@pytest.mark.parametrize(("size_hw", "target_hw"), [((96, 10), (24, 40)), ((10, 96), (40, 24))])
def test_side_that_shrinks_is_averaged_where_the_other_grows(
    size_hw: SizeHW, target_hw: SizeHW
) -> None:
    rgb = _noise(size_hw)
    matrices = [
        (_area_matrix if target < size else _bilinear_matrix)(size, target)
        for size, target in zip(size_hw, target_hw, strict=True)
    ]
    assert np.abs(resize_area(rgb, target_hw) - _resized(rgb, *matrices)).max() <= 1


@pytest.mark.parametrize("size_hw", [(16, 48), (7, 100), (3, 1)])
def test_bilinear_has_its_centres_at_half_pixels(size_hw: SizeHW) -> None:
    rgb = _noise((7, 11))
    expected = _resized(rgb, _bilinear_matrix(7, size_hw[0]), _bilinear_matrix(11, size_hw[1]))
    assert np.abs(resize_bilinear(rgb, size_hw) - expected).max() <= 1


@pytest.mark.parametrize("size_hw", [(5, 4), (20, 30), (7, 40), (1, 1)])
def test_nearest_takes_the_pixel_under_the_centre(size_hw: SizeHW) -> None:
    labels: Labels = np.random.default_rng(2).integers(0, 256, (10, 15), dtype=np.uint8)
    rows, columns = (
        ((np.arange(target) + 0.5) * size / target).astype(int)
        for size, target in zip(labels.shape, size_hw, strict=True)
    )
    np.testing.assert_array_equal(resize_nearest(labels, size_hw), labels[rows][:, columns])


@pytest.mark.parametrize("most_floats", [0, images._MOST_FLOATS])
@pytest.mark.parametrize(
    ("height", "width", "size_hw"),
    [
        (333, 500, (224, 224)),
        (670, 500, (224, 224)),
        (448, 448, (224, 224)),  # whole factors, which OpenCV rounds otherwise
        (448, 500, (224, 224)),
        (224, 500, (224, 100)),  # one side as it is
        (65, 1000, (64, 33)),
        (640, 960, (64, 96)),
    ],
)
def test_shrinking_gives_the_bytes_of_opencvs_area(
    height: int,
    width: int,
    size_hw: tuple[int, int],
    most_floats: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "_MOST_FLOATS", most_floats)
    for seed in range(3):
        rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        opencvs = cv2.resize(rgb, size_hw[::-1], interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(resize_area(rgb, size_hw), opencvs)


def test_photo_of_the_right_size_is_left_as_it_is() -> None:
    rgb = _noise((32, 48))
    np.testing.assert_array_equal(resize_area(rgb, (32, 48)), rgb)


@pytest.mark.parametrize(
    ("rows", "box"),
    [
        ([(0, 0)], (0, 0, 1, 1)),
        ([(2, 3), (4, 1)], (1, 2, 4, 5)),
        ([(5, 6)], (6, 5, 7, 6)),
        ([], None),
    ],
)
def test_box_of_a_mask_holds_all_of_its_flower(
    rows: list[tuple[int, int]], box: tuple[int, int, int, int] | None
) -> None:
    mask = np.zeros((6, 7), np.bool_)
    for place in rows:
        mask[place] = True
    assert bounding_box(mask) == box
