"""What cached features save: the same head trained with and without them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from flowerseg.data import open_photos
from flowerseg_bench.record import Finding, table_of
from flowerseg_bench.training.command import Setup, Trained, train_once
from flowerseg_bench.training.start import RANDOM_NOTE, starting_weights

OTHER_LR = "0.005"  # half the default: another run of a search, which finds the cache filled


def measure_cache(setup: Setup, work: Path) -> Finding:
    """Train with an empty cache, without one, and with the one that the first run filled."""
    _read_once(setup)
    options = setup.options(starting_weights(setup, work))
    runs = [
        train_once("cached", options, work),
        train_once("not-cached", [*options, "--no-cache"], work),
        train_once("cached-before", [*options, "--lr", OTHER_LR], work),
    ]
    return finding_of(setup, runs)


def finding_of(setup: Setup, runs: Sequence[Trained]) -> Finding:
    """Ratios to the run without a cache, which is the second."""
    empty, without, filled = runs
    times_empty = without.wall_s / empty.wall_s
    times_filled = without.wall_s / filled.wall_s
    difference = empty.val_iou - without.val_iou
    rows = [
        ("no cache", f"{without.wall_s:.1f}", "1", f"{without.val_iou:.6f}"),
        ("cache, empty at first", *_figures(empty, times_empty)),
        (f"cache, filled before (lr {OTHER_LR})", *_figures(filled, times_filled)),
    ]
    notes = [
        "Single runs of the whole command, one after the other; photos were read once before, so "
        "that none of the runs is the first to read them from disk",
        "The filled cache was filled by the run above it. Its run has another learning rate, so "
        "its IoU is not compared",
    ]
    return Finding(
        headline=(
            f"Head-only training of {setup.arch}, {setup.epochs} epochs: {times_empty:.2f} times "
            f"faster with cached features that it computes itself, {times_filled:.2f} times with "
            f"features that are there; flower IoU differs by {difference:+.6f}"
        ),
        table=table_of(
            "Cached features",
            ("head-only training", "whole command, s", "times faster", "flower IoU on validation"),
            rows,
        ),
        notes=(*notes, *([RANDOM_NOTE] if setup.weights is None else [])),
        raw={
            "settings": dataclasses.asdict(setup),
            "times_faster_empty_cache": round(times_empty, 4),
            "times_faster_filled_cache": round(times_filled, 4),
            "iou_difference": difference,
            "runs": [dataclasses.asdict(run) for run in runs],
        },
    )


def _read_once(setup: Setup) -> None:
    """Bring every photo and annotation into the system's page cache."""
    for split in (setup.train_split, setup.val_split):
        _ = open_photos(setup.data, split).fingerprint


def _figures(run: Trained, times: float) -> tuple[str, str, str]:
    return f"{run.wall_s:.1f}", f"{times:.2f}", f"{run.val_iou:.6f}"
