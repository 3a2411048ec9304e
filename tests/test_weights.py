"""Where a network starts from; every download is planted."""

import hashlib
import io
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


@pytest.fixture(autouse=True)
def downloads_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for downloads that is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"


def _plant_download(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | dict[str, Tensor]
) -> list[str]:
    """Put `answer` in place of torch's download; the name in the URL has the file's SHA-256.

    Returns:
        the URLs that are downloaded.
    """
    urls: list[str] = []

    def download(url: str, path: str, *_: object, **__: object) -> None:
        urls.append(url)
        if isinstance(answer, Exception):
            raise answer
        Path(path).write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    if not isinstance(answer, Exception):
        content = _saved(answer)
        _plant_url(monkeypatch, content)
    return urls


def _plant_url(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Have torchvision name a file with these bytes as the one to download."""
    digest = hashlib.sha256(content).hexdigest()[:8]
    monkeypatch.setattr(WeightsEnum, "url", f"https://example.org/any-{digest}.pth")


def _saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "error",
    [URLError("no route to host"), TimeoutError("timed out"), RuntimeError("invalid hash value")],
)
@pytest.mark.parametrize(
    ("weights", "model"),
    [("coco", "deeplabv3_mobilenet_v3_large"), ("imagenet", "mobilenet_v3_large")],
)
def test_failed_download_names_url_and_folder(
    monkeypatch: pytest.MonkeyPatch,
    downloads_folder: Path,
    weights: str,
    model: str,
    error: Exception,
) -> None:
    urls = _plant_download(monkeypatch, error)
    with pytest.raises(TrainingError) as caught:
        network_from_weights(MOBILENET, weights)
    message = str(caught.value)
    assert urls == [get_model_weights(model).DEFAULT.url]
    assert urls[0] in message
    assert f"{downloads_folder}/" in message
    assert "--weights none" in message
    assert str(error.args[0]) in message


def test_imagenet_weights_go_into_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = get_model("mobilenet_v3_large", weights=None)
    _plant_download(monkeypatch, classifier.state_dict())
    network = network_from_weights(MOBILENET, "imagenet")
    theirs = classifier.features.state_dict()
    _assert_same(network.backbone.state_dict(), {k: theirs[k] for k in theirs})


def test_coco_weights_of_21_classes_leave_the_head_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    coco = get_model(str(MOBILENET), weights=None, weights_backbone=None, aux_loss=True)
    urls = _plant_download(monkeypatch, coco.state_dict())
    for _ in range(2):
        network = network_from_weights(MOBILENET, "coco")
        _assert_same(_backbone(network.state_dict()), _backbone(coco.state_dict()))
    assert len(urls) == 1  # kept


def test_none_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = _plant_download(monkeypatch, AssertionError())
    network_from_weights(MOBILENET, "none")
    assert urls == []


def _keep(monkeypatch: pytest.MonkeyPatch, folder: Path, content: bytes) -> Path:
    """Put bytes where the download would be kept."""
    folder.mkdir(parents=True)
    path = folder / Path(get_model_weights(str(MOBILENET)).DEFAULT.url).name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"PK", _saved({})[:-9], _saved({"a": torch.ones(1)})])
def test_kept_weights_with_another_hash_are_refused(
    monkeypatch: pytest.MonkeyPatch, downloads_folder: Path, content: bytes
) -> None:
    path = _keep(monkeypatch, downloads_folder, content)
    with pytest.raises(TrainingError, match="fc3c493d") as refused:
        network_from_weights(MOBILENET, "coco")
    assert str(refused.value).startswith(f"{path}: ")
    assert "Remove it" in str(refused.value)


class _Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("has_right_hash", [True, False])
def test_code_in_kept_weights_never_runs(
    monkeypatch: pytest.MonkeyPatch, downloads_folder: Path, tmp_path: Path, has_right_hash: bool
) -> None:
    content = _saved(_Touch(tmp_path / "was-run"))
    if has_right_hash:
        _plant_url(monkeypatch, content)
    _keep(monkeypatch, downloads_folder, content)
    with pytest.raises((TrainingError, ArtifactError), match=str(downloads_folder)):
        network_from_weights(MOBILENET, "coco")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("kind", ["file", "no home"])
def test_folder_for_downloads_that_cannot_be_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    urls = _plant_download(monkeypatch, AssertionError())
    (tmp_path / "file").touch()
    folder = tmp_path / "file/hub" if kind == "file" else Path("~/.cache/torch/hub")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    with pytest.raises(TrainingError, match="Set TORCH_HOME to a folder that you can write to"):
        network_from_weights(MOBILENET, "coco")
    assert urls == []
