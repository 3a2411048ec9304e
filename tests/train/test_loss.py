"""The loss: two-class cross-entropy and soft IoU by hand, and void that counts nowhere."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from flowerseg.arrays import BACKGROUND, FLOWER, VOID
from flowerseg.train.loss import known_pixels, masked_loss, soft_iou

WEIGHTS = pytest.mark.parametrize("overlap_weight", [0.0, 1.5])


def _batch(photos: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(photos, 5, 7, generator=generator)
    labels = torch.tensor([BACKGROUND, FLOWER, VOID], dtype=torch.uint8)
    return logits, labels[torch.randint(0, 3, logits.shape, generator=generator)]


def _of_odds(odds: list[list[float]]) -> Tensor:
    """Logits (1, H, W) whose probabilities are odds / (1 + odds)."""
    return torch.tensor([odds]).log()


def _labels(rows: list[list[int]]) -> Tensor:
    return torch.tensor([rows], dtype=torch.uint8)


def test_known_pixels_are_those_with_a_label() -> None:
    assert known_pixels(_labels([[FLOWER, VOID], [BACKGROUND, VOID]])) == 2


def test_loss_is_the_two_class_cross_entropy_without_void() -> None:
    logits, labels = _batch()
    scores = torch.stack([torch.zeros_like(logits), logits], dim=1)
    expected = functional.cross_entropy(scores, labels.long(), ignore_index=VOID)
    torch.testing.assert_close(masked_loss(logits, labels), expected)


@WEIGHTS
def test_void_pixels_change_neither_loss_nor_gradient(overlap_weight: float) -> None:
    logits, labels = _batch()
    void = labels == VOID
    results = []
    for strange in (0.0, -50.0, 1000.0):
        changed = torch.where(void, strange, logits).requires_grad_()
        loss = masked_loss(changed, labels, overlap_weight)
        loss.backward()
        results.append((loss.detach(), changed.grad))
    for loss, gradient in results:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])
        assert not gradient[void].any()
        assert gradient[~void].all()


@WEIGHTS
def test_batch_that_is_all_void_has_neither_loss_nor_gradient(overlap_weight: float) -> None:
    logits = torch.ones(1, 4, 4, requires_grad=True)
    loss = masked_loss(logits, torch.full((1, 4, 4), VOID, dtype=torch.uint8), overlap_weight)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_soft_iou_of_four_pixels_by_hand() -> None:
    # Probabilities 3/4, 1/4, 1/2 and one that void hides; flower, background, flower.
    logits = _of_odds([[3, 1 / 3], [1, 9]])
    labels = _labels([[FLOWER, BACKGROUND], [FLOWER, VOID]])
    overlap = 3 / 4 + 1 / 2
    union = (3 / 4 + 1 / 4 + 1 / 2) + 2 - overlap
    assert soft_iou(logits, labels).tolist() == pytest.approx([(overlap + 1) / (union + 1)])


def test_soft_iou_of_sure_masks_is_that_of_counted_pixels() -> None:
    labels = _labels([[FLOWER, FLOWER, FLOWER, BACKGROUND], [BACKGROUND, VOID, VOID, BACKGROUND]])
    sure = torch.tensor([[[1, 1, -1, 1], [-1, 1, -1, -1]]]) * 50.0
    # Two pixels in both, four in either; one is added to each.
    assert soft_iou(sure, labels).tolist() == pytest.approx([(2 + 1) / (4 + 1)])


@pytest.mark.parametrize(("logit", "iou"), [(-50.0, 1.0), (50.0, 1 / 7)])
def test_photo_without_flower_has_a_soft_iou(logit: float, iou: float) -> None:
    labels = torch.full((1, 2, 3), BACKGROUND, dtype=torch.uint8)
    assert soft_iou(torch.full((1, 2, 3), logit), labels).tolist() == pytest.approx([iou])


def test_overlap_is_the_mean_over_photos_and_weighted() -> None:
    # The first photo lacks 1/2 of its soft IoU (0 + 1) / (1 + 1), the second nothing.
    logits = torch.tensor([[[-50.0]], [[50.0]]])
    labels = torch.full((2, 1, 1), FLOWER, dtype=torch.uint8)
    overlap = masked_loss(logits, labels, overlap_weight=3.0) - masked_loss(logits, labels)
    assert float(overlap) == pytest.approx(3 * (1 / 2 + 0) / 2)


def test_cross_entropy_is_the_mean_over_known_pixels_of_all_photos() -> None:
    # Probability 1/2 costs log 2, 3/4 for a flower log 4/3.
    logits = torch.cat([_of_odds([[1, 1]]), _of_odds([[3, 1]])])
    labels = torch.cat([_labels([[FLOWER, BACKGROUND]]), _labels([[FLOWER, VOID]])])
    expected = (2 * math.log(2) + math.log(4 / 3)) / 3
    assert float(masked_loss(logits, labels)) == pytest.approx(expected)


@WEIGHTS
@pytest.mark.parametrize("sizes", [[2, 3], [1, 1, 3], [5]])
def test_losses_of_parts_add_up_to_the_loss_of_the_whole(
    overlap_weight: float, sizes: list[int]
) -> None:
    logits, labels = _batch(5)
    labels[0, :4] = VOID  # so that parts differ in what is known of them
    whole = logits.clone().requires_grad_()
    masked_loss(whole, labels, overlap_weight).backward()
    divided = logits.clone().requires_grad_()
    total = torch.zeros(())
    for part, truth in zip(divided.split(sizes), labels.split(sizes), strict=True):
        loss = masked_loss(part, truth, overlap_weight, known_pixels(labels), len(labels))
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, masked_loss(logits, labels, overlap_weight))
    torch.testing.assert_close(divided.grad, whole.grad)
