"""The model that comes with flowerseg: whole, small, and as good as its card says."""

from pathlib import Path

import pytest

from flowerseg.artifact import open_artifact
from flowerseg.data import open_photos
from flowerseg.errors import ArtifactError
from flowerseg.evaluate import count_labelled, signatures_of
from flowerseg.metrics import scores
from flowerseg.seen import count_seen
from flowerseg.segmenter import Segmenter
from flowerseg.shipped import shipped_model

FLOWERS17 = Path(__file__).parents[2] / "shared/flowers17"


def test_shipped_model_is_small_and_what_its_manifest_says() -> None:
    path = shipped_model()
    assert path.stat().st_size <= 25e6
    manifest = open_artifact(path).manifest  # its SHA-256 is checked here
    assert manifest.architecture == "deeplabv3_mobilenet_v3_large"
    assert manifest.proof is not None
    assert manifest.proof.status == "proved"
    assert manifest.data is not None
    assert manifest.data.val_iou == pytest.approx(0.9744, abs=1e-4)
    assert manifest.data.seen is not None
    assert manifest.data.seen.is_complete  # its training began with random weights
    assert manifest.data.train_photos == 431
    assert len(manifest.data.seen.as_bytes) == 419  # the others equal one of these


@pytest.mark.skipif(not FLOWERS17.is_dir(), reason="the labelled photos are not on this machine")
@pytest.mark.parametrize(("split", "copies"), [("val1", 13), ("tst1", 4)])
def test_copies_of_training_photos_are_as_many_as_the_card_says(split: str, copies: int) -> None:
    data = open_artifact(shipped_model()).manifest.data
    assert data is not None
    assert data.seen is not None
    assert count_seen(data.seen, signatures_of(open_photos(FLOWERS17, split))) == copies


@pytest.mark.slow
@pytest.mark.skipif(not FLOWERS17.is_dir(), reason="the labelled photos are not on this machine")
def test_shipped_model_is_as_good_as_its_card_says() -> None:
    photos = open_photos(FLOWERS17, "tst1")
    with Segmenter.open(shipped_model(), device="cpu") as segmenter:
        found = scores(count_labelled(segmenter, photos, 8))
    assert found.photos == 94
    assert found.iou == pytest.approx(0.9745, abs=2e-4)  # models/README.md
    assert found.mean_iou == pytest.approx(0.9595, abs=5e-4)


def test_installation_without_the_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowerseg.shipped.__file__", str(tmp_path / "flowerseg/shipped.py"))
    with pytest.raises(ArtifactError, match=r"flower_mobilenet_v3\.pt is missing"):
        shipped_model()
