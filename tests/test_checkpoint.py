"""Checkpoints: weights come back as they were, and no code in a file is ever run."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowerseg.artifact import Artifact, Kind, Manifest, Precision, publish
from flowerseg.checkpoint import load_checkpoint, network_from_artifact
from flowerseg.errors import ArtifactError
from flowerseg.model import Architecture, FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg.tensorfile import read_tensors

MANIFEST = Manifest(Kind.CHECKPOINT, "any", Precision.FP32, Preprocess())


def _published(path: Path, content: object) -> Artifact:
    return publish(path, MANIFEST, lambda file: torch.save(content, file))


def test_weights_come_back_as_they_were(checkpoint: Path, small_network: FlowerNet) -> None:
    artifact, network = load_checkpoint(checkpoint)
    assert artifact.manifest.preprocess.size_hw == (64, 64)
    assert network.architecture is Architecture.MOBILENET_V3_LARGE
    assert not any(module.training for module in network.modules())
    weights = small_network.state_dict()
    assert network.state_dict().keys() == weights.keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


class _Bomb:
    """A pickle that would write a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.target, "boom")


def _save_plain_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, _save_plain_pickle])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, save: Any) -> None:
    target = tmp_path / "boom.txt"
    save({"format": "flowerseg-checkpoint-1", "weights": _Bomb(target)}, tmp_path / "evil.pt")
    with pytest.raises(ArtifactError, match=r"evil\.pt: not a readable weights file"):
        read_tensors(tmp_path / "evil.pt")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_file_that_is_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.pt: not a readable weights file"):
        read_tensors(tmp_path / "a.pt")


def test_file_that_holds_no_names_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match="holds a list, not weights by name"):
        read_tensors(tmp_path / "a.pt")


def test_weights_of_another_format_are_refused(tmp_path: Path) -> None:
    artifact = _published(tmp_path / "a.pt", {"weights": {}})
    with pytest.raises(ArtifactError, match="not a flowerseg-checkpoint-1 file"):
        network_from_artifact(artifact)


def test_weights_of_another_architecture_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    content = read_tensors(checkpoint) | {"architecture": "deeplabv3_resnet50"}
    with pytest.raises(ArtifactError, match=r"a\.pt: weights do not fit"):
        network_from_artifact(_published(tmp_path / "a.pt", content))


def test_model_of_another_kind_is_refused(fp32_onnx: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"kind onnx; a checkpoint \(\.pt\) .* is needed here"):
        network_from_artifact(fp32_onnx)


def test_half_weights_are_widened(tmp_path: Path, checkpoint: Path) -> None:
    content = read_tensors(checkpoint)
    halves = {k: t.half() if t.is_floating_point() else t for k, t in content["weights"].items()}
    network = network_from_artifact(_published(tmp_path / "a.pt", content | {"weights": halves}))
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "changed",
    [
        {"architecture": None},
        {"architecture": "unet"},
        {"architecture": []},
        {"head_padding": "1"},
        {"head_padding": -1},
        {"head_padding": 10**9},
        {"weights": None},
        {"weights": {}},
        {"weights": {"head": torch.zeros(1)}},
    ],
    ids=str,
)
def test_hostile_content_is_refused(
    tmp_path: Path, checkpoint: Path, changed: dict[str, object]
) -> None:
    content = read_tensors(checkpoint) | changed
    with pytest.raises(ArtifactError, match=r"a\.pt: "):
        network_from_artifact(_published(tmp_path / "a.pt", content))


def test_huge_weight_made_of_one_number_is_refused_before_it_is_widened(
    tmp_path: Path, checkpoint: Path
) -> None:
    """A terabyte of halves that all lie in the same two bytes."""
    weights = dict(read_tensors(checkpoint)["weights"])
    name = next(iter(weights))
    weights[name] = torch.zeros(1).half().expand(2**39)
    content = read_tensors(checkpoint) | {"weights": weights}
    with pytest.raises(ArtifactError, match=rf"{name} is \(549755813888,\), not"):
        network_from_artifact(_published(tmp_path / "a.pt", content))
