"""Where a network starts from; every download is planted."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor
from torchvision.models import get_model, get_model_weights
from torchvision.models._api import WeightsEnum

from flowerseg.errors import ArtifactError, TrainingError
from flowerseg.model import Architecture, FlowerNet
from flowerseg.weights import network_from_weights

MOBILENET = Architecture.MOBILENET_V3_LARGE


def _backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if name.startswith("backbone.")}


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_checkpoint_of_flowerseg_is_loaded_whole(
    checkpoint: Path, small_network: FlowerNet
) -> None:
    network = network_from_weights(MOBILENET, str(checkpoint))
    _assert_same(network.state_dict(), small_network.state_dict())


def test_state_dict_of_torchvision_is_loaded_but_for_the_head(tmp_path: Path) -> None:
    theirs = get_model(str(MOBILENET), weights=None, weights_backbone=None, num_classes=21)
    torch.save(theirs.state_dict(), tmp_path / "coco.pt")
    network = network_from_weights(MOBILENET, str(tmp_path / "coco.pt"))
    _assert_same(_backbone(network.state_dict()), _backbone(theirs.state_dict()))
    assert torch.equal(
        network.classifier[0].convs[0][0].weight, theirs.classifier[0].convs[0][0].weight
    )
    assert network.head.weight.shape == (2, 256, 3, 3)


def test_weights_of_another_architecture_are_refused(checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match=r"backbone's tensors .*Is it a deeplabv3_resnet50\?"):
        network_from_weights(Architecture.RESNET50, str(checkpoint))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.pt: not a readable weights file"):
        network_from_weights(MOBILENET, str(tmp_path / "none.pt"))


def _plant_download(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[WeightsEnum]:
    """Put `answer` (an exception or a state dict) in place of torchvision's download."""
    asked: list[WeightsEnum] = []

    def get_state_dict(self: WeightsEnum, *_: object, **__: object) -> dict[str, Tensor]:
        asked.append(self)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get_state_dict)
    return asked


@pytest.mark.parametrize(
    "error",
    [URLError("no route to host"), TimeoutError("timed out"), RuntimeError("invalid hash value")],
)
@pytest.mark.parametrize(
    ("weights", "model"),
    [("coco", "deeplabv3_mobilenet_v3_large"), ("imagenet", "mobilenet_v3_large")],
)
def test_failed_download_names_url_and_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: str, model: str, error: Exception
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _plant_download(monkeypatch, error)
    with pytest.raises(TrainingError) as caught:
        network_from_weights(MOBILENET, weights)
    said = str(caught.value)
    assert get_model_weights(model).DEFAULT.url in said
    assert f"{tmp_path}/hub/checkpoints/" in said
    assert "--weights none" in said
    assert str(error.args[0]) in said


def test_imagenet_weights_go_into_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = get_model("mobilenet_v3_large", weights=None)
    asked = _plant_download(monkeypatch, classifier.state_dict())
    network = network_from_weights(MOBILENET, "imagenet")
    assert asked == [get_model_weights("mobilenet_v3_large").DEFAULT]
    theirs = classifier.features.state_dict()
    _assert_same(network.backbone.state_dict(), {k: theirs[k] for k in theirs})


def test_coco_weights_of_21_classes_leave_the_head_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    coco = get_model(str(MOBILENET), weights=None, weights_backbone=None, aux_loss=True)
    asked = _plant_download(monkeypatch, coco.state_dict())
    network = network_from_weights(MOBILENET, "coco")
    assert asked == [get_model_weights(str(MOBILENET)).DEFAULT]
    _assert_same(_backbone(network.state_dict()), _backbone(coco.state_dict()))


def test_none_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _plant_download(monkeypatch, AssertionError())
    network_from_weights(MOBILENET, "none")
    assert asked == []


@pytest.mark.parametrize("kind", ["file", "no home"])
def test_folder_for_downloads_that_cannot_be_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    asked = _plant_download(monkeypatch, AssertionError())
    (tmp_path / "file").touch()
    folder = tmp_path / "file/hub" if kind == "file" else Path("~/.cache/torch/hub")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    with pytest.raises(TrainingError, match="Set TORCH_HOME to a folder that you can write to"):
        network_from_weights(MOBILENET, "coco")
    assert asked == []
