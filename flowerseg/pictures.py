"""Pictures that let a person judge: panels of photo, truth, mask and error, and curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flowerseg.arrays import FLOWER, VOID, Labels, Mask, Rgb
from flowerseg.files import replacing
from flowerseg.images import resize_area
from flowerseg.masks import overlay

PANEL_HEIGHT = 192
_TRUTH_RGB = {FLOWER: (255, 255, 255), VOID: (110, 110, 110)}
_MISSED_RGB = (255, 60, 60)  # flower that the mask lacks
_INVENTED_RGB = (60, 120, 255)  # background that the mask takes for flower


def panel(rgb: Rgb, labels: Labels, mask: Mask) -> Rgb:
    """Photo, truth (void grey), mask, overlay and errors side by side, PANEL_HEIGHT pixels high.

    Errors: red was missed, blue was invented.
    """
    truth = np.zeros_like(rgb)
    for label, colour in _TRUTH_RGB.items():
        truth[labels == label] = colour
    errors = rgb // 3
    errors[(labels == FLOWER) & ~mask] = _MISSED_RGB
    errors[(labels != FLOWER) & (labels != VOID) & mask] = _INVENTED_RGB
    width = max(1, round(PANEL_HEIGHT * rgb.shape[1] / rgb.shape[0]))
    shown = np.repeat(np.where(mask, np.uint8(255), np.uint8(0))[..., None], 3, axis=2)
    columns = (rgb, truth, shown, overlay(rgb, mask), errors)
    return np.hstack([resize_area(column, (PANEL_HEIGHT, width)) for column in columns])


def stacked(panels: Sequence[Rgb]) -> Rgb:
    """Panels below one another, on white where they are narrower than the widest."""
    width = max(row.shape[1] for row in panels)
    rows = [
        np.pad(row, ((2, 2), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in panels
    ]
    return np.vstack(rows)


def write_curves(path: Path, epochs: Sequence[Mapping[str, float]]) -> None:
    """Loss and validation IoU over epochs, as PNG.

    Args:
        path: where to.
        epochs: rows with `epoch`, `train_loss` and, where it was validated, `val_iou`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([e["epoch"] for e in epochs], [e["train_loss"] for e in epochs], color="#b0388b")
    left.set(xlabel="epoch", ylabel="cross-entropy", title="training loss", ylim=(0, None))
    validated = [e for e in epochs if "val_iou" in e]
    right.plot(
        [e["epoch"] for e in validated],
        [e["val_iou"] for e in validated],
        color="#2a7f62",
        marker="." if len(validated) < 40 else "",
    )
    right.set(xlabel="epoch", ylabel="flower IoU", title="validation", ylim=(None, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
