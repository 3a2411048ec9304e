"""A photo and its annotation as files: how they lie on each other, what the mask's pixels mean."""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from flowerseg.annotation import AmbiguousAnnotation, read_annotation
from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.data import MASK_PALETTE, FolderRules, LabelledPhoto
from flowerseg.errors import DataError, ImageError
from flowerseg.evaluate import read_pair
from flowerseg.images import read_mask_colours
from flowerseg.palette import Palette, UnknownColours

SQUARE, WIDE = (6, 6), (6, 10)


def _save(path: Path, grey: np.ndarray, orientation: int | None) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(grey).save(path, exif=exif)
    return path


@pytest.mark.parametrize("size_hw", [SQUARE, WIDE])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_is_turned_with_its_photo_where_both_have_an_orientation(
    tmp_path: Path, size_hw: tuple[int, int], orientation: int
) -> None:
    grey = np.where(np.random.default_rng(0).random(size_hw) < 0.5, 255, 0).astype(np.uint8)
    photo = _save(tmp_path / "photo.png", grey, orientation)
    mask = _save(tmp_path / "mask.png", grey, orientation)
    with Image.open(mask) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    rgb, labels = read_pair(LabelledPhoto("a", photo, mask, MASK_PALETTE))
    np.testing.assert_array_equal(rgb[..., 0], upright)
    np.testing.assert_array_equal(labels, np.where(upright == 255, FLOWER, BACKGROUND))


def test_mask_without_orientation_lies_on_the_upright_photo(tmp_path: Path) -> None:
    grey = np.where(np.random.default_rng(0).random(WIDE) < 0.5, 255, 0).astype(np.uint8)
    photo = _save(tmp_path / "photo.png", grey, 6)
    mask = _save(tmp_path / "mask.png", np.rot90(grey, -1), None)
    rgb, labels = read_pair(LabelledPhoto("a", photo, mask, MASK_PALETTE))
    np.testing.assert_array_equal(labels == FLOWER, rgb[..., 0] == 255)


@pytest.mark.parametrize(
    ("photo_turned", "mask_turned", "said"),
    [
        (6, None, "The photo has EXIF orientation 6, the mask has none"),
        (None, 8, "The photo has no EXIF orientation, the mask has EXIF orientation 8"),
        (None, None, None),
    ],
)
def test_mask_of_another_size_is_refused_with_the_orientations(
    tmp_path: Path, photo_turned: int | None, mask_turned: int | None, said: str | None
) -> None:
    photo = _save(tmp_path / "photo.jpg", np.zeros(WIDE, np.uint8), photo_turned)
    mask_hw = WIDE if photo_turned or mask_turned else SQUARE
    mask = _save(tmp_path / "mask.png", np.zeros(mask_hw, np.uint8), mask_turned)
    with pytest.raises(DataError, match=r"photo\.jpg is .*mask\.png is ") as caught:
        read_pair(LabelledPhoto("a", photo, mask, MASK_PALETTE))
    assert (said or "upright") in str(caught.value)
    assert ("EXIF" in str(caught.value)) == bool(said)


def _labels(path: Path, palette: Palette = MASK_PALETTE) -> list[int]:
    return read_annotation(path, palette).labels[0].tolist()


WHITE, BLACK = (255, 255, 255), (0, 0, 0)
ALPHA = [0, 255, 128, 0]


@pytest.mark.parametrize("colour", [WHITE, BLACK, (200, 30, 7)])
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_alpha_is_the_annotation_where_all_has_one_colour(
    tmp_path: Path, colour: tuple[int, int, int], suffix: str
) -> None:
    path = tmp_path / f"mask.{suffix}"
    Image.fromarray(np.array([[(*colour, a) for a in ALPHA]], np.uint8)).save(
        path, lossless=True, exact=True
    )
    assert _labels(path) == [BACKGROUND, FLOWER, VOID, BACKGROUND]
    assert read_annotation(path, MASK_PALETTE).is_from_alpha


def test_alpha_beside_one_grey_level_and_of_a_palette(tmp_path: Path) -> None:
    grey = np.array([[(255, a) for a in ALPHA]], np.uint8)
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    assert _labels(tmp_path / "la.png") == [BACKGROUND, FLOWER, VOID, BACKGROUND]
    indexed = Image.fromarray(np.array([[0, 1, 2, 0]], np.uint8), "P")
    indexed.putpalette([255] * 9)
    indexed.save(tmp_path / "p.png", transparency=bytes([0, 255, 128]))
    assert _labels(tmp_path / "p.png") == [BACKGROUND, FLOWER, VOID, BACKGROUND]


def test_mask_without_flower_among_masks_of_white_on_nothing_is_background(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4, 4), (255, 255, 255, 0), np.uint8)).save(tmp_path / "none.png")
    assert _labels(tmp_path / "none.png") == [BACKGROUND] * 4
    Image.fromarray(np.full((3, 4, 4), 255, np.uint8)).save(tmp_path / "all.png")
    assert _labels(tmp_path / "all.png") == [FLOWER] * 4


@pytest.mark.parametrize("opacity", [0, 77, 255])
def test_colours_are_the_annotation_where_opacity_is_the_same_everywhere(
    tmp_path: Path, opacity: int
) -> None:
    pixels = np.array([[(*WHITE, opacity), (*BLACK, opacity)]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert _labels(tmp_path / "mask.png") == [FLOWER, BACKGROUND]
    assert not read_annotation(tmp_path / "mask.png", MASK_PALETTE).is_from_alpha


def test_colours_and_alpha_that_say_the_same_are_no_doubt(tmp_path: Path) -> None:
    pixels = np.array([[(*WHITE, 255), (*BLACK, 0)]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert _labels(tmp_path / "mask.png") == [FLOWER, BACKGROUND]


@pytest.mark.parametrize(
    "pixels",
    [
        [(*WHITE, 0), (*BLACK, 255)],
        [(*WHITE, 255), (*BLACK, 0), (*BLACK, 255)],
        [(3, 90, 7, 255), (80, 2, 60, 0)],  # a photo that was cut out
    ],
)
def test_colours_and_alpha_that_differ_are_refused(
    tmp_path: Path, pixels: list[tuple[int, ...]]
) -> None:
    Image.fromarray(np.array([pixels], np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(AmbiguousAnnotation, match=r"mask\.png: .* without an alpha channel"):
        _labels(tmp_path / "mask.png")


def test_soft_alpha_is_refused_as_soft_colours_are(tmp_path: Path) -> None:
    pixels = np.array([[(*WHITE, 0), (*WHITE, 250), (*WHITE, 255)]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    with pytest.raises(UnknownColours, match=r"alpha channel.*: 1 pixels .* \(\(250, 250, 250\)\)"):
        _labels(tmp_path / "mask.png")
    tolerant = FolderRules(mask_tolerance=5).palette
    assert _labels(tmp_path / "mask.png", tolerant) == [BACKGROUND, FLOWER, FLOWER]


def test_alpha_is_turned_as_colours_are(tmp_path: Path) -> None:
    pixels = np.full((2, 3, 4), 255, np.uint8)
    pixels[0, :, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: the first row becomes the last column
    Image.fromarray(pixels).save(tmp_path / "mask.png", exif=exif)
    found = read_annotation(tmp_path / "mask.png", MASK_PALETTE)
    np.testing.assert_array_equal(found.labels, [[FLOWER, BACKGROUND]] * 3)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_annotation_of_several_pictures_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask.{suffix}"
    pictures = [Image.fromarray(np.full((9, 9), level, np.uint8)) for level in (0, 255)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], lossless=True)
    with pytest.raises(ImageError, match=r"mask\..*: has several pages or frames\. Save only"):
        _labels(path)
    pictures[0].save(path, save_all=True, lossless=True)
    assert _labels(path) == [BACKGROUND] * 9


def test_alpha_of_a_bmp_counts_where_its_header_names_it(tmp_path: Path) -> None:
    bgra = np.array([(255, 255, 255, a) for a in ALPHA], np.uint8).tobytes()
    size = struct.pack("<iiHH", len(ALPHA), 1, 1, 32)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    with_masks = size + struct.pack("<IIIIII", 3, len(bgra), 0, 0, 0, 0) + masks + b"BGRs"
    plain = size + struct.pack("<IIIIII", 0, len(bgra), 0, 0, 0, 0)
    for header, labels in (
        (struct.pack("<I", 108) + with_masks + bytes(48), [BACKGROUND, FLOWER, VOID, BACKGROUND]),
        (struct.pack("<I", 40) + plain, [FLOWER] * 4),  # the fourth byte is of no meaning
    ):
        sizes = struct.pack("<III", 14 + len(header) + len(bgra), 0, 14 + len(header))
        (tmp_path / "mask.bmp").write_bytes(b"BM" + sizes + header + bgra)
        assert _labels(tmp_path / "mask.bmp") == labels


def test_alpha_of_a_grey_tiff_is_read_as_that_of_a_png(tmp_path: Path) -> None:
    mask = Image.fromarray(np.array([[(255, a) for a in ALPHA]], np.uint8), "LA")
    for name in ("mask.tif", "mask.png"):
        mask.save(tmp_path / name)
    assert _labels(tmp_path / "mask.tif") == _labels(tmp_path / "mask.png")


def test_numbers_that_a_png_says_of_its_colours_change_none(tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add(b"gAMA", (100000).to_bytes(4, "big"))
    chunks.add(b"sRGB", b"\0")
    chunks.add(b"sBIT", b"\4")
    levels = np.array([[0, 1, 2, 127, 128, 254, 255]], np.uint8)
    Image.fromarray(levels).save(
        tmp_path / "mask.png",
        pnginfo=chunks,
        icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    )
    np.testing.assert_array_equal(read_mask_colours(tmp_path / "mask.png")[..., 0], levels)


@pytest.mark.parametrize(
    ("suffix", "name"), [("jpg", "JPEG"), ("webp", "lossy WebP"), ("png", "JPEG")]
)
def test_format_that_changes_colours_is_named(tmp_path: Path, suffix: str, name: str) -> None:
    grey = np.add.outer(np.arange(32) * 4, np.arange(32)).astype(np.uint8)
    path = tmp_path / f"mask.{suffix}"
    # What is in the file counts, not its suffix.
    Image.fromarray(grey).convert("RGB").save(path, "WEBP" if suffix == "webp" else "JPEG")
    for background in ("any", (BLACK,)):
        with pytest.raises(UnknownColours, match=f"masks are {name}, which changes colours"):
            _labels(path, Palette((WHITE, (150, 150, 150)), background))


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("TIFF", {"compression": "jpeg"}, "JPEG in a TIFF"),
        ("WEBP", {"icc_profile": bytes(9000)}, "lossy WebP"),  # the colours begin far behind it
    ],
)
def test_lossy_compression_is_found_in_any_container(
    tmp_path: Path, kind: str, options: Mapping[str, object], name: str
) -> None:
    grey = np.add.outer(np.arange(32) * 4, np.arange(32)).astype(np.uint8)
    path = tmp_path / "mask"
    Image.fromarray(grey).convert("RGB").save(path, kind, **options)
    with pytest.raises(UnknownColours, match=f"masks are {name}, which changes colours"):
        _labels(path, Palette((WHITE, (150, 150, 150)), (BLACK,)))


def test_name_of_a_lossy_format_within_a_lossless_image_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 9, 9)).save(
        tmp_path / "mask.webp", lossless=True, icc_profile=b"VP8 " * 9
    )
    with pytest.raises(UnknownColours) as caught:
        _labels(tmp_path / "mask.webp", Palette((WHITE,), (BLACK,)))
    assert "WebP" not in str(caught.value)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_mask_read_within_a_tolerance_is_the_mask_that_was_saved(
    tmp_path: Path, quality: int
) -> None:
    rows, columns = np.mgrid[:96, :128]
    flower = (rows - 40) ** 2 + (columns - 60) ** 2 < 30**2
    Image.fromarray(np.where(flower, 255, 0).astype(np.uint8)).save(
        tmp_path / "mask.jpg", quality=quality
    )
    palette = Palette((WHITE,), (BLACK,), tolerance=127)
    np.testing.assert_array_equal(
        read_annotation(tmp_path / "mask.jpg", palette).labels == FLOWER, flower
    )
