"""What the steps and validations of a run read: frames, or features that were computed once."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from flowerseg.errors import TrainingError
from flowerseg.labelled import PhotoSet
from flowerseg.model import FlowerNet
from flowerseg.train.amp import Amp
from flowerseg.train.config import Fault, TrainConfig
from flowerseg.train.features import (
    FeatureCache,
    Features,
    cache_folder,
    feature_key,
    frozen_features,
)
from flowerseg.train.frames import EpochViews, TrainingFrames, smallest_batch
from flowerseg.train.processes import Processes

OnFeatures = Callable[[str, int, int], None]
"""Called with the name of a split, its frames that went through the network, and all of them."""


def epoch_views(photos: PhotoSet, config: TrainConfig, processes: Processes) -> EpochViews:
    smallest = smallest_batch(config.trainable)
    batches = EpochViews(
        len(photos),
        min(config.batch_size, len(photos)),
        config.seed,
        views=config.views if config.trainable == "head" else None,
        smallest=smallest,
        rank=processes.rank,
        world=processes.world,
    )
    if not len(batches):
        raise TrainingError(
            f"{photos.name}: {len(photos)} photos in batches of {config.batch_size} are too few "
            f"for {processes.world} processes, each of which needs {smallest} at a time."
        )
    return batches


@dataclass(frozen=True)
class Examples:
    """Frames or cached features to train with, and how validation photos are seen."""

    train: TrainingFrames | Features
    val: Features | None  # None: validation photos go through the whole network
    workers: int

    def loader(self, batches: EpochViews, device: str) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches of one epoch after another, on the host, ready to be copied to `device`."""
        return DataLoader(
            self.train,
            batch_sampler=batches,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=device.startswith("cuda"),
            # Its own: it seeds new workers, and would draw from the one that dropout draws from,
            # in the first epoch only.
            generator=torch.Generator(),
        )


def live_examples(config: TrainConfig, photos: PhotoSet) -> Examples:
    keep = config.trainable != "head" or config.views > 1
    frames = TrainingFrames(photos, config.preprocess, config.seed, faults=config.faults, keep=keep)
    return Examples(frames, None, _workers())


def cached_examples(
    config: TrainConfig,
    train: PhotoSet,
    val: PhotoSet,
    network: FlowerNet,
    device: str,
    amp: Amp,
    processes: Processes,
    on_features: OnFeatures,
) -> Examples:
    """Features of both splits; one process of each machine computes what is not kept yet."""
    cache = FeatureCache(cache_folder(), config.cache_bytes)

    def features_of(photos: PhotoSet, views: int, amp: Amp, faults: Sequence[Fault]) -> Features:
        key = feature_key(
            network,
            photos=photos.fingerprint,
            preprocess=config.preprocess,
            views=views,
            seed=config.seed if views > 1 else 0,
            faults=sorted(faults),
            amp=amp,
        )
        if processes.local_rank == 0 and cache.find(key, views) is None:
            frames = TrainingFrames(
                photos, config.preprocess, config.seed, faults=faults, keep=views > 1
            )
            compute = frozen_features(network, device, amp)
            cache.fill(key, frames, views, compute, partial(on_features, photos.name))
        processes.wait()
        found = cache.find(key, views)
        if found is None:
            raise TrainingError(
                f"{cache_folder()}: the features of {photos.name} are gone. Is another run "
                "filling the same cache? Train again with a larger --cache-gib, or --no-cache."
            )
        return found

    features = features_of(train, config.views, amp, config.faults)
    # What is measured is measured in FP32 and without the study's faults.
    return Examples(features, features_of(val, 1, "off", ()), workers=0)


def _workers() -> int:
    # Two are enough to feed a step on a CPU, which they would only slow; a GPU eats far more.
    return min(8, (os.cpu_count() or 1) // 2)
