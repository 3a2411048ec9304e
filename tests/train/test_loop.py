"""Runs: what is frozen stays, what is left behind is true, and an interruption changes nothing."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowerseg.artifact import Data, manifest_path, open_artifact, rewrite_manifest
from flowerseg.caveats import Caveat, CaveatKind
from flowerseg.checkpoint import load_checkpoint
from flowerseg.data import PhotoSet, open_photos
from flowerseg.errors import DataError, TrainingError
from flowerseg.evaluate import segment_labelled, signatures_of
from flowerseg.images import read_rgb
from flowerseg.metrics import Counts, iou, scores, total
from flowerseg.model import Architecture
from flowerseg.preprocess import Preprocess
from flowerseg.seen import NO_PHOTOS, count_seen, training_photos
from flowerseg.segmenter import Segmenter
from flowerseg.tensorfile import read_tensors
from flowerseg.train import Epoch, Fault, RunFolder, TrainConfig, TrainReport, train, trainer
from flowerseg.train.loop import Silent, _defined_iou
from flowerseg.train.start import StartingPhotos

Config = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def config(painted: Path, checkpoint: Path, tmp_path: Path) -> Config:
    return _config_maker(painted, checkpoint, tmp_path)


def _config_maker(painted: Path, checkpoint: Path, folder: Path) -> Config:
    """Short runs from the small network's weights: two steps an epoch."""
    base = {
        "data": painted,
        "out": folder / "run",
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
    folder = tmp_path_factory.mktemp("train")
    maker = _config_maker(painted, checkpoint, folder)
    return train(maker(trainable="all", epochs=2, test_split="test"))


def _weights(path: Path) -> dict[str, Tensor]:
    return read_tensors(path)["weights"]


def _moved(run: Path, start: Path) -> set[str]:
    before, after = _weights(start), _weights(run / "last.pt")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def _assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = _weights(one), _weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("cache", [True, False])
def test_only_the_head_moves_when_only_the_head_trains(
    config: Config, checkpoint: Path, cache: bool
) -> None:
    chosen = config(trainable="head", cache=cache)
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


def test_frozen_statistics_drift_when_that_fault_is_asked_for(
    config: Config, checkpoint: Path
) -> None:
    chosen = config(trainable="head", faults=(Fault.DRIFTING_BATCHNORM,))
    train(chosen)
    moved = _moved(chosen.out, checkpoint)
    assert "backbone.0.1.running_mean" in moved
    assert not any(n.startswith("backbone") and n.endswith("weight") for n in moved)


@pytest.mark.parametrize("views", [1, 2])
def test_cached_features_train_the_same_head(config: Config, tmp_path: Path, views: int) -> None:
    runs = {}
    for cache in (True, False):
        chosen = config(
            out=tmp_path / f"cache_{cache}", cache=cache, epochs=3, views=views, amp="off"
        )
        report = train(chosen)
        runs[cache] = _weights(chosen.out / "last.pt")["classifier.4.weight"], report
    (cached, told), (live, other) = runs[True], runs[False]
    start = _weights(Path(other.config.weights))["classifier.4.weight"]
    # The features differ by their rounding to half, 2**-11 of each: the way that the weights have
    # gone by less than a hundredth.
    assert (live - start).norm() > 0
    assert (cached - live).norm() / (live - start).norm() < 0.01
    assert told.val.scores.iou == pytest.approx(other.val.scores.iou, abs=2e-3)


def test_second_run_finds_the_features_of_the_first(config: Config, tmp_path: Path) -> None:
    computed: list[str] = []

    class Counting(Silent):
        def features(self, split: str, done: int, total: int) -> None:
            computed.append(split)

    train(config(), Counting())
    first = len(computed)
    assert set(computed) == {"flowers/trn1", "flowers/val1"}
    train(config(out=tmp_path / "second", lr=5e-3), Counting())
    assert len(computed) == first


def test_run_leaves_its_files(finished: TrainReport) -> None:
    out = finished.config.out
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "best.pt",
        "best.pt.json",
        "config.json",
        "curves.png",
        "last.pt",
        "last.pt.json",
        "metrics.csv",
        "panels/epoch_001.jpg",
        "panels/epoch_002.jpg",
        "panels/worst_tst1.jpg",
        "panels/worst_val1.jpg",
        "report.html",
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
    ious = [epoch.iou for epoch in finished.epochs]
    assert told["splits"][0]["scores"]["iou"] == best.data.val_iou == max(ious)
    assert told["best_epoch"] == 1 + ious.index(max(ious))


@pytest.mark.parametrize(("place", "split"), [(0, "val1"), (1, "tst1")])
def test_scores_of_a_split_are_those_of_the_shipped_file(
    finished: TrainReport, painted: Path, place: int, split: str
) -> None:
    photos = open_photos(painted, split)
    with Segmenter.open(finished.checkpoint, device="cpu") as segmenter:
        counts = {s.item.name: s.counts for s in segment_labelled(segmenter, photos, 1)}
    told = finished.splits[place]
    assert told.name == f"flowers/{split}"
    assert told.scores.iou == pytest.approx(iou(total(counts.values())), abs=1e-4)
    worst = sorted(counts, key=lambda name: iou(counts[name]))[:6]
    assert [name for name, _ in told.worst] == worst


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_seed_decides_every_weight(
    config: Config, finished: TrainReport, seed: int, same: bool
) -> None:
    chosen = config(trainable="all", epochs=2, seed=seed)
    train(chosen)
    again, first = (_weights(out / "last.pt") for out in (chosen.out, finished.config.out))
    assert all(torch.equal(again[name], first[name]) for name in first) == same


class _Dies(Silent):
    """Stops the process or the run in a certain step."""

    def __init__(self, step: int, how: Callable[[], None]) -> None:
        self._left = step
        self._how = how

    def step(self, epoch: int, loss: float, done: int, total: int) -> None:
        self._left -= 1
        if self._left == 0:
            self._how()


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["head", "all"])
@pytest.mark.parametrize("step", [1, 4, 5])  # two steps an epoch: the first and third epoch
def test_resumed_run_has_the_weights_of_one_that_never_stopped(
    config: Config, tmp_path: Path, trainable: str, step: int
) -> None:
    whole = config(trainable=trainable, epochs=3, out=tmp_path / "whole")
    train(whole)
    cut = config(trainable=trainable, epochs=3)
    with pytest.raises(TrainingError, match=f"Go on: flowerseg-train --resume {cut.out}"):
        train(cut, _Dies(step, _interrupt))
    report = train(RunFolder(cut.out).config(), resume=True)
    _assert_same_weights(cut.out / "last.pt", whole.out / "last.pt")
    _assert_same_weights(cut.out / "best.pt", whole.out / "best.pt")
    assert len(report.epochs) == 3
    assert (cut.out / "metrics.csv").read_text() == (whole.out / "metrics.csv").read_text()


@pytest.mark.slow
def test_run_killed_in_mid_epoch_goes_on_to_the_same_weights(
    config: Config, tmp_path: Path
) -> None:
    whole = config(trainable="all", epochs=2, out=tmp_path / "whole")
    train(whole)
    cut = config(trainable="all", epochs=2)
    # Killed between the two steps of the second epoch, without a word.
    done = _run_worker([sys.executable], cut, tmp_path, dies_in_step=3)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert not (cut.out / "report.json").exists()
    train(RunFolder(cut.out).config(), resume=True)
    _assert_same_weights(cut.out / "last.pt", whole.out / "last.pt")


def test_run_does_not_go_on_with_other_photos(config: Config, tmp_path: Path) -> None:
    cut = config(epochs=2)
    with pytest.raises(TrainingError, match="interrupted in epoch 2 of 2"):
        train(cut, _Dies(3, _interrupt))
    moved = replace(RunFolder(cut.out).config(), val_split="tst1")
    with pytest.raises(TrainingError, match="not those that this run began with"):
        train(moved, resume=True)


def test_there_is_nothing_to_go_on_with_in_a_finished_run(finished: TrainReport) -> None:
    with pytest.raises(TrainingError, match="the run is finished"):
        RunFolder(finished.config.out).config()


def test_folder_without_a_run_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no run to go on with"):
        RunFolder(tmp_path).config()


def test_loss_that_is_not_finite_stops_and_keeps_the_best(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 1.0, math.nan])  # two steps an epoch: it breaks in the second epoch
    sound = trainer.masked_loss
    monkeypatch.setattr(trainer, "masked_loss", lambda *batch: sound(*batch) * next(losses))
    chosen = config(epochs=3)
    with pytest.raises(TrainingError, match=r"the loss became nan\. .* smaller --lr than 0\.001"):
        train(chosen)
    artifact, _ = load_checkpoint(chosen.out / "best.pt")
    assert artifact.manifest.data is not None
    assert not (chosen.out / "report.json").exists()
    assert len((chosen.out / "metrics.csv").read_text().splitlines()) == 2


def test_splits_that_overlap_are_refused_before_anything_is_written(config: Config) -> None:
    for shared in ({"train_split": "trn1+val1"}, {"test_split": "trn1"}, {"test_split": "val"}):
        chosen = config(**shared)
        with pytest.raises(DataError, match=r"share (6|12) photos"):
            train(chosen)
        assert not chosen.out.exists()


def test_overlap_is_let_pass_as_a_named_fault(config: Config) -> None:
    said: list[str] = []

    class Listening(Silent):
        def note(self, text: str) -> None:
            said.append(text)

    chosen = config(train_split="trn1+val1", faults=(Fault.SHARED_PHOTOS,))
    report = train(chosen, Listening())
    assert said[0].startswith("FAULT shared-photos: training and validation share photos")
    assert report.faults == (Fault.SHARED_PHOTOS.words,)


def test_unpadded_head_is_kept_in_the_checkpoint(config: Config) -> None:
    chosen = config(faults=(Fault.UNPADDED_HEAD,))
    train(chosen)
    _, network = load_checkpoint(chosen.out / "best.pt")
    assert network.head.padding == (0, 0)
    assert network(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape == (1, 64, 64)


@pytest.mark.parametrize("present", ["best.pt", "state.pt"])
def test_run_that_is_there_is_not_replaced_unasked(config: Config, present: str) -> None:
    chosen = config()
    chosen.out.mkdir()
    (chosen.out / present).write_bytes(b"precious")
    with pytest.raises(TrainingError, match="--force"):
        train(chosen)
    assert [path.name for path in chosen.out.iterdir()] == [present]
    assert (chosen.out / present).read_bytes() == b"precious"


def test_run_that_is_there_is_replaced_when_asked(config: Config) -> None:
    chosen = config(force=True)
    chosen.out.mkdir()
    for name in ("best.pt", "report.html", "state.pt"):
        (chosen.out / name).write_bytes(b"old")
    with pytest.raises(TrainingError, match="interrupted"):
        train(chosen, _Dies(1, _interrupt))
    # Nothing of the old run is left to be taken for the new one's.
    assert [path.name for path in chosen.out.iterdir()] == ["config.json"]
    train(chosen)
    assert manifest_path(open_artifact(chosen.out / "best.pt").path).is_file()


@pytest.mark.slow
def test_validation_is_spread_over_long_runs(config: Config) -> None:
    epochs: list[Epoch] = []

    class Listening(Silent):
        def epoch(self, epoch: Epoch) -> None:
            epochs.append(epoch)

    train(config(epochs=27), Listening())
    validated = [epoch.epoch for epoch in epochs if epoch.scores]
    assert validated == [*range(2, 27, 2), 27]  # 27 epochs and at most 25 validations


# A process of its own: one that was forked from here could not run backward.
_WORKER = """
import json, os, signal, sys
from pathlib import Path
import torch
from flowerseg.jsonform import from_json
from flowerseg.train import TrainConfig, train
from flowerseg.train.loop import Silent

class Dies(Silent):
    left = int(sys.argv[2])

    def step(self, *_):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
train(from_json(TrainConfig, json.loads(Path(sys.argv[1]).read_text())), Dies())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "cache"), [(6, False), (5, False), (5, True)])
def test_two_processes_train_the_weights_of_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, cache: bool
) -> None:
    """Five of twelve photos a step: parts of 3 and 2, and a last batch of 2, each counted once."""
    alone = config(
        out=tmp_path / "alone",
        epochs=2,
        batch_size=batch_size,
        amp="off",
        cache=cache,
        overlap_weight=0.5,
        test_split="test",
    )
    one = train(alone)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    shared = replace(alone, out=tmp_path / "shared")
    _torchrun(shared, 2, tmp_path)
    two = json.loads((shared.out / "report.json").read_text())
    start = _weights(Path(alone.weights))["classifier.4.weight"]
    ours, theirs = (_weights(run.out / "last.pt")["classifier.4.weight"] for run in (alone, shared))
    # Sums in another order: nothing but rounding of FP32.
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-6)
    assert not torch.equal(ours, start)
    assert two["processes"] == 2
    for place in (0, 1):
        ours_scores, told = one.splits[place].scores, two["splits"][place]["scores"]
        assert told["photos"] == ours_scores.photos == 6
        assert told["iou"] == pytest.approx(ours_scores.iou, abs=1e-3)
    for epoch, row in zip(one.epochs, two["epochs"], strict=True):
        assert row["train_loss"] == pytest.approx(epoch.train_loss, rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_a_whole_network(config: Config, tmp_path: Path) -> None:
    chosen = config(trainable="all", batch_size=4, epochs=2)
    _torchrun(chosen, 2, tmp_path)
    report = json.loads((chosen.out / "report.json").read_text())
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2]
    open_artifact(chosen.out / "best.pt")


def _torchrun(config: TrainConfig, processes: int, folder: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--master-addr", "127.0.0.1", "--master-port", "0", "--standalone"]
    done = _run_worker(command, config, folder)
    assert done.returncode == 0, done.stderr[-3000:]


def _run_worker(
    command: list[str], config: TrainConfig, folder: Path, dies_in_step: int = 0
) -> subprocess.CompletedProcess[str]:
    (folder / "worker.py").write_text(_WORKER)
    (folder / "config.json").write_text(json.dumps(asdict(config), default=str))
    return subprocess.run(
        [*command, str(folder / "worker.py"), str(folder / "config.json"), str(dies_in_step)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )


def test_starting_weights_that_learned_from_the_validation_photos_are_told(
    config: Config, checkpoint: Path, copied: Callable[[Path], Path], painted: Path, tmp_path: Path
) -> None:
    val, older = open_photos(painted, "val"), open_photos(painted, "test")
    seen = training_photos(signatures_of(val.part([0, 2])) + signatures_of(older), NO_PHOTOS)
    start = copied(checkpoint)
    rewrite_manifest(open_artifact(start), data=Data("older", "", 8, 1, 0.9, seen=seen))
    report = train(config(weights=str(start)))
    expected = Caveat(CaveatKind.PHOTOS_SEEN, photos=6, seen=2)
    assert report.splits[0].caveats == (expected,)
    page = (report.config.out / "report.html").read_text()
    sentence = "2 of these 6 photos were in the training set of the weights that this run started"
    assert f"flowers/val1: {sentence}" in page
    data = open_artifact(Path(report.checkpoint)).manifest.data
    assert data is not None
    assert data.seen is not None
    own = signatures_of(open_photos(painted, "train"))
    assert data.seen == training_photos(own, seen)
    assert count_seen(data.seen, signatures_of(val)) == 2  # the next run warns, too


def test_weights_without_a_record_of_their_photos_are_told(finished: TrainReport) -> None:
    kinds = [[caveat.kind for caveat in split.caveats] for split in finished.splits]
    assert kinds == [["training-photos-unknown"], ["training-photos-unknown"]]


def test_weights_from_nothing_have_learned_from_no_photo() -> None:
    assert StartingPhotos.of("none").photos == StartingPhotos.of("coco").photos == NO_PHOTOS


def test_an_epoch_without_a_score_chooses_no_checkpoint(val_photos: PhotoSet) -> None:
    with pytest.raises(TrainingError, match="flowers/val1: its labels do not hold both"):
        _defined_iou(Epoch(1, 0.1, 0.5, scores([Counts(true_negative=9)])), val_photos)
