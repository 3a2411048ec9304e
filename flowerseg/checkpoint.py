"""Checkpoints: weights in a file that `weights_only` loads, described by a manifest."""

from pathlib import Path
from typing import Any

from torch import Tensor

from flowerseg.artifact import Artifact, Kind, Manifest, open_artifact, publish
from flowerseg.errors import ArtifactError, some_of
from flowerseg.model import Architecture, FlowerNet
from flowerseg.tensorfile import read_tensors, require_weights, write_tensors

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
    return publish(path, manifest, lambda temporary: write_tensors(content, temporary))


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
    content = read_tensors(artifact.path)
    if content.get("format") != FORMAT:
        raise ArtifactError(f"{artifact.path}: not a {FORMAT} file. Train or export it again.")
    network = _empty_network(content, artifact.path)
    weights = require_weights(content.get("weights"), artifact.path)
    if reason := _misfit(network.state_dict(), weights):
        raise ArtifactError(
            f"{artifact.path}: weights do not fit {network.architecture}: {reason}. Train or "
            "export it again."
        )
    network.load_state_dict(
        {name: t.float() if t.is_floating_point() else t for name, t in weights.items()}
    )
    return network.eval()


def _empty_network(content: dict[str, Any], path: Path) -> FlowerNet:
    architecture, padding = content.get("architecture"), content.get("head_padding", 1)
    known = [str(each) for each in Architecture]
    if architecture not in known or type(padding) is not int or padding not in (0, 1):
        raise ArtifactError(
            f"{path}: unknown architecture or padding of the head; this flowerseg knows "
            f"{', '.join(known)} with a padding of 0 or 1. Train or export it again."
        )
    return FlowerNet(Architecture(architecture), head_padding=padding)


def _misfit(own: dict[str, Tensor], weights: dict[str, Tensor]) -> str:
    """The first weight that is missing, unknown or of another shape; empty where all fit."""
    if missing := sorted(own.keys() - weights.keys()):
        return f"{some_of(missing)} missing"
    if unknown := sorted(weights.keys() - own.keys(), key=ascii):
        return f"{some_of(unknown)} unknown"
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            return f"{name} is {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        if tensor.is_floating_point() != own[name].is_floating_point():
            return f"{name} is {tensor.dtype}, not {own[name].dtype}"
    return ""
