"""Kept features: the network's own, under a key that tells apart what differs, within a bound."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowerseg.data import PhotoSet, open_photos
from flowerseg.errors import TrainingError
from flowerseg.model import FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg.train.features import (
    FEATURES,
    LABELS,
    FeatureCache,
    cache_folder,
    feature_key,
    frozen_features,
)
from flowerseg.train.frames import TrainingFrames, View

FRAME = Preprocess((64, 64))
# What `_tiny` keeps of the 6 frames: 256 features of 2 bytes and 64 x 64 labels each.
TINY_BYTES = 6 * (256 * 2 + 64 * 64)
HEADER_BYTES = 2 * 128  # of the two files of numpy


@pytest.fixture
def six(painted: Path) -> PhotoSet:
    return open_photos(painted, "val")


@pytest.fixture
def frames(six: PhotoSet) -> TrainingFrames:
    return TrainingFrames(six, FRAME, seed=0)


@pytest.fixture
def network(small_network: FlowerNet) -> FlowerNet:
    return copy.deepcopy(small_network)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "features"


@pytest.fixture
def cache(folder: Path) -> FeatureCache:
    return FeatureCache(folder, 2**30)


def _tiny(images: Tensor) -> Tensor:
    """The mean of each image 256 times, in place of a network's features."""
    return images.float().mean((1, 2, 3)).view(-1, 1, 1, 1).expand(-1, 256, 1, 1).half()


def _keys(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_rows_are_the_networks_features_in_half_precision(
    network: FlowerNet, frames: TrainingFrames, cache: FeatureCache
) -> None:
    views = [View(photo, number) for photo in range(6) for number in range(2)]
    images, labels = map(torch.stack, zip(*(frames[view] for view in views), strict=True))
    with torch.inference_mode():
        expected = network.features(images).half()  # the 12 go through it in one batch
    assert expected.std() > 0.1
    kept = cache.fill("key", frames, 2, frozen_features(network, "cpu", "off"))
    assert len(kept) == 6
    # Asked for in another order than they were written in.
    for place in (7, 0, 11, 4):
        features, truth = kept[views[place]]
        assert torch.equal(features, expected[place])
        assert torch.equal(truth, labels[place])


def test_network_that_trains_is_in_eval_mode_for_features(
    network: FlowerNet, frames: TrainingFrames
) -> None:
    image = frames[View(0, 0)][0][None]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = frozen_features(network.eval(), "cpu", "off")(image)
    again = frozen_features(network.train(), "cpu", "off")(image)
    assert torch.equal(again, expected)
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())


def test_features_that_were_kept_are_found(
    frames: TrainingFrames, cache: FeatureCache, folder: Path
) -> None:
    filled = cache.fill("key", frames, 3, _tiny)
    found = FeatureCache(folder, 0).find("key", 3)
    assert found is not None
    for view in (View(0, 0), View(5, 2)):
        assert all(map(torch.equal, found[view], filled[view]))
    assert _keys(folder) == {"key"}


@pytest.mark.parametrize("has_others", [False, True])
def test_unknown_key_is_not_found(
    frames: TrainingFrames, cache: FeatureCache, has_others: bool
) -> None:
    if has_others:
        cache.fill("key", frames, 1, _tiny)
    assert cache.find("other", 1) is None


def test_batches_of_kept_features_can_be_written_to(
    frames: TrainingFrames, cache: FeatureCache, folder: Path
) -> None:
    kept = cache.fill("key", frames, 1, _tiny)
    before = kept[View(0, 0)][0].clone()
    kept[View(0, 0)][0].zero_()
    assert torch.equal(kept[View(0, 0)][0], before)


def test_filling_tells_how_far_it_is(frames: TrainingFrames, cache: FeatureCache) -> None:
    told: list[tuple[int, int]] = []
    cache.fill("key", frames, 3, _tiny, lambda done, total: told.append((done, total)))
    assert told == [(16, 18), (18, 18)]


def test_key_is_the_same_for_the_same(network: FlowerNet) -> None:
    key = feature_key(network, photos="abc", preprocess=FRAME)
    assert feature_key(copy.deepcopy(network), photos="abc", preprocess=Preprocess((64, 64))) == key
    assert key.isalnum()  # the name of a folder


@pytest.mark.parametrize(
    "change", [{"photos": "abx"}, {"preprocess": Preprocess((64, 96))}, {"views": 2}, {"new": 0}]
)
def test_key_changes_with_every_part(network: FlowerNet, change: dict[str, object]) -> None:
    parts = {"photos": "abc", "preprocess": FRAME, "views": 1}
    assert feature_key(network, **(parts | change)) != feature_key(network, **parts)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.0.0.weight",
        "backbone.4.block.1.1.running_var",
        "backbone.16.1.bias",
        "classifier.0.convs.4.1.weight",
        "classifier.1.weight",
        "classifier.2.running_mean",
    ],
)
def test_key_changes_with_every_frozen_weight(network: FlowerNet, name: str) -> None:
    before = feature_key(network)
    tensor = network.state_dict()[name].flatten()
    tensor[-1] += 1e-3
    assert feature_key(network) != before


def test_key_does_not_change_with_the_head(network: FlowerNet) -> None:
    before = feature_key(network)
    with torch.no_grad():
        network.head.weight.add_(1)
        network.head.bias.add_(1)
    assert feature_key(network) == before


@pytest.mark.parametrize("error", [TrainingError("not finite"), KeyboardInterrupt()])
def test_filling_that_breaks_off_leaves_nothing(
    frames: TrainingFrames, cache: FeatureCache, folder: Path, error: BaseException
) -> None:
    sizes: list[int] = []

    def breaking(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if sizes == [1, 16, 2]:  # one to see the shape, and two batches of 18 frames
            raise error
        return _tiny(images)

    with pytest.raises(type(error)):
        cache.fill("key", frames, 3, breaking)
    assert sizes == [1, 16, 2]
    assert cache.find("key", 3) is None
    assert _keys(folder) == set()
    assert len(cache.fill("key", frames, 3, _tiny)) == 6


def test_features_that_do_not_fit_are_refused_with_every_remedy(
    frames: TrainingFrames, folder: Path
) -> None:
    with pytest.raises(TrainingError, match=r"--views.*--cache-gib.*--no-cache"):
        FeatureCache(folder, TINY_BYTES - 1).fill("key", frames, 1, _tiny)
    assert not folder.exists()
    assert len(FeatureCache(folder, TINY_BYTES).fill("key", frames, 1, _tiny)) == 6


def test_longest_unused_features_go_first(frames: TrainingFrames, folder: Path) -> None:
    limit = 3 * (TINY_BYTES + HEADER_BYTES)
    cache = FeatureCache(folder, limit)
    for key in ("first", "second", "third"):
        cache.fill(key, frames, 1, _tiny)
    assert _size(folder) == limit
    for age, key in enumerate(["third", "second", "first"]):
        os.utime(folder / key, (age, age))
    assert cache.find("third", 1) is not None  # used again: "second" is the oldest now
    cache.fill("fourth", frames, 1, _tiny)
    assert _keys(folder) == {"first", "third", "fourth"}


def test_several_go_where_one_does_not_make_room(frames: TrainingFrames, folder: Path) -> None:
    cache = FeatureCache(folder, 3 * (TINY_BYTES + HEADER_BYTES))
    for age, key in enumerate(["first", "second", "third"]):
        cache.fill(key, frames, 1, _tiny)
        os.utime(folder / key, (age, age))
    cache.fill("double", frames, 2, _tiny)
    assert _keys(folder) == {"third", "double"}


def test_what_another_run_is_writing_stays(frames: TrainingFrames, folder: Path) -> None:
    cache = FeatureCache(folder, TINY_BYTES + HEADER_BYTES)
    cache.fill("old", frames, 1, _tiny)
    theirs: set[str] = set()

    def watched(images: Tensor) -> Tensor:
        # A second run fills the same cache while this one is at work.
        if len(images) == 6:
            mine = _keys(folder)
            FeatureCache(folder, 2 * TINY_BYTES).fill("theirs", frames, 1, _tiny)
            theirs.update(mine & _keys(folder))
        return _tiny(images)

    cache.fill("mine", frames, 1, watched)
    assert len(theirs) == 1
    assert _keys(folder) == {"mine", "theirs"}


def test_features_beyond_half_precision_are_refused(
    network: FlowerNet, frames: TrainingFrames, cache: FeatureCache, folder: Path
) -> None:
    compute = frozen_features(network, "cpu", "off")
    largest = float(compute(frames[View(0, 0)][0][None]).max())
    with torch.no_grad():  # the BatchNorm before the last ReLU: features grow in proportion
        network.classifier[2].weight.mul_(2 * 65504 / largest)
        network.classifier[2].bias.mul_(2 * 65504 / largest)
    with pytest.raises(TrainingError, match=r"half precision \(65504\).*--no-cache"):
        cache.fill("key", frames, 1, compute)
    assert not folder.exists() or _keys(folder) == set()


def test_disk_that_is_full_is_told_with_a_remedy(
    frames: TrainingFrames, cache: FeatureCache, folder: Path
) -> None:
    def full(images: Tensor) -> Tensor:
        if len(images) > 1:
            raise OSError(28, "No space left on device")
        return _tiny(images)

    with pytest.raises(TrainingError, match=r"No space left.*XDG_CACHE_HOME.*--no-cache"):
        cache.fill("key", frames, 1, full)
    assert _keys(folder) == set()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_room_is_taken_before_a_mapped_page_could_miss_it(
    frames: TrainingFrames, cache: FeatureCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int, offset: int, length: int) -> None:
        assert (offset, length) == (0, os.fstat(handle).st_size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TrainingError, match=r"No space left.*--no-cache"):
        cache.fill("key", frames, 1, _tiny)
    assert _keys(folder) == set()


def test_folder_that_cannot_be_written_is_told_with_a_remedy(
    frames: TrainingFrames, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="--no-cache"):
        FeatureCache(tmp_path / "file" / "features", 2**30).fill("key", frames, 1, _tiny)


def test_two_runs_may_fill_the_same_key_at_once(
    frames: TrainingFrames, cache: FeatureCache, folder: Path
) -> None:
    def overtaken(images: Tensor) -> Tensor:
        if len(images) > 1:
            FeatureCache(folder, 2**30).fill("key", frames, 1, _tiny)
        return _tiny(images)

    kept = cache.fill("key", frames, 1, overtaken)
    assert torch.equal(kept[View(5, 0)][0], _tiny(frames[View(5, 0)][0][None])[0])
    assert _keys(folder) == {"key"}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("home", ["/caches", ""])
def test_features_are_kept_where_the_user_keeps_caches(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path(home or "/home/me/.cache") / "flowerseg/features"


def _numpy_file(header: bytes) -> bytes:
    """A file of numpy's format 1.0 with this header."""
    return b"\x93NUMPY\1\0" + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + bytes(512)


_HEADER = b"{'descr': '<f2', 'fortran_order': False, 'shape': %s}"
DAMAGES = {
    "empty": b"",
    "cut": b"\x93NUMPY",
    "another file": b"not an array",
    "archive": b"PK\3\4",
    "brackets": _numpy_file(b"[" * 99),
    "negative shape": _numpy_file(_HEADER % b"(-6, 3, 4, 4)"),
    "truth as a size": _numpy_file(_HEADER % b"(2, True, 4, 4)"),
    "other array": None,
    "pipe": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [FEATURES, LABELS])
def test_damaged_features_are_computed_again(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "key"
    folder.mkdir()
    np.save(folder / FEATURES, np.zeros((2, 3, 4, 4), np.float16))
    np.save(folder / LABELS, np.zeros((2, 8, 8), np.uint8))
    cache = FeatureCache(tmp_path, 1 << 20)
    assert cache.find("key", 1) is not None
    (folder / name).unlink()
    if damage == "other array":
        np.save(folder / name, np.zeros((3, 3)))
    elif damage == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).write_bytes(DAMAGES[damage] or b"")
    assert cache.find("key", 1) is None
    assert not folder.exists()
