"""Pictures for people: what each column of a panel shows, and that panels stack."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Rgb
from flowerseg.images import read_rgb, write_jpeg
from flowerseg.paint import paint_photo
from flowerseg.pictures import PANEL_HEIGHT, panel, stacked, unstacked, write_curves

PURPLE, GREEN = (0xB0, 0x38, 0x8B), (0x2A, 0x7F, 0x62)


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


def test_stacked_panels_come_apart_again_after_jpeg(tmp_path: Path) -> None:
    panels = []
    for seed, size_hw in enumerate([(192, 64), (192, 256), (192, 101)]):
        photo = paint_photo(size_hw, seed)
        panels.append(panel(photo.rgb, photo.labels, photo.labels == FLOWER))
    write_jpeg(tmp_path / "stack.jpg", stacked(panels))
    apart = unstacked(read_rgb(tmp_path / "stack.jpg"))
    assert [row.shape for row in apart] == [row.shape for row in panels]
    for row, original in zip(apart, panels, strict=True):
        assert np.abs(row.astype(int) - original).mean() < 4


def test_an_empty_mask_of_a_white_photo_comes_apart_too() -> None:
    labels = np.full((PANEL_HEIGHT, 50), FLOWER, np.uint8)
    narrow = panel(np.full((PANEL_HEIGHT, 50, 3), 255, np.uint8), labels, labels == FLOWER)
    wide = np.zeros((PANEL_HEIGHT, 400, 3), np.uint8)
    assert [row.shape[1] for row in unstacked(stacked([narrow, wide]))] == [250, 400]


def test_what_is_no_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="196"):
        unstacked(np.zeros((300, 40, 3), np.uint8))


def test_curves_are_drawn_where_some_epochs_were_not_validated(tmp_path: Path) -> None:
    epochs = [
        {"epoch": 1, "train_loss": 0.7},
        {"epoch": 2, "train_loss": 0.5, "val_iou": 0.6},
        {"epoch": 3, "train_loss": 0.4, "val_iou": 0.7},
    ]
    drawn = curves(tmp_path, epochs)
    assert drawn.shape[0] > 300
    left, right = np.hsplit(drawn, 2)
    assert pixels_of(left, PURPLE).sum() > 50
    assert pixels_of(right, GREEN).sum() > 50
    assert not pixels_of(left, GREEN).any()  # no validation loss was given


def test_validation_loss_is_drawn_beside_the_training_loss(tmp_path: Path) -> None:
    epochs = [
        {"epoch": 1, "train_loss": 0.7, "val_loss": 0.9, "val_iou": 0.1},
        {"epoch": 2, "train_loss": 0.5, "val_loss": 0.6, "val_iou": 0.6},
    ]
    left, _ = np.hsplit(curves(tmp_path, epochs), 2)
    assert pixels_of(left, PURPLE).sum() > 50
    assert pixels_of(left, GREEN).sum() > 50


@pytest.mark.parametrize(("epochs", "best"), [(1, 1), (12, 3), (300, 299), (300, 20)])
def test_a_dot_marks_the_best_epoch(tmp_path: Path, epochs: int, best: int) -> None:
    rows = [
        {"epoch": e, "train_loss": 1 / e, "val_iou": 0.9 - abs(e - best) / 400}
        for e in range(1, epochs + 1)
    ]
    _, right = np.hsplit(curves(tmp_path, rows), 2)
    # Thicker than any line: only a dot outlasts an erosion.
    dots, count = ndimage.label(ndimage.binary_erosion(pixels_of(right, GREEN), np.ones((7, 7))))
    assert count == 1
    _, x = ndimage.center_of_mass(dots)
    place = 0.5 if epochs == 1 else (best - 1) / (epochs - 1)
    axes_left, axes_right = 0.08, 0.98  # of the picture's half, roughly
    assert x / right.shape[1] == pytest.approx(
        axes_left + place * (axes_right - axes_left), abs=0.08
    )


def curves(folder: Path, epochs: list[dict[str, float]]) -> Rgb:
    write_curves(folder / "curves.png", epochs)
    return read_rgb(folder / "curves.png")


def pixels_of(drawn: Rgb, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.abs(drawn.astype(int) - colour).max(axis=-1) < 8
    return near
