"""Fine-tuning: configuration, frames, steps, the run's folder, and the loop that joins them."""

from flowerseg.train.config import DEFAULTS, Fault, Trainable, TrainConfig
from flowerseg.train.loop import Watcher, train
from flowerseg.train.report import Epoch, TrainReport
from flowerseg.train.run import RunFolder

__all__ = [
    "DEFAULTS",
    "Epoch",
    "Fault",
    "RunFolder",
    "TrainConfig",
    "TrainReport",
    "Trainable",
    "Watcher",
    "train",
]
