"""The look at every photo before training: what is counted, noted and refused."""

import dataclasses
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowerseg.data import MASK_PALETTE, LabelledPhoto, PhotoSet
from flowerseg.datacheck import DataCheck, check_photos
from flowerseg.errors import DataError
from flowerseg.images import encode_jpeg, write_png

F, B, V = 255, 0, 128  # flower, background and void in a mask


def _item(root: Path, name: str, mask: list[list[int]], group: str = "") -> LabelledPhoto:
    """A photo as large as its mask, whose pixels no other name has."""
    values = np.array(mask, np.uint8)
    photo, annotation = root / "photos" / f"{name}.png", root / "masks" / f"{name}.png"
    write_png(photo, np.full((*values.shape, 3), zlib.crc32(name.encode()) % 251, np.uint8))
    write_png(annotation, values)
    return LabelledPhoto(name, photo, annotation, MASK_PALETTE, group)


def _check(train: list[LabelledPhoto], val: list[LabelledPhoto]) -> DataCheck:
    return check_photos(PhotoSet("mine/train", tuple(train)), PhotoSet("mine/val", tuple(val)))


@pytest.fixture
def sound(tmp_path: Path) -> LabelledPhoto:
    return _item(tmp_path, "sound", [[F, B]])


def test_pixels_classes_and_sizes_are_those_of_the_whole_split(
    tmp_path: Path, sound: LabelledPhoto
) -> None:
    train = [
        _item(tmp_path, "a", [[F, F, B, V]], "rose"),
        _item(tmp_path, "b", [[B, B], [F, F], [F, V]], "iris"),
        _item(tmp_path, "c", [[F, B]], "rose"),
    ]
    check = _check(train, [sound])
    assert check.train.name == "mine/train"
    assert check.train.photos == 3
    assert check.train.photos_by_class == {"iris": 1, "rose": 2}
    shares = (check.train.flower_share, check.train.background_share, check.train.void_share)
    assert shares == (6 / 12, 4 / 12, 2 / 12)
    assert (check.train.smallest_hw, check.train.largest_hw) == ((1, 2), (3, 2))
    assert check.val.photos_by_class == {"": 1}
    assert check.val.flower_share == 0.5


def test_odd_masks_are_noted_each_as_one_kind(tmp_path: Path, sound: LabelledPhoto) -> None:
    bare = [_item(tmp_path, f"bare{i}", [[B, V]]) for i in range(7)]
    void = _item(tmp_path, "void", [[V, V]])
    check = _check([sound, *bare, void], [sound])
    assert check.train.without_flower.count == 7
    assert check.train.without_flower.names == ("bare0", "bare1", "bare2", "bare3", "bare4")
    assert (check.train.only_void.count, check.train.only_void.names) == (1, ("void",))
    assert check.val.without_flower.count == check.val.only_void.count == 0


def test_text_is_a_line_for_each_split_and_each_kind_of_note(tmp_path: Path) -> None:
    train = [
        _item(tmp_path, "a", [[F, F, B, V], [F, F, B, V]], "rose"),
        _item(tmp_path, "b", [[B, B]], "iris"),
    ]
    val = [_item(tmp_path, f"v{i}", [[V, V, V]]) for i in range(6)]
    val.append(_item(tmp_path, "w", [[F, B, V]]))
    assert _check(train, val).to_text().splitlines() == [
        "mine/train: 2 photos, 2 classes; flower 40.0 %, background 40.0 %, void 20.0 %; "
        "2 x 1 to 4 x 2",
        "  1 masks with no flower: b",
        "mine/val: 7 photos; flower 4.8 %, background 4.8 %, void 90.5 %; 3 x 1",
        "  6 masks with nothing but void: v0, v1, v2, v3, v4, …",
    ]


def test_check_is_plain_json(sound: LabelledPhoto) -> None:
    check = dataclasses.asdict(_check([sound], [sound]))
    assert json.loads(json.dumps(check))["val"] == {
        "name": "mine/val",
        "photos": 1,
        "photos_by_class": {"": 1},
        "flower_share": 0.5,
        "background_share": 0.5,
        "void_share": 0.0,
        "smallest_hw": [1, 2],
        "largest_hw": [1, 2],
        "without_flower": {"count": 0, "names": []},
        "only_void": {"count": 0, "names": []},
        "mostly_flower": {"count": 0, "names": []},
        "turned_apart": {"count": 0, "names": []},
        "from_alpha": 0,
    }


def test_split_from_which_no_flower_can_be_learnt_is_refused(
    tmp_path: Path, sound: LabelledPhoto
) -> None:
    bare = [_item(tmp_path, f"bare{i}", [[B, B, B, V]]) for i in range(3)]
    message = r"none of its 3 masks has a flower pixel \(75\.0 % background, 25\.0 % void\)"
    for name, train, val in (("train", bare, [sound]), ("val", [sound], bare)):
        with pytest.raises(DataError, match=rf"^mine/{name}: {message}\. .*--flower-colour"):
            _check(train, val)


def test_split_from_which_no_background_can_be_learnt_is_refused(
    tmp_path: Path, sound: LabelledPhoto
) -> None:
    full = [_item(tmp_path, f"full{i}", [[F, V]]) for i in range(2)]
    message = r"none of its 2 masks has a background pixel \(50\.0 % flower, 50\.0 % void\)"
    for name, train, val in (("train", full, [sound]), ("val", [sound], full)):
        with pytest.raises(DataError, match=rf"^mine/{name}: {message}\. .*--background-colour"):
            _check(train, val)


def test_what_both_splits_lack_is_said_at_once(tmp_path: Path) -> None:
    train, val = (_item(tmp_path, name, [[V, V]]) for name in ("a", "b"))
    with pytest.raises(DataError) as caught:
        _check([train], [val])
    lines = str(caught.value).splitlines()
    assert [line.split(" masks ")[0] for line in lines] == [
        "mine/train: none of its 1",
        "mine/train: none of its 1",
        "mine/val: none of its 1",
        "mine/val: none of its 1",
    ]


def test_test_split_is_looked_at_before_the_first_step_too(
    tmp_path: Path, sound: LabelledPhoto
) -> None:
    train, val = PhotoSet("mine/train", (sound,)), PhotoSet("mine/val", (sound,))
    bare, broken = (_item(tmp_path, name, [[B, B]]) for name in ("bare", "broken"))
    with pytest.raises(DataError, match=r"^mine/test: none of its 1 masks has a flower pixel"):
        check_photos(train, val, PhotoSet("mine/test", (bare,)))
    broken.annotation.write_bytes(b"")
    with pytest.raises(DataError, match=r"^mine/train and mine/val and mine/test: 1 of 4 labelled"):
        check_photos(train, val, PhotoSet("mine/test", (broken, bare)))
    check = check_photos(train, val, PhotoSet("mine/test", (sound,)))
    assert check.to_text().splitlines()[2].startswith("mine/test: 1 photos; flower 50.0 %")


def test_masks_that_may_be_inverted_are_noted(tmp_path: Path, sound: LabelledPhoto) -> None:
    large = _item(tmp_path, "large", [[F] * 96 + [B] * 4 + [V] * 900])
    fair = _item(tmp_path, "fair", [[F] * 95 + [B] * 5])
    check = _check([sound, large, fair], [sound])
    assert check.train.mostly_flower.names == ("large",)
    assert "1 masks with more than 95 % flower (or is it the background?): large" in check.to_text()


def test_masks_with_their_shape_in_the_alpha_channel_are_noted(
    tmp_path: Path, sound: LabelledPhoto
) -> None:
    items = [_item(tmp_path, f"a{i}", [[F, B]]) for i in range(6)]
    for item in items:
        write_png(item.annotation, np.array([[[255, 255, 255, 255], [255, 255, 255, 0]]], np.uint8))
    check = _check(items, [sound])
    assert (check.train.flower_share, check.train.background_share) == (0.5, 0.5)
    assert check.to_text().splitlines()[2:] == [
        "6 masks have their shape in the alpha channel; it was used"
    ]


def test_unknown_levels_of_an_alpha_channel_are_named_so(
    tmp_path: Path, sound: LabelledPhoto
) -> None:
    item = _item(tmp_path, "a", [[F, B]])
    write_png(item.annotation, np.array([[[9, 9, 9, 250], [9, 9, 9, 0]]], np.uint8))
    with pytest.raises(DataError, match=r"Levels of the alpha channel.*\(250, 250, 250\) 1 pixels"):
        _check([item], [sound])


@pytest.mark.parametrize(
    ("stored_hw", "photo_turned", "mask_turned", "is_noted"),
    [
        ((4, 4), 6, None, True),  # a square fits however it is turned
        ((4, 4), None, 3, True),
        ((4, 4), 6, 6, False),
        ((4, 6), 3, None, True),  # upside down it fits too
        ((4, 6), 6, 8, True),
        ((4, 6), 6, None, False),  # that the turned photo fits shows that the mask is upright
        ((4, 6), None, None, False),
    ],
)
def test_masks_that_may_lie_otherwise_than_their_photo_are_noted(
    tmp_path: Path,
    sound: LabelledPhoto,
    stored_hw: tuple[int, int],
    photo_turned: int | None,
    mask_turned: int | None,
    is_noted: bool,
) -> None:
    item = _item(tmp_path, "a", [[F, B]])
    mask = np.zeros(stored_hw, np.uint8)
    mask[0] = 255
    if photo_turned == 6 and mask_turned is None:
        mask = mask.T
    for path, pixels, turned in (
        (item.photo, np.zeros(stored_hw, np.uint8), photo_turned),
        (item.annotation, np.ascontiguousarray(mask), mask_turned),
    ):
        exif = Image.Exif()
        if turned:
            exif[0x0112] = turned
        Image.fromarray(pixels).save(path, exif=exif)
    check = _check([item], [sound])
    assert check.train.turned_apart.names == (("a",) if is_noted else ())
    assert ("1 masks with another EXIF orientation than their photo" in check.to_text()) == is_noted


def test_photo_of_both_splits_in_two_files_is_noted(tmp_path: Path) -> None:
    train, val, other = (_item(tmp_path, name, [[F, B]] * 20) for name in ("a", "b", "c"))
    noise = np.random.default_rng(0).integers(0, 256, (20, 2, 3), dtype=np.uint8)
    write_png(train.photo, noise)
    Image.fromarray(noise).save(val.photo, compress_level=0)
    assert train.photo.read_bytes() != val.photo.read_bytes()
    check = _check([train], [val, other])
    assert check.shared.names == ("b",)
    assert "1 photos are also in train, in other files: b" in check.to_text()


def test_colours_that_jpeg_changed_are_named_so(tmp_path: Path, sound: LabelledPhoto) -> None:
    item = _item(tmp_path, "a", [[F, B]])
    blurred = np.clip(np.add.outer(np.arange(16) * 16, np.arange(16)), 0, 255).astype(np.uint8)
    for path in (item.photo, item.annotation):
        Image.fromarray(blurred).save(path, "JPEG")
    with pytest.raises(DataError, match=r"masks are JPEG, which changes colours.*as PNG") as caught:
        _check([item], [sound])
    assert "--mask-tolerance" in str(caught.value)
    assert "any" not in str(caught.value)


def test_unreadable_photos_and_masks_are_counted_over_both_splits(
    tmp_path: Path, sound: LabelledPhoto
) -> None:
    photo, mask = _item(tmp_path, "photo", [[F, B]]), _item(tmp_path, "mask", [[F, B]])
    photo.photo.write_bytes(b"not a photo")
    mask.annotation.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        _check([sound, photo], [mask])
    first, second = str(caught.value).splitlines()
    assert first == "mine/train and mine/val: 2 of 3 labelled photos cannot be used."
    assert second.startswith("  cannot be read: 2 (photo, mask). The first: ")
    assert str(photo.photo) in second


def test_mask_of_another_size_than_its_photo_is_refused(
    tmp_path: Path, sound: LabelledPhoto
) -> None:
    item = _item(tmp_path, "a", [[F, B, B]])
    write_png(item.photo, np.zeros((3, 1, 3), np.uint8))
    with pytest.raises(DataError, match=r"annotation of another size: 1 \(a\)\. .* is 1 x 3, but"):
        _check([sound], [item])


def test_unknown_colours_are_summed_over_the_set(tmp_path: Path, sound: LabelledPhoto) -> None:
    bad = [_item(tmp_path, f"bad{i}", [[7, 7, F]]) for i in range(6)]
    bad.append(_item(tmp_path, "other", [[9, 7, F]]))
    with pytest.raises(DataError) as caught:
        _check([sound, *bad[:3]], bad[3:])
    first, second = str(caught.value).splitlines()
    assert first.endswith("7 of 8 labelled photos cannot be used.")
    assert "unknown colours: 7 (bad0, bad1, bad2, bad3, bad4, …). " in second
    assert "(7, 7, 7) 13 pixels in 7 files, (9, 9, 9) 1 pixels in 1 files. Known are " in second
    assert "--flower-colour" in second


def test_every_kind_of_fault_is_told_at_once(tmp_path: Path, sound: LabelledPhoto) -> None:
    items = [_item(tmp_path, name, [[F, B]]) for name in ("read", "size", "colour")]
    items[0].photo.write_bytes(b"")
    write_png(items[1].annotation, np.zeros((3, 3), np.uint8))
    write_png(items[2].annotation, np.full((1, 2), 3, np.uint8))
    with pytest.raises(DataError) as caught:
        _check(items, [sound])
    kinds = [line.partition(":")[0].strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(kinds) == ["annotation of another size", "cannot be read", "unknown colours"]


def _write_turned(path: Path, upright_hw: tuple[int, int]) -> None:
    """A JPEG whose EXIF says that it lies on its side; upright it has the given size."""
    height, width = upright_hw
    jpeg = encode_jpeg(np.zeros((width, height, 3), np.uint8))
    orientation = struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)  # one entry: turn by 90 degrees
    body = b"Exif\0\0MM\0*\0\0\0\x08" + orientation
    jfif_ends = 20
    exif = b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body
    path.write_bytes(jpeg[:jfif_ends] + exif + jpeg[jfif_ends:])


def test_masks_match_the_upright_photo(tmp_path: Path) -> None:
    upright = _item(tmp_path, "upright", [[F], [B], [B]])
    lying = _item(tmp_path, "lying", [[F, B, B]])
    for item in (upright, lying):
        item.photo.unlink()
    turned = [dataclasses.replace(x, photo=x.photo.with_suffix(".jpg")) for x in (upright, lying)]
    for item in turned:
        _write_turned(item.photo, (3, 1))
    assert _check(turned[:1], turned[:1]).train.smallest_hw == (3, 1)
    with pytest.raises(DataError, match=r"1 \(lying\)\. .* is 1 x 3, but .* is 3 x 1 .* upright"):
        _check(turned, turned[:1])
