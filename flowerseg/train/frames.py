"""Training frames: photos kept small in memory, and each view of one decided by its seed alone."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from flowerseg.arrays import VOID, SizeHW
from flowerseg.data import PhotoSet
from flowerseg.evaluate import read_pair
from flowerseg.preprocess import Preprocess, frame_from_labels, frame_from_photo
from flowerseg.train.config import Fault, Trainable
from flowerseg.train.faults import faulty_labels

# Photos are kept a seventh larger than the frame, so that a crop has something to choose from.
_KEPT = 8 / 7
KEPT_BYTES = 4 * 2**30
_STRIDE = 32  # of the encoders
_GREY = [124, 116, 104]  # the mean of ImageNet, which the network sees as zero

Pair = tuple[tv_tensors.Image, tv_tensors.Mask]


class View(NamedTuple):
    """One frame of one photo: the photo's place in its set, and the number of the view.

    Number 0 is the frame that the deployed model would see, every other one is augmented.
    """

    photo: int
    number: int


class TrainingFrames(Dataset[tuple[Tensor, Tensor]]):
    """Frames by `View`: images (H, W, 3) uint8 and labels (H, W) uint8.

    The same view is the same frame, in whatever process and order it is asked for: so runs can be
    resumed, spread over processes and cached without changing what the network sees.

    Args:
        photos: where the views are taken from.
        preprocess: size and kernel of the frames.
        seed: of the run; with the view it decides the augmentation.
        faults: of the study, to be repeated in the labels.
        keep: hold the photos in memory, for views that are augmented anew in every epoch. Sets
            that would take more than `KEPT_BYTES` are read from disk each time.
    """

    def __init__(
        self,
        photos: PhotoSet,
        preprocess: Preprocess,
        seed: int,
        *,
        faults: Collection[Fault] = (),
        keep: bool = True,
    ) -> None:
        self._photos = photos.photos
        self._frame = preprocess
        self._seed = seed
        self._larger = replace(preprocess, size_hw=_scaled(preprocess.size_hw, _KEPT))
        self._faults = faults
        self._augment = _augmentation(preprocess.size_hw)
        self._kept: list[Pair] | None = None
        height, width = self._larger.size_hw
        if keep and len(photos) * height * width * 4 <= KEPT_BYTES:
            self._kept = [self._read(i, self._larger) for i in range(len(photos))]

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, view: View) -> tuple[Tensor, Tensor]:
        if view.number == 0:
            image, labels = self._read(view.photo, self._frame)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_from(self._seed, view.number, view.photo))
                image, labels = self._augment(*self._larger_pair(view.photo))
        return (
            image.as_subclass(Tensor).permute(1, 2, 0).contiguous(),
            labels.as_subclass(Tensor).contiguous(),
        )

    def _larger_pair(self, photo: int) -> Pair:
        return self._kept[photo] if self._kept else self._read(photo, self._larger)

    def _read(self, photo: int, preprocess: Preprocess) -> Pair:
        item = self._photos[photo]
        rgb, labels = read_pair(item)
        truth = faulty_labels(item, frame_from_labels(labels, preprocess), self._faults)
        frame = torch.from_numpy(frame_from_photo(rgb, preprocess)).permute(2, 0, 1).contiguous()
        # As a Mask the transforms move it with its photo, by nearest neighbour, and never recolour.
        return tv_tensors.Image(frame), tv_tensors.Mask(torch.from_numpy(truth))


class EpochViews(Sampler[list[View]]):
    """The batches of one epoch for one of several processes: every photo once, in seeded order.

    Each batch of `batch_size` views is divided over the processes as evenly as it goes. A last
    batch that would leave a process with fewer than `smallest` photos is left out.

    Args:
        photos: how many there are.
        batch_size: of all processes together.
        seed: of the run.
        views: augmented views of each photo, taken in turn epoch by epoch; None makes a new one
            every time.
        smallest: 2 where a BatchNorm trains, which has no variance of one.
        rank, world: this process, and how many there are.
    """

    def __init__(
        self,
        photos: int,
        batch_size: int,
        seed: int,
        *,
        views: int | None,
        smallest: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._photos = photos
        self._seed = seed
        self._views = views
        self._rank, self._world = rank, world
        starts = range(0, photos, batch_size)
        self._batches = [
            slice(start, start + batch_size)
            for start in starts
            if min(batch_size, photos - start) // world >= smallest
        ]
        self.epoch = 1

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def photos_per_epoch(self) -> int:
        """Photos that all processes together train on in an epoch."""
        return sum(min(batch.stop, self._photos) - batch.start for batch in self._batches)

    def __iter__(self) -> Iterator[list[View]]:
        rng = np.random.default_rng([self._seed, self.epoch])
        order = rng.permutation(self._photos)
        for batch in self._batches:
            mine = np.array_split(order[batch], self._world)[self._rank]
            yield [self._view(int(photo)) for photo in mine]

    def _view(self, photo: int) -> View:
        return View(photo, self.epoch if self._views is None else (self.epoch - 1) % self._views)


def seed_from(*numbers: int) -> int:
    """One seed from several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def smallest_batch(trainable: Trainable) -> int:
    """Fewest photos that a process can take a step with: a BatchNorm has no variance of one."""
    return 1 if trainable == "head" else 2


def _augmentation(size_hw: SizeHW) -> v2.Transform:
    """Turned, sheared and shrunk at times, cropped to 40 to 100 % of the area, flipped, recoloured.

    What is uncovered is VOID: nobody labelled it.
    """
    turned = v2.RandomAffine(
        degrees=20,
        scale=(0.7, 1.1),
        shear=8,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill={tv_tensors.Image: _GREY, tv_tensors.Mask: VOID},
    )
    return v2.Compose(
        [
            v2.RandomApply([turned], p=0.6),
            v2.RandomResizedCrop(size_hw, scale=(0.4, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.4, hue=0.03),
        ]
    )


def _scaled(size_hw: SizeHW, factor: float) -> SizeHW:
    height, width = (max(_STRIDE, round(side * factor / _STRIDE) * _STRIDE) for side in size_hw)
    return height, width
