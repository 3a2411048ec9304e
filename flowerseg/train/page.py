"""The page of a training run: how good it is, where it fails, and how to do it again."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from flowerseg.caveats import Caveat, caveat_text
from flowerseg.errors import TrainingError
from flowerseg.files import write_text
from flowerseg.images import read_rgb, resize_area
from flowerseg.jsonform import from_json, read_json
from flowerseg.page import jpeg_url, render_page
from flowerseg.pictures import COLUMNS, unstacked
from flowerseg.smallfiles import reason_of
from flowerseg.train.report import STARTING_WEIGHTS

Report: TypeAlias = Mapping[str, Any]
"""What report.json holds."""


@dataclass(frozen=True)
class Score:
    """A score as people read it."""

    key: str  # in report.json
    name: str
    meaning: str


SCORES = (
    Score(
        "iou",
        "flower IoU",
        "Pixels that mask and truth both call flower, over those that either does, summed over "
        "all photos: large photos weigh more. 1 is perfect.",
    ),
    Score(
        "mean_iou", "mean IoU", "The mean of the photos' own flower IoU: every photo weighs one."
    ),
    Score(
        "dice",
        "Dice",
        "Twice the common flower pixels, over the flower pixels of mask and truth together (F1). "
        "It ranks as flower IoU does, and is never lower.",
    ),
    Score(
        "pixel_accuracy",
        "pixel accuracy",
        "Share of labelled pixels that are right. Background counts too, so a mask without any "
        "flower can score high.",
    ),
    Score(
        "notebook_score",
        "notebook score",
        "What the original study calls mIoU: a photo has 0 up to IoU 0.5, a tenth more for each "
        "0.05 begun above it; the mean of these. For comparison with the study only.",
    ),
)


Strip: TypeAlias = list[str]
"""Panels as addresses of pictures, one photo each."""


@dataclass(frozen=True)
class Panels:
    """The same photos while the network learned, by epoch."""

    best: tuple[int, Strip]
    before: list[tuple[int, Strip]]  # the first, and one half-way to the best
    others: list[tuple[int, Strip]]  # small


def write_report(folder: Path) -> Path:
    """Write `report.html` of a finished run from its report.json, curves.png and panels/.

    A picture that is missing is left out.

    Raises:
        TrainingError: there is no report.json, or it cannot be read.
    """
    try:
        report: Report = read_json(folder / "report.json")
    except FileNotFoundError as error:
        raise TrainingError(
            f"{folder}: there is no report.json in it, so no training run ended here. Train with "
            f"--out {shlex.quote(str(folder))}."
        ) from error
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder / 'report.json'}: cannot be read: {reason_of(error)}. Copy it again."
        ) from error
    path = folder / "report.html"
    write_text(path, _page(report, folder))
    return path


def _page(report: Report, folder: Path) -> str:
    curves = folder / "curves.png"
    validated = [row["epoch"] for row in report["epochs"] if row["scores"]]
    return render_page(
        "train.html",
        report=report,
        chosen=report["splits"][0],
        tests=report["splits"][1:],
        warnings=report_warnings(report),
        validated=validated,
        scores=SCORES,
        classes=class_rows(report["splits"]),
        curves=curves if curves.is_file() else None,
        columns=COLUMNS,
        worst=[(split, _worst(folder, split)) for split in report["splits"] if split["worst"]],
        panels=_panels(folder / "panels", validated, report["best_epoch"]),
        next_steps=next_steps(report),
        settings=list(_flat(report["config"])),
    )


def report_warnings(report: Report) -> list[str]:
    """The caveats of the splits in sentences; a report older than them has none."""
    return [
        f"{split['name']}: {caveat_text(from_json(Caveat, caveat), STARTING_WEIGHTS)}"
        for split in report["splits"]
        for caveat in split.get("caveats", [])
    ]


def class_rows(
    splits: Sequence[Mapping[str, Any]],
) -> list[tuple[str, list[Mapping[str, Any] | None]]]:
    """Each class with its scores in each split, None where it has no photo; the worst first.

    The first split ranks, because it is the one to improve on: who improves on the test photos
    has none left to test with.
    """
    names = {name for split in splits for name in split["by_class"]}
    rows = [(name, [split["by_class"].get(name) for split in splits]) for name in names]
    return sorted(rows, key=lambda row: (_rank(row[1][0]), row[0]))


def _rank(found: Mapping[str, Any] | None) -> float:
    """Place of a class in the table; those without a score come last."""
    return 2.0 if found is None or found["iou"] is None else float(found["iou"])


def next_steps(report: Report) -> list[str]:
    """The commands that make the checkpoint a model to deploy, and use it."""
    config, checkpoint = report["config"], Path(report["checkpoint"])
    model = checkpoint.with_name("fp16.onnx")
    export = ["flowerseg-export", checkpoint, "--fp16", "--data", config["data"]]
    predict = ["flowerseg-predict", "PHOTOS", "--model", model, "--out", "segmented"]
    return [
        shlex.join(map(str, [*export, "--split", config["val_split"], "--out", model])),
        shlex.join(map(str, [*predict, "--save", "mask,overlay"])),
    ]


def _worst(folder: Path, split: Mapping[str, Any]) -> Strip:
    path = folder / "panels" / f"worst_{split['name'].rpartition('/')[2]}.jpg"
    strip = _strip(path) if path.is_file() else []
    # Names beside the photos of others would be worse than no photos.
    return strip if len(strip) == len(split["worst"]) else []


def _panels(folder: Path, validated: Sequence[int], best_epoch: int) -> Panels | None:
    named = [(epoch, folder / f"epoch_{epoch:03d}.jpg") for epoch in validated]
    drawn = [(epoch, path) for epoch, path in named if path.is_file()]
    if not drawn:
        return None
    best = max((i for i, (epoch, _) in enumerate(drawn) if epoch <= best_epoch), default=0)
    before = sorted({0, best // 2} - {best})
    others = [i for i in range(len(drawn)) if i not in (best, *before)]
    return Panels(
        best=(drawn[best][0], _strip(drawn[best][1])),
        before=[(drawn[i][0], _strip(drawn[i][1])) for i in before],
        others=[(drawn[i][0], _strip(drawn[i][1], shrink=2)) for i in others],
    )


def _strip(path: Path, shrink: int = 1) -> Strip:
    """The photos of a stack one by one, so that the page can line their columns up."""
    return [
        jpeg_url(resize_area(row, (row.shape[0] // shrink, row.shape[1] // shrink)))
        for row in unstacked(read_rgb(path))
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values of nested settings, as text."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, _words(value)))
    return rows


def _words(value: object) -> str:
    if isinstance(value, list):
        is_nested = any(isinstance(item, list) for item in value)
        return ("; " if is_nested else ", ").join(map(_words, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None or value == "" else str(value)
