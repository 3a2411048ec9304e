"""What a finished run tells: scores by split and class, the worst photos, and how it came about."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

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
    def iou(self) -> float:
        """The flower IoU that chooses the checkpoint; -1 where the epoch was not validated."""
        return self.scores.iou if self.scores else -1.0

    def row(self) -> dict[str, float]:
        """Flat, for CSV and curves."""
        flat: dict[str, float] = {
            "epoch": self.epoch,
            "lr": self.lr,
            "train_loss": self.train_loss,
        }
        if self.scores:
            flat |= {f"val_{name}": v for name, v in asdict(self.scores).items()}
        return flat


@dataclass(frozen=True)
class ScoredSplit:
    """How the best checkpoint does on one split."""

    name: str
    role: str
    scores: Scores
    by_class: dict[str, Scores]  # empty where classes are unknown
    worst: tuple[tuple[str, float], ...]  # names and IoU, the worst first


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


def scored_split(role: str, photos: PhotoSet, counts: Sequence[Counts]) -> ScoredSplit:
    """Scores of a split from the counts of its photos, in their order."""
    by_class: dict[str, list[Counts]] = defaultdict(list)
    for item, counted in zip(photos.photos, counts, strict=True):
        if item.group:
            by_class[item.group].append(counted)
    ranked = sorted(
        (iou(counted), item.name) for item, counted in zip(photos.photos, counts, strict=True)
    )
    return ScoredSplit(
        name=photos.name,
        role=role,
        scores=scores(counts),
        by_class={name: scores(by_class[name]) for name in sorted(by_class)},
        worst=tuple((name, value) for value, name in ranked[:WORST]),
    )
