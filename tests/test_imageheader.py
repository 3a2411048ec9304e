"""Sizes and orientations from headers, against Pillow and OpenCV, which read them otherwise."""

import io
import struct
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowerseg import images
from flowerseg.arrays import SizeHW
from flowerseg.errors import ImageError
from flowerseg.imageheader import exif_orientation, read_header
from flowerseg.images import decode_rgb

KINDS: list[tuple[str, str, Mapping[str, object]]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("JPEG", "L", {}),
    ("PNG", "RGB", {}),
    ("PNG", "1", {}),
    ("WEBP", "RGB", {}),  # VP8
    ("WEBP", "RGB", {"lossless": True}),  # VP8L
    ("WEBP", "RGBA", {}),  # VP8X
    ("TIFF", "RGB", {}),
    ("TIFF", "RGBA", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "RGB", {"big_tiff": True}),
    ("BMP", "RGB", {}),
    ("BMP", "1", {}),
]
SIGNATURES = [
    *(b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF1234WEBPVP8 ", b"RIFF1234WEBPVP8L"),
    *(b"RIFF1234WEBPVP8X", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"),
]


def stored_size_hw(content: bytes) -> SizeHW | None:
    header = read_header(content)
    return header.size_hw if header else None


def _image(kind: str, mode: str, options: Mapping[str, object], size_hw: SizeHW) -> bytes:
    rng = np.random.default_rng(sum(size_hw))
    noise = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize(("kind", "mode", "options"), KINDS)
@pytest.mark.parametrize("size_hw", [(1, 1), (3, 300), (301, 2), (129, 257)])
def test_size_is_what_pillow_reads(
    kind: str, mode: str, options: Mapping[str, object], size_hw: SizeHW
) -> None:
    content = _image(kind, mode, options, size_hw)
    assert Image.open(io.BytesIO(content)).size == size_hw[::-1]
    assert stored_size_hw(content) == size_hw


@pytest.mark.parametrize(("kind", "mode", "options"), KINDS)
def test_header_that_is_cut_off_gives_the_size_or_nothing(
    kind: str, mode: str, options: Mapping[str, object]
) -> None:
    content = _image(kind, mode, options, (9, 14))
    found = [stored_size_hw(content[:kept]) for kept in range(len(content))]
    assert found[0] is None
    assert set(found) <= {None, (9, 14)}


def test_big_endian_tiff() -> None:
    entries = struct.pack(">HHIHH", 256, 3, 1, 700, 0) + struct.pack(">HHII", 257, 4, 1, 70_000)
    assert stored_size_hw(b"MM\0*" + struct.pack(">IH", 8, 2) + entries) == (70_000, 700)


@pytest.mark.parametrize(
    ("fields", "size_hw"),
    [
        (struct.pack("<IHH", 12, 40, 30), (30, 40)),  # OS/2
        (struct.pack("<Iii", 40, 40, -30), (30, 40)),  # from the top down
        (struct.pack("<Iii", 40, -40, 30), None),
        (struct.pack("<Iii", 40, 40, 0), None),
    ],
)
def test_bmp_headers(fields: bytes, size_hw: SizeHW | None) -> None:
    assert stored_size_hw(b"BM" + bytes(12) + fields) == size_hw


def test_jpeg_markers_may_be_filled_and_a_thumbnail_has_its_own_size() -> None:
    jpeg = _image("JPEG", "RGB", {}, (20, 30))
    thumbnail = _image("JPEG", "RGB", {}, (5, 6))
    exif = b"\xff\xff\xff\xe1" + struct.pack(">H", 8 + len(thumbnail)) + b"Exif\0\0" + thumbnail
    content = jpeg[:2] + exif + jpeg[2:]
    assert decode_rgb(content, "filled").shape == (20, 30, 3)
    assert stored_size_hw(content) == (20, 30)


@given(st.sampled_from(SIGNATURES), st.binary(max_size=200))
def test_any_bytes_give_a_size_or_nothing(signature: bytes, rest: bytes) -> None:
    size_hw = stored_size_hw(signature + rest)
    assert size_hw is None or min(size_hw) > 0


@pytest.mark.parametrize("chunk", [b"IHDR", b"IDAT", b"IEND"])
def test_png_chunk_that_says_it_is_longer_than_the_file_never_reaches_the_decoder(
    chunk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(_image("PNG", "RGB", {}, (9, 14)))
    struct.pack_into(">I", content, content.index(chunk) - 4, 0xFFFF_FFFF)
    monkeypatch.setattr(images.cv2, "imdecode", pytest.fail)
    with pytest.raises(ImageError, match="cut off"):
        decode_rgb(bytes(content), "a")


@pytest.mark.parametrize("start", [2**63, 2**64 - 1])
def test_directory_where_no_bytes_could_be(start: int) -> None:
    content = b"II+\0\x08\0\0\0" + struct.pack("<Q", start) + bytes(32)
    assert stored_size_hw(content) is None
    with pytest.raises(ImageError, match="a TIFF file that is cut off"):
        decode_rgb(content, "a")


@pytest.mark.parametrize(("kind", "mode", "options"), KINDS)
def test_what_decodes_has_the_size_that_the_header_told(
    kind: str, mode: str, options: Mapping[str, object]
) -> None:
    """Else a bomb could hide behind a header that says less."""
    content = _image(kind, mode, options, (9, 14))
    rng = np.random.default_rng(0)
    for at in rng.integers(0, min(400, len(content)), 300):
        changed = bytearray(content)
        changed[at] ^= 1 << rng.integers(8)
        try:
            pixels = decode_rgb(bytes(changed), "changed", max_pixels=100_000)
        except ImageError:
            continue
        assert sorted(pixels.shape[:2]) == sorted(stored_size_hw(bytes(changed)) or ())


def _with_orientation(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (5, 3)).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_the_one_that_was_written(kind: str, orientation: int) -> None:
    assert exif_orientation(_with_orientation(kind, orientation)) == orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_image_without_a_valid_orientation_is_upright(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (5, 3)).save(file, kind)
    assert exif_orientation(file.getvalue()) == 1
    assert exif_orientation(_with_orientation(kind, 9)) == 1
    whole = _with_orientation(kind, 6)
    assert {exif_orientation(whole[:length]) for length in range(len(whole))} <= {1, 6}


def test_first_exif_block_counts_wherever_it_is() -> None:
    jpeg = _with_orientation("JPEG", 6)
    at = jpeg.index(b"\xff\xe1")
    exif = jpeg[at : at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")]
    plain = jpeg.replace(exif, b"")
    other = b"\xff\xe2\xea\x62" + bytes(60000)  # a segment that says its length: 60002
    second = exif.replace(b"\0\x06\0", b"\0\x01\0")
    assert exif_orientation(plain[:2] + other + exif + second + plain[2:]) == 6
    assert exif_orientation(plain[:2] + second + exif + plain[2:]) == 1
