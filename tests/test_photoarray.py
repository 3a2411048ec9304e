"""Photos in memory: arrays and PIL images as they are, or one sentence about what came instead."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowerseg.backends.null import NullBackend
from flowerseg.errors import ImageError
from flowerseg.images import decode_rgb
from flowerseg.photoarray import as_rgb
from flowerseg.predict import stream
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
WRONG: list[tuple[object, type[Exception], str]] = [
    (RGB / 255, ValueError, r"float64 \(20, 30, 3\): scale it to 0 to 255"),
    (RGB.astype(np.float32), ValueError, r"float32 .*: scale it"),
    (RGB > 100, ValueError, r"bool .*: convert it to uint8"),
    (RGB.astype(np.uint16), ValueError, r"uint16 .*: scale it to 8 bits"),
    (RGB.astype(np.int64), ValueError, r"int64 .*: convert it to uint8"),
    (RGB.astype(object), ValueError, r"object .*: convert it to uint8"),
    (RGB[..., 0], ValueError, r"uint8 \(20, 30\): repeat a grey photo"),
    (RGB[..., :1], ValueError, r"\(20, 30, 1\): it needs three channels"),
    (np.dstack([RGB, RGB[..., :1]]), ValueError, r"\(20, 30, 4\): drop the fourth channel"),
    (RGB.transpose(2, 0, 1), ValueError, r"\(3, 20, 30\): move the channels last"),
    (RGB[None], ValueError, r"\(1, 20, 30, 3\): give several photos to segment_batch"),
    (RGB[:0], ValueError, r"\(0, 30, 3\): it has no pixel"),
    (RGB[:, :0], ValueError, r"\(20, 0, 3\): it has no pixel"),
    (np.uint8(3), TypeError, "uint8: convert it with numpy.asarray"),
    (RGB.ravel(), ValueError, r"\(1800,\): it needs height"),
    (RGB.tolist(), TypeError, "list: give several photos to segment_batch"),
    (torch.from_numpy(RGB), TypeError, "Tensor: convert it with numpy.asarray"),
    (b"\xff\xd8", TypeError, "bytes: decode it with flowerseg.images.decode_rgb"),
    ("a.jpg", TypeError, "str: read it with flowerseg.images.read_rgb"),
    (Path("a.jpg"), TypeError, "Path: read it with flowerseg.images.read_rgb"),
    (None, TypeError, "NoneType$"),
    (np.ma.masked_less(RGB, 9), TypeError, "masked array: fill it"),
    (Image.new("RGB", (0, 4)), ValueError, "image without a pixel"),
    (Image.new("F", (4, 4)), ValueError, "mode F: convert it to RGB"),
]


def _segmenter() -> Segmenter:
    return Segmenter(NullBackend((32, 32)), Preprocess((32, 32)))


CALLS: dict[str, Callable[[Segmenter, object], object]] = {
    "segment": lambda segmenter, photo: segmenter.segment(photo),
    "segment_batch": lambda segmenter, photo: segmenter.segment_batch([RGB, photo]),
    "probability": lambda segmenter, photo: segmenter.probability(photo),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("photo", "kind", "said"), WRONG, ids=[said for _, _, said in WRONG])
def test_what_is_no_photo_is_refused_in_one_sentence(
    photo: object, kind: type[Exception], said: str, call: str
) -> None:
    with pytest.raises(
        kind, match=rf"^(photo 1: )?a photo must be a uint8 array .* not .*{said}"
    ) as raised:
        CALLS[call](_segmenter(), photo)
    assert "\n" not in str(raised.value)


def test_item_of_a_stream_that_is_no_photo_ends_it_with_its_number() -> None:
    photos = (item for item in [RGB, RGB / 255])
    with pytest.raises(ValueError, match=r"photo 1: a photo must be .* float64"):
        list(stream(photos, _segmenter()))
    with pytest.raises(TypeError, match=r"photo 0: .* not NoneType"):
        list(stream([None], _segmenter()))


def test_strange_memory_is_the_same_photo() -> None:
    segmenter = _segmenter()
    expected = segmenter.probability(RGB[::-1].copy())
    read_only = RGB[::-1].copy()
    read_only.flags.writeable = False
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, ::2] = RGB[::-1]
    for photo in (RGB[::-1], read_only, wide[:, ::2], np.asfortranarray(RGB[::-1])):
        np.testing.assert_array_equal(segmenter.probability(photo), expected)


def test_no_photo_is_no_mask() -> None:
    assert _segmenter().segment_batch([]) == []
    assert list(stream([], _segmenter())) == []


def test_batch_of_an_array_is_its_photos() -> None:
    assert len(_segmenter().segment_batch(np.stack([RGB, RGB]))) == 2


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"])
def test_pil_image_is_read_as_its_file_is(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    content = io.BytesIO()
    image.save(content, "TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(as_rgb(image), decode_rgb(content.getvalue(), "a"))


def test_pil_image_with_an_orientation_or_16_bits_is_read_as_its_file_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, deep = io.BytesIO(), io.BytesIO()
    Image.fromarray(RGB).save(turned, "PNG", exif=exif)
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 200).save(deep, "PNG")
    for content in (turned, deep):
        with Image.open(content) as image:
            np.testing.assert_array_equal(as_rgb(image), decode_rgb(content.getvalue(), "a"))


def test_palette_with_transparency_is_converted_without_a_warning() -> None:
    image = Image.fromarray(RGB).quantize(4)
    image.info["transparency"] = b"\x00\x80\xff\xff"
    np.testing.assert_array_equal(as_rgb(image), np.asarray(image.convert("RGBA"))[..., :3])


def test_pil_is_not_imported_for_arrays() -> None:
    program = (
        "import sys, numpy; from flowerseg.photoarray import as_rgb;"
        "as_rgb(numpy.zeros((2, 2, 3), 'u1')); print('PIL' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.stdout == "False\n"


@pytest.mark.parametrize(
    ("photos", "kind", "said"),
    [
        (None, TypeError, "not NoneType"),
        (3, TypeError, "not int"),
        ("photos", TypeError, r"not one str: give it as \[photo\]"),
        ("", TypeError, "not one str"),
        (Path("photos"), TypeError, "not one PosixPath|not one WindowsPath"),
        (Image.new("RGB", (9, 9)), TypeError, "not one Image"),
        (b"photos", TypeError, "not bytes"),
        ({"a.jpg": RGB}, TypeError, "not dict"),
        (RGB, ValueError, r"not uint8 \(20, 30, 3\): give one photo as \[photo\]"),
        (RGB[..., 0], ValueError, r"not uint8 \(20, 30\)"),
    ],
)
def test_what_is_one_photo_or_holds_none_is_no_batch(
    photos: object, kind: type[Exception], said: str
) -> None:
    words = f"photos must be several photos.*({said})"
    with pytest.raises(kind, match=words):
        _segmenter().segment_batch(photos)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(kind, match=words):  # at the call, not at the first result
        stream(photos, _segmenter())  # type: ignore[arg-type]  # on purpose


def test_wrong_photo_of_a_batch_is_named_by_its_index() -> None:
    with pytest.raises(ValueError, match="photo 1: a photo must be"):
        _segmenter().segment_batch([RGB, RGB / 255])
    with pytest.raises(ValueError, match="photo 1: a photo must be"):
        list(stream([RGB, RGB / 255], _segmenter()))


def test_arrays_and_generators_of_photos_are_batches() -> None:
    segmenter = _segmenter()
    expected = segmenter.segment(RGB)
    for photos in (np.stack([RGB, RGB]), (rgb for rgb in [RGB, RGB])):
        for mask in segmenter.segment_batch(photos):
            np.testing.assert_array_equal(mask, expected)
    assert segmenter.segment_batch(np.empty((0, 9, 9, 3), np.uint8)) == []


@pytest.mark.parametrize("size_hw", [(20, 30), (32, 32), (100, 70)])
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::-1],
        lambda a: a[:, ::-1],
        lambda a: a[..., ::-1],
        lambda a: a[::2, ::3],
        np.asfortranarray,
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: a.transpose(1, 0, 2),
    ],
    ids=["flipped", "mirrored", "BGR", "strided", "column order", "broadcast", "transposed"],
)
def test_order_in_memory_does_not_matter(
    view: Callable[[np.ndarray], np.ndarray], size_hw: tuple[int, int]
) -> None:
    photo = view(np.random.default_rng(1).integers(0, 256, (*size_hw, 3), dtype=np.uint8))
    photo.flags.writeable = False
    segmenter = _segmenter()
    expected = segmenter.probability(np.array(photo, order="C"))
    np.testing.assert_array_equal(segmenter.probability(photo), expected)
    np.testing.assert_array_equal(segmenter.segment(photo), expected >= 128)


def test_pil_image_of_a_damaged_file_is_an_image_error() -> None:
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)).save(
        held, "PNG"
    )
    image = Image.open(io.BytesIO(held.getvalue()[:2000]))
    with pytest.raises(ImageError, match="the file of a PIL image cannot be decoded: "):
        as_rgb(image)


@pytest.mark.parametrize(
    ("frames", "kind", "said"),
    [
        ([RGB], ValueError, r"frame 0: it must be \(32, 32, 3\), not \(20, 30, 3\)"),
        ([None], TypeError, "frame 0: a photo must be"),
        ([], ValueError, "a batch of 0"),
    ],
)
def test_frames_that_form_no_batch_are_refused(
    frames: list[np.ndarray], kind: type[Exception], said: str
) -> None:
    segmenter = _segmenter()
    for infer in (segmenter.infer, segmenter.streams[0]):
        with pytest.raises(kind, match=said):
            infer(frames)
