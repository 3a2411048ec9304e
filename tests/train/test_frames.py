"""Training frames: a view is the same everywhere, and labels go wherever their photo goes."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Labels, Rgb
from flowerseg.data import MASK_PALETTE, LabelledPhoto, PhotoSet
from flowerseg.errors import ImageError
from flowerseg.images import write_png
from flowerseg.preprocess import Preprocess, frame_from_labels, frame_from_photo
from flowerseg.train import Fault
from flowerseg.train import frames as frames_module
from flowerseg.train.frames import EpochViews, TrainingFrames, View, seed_from, smallest_batch

FRAME = Preprocess((64, 64))
GREEN, RED, WHITE = (60, 160, 60), (160, 60, 60), (255, 255, 255)
VIEWS = [View(photo, number) for photo in range(3) for number in range(5)]

Frame = tuple[Tensor, Tensor]


def _item(folder: Path, name: str, rgb: Rgb, mask: Labels) -> LabelledPhoto:
    photo, annotation = folder / f"{name}.png", folder / f"{name}-mask.png"
    write_png(photo, rgb)
    write_png(annotation, mask)
    return LabelledPhoto(name, photo, annotation, MASK_PALETTE)


def _rectangle(i: int) -> NDArray[np.bool_]:
    """Where photo `i` (120, 160) shows flower: never in the middle, so that a flip shows."""
    flower = np.zeros((120, 160), np.bool_)
    flower[20 + 10 * i : 90, 30 : 100 + 15 * i] = True
    return flower


@pytest.fixture
def photos(tmp_path: Path) -> PhotoSet:
    """Three photos that are green where flower is, red elsewhere; a stripe is not labelled."""
    items = []
    for i in range(3):
        flower = _rectangle(i)
        mask = np.where(flower, 255, 0).astype(np.uint8)
        mask[:6] = 128
        rgb = np.where(flower[..., None], GREEN, RED).astype(np.uint8)
        items.append(_item(tmp_path, str(i), rgb, mask))
    return PhotoSet("rectangles", tuple(items))


def _bytes(frame: Frame) -> bytes:
    return b"".join(part.numpy().tobytes() for part in frame)


def _augmented(photos: PhotoSet, views: int) -> list[tuple[NDArray[np.int16], Labels]]:
    """Augmented frames of the first photo; signed, so that colours can be subtracted."""
    frames = TrainingFrames(photos, FRAME, seed=0)
    found = [frames[View(0, number)] for number in range(1, views + 1)]
    return [(image.numpy().astype(np.int16), labels.numpy()) for image, labels in found]


def _inside(labels: Labels) -> NDArray[np.bool_]:
    """Pixels with the same label two pixels around them, where no outline was blended in."""
    around = {"size": 5, "mode": "constant", "cval": 7}  # beyond the frame nothing is known
    lowest, highest = (
        f(labels, **around) for f in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    return np.asarray(lowest == highest)


def test_number_0_is_the_frame_that_the_deployed_model_sees(photos: PhotoSet) -> None:
    frames = TrainingFrames(photos, FRAME, seed=3)
    for place, item in enumerate(photos.photos):
        image, labels = frames[View(place, 0)]
        np.testing.assert_array_equal(image, frame_from_photo(item.read_rgb(), FRAME))
        np.testing.assert_array_equal(labels, frame_from_labels(item.read_labels(), FRAME))


@pytest.mark.parametrize("number", [0, 1])
def test_frame_is_uint8_and_as_large_as_the_network_wants(photos: PhotoSet, number: int) -> None:
    frame = replace(FRAME, size_hw=(64, 96))
    image, labels = TrainingFrames(photos, frame, seed=0)[View(1, number)]
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (64, 96, 3))
    assert (labels.dtype, tuple(labels.shape)) == (torch.uint8, (64, 96))


def test_view_is_the_same_in_any_order_and_state_of_the_random_numbers(photos: PhotoSet) -> None:
    frames = TrainingFrames(photos, FRAME, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        forwards = {view: _bytes(frames[view]) for view in VIEWS}
        torch.manual_seed(2)
        backwards = {view: _bytes(frames[view]) for view in reversed(VIEWS)}
    assert forwards == backwards


@pytest.mark.parametrize("keep", [True, False])
def test_view_is_the_same_in_whatever_process(photos: PhotoSet, keep: bool) -> None:
    frames = TrainingFrames(photos, FRAME, seed=0, keep=keep)
    here, elsewhere = (
        list(DataLoader(frames, batch_size=None, sampler=VIEWS, num_workers=workers))
        for workers in (0, 2)
    )
    assert list(map(_bytes, here)) == list(map(_bytes, elsewhere))


def test_torchs_random_numbers_are_left_alone(photos: PhotoSet) -> None:
    frames = TrainingFrames(photos, FRAME, seed=0)
    before = torch.get_rng_state()
    for view in VIEWS:
        _ = frames[view]
    assert torch.equal(torch.get_rng_state(), before)


def test_every_view_of_every_seed_is_another_frame(photos: PhotoSet) -> None:
    drawn = [
        _bytes(TrainingFrames(photos, FRAME, seed=seed)[view]) for seed in (0, 1) for view in VIEWS
    ]
    # Number 0 of a photo does not depend on the seed.
    assert len(set(drawn)) == 2 * len(VIEWS) - len(photos)


def test_equal_photos_are_augmented_each_in_its_own_way(photos: PhotoSet) -> None:
    frames = TrainingFrames(photos.part([0, 0]), FRAME, seed=0)
    assert _bytes(frames[View(0, 1)]) != _bytes(frames[View(1, 1)])


def test_labels_are_moved_with_their_photo(photos: PhotoSet) -> None:
    compared = 0
    for rgb, labels in _augmented(photos, 24):
        is_green = rgb[..., 1] > rgb[..., 0]
        sure = _inside(labels) & (labels != VOID)
        np.testing.assert_array_equal(is_green[sure], (labels == FLOWER)[sure])
        compared += min(np.count_nonzero(is_green & sure), np.count_nonzero(~is_green & sure))
    assert compared > 24 * 100  # of either colour


def test_augmented_labels_are_never_mixed(photos: PhotoSet) -> None:
    labels = np.stack([labels for _, labels in _augmented(photos, 24)])
    assert np.unique(labels).tolist() == [BACKGROUND, FLOWER, VOID]


def test_what_augmentation_uncovers_is_void(tmp_path: Path) -> None:
    # All of the photo is white and labelled: what is darker, or void, was not in it.
    white = np.full((80, 112, 3), WHITE, np.uint8)
    item = _item(tmp_path, "white", white, np.zeros((80, 112), np.uint8))
    uncovered = 0
    for rgb, labels in _augmented(PhotoSet("white", (item,)), 24):
        brightness = rgb.sum(axis=2)
        if VOID not in labels:
            assert np.ptp(brightness) == 0
            continue
        is_dark = brightness < (brightness.min() + brightness.max()) / 2
        inside = _inside(labels)
        np.testing.assert_array_equal(is_dark[inside], (labels == VOID)[inside])
        uncovered += 1
    assert uncovered > 3


def test_frames_are_augmented_in_place_size_side_and_colour(photos: PhotoSet) -> None:
    drawn = _augmented(photos, 24)
    shares = [np.mean(labels == FLOWER) for _, labels in drawn]
    assert max(shares) > 1.5 * min(shares)
    # The flower is left of the middle in the photo, and 0.5 is the middle.
    centres = [np.nonzero(labels == FLOWER)[1].mean() / 64 for _, labels in drawn]
    assert min(centres) < 0.45
    assert max(centres) > 0.55
    greens = [np.median(rgb[labels == FLOWER][:, 1]) for rgb, labels in drawn]
    assert max(greens) > 1.3 * min(greens)


def test_photos_read_each_time_give_the_frames_of_those_kept(
    photos: PhotoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, read = (
        [_bytes(TrainingFrames(photos, FRAME, seed=0, keep=keep)[view]) for view in VIEWS]
        for keep in (True, False)
    )
    monkeypatch.setattr(frames_module, "KEPT_BYTES", 0)
    too_many = [_bytes(TrainingFrames(photos, FRAME, seed=0)[view]) for view in VIEWS]
    assert kept == read == too_many


def test_photos_are_kept_only_within_the_bound(
    photos: PhotoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = replace(FRAME, size_hw=(224, 224))
    needed = 3 * 256 * 256 * 4  # three colours and a label; an eighth larger in steps of 32
    monkeypatch.setattr(frames_module, "KEPT_BYTES", needed)
    kept = TrainingFrames(photos, frame, seed=0)
    monkeypatch.setattr(frames_module, "KEPT_BYTES", needed - 1)
    read = TrainingFrames(photos, frame, seed=0)
    for item in photos.photos:
        item.photo.unlink()
    assert kept[View(0, 1)][0].shape == (224, 224, 3)
    with pytest.raises(ImageError):
        _ = read[View(0, 1)]


def test_faults_reach_the_labels(photos: PhotoSet) -> None:
    sound, faulty = (
        TrainingFrames(photos, FRAME, seed=0, faults=faults)[View(0, 0)][1]
        for faults in ((), (Fault.VOID_AS_BACKGROUND,))
    )
    assert (sound == VOID).any()
    assert torch.equal(faulty, torch.where(sound == VOID, BACKGROUND, sound))


def test_every_photo_is_there_once(photos: PhotoSet) -> None:
    assert len(TrainingFrames(photos, FRAME, seed=0)) == 3


def _views(
    world: int = 1,
    rank: int = 0,
    *,
    epoch: int = 1,
    seed: int = 0,
    views: int | None = None,
) -> list[list[View]]:
    """The batches of one process of some, over 23 photos in sixes."""
    sampler = EpochViews(23, 6, seed, views=views, smallest=1, rank=rank, world=world)
    sampler.epoch = epoch
    return list(sampler)


def _places(batches: list[list[View]]) -> list[int]:
    return [view.photo for batch in batches for view in batch]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_divide_each_batch_evenly_and_in_order(world: int) -> None:
    alone = _views()
    parts = [_views(world, rank) for rank in range(world)]
    for step, batch in enumerate(alone):
        mine = [part[step] for part in parts]
        assert [view for part in mine for view in part] == batch
        assert max(map(len, mine)) - min(map(len, mine)) <= 1


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("epoch", [1, 7])
def test_every_photo_is_seen_once_an_epoch(world: int, epoch: int) -> None:
    seen = [place for rank in range(world) for place in _places(_views(world, rank, epoch=epoch))]
    assert sorted(seen) == list(range(23))


def test_order_is_another_for_each_epoch_and_seed() -> None:
    orders = [_places(_views(epoch=e, seed=s)) for s in range(3) for e in range(1, 4)]
    assert len(set(map(tuple, orders))) == 9
    assert _places(_views(epoch=2, seed=1)) == orders[4]
    assert list(range(23)) not in orders


@pytest.mark.parametrize(
    ("photos", "smallest", "world", "sizes", "total"),
    [
        (13, 1, 1, [6, 6, 1], 13),
        (13, 2, 1, [6, 6], 12),
        (14, 2, 1, [6, 6, 2], 14),
        (13, 1, 2, [3, 3], 12),  # one photo for two processes
        (15, 2, 2, [3, 3], 12),  # the second process would get one
        (16, 2, 2, [3, 3, 2], 16),
        (5, 2, 3, [], 0),
    ],
)
def test_last_batch_stays_only_where_each_process_gets_enough(
    photos: int, smallest: int, world: int, sizes: list[int], total: int
) -> None:
    last = world - 1  # the process that gets the fewest
    sampler = EpochViews(photos, 6, 0, views=None, smallest=smallest, rank=last, world=world)
    assert [len(batch) for batch in sampler] == sizes
    assert len(sampler) == len(sizes)
    assert sampler.photos_per_epoch == total


def test_views_are_taken_in_turn() -> None:
    numbers = [{v.number for b in _views(epoch=e, views=3) for v in b} for e in range(1, 8)]
    assert numbers == [{0}, {1}, {2}, {0}, {1}, {2}, {0}]


def test_without_a_number_of_views_every_epoch_has_its_own() -> None:
    numbers = [{v.number for b in _views(epoch=e) for v in b} for e in range(1, 5)]
    assert numbers == [{1}, {2}, {3}, {4}]


def test_seeds_of_neighbours_have_nothing_in_common() -> None:
    numbers = [(a, b, c) for a in range(8) for b in range(8) for c in range(8)]
    seeds = [seed_from(*each) for each in numbers]
    assert len(set(seeds)) == len(numbers)
    # Of 32 bits that are fair coins, 16 differ.
    differing = [(a ^ b).bit_count() for a, b in pairwise(seeds)]
    assert np.mean(differing) == pytest.approx(16, abs=0.6)


def test_only_a_head_takes_steps_with_a_single_photo() -> None:
    assert [smallest_batch(part) for part in ("head", "classifier", "all")] == [1, 2, 2]
