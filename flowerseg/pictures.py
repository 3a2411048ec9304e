"""Pictures that let a person judge: panels of photo, truth, mask and error, and curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowerseg.arrays import FLOWER, VOID, Labels, Mask, Rgb
from flowerseg.files import replacing
from flowerseg.images import resize_area
from flowerseg.masks import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_HEIGHT = 192
COLUMNS = ("photo", "truth", "mask", "overlay", "errors")
MISSED_RGB = (255, 60, 60)  # flower that the mask lacks
INVENTED_RGB = (60, 120, 255)  # background that the mask takes for flower
_GAP = 2  # above and below each panel of a stack
_TRUTH_RGB = {FLOWER: (255, 255, 255), VOID: (110, 110, 110)}
_TRAIN_COLOUR = "#b0388b"
_VAL_COLOUR = "#2a7f62"


def panel(rgb: Rgb, labels: Labels, mask: Mask) -> Rgb:
    """Photo, truth (void grey), mask, overlay and errors side by side, PANEL_HEIGHT pixels high.

    Errors: red was missed, blue was invented.
    """
    truth = np.zeros_like(rgb)
    for label, colour in _TRUTH_RGB.items():
        truth[labels == label] = colour
    errors = rgb // 3
    errors[(labels == FLOWER) & ~mask] = MISSED_RGB
    errors[(labels != FLOWER) & (labels != VOID) & mask] = INVENTED_RGB
    width = max(1, round(PANEL_HEIGHT * rgb.shape[1] / rgb.shape[0]))
    shown = np.repeat(np.where(mask, np.uint8(255), np.uint8(0))[..., None], 3, axis=2)
    columns = (rgb, truth, shown, overlay(rgb, mask), errors)
    return np.hstack([resize_area(column, (PANEL_HEIGHT, width)) for column in columns])


def stacked(panels: Sequence[Rgb]) -> Rgb:
    """Panels below one another, on white where they are narrower than the widest."""
    width = max(row.shape[1] for row in panels)
    rows = [
        np.pad(row, ((_GAP, _GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in panels
    ]
    return np.vstack(rows)


def unstacked(stack: Rgb) -> list[Rgb]:
    """The panels of `stacked` without the white around them, also after JPEG.

    Raises:
        ValueError: the height is not that of panels below one another.
    """
    step = PANEL_HEIGHT + 2 * _GAP
    if stack.shape[0] % step:
        raise ValueError(f"a stack of panels is a multiple of {step} pixels high: {stack.shape}")
    rows = [stack[top + _GAP : top + step - _GAP] for top in range(0, stack.shape[0], step)]
    return [row[:, : _width(row)] for row in rows]


def _width(row: Rgb) -> int:
    """Columns up to the last dark or coloured one: errors, where a panel ends, are never white."""
    # JPEG lets the two sides of the edge bleed into each other, so the middle between them counts.
    drawn = np.flatnonzero(row.min(axis=2).mean(axis=0) < 170)
    width = int(drawn[-1]) + 1 if drawn.size else 0
    return max(1, round(width / len(COLUMNS))) * len(COLUMNS)


def write_curves(path: Path, epochs: Sequence[Mapping[str, float]]) -> None:
    """Losses and validation IoU over epochs, as PNG; a dot marks the best epoch.

    Args:
        path: where to.
        epochs: rows with `epoch`, `train_loss` and, where it was validated, `val_iou` and
            `val_loss`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _plot(left, epochs, "train_loss", _TRAIN_COLOUR, "training")
    _plot(left, epochs, "val_loss", _VAL_COLOUR, "validation")
    left.set(title="loss", ylim=(0, None))
    left.legend(frameon=False)
    _plot(right, epochs, "val_iou", _VAL_COLOUR, "validation")
    right.set(title="flower IoU, validation", ylim=(None, 1))
    last = max(row["epoch"] for row in epochs)
    room = 0.5 if last < 3 else 0.02 * last
    for axes in (left, right):
        # Both from the first epoch to the last, also where few were validated.
        axes.set(xlabel="epoch", xlim=(1 - room, last + room))
        axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _mark_best(right, [row for row in epochs if "val_iou" in row], last)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _plot(
    axes: "Axes", epochs: Sequence[Mapping[str, float]], name: str, colour: str, label: str
) -> None:
    rows = [row for row in epochs if name in row]
    if not rows:
        return
    axes.plot(
        [row["epoch"] for row in rows],
        [row[name] for row in rows],
        color=colour,
        label=label,
        # A line alone shows nothing of a single epoch, and dots of hundreds are a thick line.
        marker="." if len(rows) < 40 else "",
    )


def _mark_best(axes: "Axes", validated: Sequence[Mapping[str, float]], last: float) -> None:
    if not validated:
        return
    best = max(validated, key=lambda row: row["val_iou"])  # of equals the first, as training does
    epoch, iou = best["epoch"], best["val_iou"]
    is_late = epoch > 1 + 0.5 * (last - 1)
    axes.plot([epoch], [iou], "o", color=_VAL_COLOUR, markersize=7, clip_on=False, zorder=5)
    # Low in the picture, away from the curve, which is near its height over most of the run.
    axes.axvline(epoch, color=_VAL_COLOUR, linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{iou:.4f} in epoch {epoch:.0f}",
        (epoch, 0.06),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if is_late else 6, 0),
        textcoords="offset points",
        horizontalalignment="right" if is_late else "left",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
    )
