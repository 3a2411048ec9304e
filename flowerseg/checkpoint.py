"""Checkpoints: weights in a file that `weights_only` loads, described by a manifest."""

from pathlib import Path
from typing import Any

import torch

from flowerseg.artifact import Artifact, Kind, Manifest, open_artifact, publish
from flowerseg.errors import ArtifactError
from flowerseg.model import Architecture, FlowerNet

FORMAT = "flowerseg-checkpoint-1"


def save_checkpoint(path: Path, network: FlowerNet, manifest: Manifest) -> Artifact:
    """Write the network's weights and their manifest, whose hash and date are filled in."""
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    content = {
        "format": FORMAT,
        "architecture": str(network.architecture),
        "head_padding": network.head.padding[0],
        "weights": weights,
    }
    return publish(path, manifest, lambda temporary: torch.save(content, temporary))


def load_checkpoint(path: Path) -> tuple[Artifact, FlowerNet]:
    """Open a checkpoint: its artifact and the network in FP32, in eval mode, on the CPU.

    Raises:
        ArtifactError: see `open_artifact`; or the file is no checkpoint of flowerseg.
    """
    artifact = open_artifact(path)
    return artifact, network_from_artifact(artifact)


def network_from_artifact(artifact: Artifact) -> FlowerNet:
    """The network of an opened checkpoint, in FP32, in eval mode, on the CPU.

    Raises:
        ArtifactError: the file is no checkpoint, or its weights do not fit the architecture.
    """
    if artifact.manifest.kind is not Kind.CHECKPOINT:
        raise ArtifactError(
            f"{artifact.path} is a model of kind {artifact.manifest.kind}; a checkpoint (.pt) of "
            "flowerseg-train is needed here."
        )
    content = read_weights_only(artifact.path)
    if content.get("format") != FORMAT:
        raise ArtifactError(f"{artifact.path}: not a {FORMAT} file. Train or export it again.")
    network = FlowerNet(
        Architecture(content["architecture"]), head_padding=content.get("head_padding", 1)
    )
    try:
        network.load_state_dict(
            {
                name: t.float() if t.is_floating_point() else t
                for name, t in content["weights"].items()
            }
        )
    except RuntimeError as error:
        raise ArtifactError(f"{artifact.path}: weights do not fit: {error}") from error
    return network.eval()


def read_weights_only(path: Path) -> dict[str, Any]:
    """Read a file of tensors without running any code in it.

    Raises:
        ArtifactError: it cannot be read so.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here; each means the same to the user
        raise ArtifactError(f"{path}: not a readable weights file: {error}") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: holds a {type(content).__name__}, not weights by name.")
    return content
