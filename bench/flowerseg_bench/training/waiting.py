"""How much of an epoch the network waits for its next batch."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

from flowerseg.backends.device import resolve_device
from flowerseg.data import open_photos
from flowerseg.model import Architecture
from flowerseg.preprocess import Preprocess
from flowerseg.train import DEFAULTS, TrainConfig
from flowerseg.train.amp import resolve_amp
from flowerseg.train.examples import epoch_views, live_examples
from flowerseg.train.frames import seed_from
from flowerseg.train.processes import Processes
from flowerseg.train.trainer import Trainer
from flowerseg.weights import network_from_weights
from flowerseg_bench.record import Finding, table_of
from flowerseg_bench.timing import Clock, timed, wall_clock
from flowerseg_bench.training.command import Setup

T = TypeVar("T")


@dataclass(frozen=True)
class EpochTime:
    """Seconds of one epoch, and of each wait in it; the last is for the news that none is left."""

    epoch_s: float
    waits_s: tuple[float, ...]


def measure_waiting(setup: Setup, work: Path, clock: Clock = wall_clock) -> Finding:
    """Train all of a network from nothing, as flowerseg-train does, without validation."""
    config = _config(setup, work)
    device = resolve_device(config.device)
    amp = resolve_amp(config.amp, device)
    photos = open_photos(config.data, config.train_split)
    torch.manual_seed(config.seed)
    network = network_from_weights(config.architecture, config.weights)
    batches = epoch_views(photos, config, Processes())
    trainer = Trainer(config, network, device, amp, len(batches))
    examples = live_examples(config, photos)
    loader = examples.loader(batches, device)
    epochs = []
    for number in range(1, config.epochs + 1):
        batches.epoch = number
        torch.manual_seed(seed_from(config.seed, number, 0))
        epochs.append(time_epoch(trainer, loader, clock))
    return finding_of(setup, epochs, workers=examples.workers, amp=amp)


def time_epoch(
    trainer: Trainer, loader: Iterable[tuple[torch.Tensor, torch.Tensor]], clock: Clock
) -> EpochTime:
    """Train for one epoch. A step ends when its loss is known, so no batch is waited for early."""
    waits_s: list[float] = []
    (epoch_s,) = timed(clock, lambda: trainer.train_one_epoch(waited(loader, clock, waits_s)))
    return EpochTime(round(epoch_s, 6), tuple(round(wait_s, 6) for wait_s in waits_s))


def waited(source: Iterable[T], clock: Clock, waits_s: list[float]) -> Iterator[T]:
    """The items of `source`; `waits_s` gets the seconds until each was there, or none was left."""
    items = _begun_late(source)
    found: list[T] = []
    while True:
        waits_s += timed(clock, lambda: found.extend(islice(items, 1)))
        if not found:
            return
        yield found.pop()


def _begun_late(source: Iterable[T]) -> Iterator[T]:
    """The same items; what `iter` does, such as starting workers, belongs to the first of them."""
    yield from source


def share_waited(epochs: Sequence[EpochTime]) -> float:
    """Seconds waited over all seconds of these epochs."""
    return sum(sum(epoch.waits_s) for epoch in epochs) / sum(epoch.epoch_s for epoch in epochs)


def finding_of(setup: Setup, epochs: Sequence[EpochTime], workers: int, amp: str) -> Finding:
    """The first epoch, which starts the workers, apart from the later ones."""
    first, later = epochs[:1], epochs[1:]
    parts = [("first, starts the workers", first), (f"{len(later)} later", later)]
    rows = [(words, *_figures(part)) for words, part in parts]
    return Finding(
        headline=(
            f"Training all of {setup.arch} in batches of {setup.batch_size}, with {workers} "
            f"data-loading processes: the network waits for data {100 * share_waited(later):.1f} % "
            f"of an epoch, {100 * share_waited(first):.1f} % of the first"
        ),
        table=table_of(
            "Waiting for data", ("epochs", "seconds each", "of which waiting", "share"), rows
        ),
        notes=("Steps of training only; validation, pictures and checkpoints are not in it",),
        raw={
            "settings": dataclasses.asdict(setup),
            "amp": amp,
            "workers": workers,
            "share_first": round(share_waited(first), 6),
            "share_later": round(share_waited(later), 6),
            "epochs": [dataclasses.asdict(epoch) for epoch in epochs],
        },
    )


def _figures(epochs: Sequence[EpochTime]) -> tuple[str, str, str]:
    each_s = sum(epoch.epoch_s for epoch in epochs) / len(epochs)
    share = share_waited(epochs)
    return f"{each_s:.2f}", f"{share * each_s:.3f}", f"{100 * share:.1f} %"


def _config(setup: Setup, work: Path) -> TrainConfig:
    usual = DEFAULTS["all"]
    return TrainConfig(
        data=setup.data,
        out=work,
        architecture=Architecture(setup.arch),
        weights="none",
        trainable="all",
        train_split=setup.train_split,
        epochs=setup.epochs,
        batch_size=setup.batch_size,
        lr=usual.lr,
        overlap_weight=usual.overlap_weight,
        preprocess=Preprocess((setup.size, setup.size)),
        device=setup.device,
        seed=setup.seed,
    )
