"""Fine-tuning: from labelled photos to a checkpoint with curves, pictures and a report."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from flowerseg.arrays import Foreground, Rgb
from flowerseg.artifact import Data, Kind, Manifest, Precision, rewrite_manifest, versions_here
from flowerseg.backends.device import device_name, resolve_device
from flowerseg.backends.pytorch import PyTorchBackend
from flowerseg.caveats import Caveat, caveat_text
from flowerseg.checkpoint import load_checkpoint
from flowerseg.data import open_photos, refuse_overlap
from flowerseg.datacheck import DataCheck, check_photos
from flowerseg.errors import TrainingError
from flowerseg.evaluate import count_foregrounds, count_labelled, segment_labelled
from flowerseg.labelled import LabelledPhoto, PhotoSet
from flowerseg.metrics import Counts, scores
from flowerseg.model import FlowerNet, foreground_from_logits
from flowerseg.proof.painted import selftest_from_reference
from flowerseg.seen import TrainingPhotos, signature_of, training_photos
from flowerseg.segmenter import Segmenter
from flowerseg.train.amp import resolve_amp
from flowerseg.train.config import Fault, TrainConfig, rebuild_command
from flowerseg.train.examples import Examples, cached_examples, epoch_views, live_examples
from flowerseg.train.features import Features
from flowerseg.train.frames import EpochViews, View, seed_from
from flowerseg.train.processes import Processes, device_of_this_process, joined_processes
from flowerseg.train.report import (
    STARTING_WEIGHTS,
    WORST,
    Epoch,
    ScoredSplit,
    TrainReport,
    scored_split,
)
from flowerseg.train.run import BEST, STATE, Progress, RunFolder, damaged_state
from flowerseg.train.start import StartingPhotos
from flowerseg.train.trainer import OnStep, Trainer, moving_tensors
from flowerseg.weights import network_from_weights

PANELS = 6
VAL_BATCH = 8
MAX_VALIDATIONS = 25  # a validation costs a fifth of an epoch on two cores


class Watcher(Protocol):
    """Who is told how the run goes."""

    def note(self, text: str) -> None:
        """Something that the user should read before the first step."""

    def features(self, split: str, done: int, total: int) -> None:
        """Frames of `split` that went through the frozen network."""

    def step(self, epoch: int, loss: float, done: int, total: int) -> None:
        """A step was taken: `done` of the `total` photos of all epochs have been trained on."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is over, its files are written."""


class Silent:
    """Tells nobody."""

    def note(self, text: str) -> None:
        """Nothing."""

    def features(self, split: str, done: int, total: int) -> None:
        """Nothing."""

    def step(self, epoch: int, loss: float, done: int, total: int) -> None:
        """Nothing."""

    def epoch(self, epoch: Epoch) -> None:
        """Nothing."""


def train(
    config: TrainConfig, watcher: Watcher | None = None, *, resume: bool = False
) -> TrainReport:
    """Train, validate, and keep the best network by validation IoU.

    Leaves in `config.out`: best.pt and last.pt with manifests, config.json, metrics.csv,
    curves.png, panels/, report.json. Under `torchrun` every process calls it, the batch is divided
    over them, and the first one writes.

    Args:
        config: what to do; `RunFolder.config` tells that of a run to go on with.
        watcher: told how it goes.
        resume: go on after the last whole epoch of the run in `config.out`. On the CPU the weights
            become the same, bit for bit, as if it had never stopped.

    Raises:
        DataError, ImageError: the data cannot be used; nothing has been written.
        TrainingError: `out` holds a run, there are too few photos or no weights, memory is short,
            the loss is not finite, or it was interrupted (best.pt is kept).
        OutputError: `out` cannot be written; what is there is whole.
    """
    device = resolve_device(device_of_this_process(config.device))
    with joined_processes(device) as processes:
        quiet = watcher if watcher and processes.is_first else Silent()
        return _Session(config, device, processes, quiet).run(resume=resume)


@dataclass(frozen=True)
class _Splits:
    """The photos of a run, opened and checked."""

    train: PhotoSet
    val: PhotoSet
    test: PhotoSet | None
    check: DataCheck
    learned: TrainingPhotos  # by the network, once it has trained
    caveats: dict[str, tuple[Caveat, ...]]  # of the scores of val and test, by the split's name


class _Session:
    """One process of one run."""

    def __init__(
        self, config: TrainConfig, device: str, processes: Processes, watcher: Watcher
    ) -> None:
        self._config = config
        self._device = device
        self._processes = processes
        self._watcher = watcher
        self._amp = resolve_amp(config.amp, device)
        self._folder = RunFolder(config.out)
        self._progress = Progress()

    def run(self, *, resume: bool) -> TrainReport:
        """All of it, from opening the data to the report."""
        config = self._config
        if not resume and not config.force:
            self._folder.refuse_existing()
        splits = _open_splits(config)
        self._say_first(splits)
        torch.manual_seed(config.seed)
        network = network_from_weights(
            config.architecture,
            config.weights,
            head_padding=0 if Fault.UNPADDED_HEAD in config.faults else 1,
        )
        batches = epoch_views(splits.train, config, self._processes)
        trainer = Trainer(config, network, self._device, self._amp, len(batches), self._processes)
        basis = _basis(splits, trainer.network)
        self._processes.wait()  # until all have seen that the folder is free
        if resume:
            self._go_on(trainer, splits, basis)
        elif self._processes.is_first:
            self._folder.begin(config)
        examples = self._examples(splits, trainer.network)
        try:
            self._epochs(trainer, splits, examples, batches, basis)
        except KeyboardInterrupt:
            raise TrainingError(self._interrupted()) from None
        return self._finish(splits)

    def _say_first(self, splits: _Splits) -> None:
        for fault in self._config.faults:
            self._watcher.note(f"FAULT {fault}: {fault.words}.")
        self._watcher.note(splits.check.to_text())
        for name, caveats in splits.caveats.items():
            for caveat in caveats:
                self._watcher.note(f"WARNING {name}: {caveat_text(caveat, STARTING_WEIGHTS)}")

    def _go_on(self, trainer: Trainer, splits: _Splits, basis: str) -> None:
        found = self._folder.load_state(basis)
        if found is None:
            self._watcher.note("No epoch of the run was finished: it begins again.")
            return
        self._progress, training = found
        try:
            if self._progress.best_epoch and len(self._progress.best_counts) != len(splits.val):
                raise ValueError("it has scores of other validation photos")
            trainer.restore(training)
        except ValueError as error:
            raise damaged_state(self._folder.folder / STATE, error) from error
        done = len(self._progress.epochs)
        self._watcher.note(f"Going on after epoch {done} of {self._config.epochs}.")

    def _examples(self, splits: _Splits, network: FlowerNet) -> Examples:
        if self._config.caches_features:
            return cached_examples(
                self._config,
                splits.train,
                splits.val,
                network,
                self._device,
                self._amp,
                self._processes,
                self._watcher.features,
            )
        return live_examples(self._config, splits.train)

    def _epochs(
        self,
        trainer: Trainer,
        splits: _Splits,
        examples: Examples,
        batches: EpochViews,
        basis: str,
    ) -> None:
        config, rank = self._config, self._processes.rank
        loader = examples.loader(batches, self._device)
        for number in range(self._progress.next_epoch, config.epochs + 1):
            batches.epoch = number
            # Dropout: an epoch depends on nothing but its number, so that a run can be resumed.
            torch.manual_seed(seed_from(config.seed, number, rank))
            lr = trainer.lr
            loss = trainer.train_one_epoch(loader, self._counting(number, batches))
            self._end_epoch(Epoch(number, lr, loss), trainer.network, splits, examples)
            if self._processes.is_first:
                self._folder.save_state(self._progress, trainer.state(), basis)
            self._watcher.epoch(self._progress.epochs[-1])
        if self._processes.is_first:
            iou = _defined_iou(self._progress.epochs[-1], splits.val)
            self._folder.save_last(trainer.network, self._manifest(splits, iou))

    def _counting(self, number: int, batches: EpochViews) -> OnStep:
        """Tells the watcher of the steps of one epoch."""
        each = batches.photos_per_epoch
        taken = (number - 1) * each

        def on_step(loss: float, photos: int) -> None:
            nonlocal taken
            taken += photos
            self._watcher.step(number, loss, taken, self._config.epochs * each)

        return on_step

    def _end_epoch(
        self, epoch: Epoch, network: FlowerNet, splits: _Splits, examples: Examples
    ) -> None:
        """Validate where it is due, keep the best, and write what changed."""
        config, progress = self._config, self._progress
        every = math.ceil(config.epochs / MAX_VALIDATIONS)
        if epoch.epoch % every and epoch.epoch != config.epochs:
            progress.epochs.append(epoch)
            if self._processes.is_first:
                self._folder.write_epochs(progress.epochs)
            return
        counts = self._validated(network, splits.val, examples.val)
        epoch = Epoch(epoch.epoch, epoch.lr, epoch.train_loss, scores(counts))
        iou = _defined_iou(epoch, splits.val)
        progress.epochs.append(epoch)
        is_best = iou > progress.best_iou
        if is_best:
            progress.best_epoch, progress.best_iou = epoch.epoch, iou
            progress.best_counts = counts
        if not self._processes.is_first:
            return
        if is_best:
            manifest = self._manifest(splits, iou)
            progress.best_sha256 = self._folder.save_best(network, manifest)
        self._folder.write_epochs(progress.epochs)
        shown = segment_labelled(
            _segmenter(network, config, self._device), splits.val.limited(PANELS), PANELS
        )
        self._folder.write_panels(f"epoch_{epoch.epoch:03d}", list(shown))

    def _validated(
        self, network: FlowerNet, photos: PhotoSet, features: Features | None
    ) -> list[Counts]:
        """Counts of all photos, each by one process; from kept features where there are some."""
        rank, world = self._processes.rank, self._processes.world
        mine = range(rank, len(photos), world)
        part = photos.part(mine)
        if features is None:
            segmenter = _segmenter(network, self._config, self._device)
            counted = count_labelled(segmenter, part, VAL_BATCH)
        else:
            foregrounds = _foregrounds(network, features, mine, self._device)
            counted = count_foregrounds(foregrounds, part)
        everyone = dict(self._processes.gathered(list(zip(mine, counted, strict=True))))
        return [everyone[index] for index in range(len(photos))]

    def _finish(self, splits: _Splits) -> TrainReport:
        config, progress = self._config, self._progress
        self._processes.wait()  # until the first one has written the best
        artifact, best = load_checkpoint(config.out / BEST)
        self._processes.wait()  # until all have read it
        if self._processes.is_first:
            segmenter = _segmenter(best, config, self._device)
            rewrite_manifest(artifact, selftest=selftest_from_reference(segmenter))
        scored = [
            scored_split(
                "validation (chose the checkpoint)",
                splits.val,
                progress.best_counts,
                splits.caveats[splits.val.name],
            )
        ]
        if splits.test is not None:
            counts = self._validated(best, splits.test, None)
            caveats = splits.caveats[splits.test.name]
            scored.append(scored_split("test (looked at once)", splits.test, counts, caveats))
        report = TrainReport(
            checkpoint=str(config.out / BEST),
            checkpoint_sha256=progress.best_sha256,
            best_epoch=progress.best_epoch,
            splits=tuple(scored),
            check=splits.check,
            check_text=tuple(splits.check.to_text().splitlines()),
            faults=tuple(fault.words for fault in config.faults),
            epochs=tuple(progress.epochs),
            train_photos=len(splits.train),
            data_fingerprint=splits.train.fingerprint,
            device=device_name(self._device),
            amp=self._amp,
            processes=self._processes.world,
            command=rebuild_command(config),
            config=config,
            versions=versions_here(),
        )
        if self._processes.is_first:
            tested = [splits.test] if splits.test else []
            for split, photos in zip(scored, [splits.val, *tested], strict=True):
                self._write_worst(best, split, photos)
            self._folder.finish(report)
        return report

    def _write_worst(self, best: FlowerNet, split: ScoredSplit, photos: PhotoSet) -> None:
        if not split.worst:
            return
        places = {item.name: place for place, item in enumerate(photos.photos)}
        worst = photos.part([places[name] for name, _ in split.worst])
        segmenter = _segmenter(best, self._config, self._device)
        name = f"worst_{split.name.rpartition('/')[2]}"
        self._folder.write_panels(name, list(segment_labelled(segmenter, worst, WORST)))

    def _manifest(self, splits: _Splits, val_iou: float) -> Manifest:
        config = self._config
        return Manifest(
            kind=Kind.CHECKPOINT,
            architecture=str(config.architecture),
            precision=Precision.FP32,
            preprocess=config.preprocess,
            data=Data(
                name=f"{splits.train.name}, chosen on {splits.val.name}",
                fingerprint=splits.train.fingerprint,
                train_photos=len(splits.train),
                val_photos=len(splits.val),
                val_iou=val_iou,
                rules=config.rules,
                seen=splits.learned,
            ),
            rebuild=rebuild_command(config),
        )

    def _interrupted(self) -> str:
        progress = self._progress
        best = f"best.pt is of epoch {progress.best_epoch}. " if progress.best_epoch else ""
        return (
            f"interrupted in epoch {progress.next_epoch} of {self._config.epochs}. {best}"
            f"Go on: flowerseg-train --resume {self._config.out}"
        )


def _open_splits(config: TrainConfig) -> _Splits:
    train = open_photos(config.data, config.train_split, config.rules)
    val = open_photos(config.data, config.val_split, config.rules)
    test = config.test_split and open_photos(config.data, config.test_split, config.rules)
    if Fault.SHARED_PHOTOS not in config.faults:
        refuse_overlap(train, val)
        if test:
            refuse_overlap(train, test)
            refuse_overlap(val, test)
    signatures: dict[Path, bytes] = {}

    def keep_signature(item: LabelledPhoto, rgb: Rgb) -> None:
        signatures[item.photo] = signature_of(rgb)

    check = check_photos(train, val, test or None, keep_signature)
    start = StartingPhotos.of(config.weights)
    learned = training_photos((signatures[item.photo] for item in train.photos), start.photos)
    caveats = {
        split.name: start.caveats(split, [signatures[item.photo] for item in split.photos])
        for split in (val, *([test] if test else []))
    }
    return _Splits(train, val, test or None, check, learned, caveats)


def _defined_iou(epoch: Epoch, val: PhotoSet) -> float:
    """The IoU of a validated epoch, which chooses the checkpoint."""
    if epoch.iou is None:
        raise TrainingError(
            f"{val.name}: its labels do not hold both flower and background, so no epoch can be "
            "chosen by them. Give another --val-split."
        )
    return epoch.iou


def _basis(splits: _Splits, network: FlowerNet) -> str:
    """A name for the data and for the weights that do not train."""
    digest = hashlib.sha256(f"{splits.train.fingerprint} {splits.val.fingerprint}".encode())
    moving = moving_tensors(network)
    for name, tensor in network.state_dict().items():
        if name not in moving:
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _foregrounds(
    network: FlowerNet, features: Features, rows: Sequence[int], device: str
) -> Iterator[Foreground]:
    """Foreground (H, W) of the photos in `rows`, from their kept features."""
    network.eval()
    for row in rows:
        kept, labels = features[View(row, 0)]
        with torch.inference_mode():
            logits = network.logits(kept[None].float().to(device), labels.shape)
        yield foreground_from_logits(logits)[0].cpu().numpy()


def _segmenter(network: FlowerNet, config: TrainConfig, device: str) -> Segmenter:
    return Segmenter(PyTorchBackend(network, config.preprocess.size_hw, device), config.preprocess)
