"""Everything that decides what comes out of a training run."""

import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from flowerseg.files import convert_paths
from flowerseg.folder import FolderRules
from flowerseg.model import Architecture
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import LARGEST_BATCH
from flowerseg.ranges import require_between, require_open_share

Trainable = Literal["head", "classifier", "all"]
Optimiser = Literal["adamw", "adam"]
Schedule = Literal["one-cycle", "constant"]


@dataclass(frozen=True)
class Defaults:
    """What suits how much of the network trains."""

    epochs: int
    lr: float
    overlap_weight: float


# A single layer stands a far larger step than 11 million weights from scratch.
DEFAULTS: dict[Trainable, Defaults] = {
    "head": Defaults(epochs=10, lr=1e-2, overlap_weight=0.0),
    "classifier": Defaults(epochs=20, lr=2e-3, overlap_weight=1.0),
    "all": Defaults(epochs=60, lr=2e-3, overlap_weight=1.0),
}


class Fault(StrEnum):
    """What the original study got wrong and a run may repeat, for comparison only."""

    SHARED_PHOTOS = "shared-photos"
    BLENDED_MASKS = "blended-masks"
    VOID_AS_BACKGROUND = "void-as-background"
    DRIFTING_BATCHNORM = "drifting-batchnorm"
    UNPADDED_HEAD = "unpadded-head"

    @property
    def words(self) -> str:
        """What is wrong, in a sentence without a full stop."""
        return _WORDS[self]


_WORDS = {
    Fault.SHARED_PHOTOS: "training and validation share photos, so the IoU measures memory",
    Fault.BLENDED_MASKS: (
        "coloured masks are resized bilinearly and then compared exactly: outlines are lost"
    ),
    Fault.VOID_AS_BACKGROUND: "void (outlines, flowers nobody labelled) is taught as background",
    Fault.DRIFTING_BATCHNORM: "frozen BatchNorms are left in train mode, so their statistics drift",
    Fault.UNPADDED_HEAD: "the 3 x 3 head is not padded: the map shrinks and is stretched back",
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what comes out of a run.

    `batch_size` is that of all processes together. `overlap_weight` is that of the soft IoU beside
    cross-entropy. `views` is the number of different frames of each photo where only the
    head trains.
    """

    data: Path
    out: Path
    rules: FolderRules = field(default_factory=FolderRules)
    architecture: Architecture = Architecture.RESNET101
    weights: str = "coco"
    trainable: Trainable = "head"
    train_split: str = "train"
    val_split: str = "val"
    test_split: str | None = None
    epochs: int = DEFAULTS["head"].epochs
    batch_size: int = 16
    lr: float = DEFAULTS["head"].lr
    optimiser: Optimiser = "adamw"
    schedule: Schedule = "one-cycle"
    overlap_weight: float = DEFAULTS["head"].overlap_weight
    views: int = 1
    cache: bool = True
    cache_bytes: int = 20 * 2**30
    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    preprocess: Preprocess = field(default_factory=Preprocess)
    device: str = "auto"
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    force: bool = False  # replace a run that is already in `out`

    def __post_init__(self) -> None:
        convert_paths(self, "data", "out")
        require_between(1, 1_000_000, epochs=self.epochs)
        # BatchNorm has no variance of one.
        require_between(2, LARGEST_BATCH, batch_size=self.batch_size)
        require_open_share(lr=self.lr)
        require_between(0, 1_000_000, overlap_weight=self.overlap_weight)
        require_between(1, 1_000_000, views=self.views)
        require_between(1, None, cache_bytes=self.cache_bytes)
        require_between(0, 2**63 - 1, seed=self.seed)  # what torch takes

    @property
    def caches_features(self) -> bool:
        """Whether the frozen network's features are computed once and kept."""
        fixed = Fault.DRIFTING_BATCHNORM not in self.faults
        return self.cache and self.trainable == "head" and fixed


def rebuild_command(config: TrainConfig) -> str:
    """The command that trains the same network again."""
    words: list[str] = ["flowerseg-train"]
    for name, value in _options(config):
        words += [f"--{name}", str(value)]
    if not config.cache:
        words.append("--no-cache")
    return shlex.join(words)


def _options(config: TrainConfig) -> list[tuple[str, object]]:
    """What differs from the defaults, and what a reader wants to see."""
    options: list[tuple[str, object]] = [
        ("data", config.data),
        *config.rules.options(),
        ("arch", config.architecture),
        ("weights", config.weights),
        ("trainable", config.trainable),
        ("epochs", config.epochs),
        ("batch-size", config.batch_size),
        ("lr", config.lr),
        ("optimiser", config.optimiser),
        ("schedule", config.schedule),
        ("overlap-weight", config.overlap_weight),
        ("size", config.preprocess.size_hw[0]),
        ("train-split", config.train_split),
        ("val-split", config.val_split),
    ]
    if config.test_split:
        options.append(("test-split", config.test_split))
    if config.trainable == "head":
        options.append(("views", config.views))
    if config.amp != "auto":
        options.append(("amp", config.amp))
    options += [("fault", fault) for fault in config.faults]
    return [*options, ("seed", config.seed), ("out", config.out)]
