"""TIFFs of every form from known pixels: decoded to those pixels, or refused with the reason."""

import io
import itertools
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowerseg.arrays import Rgb
from flowerseg.errors import ImageError
from flowerseg.images import decode_mask, decode_rgb
from flowerseg.tiffdirectory import with_directory
from flowerseg.tiffstrips import lzw_length, packbits_length
from tests.tiffs import DEFLATE, LZW, NONE, PACKBITS, Form, lzw, packbits, tiff

SIDE_HW = (45, 53)  # no multiple of a strip or tile
COMPRESSIONS = (NONE, LZW, DEFLATE, PACKBITS)


def _rgb() -> Rgb:
    """Ramps with a little noise and an even area, so that every compression has both."""
    rows, columns = np.indices(SIDE_HW)
    rgb = np.stack([4 * rows, 3 * columns, rows + columns], axis=-1)
    rgb = rgb + np.random.default_rng(0).integers(0, 5, rgb.shape)
    rgb[10:20] = (200, 30, 90)
    return rgb.astype(np.uint8)


RGB = _rgb()
FORMS = [
    Form(order, is_big, compression, tile, 7, is_planar, is_predicted)
    for order, is_big, compression, tile, is_planar, is_predicted in itertools.product(
        "<>", (False, True), COMPRESSIONS, (0, 16), (False, True), (False, True)
    )
    if not (is_predicted and compression not in (LZW, DEFLATE))
]


def _name(form: Form) -> str:
    flags = [name for name in ("is_big", "is_planar", "is_predicted") if getattr(form, name)]
    return " ".join([form.order, str(form.compression), f"tile {form.tile}", *flags])


@pytest.mark.parametrize("form", FORMS, ids=_name)
def test_colours_of_every_layout_are_those_stored(form: Form) -> None:
    np.testing.assert_array_equal(decode_rgb(tiff(RGB, form), "a"), RGB)


@pytest.mark.parametrize("form", FORMS, ids=_name)
def test_sixteen_bits_are_scaled_or_refused(form: Form) -> None:
    data = tiff(RGB.astype(np.uint16) * 257, form)
    if form.is_planar:
        with pytest.raises(ImageError, match="planar"):
            decode_rgb(data, "a")
    else:
        np.testing.assert_array_equal(decode_rgb(data, "a"), RGB)


@pytest.mark.parametrize("tile", [0, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned(orientation: int, tile: int) -> None:
    turns: dict[int, Callable[[Rgb], Rgb]] = {
        1: lambda rgb: rgb,
        2: lambda rgb: rgb[:, ::-1],
        3: lambda rgb: rgb[::-1, ::-1],
        4: lambda rgb: rgb[::-1],
        5: lambda rgb: rgb.transpose(1, 0, 2),
        6: lambda rgb: np.rot90(rgb, -1),
        7: lambda rgb: rgb[::-1, ::-1].transpose(1, 0, 2),
        8: lambda rgb: np.rot90(rgb),
    }
    data = tiff(RGB, Form(tile=tile, tags={274: (orientation,)}))
    np.testing.assert_array_equal(decode_rgb(data, "a"), turns[orientation](RGB))


@pytest.mark.parametrize(("photometric", "flip"), [(0, True), (1, False)])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_grey_counts_from_black_or_from_white(
    photometric: int, flip: bool, compression: int
) -> None:
    grey = RGB[..., :1]
    form = Form(compression=compression, photometric=photometric)
    expected = 255 - grey if flip else grey
    found = decode_rgb(tiff(grey, form), "a")
    np.testing.assert_array_equal(found, np.repeat(expected, 3, axis=2))


@pytest.mark.parametrize("scale", [1, 257])  # some programs write 8 bits where 16 are meant
def test_palette_is_resolved(scale: int) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (256, 3))
    places = RGB[..., :1]
    form = Form(photometric=3, tags={320: tuple((palette.T.ravel() * scale).tolist())})
    data = tiff(places, form)
    np.testing.assert_array_equal(decode_rgb(data, "a"), palette[places[..., 0]])
    np.testing.assert_array_equal(decode_mask(data, "a"), palette[places[..., 0]])


def _with_alpha(alpha_kind: int, compression: int) -> tuple[bytes, Rgb, Rgb]:
    alpha = np.full((*SIDE_HW, 1), 51, np.uint8)
    alpha[:20] = 255
    colours = (RGB // 5 * 5).astype(np.uint8)  # which 51 / 255 divides without a rest
    stored = (colours.astype(int) * alpha // 255).astype(np.uint8) if alpha_kind == 1 else colours
    pixels = np.concatenate([stored, alpha], axis=2)
    form = Form(compression=compression, tags={338: (alpha_kind,)})
    return tiff(pixels, form), colours, alpha


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("alpha_kind", [0, 1, 2])
def test_opacity_leaves_the_colours_as_they_are(alpha_kind: int, compression: int) -> None:
    data, colours, _ = _with_alpha(alpha_kind, compression)
    np.testing.assert_array_equal(decode_rgb(data, "a"), colours)


def test_annotation_keeps_its_alpha_unless_its_colours_were_multiplied_by_it() -> None:
    data, colours, alpha = _with_alpha(2, LZW)
    np.testing.assert_array_equal(decode_mask(data, "a"), np.concatenate([colours, alpha], 2))
    for kind, reason in ((1, "multiplied by their opacity"), (0, "unnamed channel")):
        with pytest.raises(ImageError, match=rf"a: a TIFF .*{reason}.*PNG"):
            decode_mask(_with_alpha(kind, LZW)[0], "a")


@pytest.mark.parametrize(
    ("pixels", "tags", "reason"),
    [
        (RGB.astype(np.float32), {339: (3, 3, 3)}, "floating-point numbers of 32 bits"),
        (RGB.astype(np.int16), {339: (2, 2, 2)}, "signed integers of 16 bits"),
        (RGB.astype(np.uint32), {}, "32 bits a sample"),
        (RGB, {262: (8,)}, r"CIE L\*a\*b\* colours"),
        (RGB, {262: (32803,)}, "raw sensor values"),
        (RGB, {258: (8, 8, 16)}, "different bits"),
        (RGB, {277: (5,)}, "5 samples a pixel"),
        (RGB, {50706: (1,)}, "raw photo"),
        (RGB, {254: (1,), 330: (8,)}, "raw photo"),
        (RGB, {258: (12, 12, 12)}, "12 bits a sample"),
        (RGB, {266: (2,), 259: (5,)}, "reversed"),
        (RGB, {259: (34712,)}, "compressed as JPEG 2000"),
        (RGB, {259: (50002,)}, "compressed as JPEG XL"),
        (RGB, {259: (34933,)}, "compressed as PNG"),
        (RGB, {259: (50000,)}, "compressed as Zstandard"),
        (RGB, {259: (34925,)}, "compressed as LZMA"),
        (RGB, {259: (4,)}, "compressed as CCITT Group 4"),
        (RGB, {259: (12345,)}, "compressed as kind 12345"),
        (RGB, {279: (1,)}, "lacks some of its strips"),
        (RGB, {278: (0,)}, "how large its strips"),
        (RGB, {279: ()}, "how long its strips"),
        (RGB, {273: (0,) * 7, 279: (0,) * 7}, "sparse"),
        (RGB, {262: ()}, "does not say what its samples mean"),
    ],
)
def test_kind_that_is_not_read_is_refused_by_name(
    pixels: NDArray[np.generic], tags: dict[int, tuple[int, ...]], reason: str
) -> None:
    with pytest.raises(ImageError, match=rf"a: a TIFF .*{reason}"):
        decode_rgb(tiff(pixels, Form(tags=tags)), "a")


@pytest.mark.parametrize("form", FORMS, ids=_name)
def test_file_that_is_cut_off_anywhere_is_refused(form: Form) -> None:
    data = tiff(RGB, form)
    # The directory stands behind the pixels: a cut takes it away, unless it is put in front.
    end = len(data) * 3 // 5
    with pytest.raises(ImageError, match="cut off"):
        decode_rgb(data[:end], "a")


@pytest.mark.parametrize("is_planar", [False, True])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_pixels_beyond_the_end_are_missed(compression: int, is_planar: bool) -> None:
    whole = tiff(RGB, Form(compression=compression, is_planar=is_planar))
    strips = tiff(RGB[:7], Form(compression=compression, is_planar=is_planar))
    assert len(strips) < len(whole)
    data = bytearray(whole)
    # The first strip is said to lie where the file ends.
    place = data.rindex((8).to_bytes(4, "little"), 0, len(data))
    data[place : place + 4] = (len(data) - 3).to_bytes(4, "little")
    with pytest.raises(ImageError, match=r"cut off|damaged"):
        decode_rgb(bytes(data), "a")


@pytest.mark.parametrize(("compression", "least"), [(LZW, 95), (DEFLATE, 100), (PACKBITS, 50)])
def test_damaged_data_are_refused_or_hardly_change_the_picture(
    compression: int, least: int
) -> None:
    """PackBits holds bytes as they are too, and a changed one cannot be seen."""
    steps = (RGB // 32 * 32).astype(np.uint8)[..., :1]
    data = tiff(steps, Form(compression=compression, photometric=1))
    end = int.from_bytes(data[4:8], "little")  # where the directory begins
    rng = np.random.default_rng(3)
    refused = 0
    for at in rng.integers(8, end - 4, 100):
        changed = bytearray(data)
        changed[at : at + 4] = rng.bytes(4)
        try:
            found = decode_rgb(bytes(changed), "a")
        except ImageError:
            refused += 1
        else:
            assert (found[..., 0] != steps[..., 0]).mean() < 0.1
    assert refused >= least


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr", "RGBA"])
def test_data_that_end_early_are_refused_whatever_the_colours(mode: str, compression: str) -> None:
    content = io.BytesIO()
    Image.fromarray(RGB).convert(mode).save(content, "TIFF", compression=compression)
    data = bytearray(content.getvalue())
    with Image.open(content) as image:
        start, length = image.tag_v2[273][0], image.tag_v2[279][0]
    data[start + length // 2 : start + length] = bytes(length - length // 2)
    with pytest.raises(ImageError, match="damaged"):
        decode_rgb(bytes(data), "a")


BILEVEL = (RGB[..., 0] > 90) ^ (np.random.default_rng(5).random(SIDE_HW) < 0.01)
CODES: list[tuple[str, dict[int, int]]] = [
    ("tiff_ccitt", {}),
    ("group3", {}),
    ("group3", {292: 1}),  # rows coded by the one above
    ("group3", {292: 4}),  # ends of rows at whole bytes
    ("group4", {}),
]


def _ccitt(compression: str, tags: dict[int, int], strip_size: int = 1 << 16) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(np.kron(BILEVEL, np.ones((3, 3), np.bool_)))
    image.save(content, "TIFF", compression=compression, tiffinfo=tags, strip_size=strip_size)
    return content.getvalue()


def _strips(data: bytes) -> list[tuple[int, int]]:
    with Image.open(io.BytesIO(data)) as image:
        return list(zip(image.tag_v2[273], image.tag_v2[279], strict=True))


@pytest.mark.parametrize("strip_size", [300, 1 << 16])
@pytest.mark.parametrize(("compression", "tags"), CODES)
def test_ccitt_is_read_and_its_damage_is_refused(
    compression: str, tags: dict[int, int], strip_size: int
) -> None:
    data = _ccitt(compression, tags, strip_size)
    expected = np.kron(BILEVEL, np.ones((3, 3), np.uint8))[..., None].repeat(3, axis=2) * 255
    np.testing.assert_array_equal(decode_rgb(data, "a"), expected)
    np.testing.assert_array_equal(decode_mask(data, "a"), expected)
    rng = np.random.default_rng(7)
    for _ in range(60):
        start, length = _strips(data)[0]
        changed = bytearray(data)
        changed[start + int(rng.integers(length))] ^= 1 << int(rng.integers(8))
        try:
            found = decode_rgb(bytes(changed), "a")
        except ImageError:
            continue  # nearly all: only a run that grows where the next one shrinks is as good
        assert (found != expected).mean() < 0.01


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("compression", "tags"), [*CODES, ("jpeg", {})])
def test_strip_whose_end_was_never_written_is_refused(
    compression: str, tags: dict[int, int], share: float
) -> None:
    if compression == "jpeg":
        content = io.BytesIO()
        Image.fromarray(RGB).save(content, "TIFF", compression=compression)
        data = content.getvalue()
    else:
        data = _ccitt(compression, tags)
    start, length = _strips(data)[0]
    kept = int(length * (1 - share))
    sparse = data[: start + kept] + bytes(length - kept) + data[start + length :]
    with pytest.raises(ImageError, match="damaged"):
        decode_rgb(sparse, "a")


def test_reversed_bits_and_white_as_zero_of_a_fax_are_read() -> None:
    data = _ccitt("group4", {})
    (start, length), *_ = _strips(data)
    reverse = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    strip = data[start : start + length].translate(reverse)
    tags = {256: (width,), 257: (height,), 258: (1,), 259: (4,), 262: (0,), 266: (2,)}
    tags |= {273: (8,), 277: (1,), 278: (height,), 279: (length,)}
    fax = with_directory(b"II*\0\0\0\0\0" + strip, "<", tags, {})
    np.testing.assert_array_equal(decode_rgb(fax, "a"), 255 - decode_rgb(data, "a"))


@pytest.mark.parametrize("size", [0, 1, 2, 255, 600, 5000, 40_000])
@pytest.mark.parametrize("values", [1, 3, 256])
def test_lengths_of_packed_strips_are_those_of_their_content(size: int, values: int) -> None:
    content = np.random.default_rng(size).integers(0, values, size, dtype=np.uint8).tobytes()
    assert packbits_length(memoryview(packbits(content)), size + 1) == size
    if size:
        assert lzw_length(memoryview(lzw(content))) == size


@pytest.mark.parametrize("values", [2, 256])
def test_lzw_of_libtiff_has_the_same_length(values: int) -> None:
    grey = np.random.default_rng(0).integers(0, values, (300, 211), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(grey).save(content, "TIFF", compression="tiff_lzw")
    with Image.open(content) as image:
        starts, lengths = image.tag_v2[273], image.tag_v2[279]
    strips = [content.getvalue()[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    assert sum(lzw_length(memoryview(strip)) for strip in strips) == grey.size


@pytest.mark.parametrize("side", [1 << 14, (1 << 31) - 16, (1 << 32) - 1])
@pytest.mark.parametrize("compression", [*COMPRESSIONS, 7])
def test_tiles_far_larger_than_the_picture_are_not_unpacked(compression: int, side: int) -> None:
    form = Form(tile=48, compression=compression, tags={322: (side,), 323: (side,)})
    with pytest.raises(ImageError, match=r"a: a TIFF that has tiles of .* picture of 53 x 45"):
        decode_rgb(tiff(RGB, form), "a")


def test_small_picture_may_have_the_tiles_of_a_large_one() -> None:
    data = tiff(RGB, Form(tile=1024, compression=DEFLATE))
    np.testing.assert_array_equal(decode_rgb(data, "a"), RGB)


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_TIFF_COMPRESSION, 1]])
@pytest.mark.parametrize("scale", [1, 257])
def test_opencv_writes_opacity_without_a_name(options: list[int], scale: int) -> None:
    bgra = np.dstack([RGB[..., ::-1], RGB[..., 0]]).astype(np.uint8 if scale == 1 else np.uint16)
    data = bytes(cv2.imencode(".tif", bgra * bgra.dtype.type(scale), options)[1])
    np.testing.assert_array_equal(decode_rgb(data, "a"), RGB)
    with pytest.raises(ImageError, match=r"unnamed channel|16 bits"):
        decode_mask(data, "a")


def test_metadata_that_is_damaged_does_not_matter(recwarn: pytest.WarningsRecorder) -> None:
    data = tiff(RGB, Form(tags={700: (1, 2, 3), 34665: (9,), 33432: (5, 6), 305: (1,) * 50}))
    np.testing.assert_array_equal(decode_rgb(data, "a"), RGB)
    assert not recwarn.list


def test_the_first_page_counts() -> None:
    content = io.BytesIO()
    pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(decode_rgb(content.getvalue(), "a"), RGB)
    with pytest.raises(ImageError, match="several pages"):
        decode_mask(content.getvalue(), "a")
