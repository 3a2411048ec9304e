"""The real `flowerseg train`, as a process of its own: how long it took and what it reported."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowerseg.errors import DataError
from flowerseg_bench.process import Watch, command_line, run_process
from flowerseg_bench.timing import Clock, timed, wall_clock

# Of report.json; the rest are paths of a temporary folder, and what the record says anyway.
_KEPT = ("best_epoch", "epochs", "splits", "train_photos", "data_fingerprint", "device", "amp")


@dataclass(frozen=True)
class Setup:
    """What is trained. The names are those of flowerseg-train's options."""

    data: Path
    arch: str
    weights: str | None  # None: made from a seed, see `start.py`
    epochs: int
    batch_size: int
    size: int
    train_split: str
    val_split: str
    device: str
    seed: int = 0

    def options(self, weights: str) -> list[str]:
        """The words of a head-only run that starts from `weights`."""
        named = {
            "data": self.data,
            "arch": self.arch,
            "weights": weights,
            "trainable": "head",
            "epochs": self.epochs,
            "batch-size": self.batch_size,
            "size": self.size,
            "train-split": self.train_split,
            "val-split": self.val_split,
            "device": self.device,
            "seed": self.seed,
        }
        return [word for name, value in named.items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Trained:
    """One run of the command."""

    name: str
    command: str  # the temporary folder is called WORK
    wall_s: float  # of the whole command, from its start to its exit
    report: dict[str, Any]  # what of report.json can be told

    @property
    def val_iou(self) -> float:
        """Flower IoU on validation, of the best epoch."""
        return self._iou_of(0)

    @property
    def test_iou(self) -> float:
        """Flower IoU on the test split, which the run must have been asked for."""
        return self._iou_of(1)

    def _iou_of(self, place: int) -> float:
        split = self.report["splits"][place]
        if split["scores"]["iou"] is None:  # a test split of one class is not refused
            raise DataError(f"{split['name']}: no IoU: flower or background is not labelled in it.")
        return float(split["scores"]["iou"])


def train_once(
    name: str,
    options: Sequence[str],
    work: Path,
    *,
    watch: Watch | None = None,
    clock: Clock = wall_clock,
) -> Trained:
    """Run `flowerseg train` with these options and read its report.

    Features are cached in `work`, for all runs that share it.

    Raises:
        FlowersegError: the command failed; the message ends with what it said last.
    """
    out = work / name
    arguments = ["train", *options, "--out", str(out)]
    caches = environment(work)
    (wall_s,) = timed(clock, lambda: run_process(arguments, work, caches, watch))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Trained(
        name=name,
        command=command_line(arguments, work),
        wall_s=round(wall_s, 3),
        report={key: report[key] for key in _KEPT},
    )


def environment(work: Path) -> dict[str, str]:
    """This process's environment, with a feature cache in `work` that begins empty.

    torch and matplotlib also look where XDG_CACHE_HOME points: what they keep must not be
    downloaded or built again in a run that is timed.
    """
    import matplotlib as mpl
    import torch
    from matplotlib import font_manager  # noqa: F401  # building its list is what is wanted

    return os.environ | {
        "XDG_CACHE_HOME": str(work / "cache"),
        "TORCH_HOME": str(Path(torch.hub.get_dir()).parent),
        "MPLCONFIGDIR": mpl.get_cachedir(),
    }
