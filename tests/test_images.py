"""Photos and masks in and out of files, against PNGs made by hand and kernels written in numpy."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowerseg.arrays import Labels, Rgb, SizeHW
from flowerseg.errors import ImageError
from flowerseg.images import (
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


def _png(pixels: NDArray[np.integer], colour_type: int, palette: bytes = b"") -> bytes:
    """A PNG from pixels (h, w, channels) of 8 or 16 bits, by the book (ISO/IEC 15948)."""
    height, width = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
        if body or kind == b"IEND"
    )


def _with_exif(jpeg: bytes, orientation: int, thumbnail: bytes = b"") -> bytes:
    """The JPEG with an EXIF block that says how the camera was held."""
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff + thumbnail
    jfif_ends = 2 + 18  # start of image, APP0
    exif = b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body
    return jpeg[:jfif_ends] + exif + jpeg[jfif_ends:]


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
def test_photo_is_turned_as_the_camera_was_held(orientation: int, upright: object) -> None:
    jpeg = encode_jpeg(_noise((24, 40)))
    assert callable(upright)
    expected = upright(decode_rgb(jpeg, "plain"))
    found = decode_rgb(_with_exif(jpeg, orientation), "turned")
    np.testing.assert_array_equal(found, expected)


def test_annotation_is_not_turned(tmp_path: Path) -> None:
    path = tmp_path / "mask.jpg"
    jpeg = encode_jpeg(_noise((24, 40)))
    path.write_bytes(_with_exif(jpeg, 6))
    np.testing.assert_array_equal(read_mask_colours(path), decode_rgb(jpeg, "plain"))


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


@pytest.mark.parametrize("kept", [0.05, 0.25, 0.5, 0.75, 0.99])
def test_jpeg_that_is_cut_off_is_refused(kept: float) -> None:
    whole = encode_jpeg(_noise((64, 96)))
    with pytest.raises(ImageError, match=r"rose\.jpg: .*cut off"):
        decode_rgb(whole[: int(kept * len(whole))], "rose.jpg")


@pytest.mark.parametrize("missing", [1, 2])
def test_jpeg_without_its_last_bytes_is_refused(missing: int) -> None:
    with pytest.raises(ImageError, match="no end marker"):
        decode_rgb(encode_jpeg(_noise((64, 96)))[:-missing], "rose.jpg")


def test_end_marker_of_a_thumbnail_is_not_taken_for_the_photos() -> None:
    thumbnail = encode_jpeg(_noise((8, 8)))
    whole = _with_exif(encode_jpeg(_noise((64, 96))), 1, thumbnail)
    assert decode_rgb(whole, "whole").shape == (64, 96, 3)
    with pytest.raises(ImageError, match="no end marker"):
        decode_rgb(whole[: len(whole) * 3 // 4], "cut")


def test_jpeg_with_bytes_behind_its_end_is_read() -> None:
    whole = encode_jpeg(_noise((16, 16)))
    np.testing.assert_array_equal(
        decode_rgb(whole + b"\0" * 64, "padded"), decode_rgb(whole, "whole")
    )


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_png_that_is_cut_off_is_refused(kept: float) -> None:
    whole = _png(_noise((64, 96)), COLOUR)
    with pytest.raises(ImageError, match=r"rose\.png: .*cut off"):
        decode_rgb(whole[: int(kept * len(whole))], "rose.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Dear diary, no photo today.\n", "is not an image"),
        (b"", r"is empty \(0 bytes\)"),
        (b"\xff\xd8", "is not an image"),
        (b"\x89PNG\r\n\x1a\n", "is not an image"),
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
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_rgb(tmp_path)


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


def test_photo_of_the_right_size_is_left_as_it_is() -> None:
    rgb = _noise((32, 48))
    np.testing.assert_array_equal(resize_area(rgb, (32, 48)), rgb)
