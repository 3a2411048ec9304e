"""The folder of one run: what is written when, and what a run that was cut off goes on from."""

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowerseg.abandoned import remove_abandoned
from flowerseg.artifact import Manifest, manifest_path
from flowerseg.checkpoint import save_checkpoint
from flowerseg.errors import TrainingError
from flowerseg.evaluate import Segmented
from flowerseg.files import replacing, require_writable, write_text
from flowerseg.images import write_jpeg
from flowerseg.jsonform import from_json, parse_json, read_json
from flowerseg.metrics import Counts
from flowerseg.model import FlowerNet
from flowerseg.pictures import panel, stacked, write_curves
from flowerseg.ranges import require_between
from flowerseg.smallfiles import reason_of
from flowerseg.tensorfile import read_tensors, write_tensors
from flowerseg.train.config import TrainConfig
from flowerseg.train.page import write_report
from flowerseg.train.report import Epoch, TrainReport

BEST, LAST, STATE, CONFIG = "best.pt", "last.pt", "state.pt", "config.json"
_FILES = (STATE, CONFIG, "metrics.csv", "curves.png", "report.json", "report.html")


@dataclass
class Progress:
    """How far a run has come, and how good its best checkpoint is."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_iou: float = -1.0
    best_sha256: str = ""
    best_counts: list[Counts] = field(default_factory=list)  # of each validation photo

    def __post_init__(self) -> None:
        require_between(0, len(self.epochs), best_epoch=self.best_epoch)
        require_between(-1, 1, best_iou=self.best_iou)
        if [epoch.epoch for epoch in self.epochs] != list(range(1, self.next_epoch)):
            raise ValueError("the epochs are not numbered one after another")

    @property
    def next_epoch(self) -> int:
        """Number of the epoch that is due."""
        return len(self.epochs) + 1


class RunFolder:
    """Writes the files of a run; each is whole or absent at any moment.

    The state is written last after every epoch: a run that is killed goes on from the end of the
    last epoch whose files are all there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def refuse_existing(self) -> None:
        """Refuse to write over a run.

        Raises:
            TrainingError: the folder holds a trained network or a run that can go on.
        """
        if (self.folder / STATE).exists():
            raise TrainingError(
                f"{self.folder} holds a run that is not finished. Go on with flowerseg-train "
                f"--resume {self.folder}, choose another --out, or say --force."
            )
        if (self.folder / BEST).exists():
            raise TrainingError(
                f"{self.folder} holds a trained network (best.pt). Choose another --out, or say "
                "--force."
            )

    def begin(self, config: TrainConfig) -> None:
        """Clear what an earlier run left, and write down what this one does.

        Raises:
            OutputError: the folder cannot be written; an earlier run is still whole.
        """
        require_writable(self.folder)
        self._remove_abandoned()
        for name in (BEST, LAST):
            manifest_path(self.folder / name).unlink(missing_ok=True)
            (self.folder / name).unlink(missing_ok=True)
        for name in _FILES:
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "panels", ignore_errors=True)
        write_text(self.folder / CONFIG, _json(asdict(config)))

    def config(self) -> TrainConfig:
        """What the run in this folder does.

        Raises:
            TrainingError: there is no run that can go on.
        """
        if not (self.folder / CONFIG).exists():
            raise TrainingError(
                f"{self.folder}: no run to go on with (no {CONFIG}). Check --resume, or begin one "
                "with --data and --out."
            )
        if (self.folder / "report.json").exists():
            raise TrainingError(
                f"{self.folder}: the run is finished; there is nothing to go on with. Train longer "
                f"from its weights: flowerseg-train --weights {self.folder / BEST} --out ANOTHER"
            )
        try:
            config = from_json(TrainConfig, read_json(self.folder / CONFIG))
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(
                f"{self.folder / CONFIG}: cannot be read: {reason_of(error)}. The run cannot go "
                "on; begin a new one with --data and --out."
            ) from error
        # The folder may have been moved since.
        return dataclasses.replace(config, out=self.folder, force=False)

    def save_best(self, network: FlowerNet, manifest: Manifest) -> str:
        """Write best.pt; its SHA-256."""
        return save_checkpoint(self.folder / BEST, network, manifest).manifest.sha256

    def save_last(self, network: FlowerNet, manifest: Manifest) -> None:
        """Write last.pt."""
        save_checkpoint(self.folder / LAST, network, manifest)

    def save_state(self, progress: Progress, training: dict[str, Any], basis: str) -> None:
        """Write what the next epoch depends on.

        Args:
            progress: the epochs so far.
            training: tensors and numbers of the trainer.
            basis: names data and frozen weights; the run goes on only with the same.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"basis": basis, "progress": _json(asdict(progress)), "training": training}
        with replacing(self.folder / STATE) as temporary:
            write_tensors(content, temporary)

    def load_state(self, basis: str) -> tuple[Progress, dict[str, Any]] | None:
        """What `save_state` wrote; None where the run did not finish an epoch.

        Raises:
            TrainingError: data or frozen weights are not those that the run began with.
            ArtifactError: the file cannot be read.
        """
        path = self.folder / STATE
        if not path.exists():
            return None
        self._remove_abandoned()
        content = read_tensors(path)
        if content.get("basis") != basis:
            raise TrainingError(
                f"{self.folder}: photos, annotations or starting weights are not those that this "
                "run began with, so it cannot go on. Bring them back, or begin a new run."
            )
        try:
            progress = from_json(Progress, parse_json(content["progress"]))
            return progress, dict(content["training"])
        except (KeyError, TypeError, ValueError) as error:
            raise damaged_state(path, error) from error

    def _remove_abandoned(self) -> None:
        for folder in (self.folder, self.folder / "panels"):
            remove_abandoned(folder)

    def write_epochs(self, epochs: Sequence[Epoch]) -> None:
        """Write metrics.csv, and curves.png where the last epoch was validated."""
        rows = [epoch.row() for epoch in epochs]
        write_text(self.folder / "metrics.csv", _csv(rows))
        if epochs[-1].scores:
            write_curves(self.folder / "curves.png", rows)

    def write_panels(self, name: str, segmented: Sequence[Segmented]) -> None:
        """Write panels/NAME.jpg: a row for each photo."""
        rows = [panel(s.rgb, s.labels, s.mask) for s in segmented]
        write_jpeg(self.folder / "panels" / f"{name}.jpg", stacked(rows))

    def finish(self, report: TrainReport) -> None:
        """Write report.json and report.html; nothing is left to go on from."""
        write_text(self.folder / "report.json", _json(asdict(report)))
        write_report(self.folder)
        (self.folder / STATE).unlink(missing_ok=True)


def damaged_state(path: Path, error: Exception) -> TrainingError:
    """The error for a state from which a run cannot go on."""
    return TrainingError(
        f"{path}: the state of the run is damaged: {str(error)[:200]}. Train again from the run's "
        f"best weights: flowerseg-train --weights {path.with_name(BEST)} --out ANOTHER"
    )


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=2, default=str) + "\n"


def _csv(rows: list[dict[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    return text.getvalue()
