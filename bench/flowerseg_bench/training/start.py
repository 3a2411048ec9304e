"""Weights to start from where none are given, and weights without a head."""

from pathlib import Path

import numpy as np
import torch

from flowerseg.checkpoint import FORMAT
from flowerseg.data import open_photos
from flowerseg.model import FlowerNet
from flowerseg.preprocess import Preprocess, frame_from_photo
from flowerseg.tensorfile import read_tensors
from flowerseg_bench.network import random_network
from flowerseg_bench.training.command import Setup

RANDOM_NOTE = (
    "The weights are random from a fixed seed, and their BatchNorms hold the statistics of up to "
    "64 training photos: features are in range and tell photos apart, but mean nothing. Time and "
    "memory are those of trained weights. IoU is low; only whether it is equal matters"
)
_PHOTOS = 64
_HEAD = "classifier.4."


def starting_weights(setup: Setup, work: Path) -> str:
    """What `--weights` gets: as given, or a file made in `work`."""
    if setup.weights is not None:
        return setup.weights
    path = work / "calibrated.pt"
    torch.save(calibrated_network(setup).state_dict(), path)
    return str(path)


def calibrated_network(setup: Setup) -> FlowerNet:
    """A random network whose BatchNorms have seen training photos."""
    photos = open_photos(setup.data, setup.train_split).limited(_PHOTOS).photos
    preprocess = Preprocess((setup.size, setup.size))
    frames = np.stack([frame_from_photo(item.read_rgb(), preprocess) for item in photos])
    return random_network(setup.arch, torch.from_numpy(frames), setup.seed)


def without_head(weights: str, path: Path) -> str:
    """A copy of a file of weights in `path`, less the last layer; a name such as coco as it is.

    Raises:
        ArtifactError: the file cannot be read.
    """
    if not Path(weights).is_file():
        return weights
    content = read_tensors(Path(weights))
    state = content["weights"] if content.get("format") == FORMAT else content
    torch.save({name: t for name, t in state.items() if not name.startswith(_HEAD)}, path)
    return str(path)
