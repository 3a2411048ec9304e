"""Training: what is frozen stays, void counts for nothing, and a run leaves its files."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from flowerseg import train as train_module
from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.artifact import manifest_path, open_artifact
from flowerseg.checkpoint import load_checkpoint, read_weights_only
from flowerseg.data import open_photos
from flowerseg.errors import DataError, TrainingError
from flowerseg.images import read_rgb
from flowerseg.model import Architecture, FlowerNet
from flowerseg.preprocess import Preprocess
from flowerseg.train import Trainable, TrainConfig, TrainReport, masked_loss, set_trainable, train
from flowerseg.train import train_mode as set_train_mode

Config = Callable[..., TrainConfig]


@pytest.fixture
def config(painted: Path, checkpoint: Path, tmp_path: Path) -> Config:
    return _config_maker(painted, checkpoint, tmp_path / "run")


def _config_maker(painted: Path, checkpoint: Path, out: Path) -> Config:
    """Short runs from the small network's weights: two steps an epoch."""
    base = {
        "data": painted,
        "out": out,
        "architecture": Architecture.MOBILENET_V3_LARGE,
        "weights": str(checkpoint),
        "epochs": 1,
        "batch_size": 6,
        "lr": 1e-3,
        "preprocess": Preprocess((64, 64)),
        "device": "cpu",
    }
    return lambda **changes: TrainConfig(**(base | changes))


@pytest.fixture(scope="module")
def finished(
    painted: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainReport:
    """Two epochs of the whole network."""
    out = tmp_path_factory.mktemp("train") / "run"
    return train(_config_maker(painted, checkpoint, out)(trainable="all", epochs=2))


def _weights(path: Path) -> dict[str, Tensor]:
    return read_weights_only(path)["weights"]


def _moved(run: Path, start: Path) -> set[str]:
    before, after = _weights(start), _weights(run / "last.pt")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_only_the_head_moves_when_only_the_head_trains(config: Config, checkpoint: Path) -> None:
    chosen = config(trainable="head")
    train(chosen)
    # Not a weight and not a BatchNorm statistic besides.
    assert _moved(chosen.out, checkpoint) == {"classifier.4.weight", "classifier.4.bias"}


def test_backbone_and_its_statistics_stay_when_the_classifier_trains(
    config: Config, checkpoint: Path
) -> None:
    chosen = config(trainable="classifier")
    train(chosen)
    moved = _moved(chosen.out, checkpoint)
    assert {name.partition(".")[0] for name in moved} == {"classifier"}
    assert "classifier.2.running_mean" in moved


@pytest.mark.parametrize(
    ("trainable", "training"),
    [("head", {"classifier.4"}), ("all", {"backbone", "classifier.0", "classifier.4"})],
)
def test_frozen_blocks_are_in_eval_mode(trainable: Trainable, training: set[str]) -> None:
    network = FlowerNet(Architecture.MOBILENET_V3_LARGE)
    set_trainable(network, trainable)
    set_train_mode(network)
    blocks = ("backbone", "classifier.0", "classifier.4")
    assert {name for name in blocks if network.get_submodule(name).training} == training


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 7, generator=generator)
    labels = torch.tensor([BACKGROUND, FLOWER, VOID], dtype=torch.uint8)
    return logits, labels[torch.randint(0, 3, logits.shape, generator=generator)]


def test_loss_is_the_two_class_cross_entropy_without_void() -> None:
    logits, labels = _batch()
    scores = torch.stack([torch.zeros_like(logits), logits], dim=1)
    expected = functional.cross_entropy(scores, labels.long(), ignore_index=VOID)
    torch.testing.assert_close(masked_loss(logits, labels), expected)


def test_void_pixels_change_neither_loss_nor_gradient() -> None:
    logits, labels = _batch()
    void = labels == VOID
    results = []
    for strange in (0.0, -50.0, 1000.0):
        changed = torch.where(void, strange, logits).requires_grad_()
        loss = masked_loss(changed, labels)
        loss.backward()
        results.append((loss.detach(), changed.grad))
    for loss, gradient in results:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])
        assert not gradient[void].any()
        assert gradient[~void].all()


def test_batch_that_is_all_void_has_no_loss() -> None:
    labels = torch.full((1, 4, 4), VOID, dtype=torch.uint8)
    assert masked_loss(torch.ones(1, 4, 4), labels) == 0


def test_run_leaves_its_files(finished: TrainReport) -> None:
    out = finished.config.out
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "best.pt",
        "best.pt.json",
        "curves.png",
        "last.pt",
        "last.pt.json",
        "metrics.csv",
        "panels/epoch_001.jpg",
        "panels/epoch_002.jpg",
        "panels/worst.jpg",
        "report.json",
    ]
    assert read_rgb(out / "panels/epoch_002.jpg").shape[0] >= 6 * 192
    assert read_rgb(out / "curves.png").std() > 5


def test_metrics_have_a_row_for_each_epoch(finished: TrainReport) -> None:
    with (finished.config.out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row, epoch in zip(rows, finished.epochs, strict=True):
        assert epoch.scores is not None
        assert float(row["val_iou"]) == pytest.approx(epoch.scores.iou, rel=1e-4)
        assert math.isfinite(float(row["train_loss"]))


def test_report_tells_of_the_best_checkpoint(finished: TrainReport, painted: Path) -> None:
    out = finished.config.out
    told = json.loads((out / "report.json").read_text())
    best = open_artifact(out / "best.pt").manifest
    assert told["checkpoint_sha256"] == finished.checkpoint_sha256 == best.sha256
    assert best.data is not None
    assert (best.data.train_photos, best.data.val_photos) == (12, 6)
    assert best.data.fingerprint == open_photos(painted, "trn1").fingerprint
    ious = [epoch.scores.iou for epoch in finished.epochs if epoch.scores]
    assert told["val"]["iou"] == best.data.val_iou == max(ious)
    assert told["best_epoch"] == 1 + ious.index(max(ious))
    worst = [iou for _, iou in finished.worst_photos]
    assert worst == sorted(worst)


def test_rebuild_command_trains_the_same_again(finished: TrainReport, checkpoint: Path) -> None:
    manifest = open_artifact(finished.config.out / "best.pt").manifest
    assert manifest.rebuild.startswith(f"flowerseg-train --data {finished.config.data} --arch ")
    for words in ("--trainable all", "--epochs 2", "--size 64", "--seed 0", str(checkpoint)):
        assert words in manifest.rebuild


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_seed_decides_every_weight(
    config: Config, finished: TrainReport, seed: int, same: bool
) -> None:
    chosen = config(trainable="all", epochs=2, seed=seed)
    train(chosen)
    again, first = (_weights(out / "last.pt") for out in (chosen.out, finished.config.out))
    assert all(torch.equal(again[name], first[name]) for name in first) == same


def test_loss_that_is_not_finite_stops_and_keeps_the_best(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 1.0, math.nan])  # two steps an epoch: it breaks in the second epoch
    sound = train_module.masked_loss
    monkeypatch.setattr(train_module, "masked_loss", lambda *batch: sound(*batch) * next(losses))
    chosen = config(epochs=3)
    with pytest.raises(TrainingError, match=r"the loss became nan\. .* smaller --lr than 0\.001"):
        train(chosen)
    artifact, _ = load_checkpoint(chosen.out / "best.pt")
    assert artifact.manifest.data is not None
    assert not (chosen.out / "report.json").exists()
    assert len((chosen.out / "metrics.csv").read_text().splitlines()) == 2


def test_splits_that_overlap_are_refused_before_anything_is_written(config: Config) -> None:
    chosen = config(train_split="trn1+val1")
    with pytest.raises(DataError, match="share 6 photos"):
        train(chosen)
    assert not chosen.out.exists()


def test_run_that_is_there_is_not_replaced_unasked(config: Config) -> None:
    chosen = config()
    chosen.out.mkdir()
    (chosen.out / "best.pt").write_bytes(b"precious")
    with pytest.raises(TrainingError, match="--force"):
        train(chosen)
    assert [path.name for path in chosen.out.iterdir()] == ["best.pt"]
    assert (chosen.out / "best.pt").read_bytes() == b"precious"


def test_run_that_is_there_is_replaced_when_asked(config: Config) -> None:
    chosen = config(force=True)
    chosen.out.mkdir()
    (chosen.out / "best.pt").write_bytes(b"old")
    train(chosen)
    assert manifest_path(open_artifact(chosen.out / "best.pt").path).is_file()


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": 1.0}, {"lr": -1e-3}]
)
def test_config_out_of_range_is_refused(config: Config, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(**wrong)
