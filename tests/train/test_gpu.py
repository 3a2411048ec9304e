"""Training on a CUDA GPU: what mixed precision and pinned copies must not change."""

import math
from pathlib import Path

import pytest
import torch

from flowerseg.model import Architecture
from flowerseg.preprocess import Preprocess
from flowerseg.tensorfile import read_tensors
from flowerseg.train import TrainConfig, train

pytestmark = pytest.mark.gpu


def _config(painted: Path, checkpoint: Path, out: Path, **changes: object) -> TrainConfig:
    base: dict[str, object] = {
        "data": painted,
        "out": out,
        "architecture": Architecture.MOBILENET_V3_LARGE,
        "weights": str(checkpoint),
        "epochs": 2,
        "batch_size": 6,
        "lr": 1e-3,
        "preprocess": Preprocess((64, 64)),
        "device": "cuda",
    }
    return TrainConfig(**(base | changes))  # type: ignore[arg-type]  # names are checked at run time


@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
@pytest.mark.parametrize("trainable", ["head", "all"])
def test_training_on_the_gpu_moves_what_trains(
    painted: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    amp: str,
    trainable: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = _config(painted, checkpoint, tmp_path / "run", amp=amp, trainable=trainable)
    report = train(config)
    assert report.device == torch.cuda.get_device_name(0)
    assert all(math.isfinite(epoch.train_loss) for epoch in report.epochs)
    before = read_tensors(checkpoint)["weights"]
    after = read_tensors(config.out / "last.pt")["weights"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    head = {"classifier.4.weight", "classifier.4.bias"}
    assert moved == head if trainable == "head" else moved > head


def test_gpu_and_cpu_train_the_same_head(
    painted: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weights = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        train(_config(painted, checkpoint, out, amp="off", trainable="head", device=device))
        weights[device] = read_tensors(out / "last.pt")["weights"]["classifier.4.weight"]
    start = read_tensors(checkpoint)["weights"]["classifier.4.weight"]
    way = (weights["cpu"] - start).norm()
    # TF32 in the frozen convolutions and another order of sums: a hundredth of the way.
    assert (weights["cuda"] - weights["cpu"]).norm() < 0.01 * way
