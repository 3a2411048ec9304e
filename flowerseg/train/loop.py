"""Fine-tuning: from labelled photos to a checkpoint with curves, pictures and a report."""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from flowerseg.arrays import FLOWER, VOID, Rgb
from flowerseg.artifact import Data, Kind, Manifest, Precision, versions_here
from flowerseg.augment import TrainingFrames
from flowerseg.backends.device import computes_bf16, device_name, resolve_device
from flowerseg.backends.pytorch import PyTorchBackend
from flowerseg.checkpoint import load_checkpoint, save_checkpoint
from flowerseg.data import PhotoSet, open_photos, refuse_overlap
from flowerseg.errors import TrainingError
from flowerseg.evaluate import Segmented, count_labelled, segment_labelled
from flowerseg.files import write_text
from flowerseg.images import write_jpeg
from flowerseg.metrics import Scores, iou, scores
from flowerseg.model import Architecture, FlowerNet
from flowerseg.pictures import panel, stacked, write_curves
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg.weights import network_from_weights

Trainable = Literal["head", "classifier", "all"]

VAL_BATCH = 8
PANELS = 6
# torchvision's MobileNetV3 has 0.01, meant for the long epochs of ImageNet: with 26 steps an epoch
# the running statistics trail the weights so far that the first ten epochs validate as empty masks.
BN_MOMENTUM = 0.1
_MAX_VALIDATIONS = 12  # a validation costs a fifth of an epoch on two cores


@dataclass(frozen=True)
class Defaults:
    """What suits how much of the network trains."""

    epochs: int
    lr: float


# A single layer stands a far larger step than 11 million weights from scratch.
DEFAULTS: dict[Trainable, Defaults] = {
    "head": Defaults(epochs=10, lr=1e-2),
    "classifier": Defaults(epochs=20, lr=2e-3),
    "all": Defaults(epochs=50, lr=2e-3),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what comes out of a run."""

    data: Path
    out: Path
    architecture: Architecture = Architecture.RESNET101
    weights: str = "coco"
    trainable: Trainable = "head"
    train_split: str = "train"
    val_split: str = "val"
    epochs: int = DEFAULTS["head"].epochs
    batch_size: int = 16
    lr: float = DEFAULTS["head"].lr
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    device: str = "auto"
    seed: int = 0
    force: bool = False  # replace a run that is already in `out`

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or not 0 < self.lr < 1:
            raise ValueError(
                "epochs must be at least 1, batch_size at least 2 (BatchNorm has no variance of "
                f"one), lr between 0 and 1; not {self.epochs}, {self.batch_size}, {self.lr}"
            )


@dataclass(frozen=True)
class Epoch:
    """One row of metrics.csv; scores are None where the epoch was not validated."""

    epoch: int
    lr: float
    train_loss: float
    scores: Scores | None = None

    def row(self) -> dict[str, float]:
        """Flat, for CSV and curves."""
        flat: dict[str, float] = {
            "epoch": self.epoch,
            "lr": self.lr,
            "train_loss": self.train_loss,
        }
        if self.scores:
            flat |= {f"val_{name}": v for name, v in dataclasses.asdict(self.scores).items()}
        return flat


@dataclass(frozen=True)
class TrainReport:
    """What a run left behind."""

    checkpoint: str
    checkpoint_sha256: str
    best_epoch: int
    val: Scores
    train_photos: int
    val_photos: int
    data_fingerprint: str
    epochs: tuple[Epoch, ...]
    worst_photos: tuple[tuple[str, float], ...]
    device: str
    config: TrainConfig
    versions: dict[str, str]


OnStep = Callable[[int, int, float], None]
"""Called after each step with epoch, steps an epoch and the step's loss."""
OnEpoch = Callable[[Epoch], None]


def train(
    config: TrainConfig,
    on_step: OnStep = lambda *_: None,
    on_epoch: OnEpoch = lambda _: None,
) -> TrainReport:
    """Train, validate, and keep the best network by validation IoU.

    Leaves in `config.out`: best.pt and last.pt with manifests, metrics.csv, curves.png, panels/,
    report.json.

    Raises:
        DataError, ImageError: the data cannot be used; nothing has been written.
        TrainingError: `out` holds a run, there are too few photos or no weights, or the loss is
            not finite (best.pt is kept).
    """
    _refuse_existing(config)
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    train_set = open_photos(config.data, config.train_split)
    val_set = open_photos(config.data, config.val_split)
    refuse_overlap(train_set, val_set)
    network = network_from_weights(config.architecture, config.weights)
    loader = _loader(TrainingFrames(train_set, config.preprocess), config)
    trainer = _Trainer(config, network.to(device), device, len(loader))
    run = _Run(config, train_set, val_set)
    for number in range(1, config.epochs + 1):
        loss = trainer.train_one_epoch(loader, partial(on_step, number, len(loader)))
        run.end_epoch(number, trainer, loss)
        on_epoch(run.epochs[-1])
    return run.finish(network, device)


def set_trainable(network: FlowerNet, trainable: Trainable) -> None:
    """Freeze everything but the chosen part, whose BatchNorms follow at `BN_MOMENTUM`."""
    parts: dict[Trainable, nn.Module] = {
        "head": network.head,
        "classifier": network.classifier,
        "all": network,
    }
    network.requires_grad_(False)
    parts[trainable].requires_grad_(True)
    for module in parts[trainable].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BN_MOMENTUM


def train_mode(network: FlowerNet) -> None:
    """Train mode for what trains, eval mode for what is frozen.

    A frozen BatchNorm in train mode would go on moving its statistics, and a frozen block's
    dropout would only add noise.
    """
    for block in (network.backbone, *network.classifier):
        block.train(any(weight.requires_grad for weight in block.parameters()))


def masked_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over pixels that are not VOID.

    The sigmoid of a difference of two scores is their softmax, so this binary form equals the
    two-class cross-entropy.

    Args:
        logits: (N, H, W) float.
        labels: (N, H, W) uint8.
    """
    known = labels != VOID
    # Weighted instead of indexed: shapes stay fixed, and a batch that is all void gives zero.
    losses = functional.binary_cross_entropy_with_logits(
        logits, (labels == FLOWER).float(), reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


class _Trainer:
    """Network, optimiser and schedule of one run."""

    def __init__(
        self, config: TrainConfig, network: FlowerNet, device: str, steps_per_epoch: int
    ) -> None:
        set_trainable(network, config.trainable)
        self.network = network.to(memory_format=torch.channels_last)
        self._device = device
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._optimiser = torch.optim.AdamW(weights, lr=config.lr)
        steps = config.epochs * steps_per_epoch
        self._schedule: LRScheduler = OneCycleLR(self._optimiser, config.lr, total_steps=steps)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def train_one_epoch(
        self, loader: DataLoader[tuple[Tensor, Tensor]], on_step: Callable[[float], None]
    ) -> float:
        """Mean loss over the steps of one pass."""
        train_mode(self.network)
        losses = []
        for images, labels in loader:
            loss = self._step(images.to(self._device), labels.to(self._device))
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss}. The best checkpoint so far is kept; train again with "
                    f"a smaller --lr than {self._optimiser.defaults['lr']:g}."
                )
            losses.append(loss)
            on_step(loss)
        return math.fsum(losses) / len(losses)

    def _step(self, images: Tensor, labels: Tensor) -> float:
        kind = self._device.partition(":")[0]
        with torch.autocast(kind, torch.bfloat16, enabled=computes_bf16(self._device)):
            logits = self.network(images)
        loss = masked_loss(logits, labels)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self._optimiser.step()
        self._schedule.step()
        return float(loss.detach())


class _Run:
    """The files of one run, and the best network so far."""

    def __init__(self, config: TrainConfig, train_set: PhotoSet, val_set: PhotoSet) -> None:
        self._config = config
        self._train_set = train_set
        self._val_set = val_set
        self._shown = val_set.limited(PANELS)
        self._best: Epoch | None = None
        self._best_sha256 = ""
        self.epochs: list[Epoch] = []

    def end_epoch(self, number: int, trainer: _Trainer, loss: float) -> None:
        """Validate where it is due, and write what changed."""
        config = self._config
        epoch = Epoch(number, trainer.lr, loss)
        every = math.ceil(config.epochs / _MAX_VALIDATIONS)
        if number % every == 0 or number == config.epochs:
            segmenter = _segmenter(trainer.network, config)
            per_photo = count_labelled(segmenter, self._val_set, VAL_BATCH)
            epoch = dataclasses.replace(epoch, scores=scores(per_photo))
            shown = segment_labelled(segmenter, self._shown, VAL_BATCH)
            write_jpeg(config.out / "panels" / f"epoch_{number:03d}.jpg", _panels(shown))
            self._keep(epoch, trainer.network)
        self.epochs.append(epoch)
        rows = [entry.row() for entry in self.epochs]
        write_text(config.out / "metrics.csv", _csv(rows))
        if epoch.scores:
            write_curves(config.out / "curves.png", rows)

    def _keep(self, epoch: Epoch, network: FlowerNet) -> None:
        manifest = self._manifest(epoch)
        save_checkpoint(self._config.out / "last.pt", network, manifest)
        if self._best is None or _iou_of(epoch) > _iou_of(self._best):
            self._best = epoch
            best = save_checkpoint(self._config.out / "best.pt", network, manifest)
            self._best_sha256 = best.manifest.sha256

    def _manifest(self, epoch: Epoch) -> Manifest:
        config = self._config
        return Manifest(
            kind=Kind.CHECKPOINT,
            architecture=str(config.architecture),
            precision=Precision.FP32,
            preprocess=config.preprocess,
            data=Data(
                name=f"{self._train_set.name}, chosen on {self._val_set.name}",
                fingerprint=self._train_set.fingerprint,
                train_photos=len(self._train_set),
                val_photos=len(self._val_set),
                val_iou=_iou_of(epoch),
            ),
            rebuild=rebuild_command(config),
        )

    def finish(self, network: FlowerNet, device: str) -> TrainReport:
        """Write the worst photos and the report of the best checkpoint."""
        if self._best is None or self._best.scores is None:
            raise AssertionError("the last epoch is always validated")
        config = self._config
        _, best_network = load_checkpoint(config.out / "best.pt")
        segmenter = _segmenter(best_network.to(device), config)
        ranked = sorted(
            (iou(s.counts), s.item.name) for s in segment_labelled(segmenter, self._val_set, 8)
        )
        worst = PhotoSet(
            "worst",
            tuple(p for _, name in ranked[:PANELS] for p in self._val_set.photos if p.name == name),
        )
        write_jpeg(
            config.out / "panels" / "worst.jpg", _panels(segment_labelled(segmenter, worst, 8))
        )
        report = TrainReport(
            checkpoint=str(config.out / "best.pt"),
            checkpoint_sha256=self._best_sha256,
            best_epoch=self._best.epoch,
            val=self._best.scores,
            train_photos=len(self._train_set),
            val_photos=len(self._val_set),
            data_fingerprint=self._train_set.fingerprint,
            epochs=tuple(self.epochs),
            worst_photos=tuple((name, value) for value, name in ranked[:PANELS]),
            device=device_name(device),
            config=config,
            versions=versions_here(),
        )
        text = json.dumps(dataclasses.asdict(report), indent=2, default=str)
        write_text(config.out / "report.json", text + "\n")
        return report


def rebuild_command(config: TrainConfig) -> str:
    """The command that trains the same network again."""
    return (
        f"flowerseg-train --data {config.data} --arch {config.architecture} "
        f"--weights {config.weights} --trainable {config.trainable} --epochs {config.epochs} "
        f"--batch-size {config.batch_size} --lr {config.lr:g} "
        f"--size {config.preprocess.size_hw[0]} --train-split {config.train_split} "
        f"--val-split {config.val_split} --seed {config.seed} --out {config.out}"
    )


def _refuse_existing(config: TrainConfig) -> None:
    if (config.out / "best.pt").exists() and not config.force:
        raise TrainingError(
            f"{config.out} holds a trained network (best.pt). Choose another --out, or say --force."
        )


def _loader(frames: TrainingFrames, config: TrainConfig) -> DataLoader[tuple[Tensor, Tensor]]:
    batch = min(config.batch_size, len(frames))
    if batch < 2:
        raise TrainingError(f"{config.data}: one photo is not enough to train on.")
    workers = min(8, (os.cpu_count() or 1) // 2)
    return DataLoader(
        frames,
        batch,
        shuffle=True,
        drop_last=True,  # a last batch of one photo has no BatchNorm statistics
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(config.seed),
    )


def _segmenter(network: FlowerNet, config: TrainConfig) -> Segmenter:
    device = str(next(network.parameters()).device)
    backend = PyTorchBackend(network, config.preprocess.size_hw, device)
    return Segmenter(backend, config.preprocess)


def _panels(segmented: Iterator[Segmented]) -> Rgb:
    return stacked([panel(s.rgb, s.labels, s.mask) for s in segmented])


def _iou_of(epoch: Epoch) -> float:
    return epoch.scores.iou if epoch.scores else -1.0


def _csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    return text.getvalue()
