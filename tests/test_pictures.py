"""Pictures for people: what each column of a panel shows, and that panels stack."""

from pathlib import Path

import numpy as np

from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.images import read_rgb
from flowerseg.pictures import PANEL_HEIGHT, panel, stacked, write_curves


def test_panel_shows_photo_truth_mask_overlay_and_errors() -> None:
    height, width = PANEL_HEIGHT, 64  # not resized, so that pixels can be read
    rgb = np.full((height, width, 3), 90, np.uint8)
    labels = np.full((height, width), BACKGROUND, np.uint8)
    labels[:, :32] = FLOWER
    labels[:, 60:] = VOID
    mask = np.zeros((height, width), np.bool_)
    mask[:, 16:48] = True
    mask[:, 60:] = True
    shown = panel(rgb, labels, mask)
    assert shown.shape == (height, 5 * width, 3)
    photo, truth, taken, _, errors = np.split(shown[100], 5)
    assert (photo == 90).all()
    assert [truth[x].tolist() for x in (8, 40, 62)] == [[255] * 3, [0] * 3, [110] * 3]
    assert [taken[x].tolist() for x in (8, 24, 40)] == [[0] * 3, [255] * 3, [255] * 3]
    missed, right, invented, void = (errors[x].tolist() for x in (8, 24, 40, 62))
    assert missed == [255, 60, 60]
    assert invented == [60, 120, 255]
    assert right == void == [30, 30, 30]


def test_panel_keeps_the_photos_shape() -> None:
    labels = np.zeros((50, 100), np.uint8)
    shown = panel(np.zeros((50, 100, 3), np.uint8), labels, labels == FLOWER)
    assert shown.shape == (PANEL_HEIGHT, 5 * 2 * PANEL_HEIGHT, 3)


def test_panels_of_different_widths_are_stacked_on_white() -> None:
    rows = [np.zeros((10, 30, 3), np.uint8), np.zeros((10, 20, 3), np.uint8)]
    shown = stacked(rows)
    assert shown.shape == (28, 30, 3)  # two white rows above and below each
    assert (shown[16:26, 20:] == 255).all()
    assert (shown[16:26, :20] == 0).all()


def test_curves_are_drawn_where_some_epochs_were_not_validated(tmp_path: Path) -> None:
    epochs = [
        {"epoch": 1, "train_loss": 0.7},
        {"epoch": 2, "train_loss": 0.5, "val_iou": 0.6},
        {"epoch": 3, "train_loss": 0.4, "val_iou": 0.7},
    ]
    write_curves(tmp_path / "curves.png", epochs)
    drawn = read_rgb(tmp_path / "curves.png")
    assert drawn.shape[0] > 300
    # The two curves have colours of their own: purple and green.
    for colour in ((0xB0, 0x38, 0x8B), (0x2A, 0x7F, 0x62)):
        assert (np.abs(drawn.astype(int) - colour).max(axis=-1) < 8).sum() > 50
