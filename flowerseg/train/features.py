"""Features of a frozen network: computed once, kept on disk in half precision, found by a key.

Where only the head trains, everything before it gives the same for the same frame in every epoch.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowerseg.abandoned import remove_abandoned, temporary_folder
from flowerseg.errors import TrainingError
from flowerseg.model import FlowerNet
from flowerseg.train.amp import Amp, autocast
from flowerseg.train.frames import TrainingFrames, View
from flowerseg.usercache import user_cache

FORMAT = 2  # raise it when frames of the same view change, by another augmentation for example
FEATURES, LABELS = "features.npy", "labels.npy"
_FILL_BATCH = 16
_UNFINISHED = ".unfinished-"

Compute = Callable[[Tensor], Tensor]
"""Features (N, 256, h, w), float16, of images (N, H, W, 3), uint8."""

OnFeatures = Callable[[int, int], None]
"""Called with how many frames have gone through the network, and how many will."""


@dataclass(frozen=True)
class Features(Dataset[tuple[Tensor, Tensor]]):
    """Kept features by `View`: (256, h, w) float16 and the frame's labels (H, W) uint8."""

    features: NDArray[np.float16]  # (photos x views, 256, h, w)
    labels: NDArray[np.uint8]  # (photos x views, H, W)
    views: int

    def __len__(self) -> int:
        return len(self.features) // self.views

    def __getitem__(self, view: View) -> tuple[Tensor, Tensor]:
        row = view.photo * self.views + view.number
        # Copied: the files are mapped read-only.
        return (
            torch.from_numpy(np.array(self.features[row])),
            torch.from_numpy(np.array(self.labels[row])),
        )


class FeatureCache:
    """A folder of features, one subfolder a key, bounded in size.

    Args:
        folder: where they are kept.
        limit_bytes: of all of them; the ones not used for longest go first.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def find(self, key: str, views: int) -> Features | None:
        """Kept features, or None; damaged ones are removed."""
        folder = self._folder / key
        if not folder.is_dir():
            return None
        try:
            os.utime(folder)  # used now: the last to go
            return _opened(folder, views)
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
            return None

    def fill(
        self,
        key: str,
        frames: TrainingFrames,
        views: int,
        compute: Compute,
        on_features: OnFeatures = lambda *_: None,
    ) -> Features:
        """Compute and keep the features of `views` views of every photo of `frames`.

        The subfolder appears under its key only when all of it is written.

        Raises:
            TrainingError: they do not fit into the cache, or into half precision.
        """
        wanted = [View(photo, number) for photo in range(len(frames)) for number in range(views)]
        image, labels = frames[wanted[0]]
        first = compute(image[None])
        try:
            self._make_room(len(wanted) * (first.nbytes + labels.nbytes))
            with temporary_folder(self._folder, _UNFINISHED) as unfinished:
                shapes = tuple(first.shape[1:]), tuple(labels.shape)
                whole = unfinished / key
                whole.mkdir()
                _write(whole, wanted, shapes, frames, compute, on_features)
                _move(whole, self._folder / key)
        except OSError as error:
            raise TrainingError(
                f"{self._folder}: features could not be kept: {error}. Free space, choose another "
                "folder by XDG_CACHE_HOME, or train with --no-cache."
            ) from error
        found = self.find(key, views)
        if found is None:
            raise TrainingError(
                f"{self._folder / key}: the features that were just kept are gone or changed. Run "
                "again, or train with --no-cache."
            )
        return found

    def _make_room(self, needed: int) -> None:
        if needed > self._limit:
            raise TrainingError(
                f"the features of all frames take {needed / 2**30:.1f} GiB and the cache holds "
                f"{self._limit / 2**30:.1f}. Take fewer --views, a larger --cache-gib, or train "
                "with --no-cache."
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self._folder, _UNFINISHED)
        kept = [entry for entry in self._folder.iterdir() if entry.is_dir()]
        for oldest in sorted(kept, key=lambda entry: entry.stat().st_mtime):
            if _used_bytes(self._folder) + needed <= self._limit:
                break
            if not oldest.name.startswith(_UNFINISHED):  # another run may be writing there
                shutil.rmtree(oldest, ignore_errors=True)


def _opened(folder: Path, views: int) -> Features:
    """The features in a folder.

    Raises:
        OSError, ValueError: a file is missing or is not what `fill` writes.
    """
    features, labels = _mapped(folder / FEATURES), _mapped(folder / LABELS)
    has_features = (
        features.dtype == np.float16 and features.ndim == 4 and len(features) % views == 0
    )
    has_labels = labels.dtype == np.uint8 and labels.ndim == 3 and len(labels) == len(features)
    if not (has_features and has_labels):
        raise ValueError(f"{folder}: other arrays than those of cached features")
    return Features(features, labels, views)


def _mapped(path: Path) -> NDArray[Any]:
    """An array in a file, mapped read-only.

    Raises:
        ValueError: the file is damaged, or no regular file.
    """
    if not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"{path}: no regular file")
    try:
        return open_memmap(path, "r")
    except Exception as error:  # numpy parses the header as Python code, and raises many types
        raise ValueError(f"{path}: damaged") from error


def cache_folder() -> Path:
    """`flowerseg/features` in the user's cache folder."""
    return user_cache("features")


def feature_key(network: FlowerNet, **parts: object) -> str:
    """A name that changes with the frozen weights and with everything in `parts`."""
    digest = hashlib.sha256(json.dumps({"format": FORMAT} | parts, default=str).encode())
    for name, tensor in network.state_dict().items():
        if not name.startswith("classifier.4."):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def frozen_features(network: FlowerNet, device: str, amp: Amp) -> Compute:
    """What the frozen part of a network makes of images, as float16 on the host."""
    network.to(device).eval()

    def compute(images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(amp, device):
            features = network.features(images.to(device)).half().cpu()
        if not torch.isfinite(features).all():
            raise TrainingError(
                "the frozen network's features exceed half precision (65504), so they cannot be "
                "kept. Train with --no-cache, or from --weights whose features are in range."
            )
        return features

    return compute


def _write(
    folder: Path,
    wanted: Sequence[View],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    frames: TrainingFrames,
    compute: Compute,
    on_features: OnFeatures,
) -> None:
    features = open_memmap(folder / FEATURES, "w+", np.float16, (len(wanted), *shapes[0]))
    labels = open_memmap(folder / LABELS, "w+", np.uint8, (len(wanted), *shapes[1]))
    _take_room(folder / FEATURES)
    _take_room(folder / LABELS)
    # Decoded by another process while this one computes.
    loader = DataLoader(frames, _FILL_BATCH, sampler=wanted, num_workers=1)
    done = 0
    for images, truth in loader:
        rows = slice(done, done + len(images))
        features[rows] = compute(images).numpy()
        labels[rows] = truth.numpy()
        done = rows.stop
        on_features(done, len(wanted))
    features.flush()
    labels.flush()


def _take_room(path: Path) -> None:
    """Have the disk give a mapped file all of its bytes now.

    The file is sparse: a page that finds the disk full later would end the process by SIGBUS.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _move(whole: Path, place: Path) -> None:
    try:
        whole.rename(place)
    except OSError:
        # Another run may have been faster; what is kept under a key is the same.
        if not (place / FEATURES).is_file():
            raise


def _used_bytes(folder: Path) -> int:
    return sum(_size_of(file) for file in folder.rglob("*.npy"))


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # another run has just moved or removed it
        return 0
