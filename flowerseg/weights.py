"""Where a network's first weights come from: COCO, ImageNet, nothing, or a file."""

import os
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from flowerseg.artifact import Data, manifest_path, read_manifest
from flowerseg.checkpoint import FORMAT
from flowerseg.errors import ArtifactError, TrainingError
from flowerseg.files import sha256_of_regular
from flowerseg.model import Architecture, FlowerNet
from flowerseg.smallfiles import reason_of
from flowerseg.tensorfile import read_tensors, require_weights

NAMED_WEIGHTS = ("none", "coco", "imagenet")
"""Weights that are no file, and that have seen no photo of the user's."""

_BACKBONES = {
    Architecture.RESNET101: "resnet101",
    Architecture.RESNET50: "resnet50",
    Architecture.MOBILENET_V3_LARGE: "mobilenet_v3_large",
}


def network_from_weights(
    architecture: Architecture, weights: str, *, head_padding: int = 1
) -> FlowerNet:
    """A network that starts from `weights`: coco, imagenet, none, or the path of a file.

    A file is a checkpoint of flowerseg or a state dict of torchvision's DeepLabV3. A head of
    another shape, such as COCO's 21 classes, is left as initialised.

    Raises:
        TrainingError: the download failed, the downloaded file was damaged or replaced since, or
            the file does not fit the architecture.
        ArtifactError: the file cannot be read.
    """
    network = FlowerNet(architecture, head_padding=head_padding)
    if weights == "none":
        return network
    if weights == "coco":
        _load(network, _download(get_model_weights(architecture).DEFAULT), weights)
    elif weights == "imagenet":
        state = _download(get_model_weights(_BACKBONES[architecture]).DEFAULT)
        prefix = "features." if architecture is Architecture.MOBILENET_V3_LARGE else ""
        backbone = {f"backbone.{k.removeprefix(prefix)}": v for k, v in state.items()}
        _load(network, backbone, weights)
    else:
        content = read_tensors(Path(weights))
        named = content.get("weights") if content.get("format") == FORMAT else content
        _load(network, require_weights(named, Path(weights)), weights)
    return network


def training_data_of(weights: Path) -> Data | None:
    """What the manifest beside a file of weights says of its training; None where none does."""
    try:
        manifest = read_manifest(manifest_path(weights))
        actual = sha256_of_regular(weights, follows_link=True)
    except (ArtifactError, OSError):
        return None
    return manifest.data if manifest.sha256 == actual else None


def _load(network: FlowerNet, state: dict[str, Tensor], source: str) -> None:
    """Copy every weight that has the same name and shape; the backbone must be complete."""
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    missing = [k for k in own if k.startswith("backbone.") and k not in fitting]
    if missing:
        raise TrainingError(
            f"--weights {source}: {len(missing)} of the backbone's tensors are missing or of "
            f"another shape (first: {missing[0]}). Is it a {network.architecture}?"
        )
    network.load_state_dict(fitting, strict=False)


def _require_writable(folder: Path) -> None:
    """Refuse torch's folder for downloads if it is not writable.

    Raises:
        TrainingError: naming the variable that chooses another one.
    """
    advice = "Set TORCH_HOME to a folder that you can write to, or use --weights none or FILE."
    if folder.parts[0] == "~":  # torch would make a folder of that name
        raise TrainingError(
            f"This user has no home folder, so there is no place for downloads. {advice}"
        )
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise TrainingError(f"{folder}: no weights can be downloaded to it. {advice}")


def _download(weights: Any) -> dict[str, Tensor]:
    """Weights of torchvision: downloaded once, kept in torch's folder, read without running code.

    torchvision's own loader compares the hash only after a download, and unpickles what is kept.

    Raises:
        TrainingError: the download failed, or the kept file is not the one that was downloaded.
        ArtifactError: the file cannot be read.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / PurePosixPath(urlsplit(weights.url).path).name
    sha256_prefix = path.stem.rpartition("-")[2]  # of torchvision's names, resnet50-11ad3fa6.pth
    try:
        if not path.exists():
            _require_writable(folder)
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(path), sha256_prefix)
    except (URLError, OSError, RuntimeError) as error:
        raise TrainingError(
            f"{weights}: could not be downloaded ({error}). Fetch {weights.url} on a machine with "
            f"a network and put it into {folder}/ (TORCH_HOME chooses another folder), or train "
            "with --weights none or --weights FILE."
        ) from error
    _require_sha256(path, sha256_prefix)
    return require_weights(read_tensors(path), path)


def _require_sha256(path: Path, prefix: str) -> None:
    try:
        actual = sha256_of_regular(path, follows_link=True)
    except OSError as error:
        raise TrainingError(
            f"{path}: the downloaded weights cannot be read: {reason_of(error)}. Remove it and run "
            "again, and it is downloaded again."
        ) from error
    if not actual.startswith(prefix):
        raise TrainingError(
            f"{path}: damaged or replaced since its download: its SHA-256 begins with "
            f"{actual[: len(prefix)]}, not with {prefix}. Remove it and run again, and it is "
            "downloaded again."
        )
