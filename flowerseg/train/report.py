"""What a finished run tells: scores by split and class, the worst photos, and how it came about."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from flowerseg.caveats import Caveat, caveat_text
from flowerseg.datacheck import DataCheck
from flowerseg.labelled import PhotoSet
from flowerseg.metrics import Counts, Scores, iou, scores
from flowerseg.train.config import TrainConfig

WORST = 6


@dataclass(frozen=True)
class Epoch:
    """One row of metrics.csv; scores are None where the epoch was not validated."""

    epoch: int
    lr: float
    train_loss: float
    scores: Scores | None = None

    @property
    def iou(self) -> float | None:
        """The flower IoU that chooses the checkpoint; None where the epoch was not validated."""
        return self.scores.iou if self.scores else None

    def row(self) -> dict[str, float]:
        """Flat, for CSV and curves; scores that are not defined are left out."""
        flat: dict[str, float] = {
            "epoch": self.epoch,
            "lr": self.lr,
            "train_loss": self.train_loss,
        }
        if self.scores:
            found = asdict(self.scores).items()
            flat |= {f"val_{name}": value for name, value in found if value is not None}
        return flat


@dataclass(frozen=True)
class ScoredSplit:
    """How the best checkpoint does on one split."""

    name: str
    role: str
    scores: Scores
    by_class: dict[str, Scores]  # empty where classes are unknown
    worst: tuple[tuple[str, float], ...]  # names and IoU where it is defined, the worst first
    caveats: tuple[Caveat, ...] = ()  # the model is the weights that the run started from


@dataclass(frozen=True)
class TrainReport:
    """What a run left behind."""

    checkpoint: str
    checkpoint_sha256: str
    best_epoch: int
    splits: tuple[ScoredSplit, ...]  # validation, and test where one was asked for
    check: DataCheck
    check_text: tuple[str, ...]
    faults: tuple[str, ...]
    epochs: tuple[Epoch, ...]
    train_photos: int
    data_fingerprint: str
    device: str
    amp: str
    processes: int
    command: str
    config: TrainConfig
    versions: dict[str, str]

    @property
    def val(self) -> ScoredSplit:
        """The split that chose the checkpoint."""
        return self.splits[0]


STARTING_WEIGHTS = "the weights that this run started from"
"""What the sentences of caveats name as the model."""


def warnings_of(splits: Sequence[ScoredSplit]) -> list[str]:
    """The caveats of the splits, in sentences."""
    return [
        f"{split.name}: {caveat_text(caveat, STARTING_WEIGHTS)}"
        for split in splits
        for caveat in split.caveats
    ]


def scored_split(
    role: str, photos: PhotoSet, counts: Sequence[Counts], caveats: tuple[Caveat, ...] = ()
) -> ScoredSplit:
    """Scores of a split from the counts of its photos, in their order."""
    by_class: dict[str, list[Counts]] = defaultdict(list)
    for item, counted in zip(photos.photos, counts, strict=True):
        if item.group:
            by_class[item.group].append(counted)
    ranked = sorted(
        (found, item.name)
        for item, counted in zip(photos.photos, counts, strict=True)
        if (found := iou(counted)) is not None
    )
    return ScoredSplit(
        name=photos.name,
        role=role,
        scores=scores(counts),
        by_class={name: scores(by_class[name]) for name in sorted(by_class)},
        worst=tuple((name, value) for value, name in ranked[:WORST]),
        caveats=caveats,
    )
