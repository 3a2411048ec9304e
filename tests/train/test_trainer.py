"""Steps: what moves and what stays, how far, how fast, and going on as if never interrupted."""

import copy
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Images
from flowerseg.errors import TrainingError
from flowerseg.model import Architecture, FlowerNet
from flowerseg.tensorfile import read_tensors
from flowerseg.train import Fault, Trainable, TrainConfig
from flowerseg.train import trainer as trainer_module
from flowerseg.train.features import frozen_features
from flowerseg.train.loss import masked_loss
from flowerseg.train.trainer import (
    BN_MOMENTUM,
    CLIP_NORM,
    WEIGHT_DECAY,
    Trainer,
    moving_tensors,
    set_trainable,
    train_mode,
)
from tests.hostile import hostile_values

Batch = tuple[Tensor, Tensor]
Make = Callable[..., Trainer]
HEAD = {"classifier.4.weight", "classifier.4.bias"}


@pytest.fixture
def network(small_network: FlowerNet) -> FlowerNet:
    return copy.deepcopy(small_network)


@pytest.fixture
def make(small_network: FlowerNet) -> Make:
    """Trainers in FP32 that begin with the small network's weights."""

    def trainer(steps: int = 10, **changes: Any) -> Trainer:
        base = {"epochs": 1, "lr": 1e-3, "schedule": "constant", "overlap_weight": 0.5}
        config = TrainConfig(data=Path("none"), out=Path("none"), **(base | changes))
        return Trainer(config, copy.deepcopy(small_network), "cpu", "off", steps)

    return trainer


@pytest.fixture
def batches(frames: Images) -> list[Batch]:
    """Four batches of three photos, with labels in blocks that have nothing to do with them."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.tensor([BACKGROUND, FLOWER, VOID], dtype=torch.uint8)
    blocks = kinds[torch.randint(0, 3, (12, 8, 8), generator=generator)]
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = torch.from_numpy(frames[:12])
    return list(zip(images.split(3), labels.split(3), strict=True))


@pytest.fixture
def kept(small_network: FlowerNet, batches: list[Batch]) -> list[Batch]:
    """The same batches as features in half precision."""
    compute = frozen_features(small_network, "cpu", "off")
    return [(compute(images), labels) for images, labels in batches]


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in trainer.network.state_dict().items()}


def _moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def _trained(trainer: Trainer, batches: Iterable[Batch], seed: int = 0) -> Trainer:
    """After one pass, whose dropout is that of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trainer.train_one_epoch(batches)
    return trainer


# What is frozen


@pytest.mark.parametrize(
    ("trainable", "training"),
    [
        ("head", {"classifier.4"}),
        ("classifier", {"classifier.0", "classifier.4"}),
        ("all", {"backbone", "classifier.0", "classifier.4"}),
    ],
)
def test_frozen_blocks_are_in_eval_mode(
    network: FlowerNet, trainable: Trainable, training: set[str]
) -> None:
    set_trainable(network, trainable)
    train_mode(network)
    blocks = ("backbone", "classifier.0", "classifier.4")
    assert {name for name in blocks if network.get_submodule(name).training} == training


def test_frozen_blocks_are_in_train_mode_where_their_statistics_shall_drift(
    network: FlowerNet,
) -> None:
    set_trainable(network, "head")
    train_mode(network, [Fault.DRIFTING_BATCHNORM])
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.training for norm in norms)
    assert {n for n, w in network.named_parameters() if w.requires_grad} == HEAD


def test_only_batchnorms_that_train_follow_at_another_pace() -> None:
    network = FlowerNet(Architecture.MOBILENET_V3_LARGE)
    before = {n: m.momentum for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    set_trainable(network, "classifier")
    after = {n: m.momentum for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert before["backbone.0.1"] == 0.01 != BN_MOMENTUM
    assert {n: m for n, m in after.items() if n.startswith("backbone")} == {
        n: m for n, m in before.items() if n.startswith("backbone")
    }
    assert {m for n, m in after.items() if n.startswith("classifier")} == {BN_MOMENTUM}


@pytest.mark.parametrize("is_drifting", [False, True])
def test_only_the_head_moves_when_only_the_head_trains(
    make: Make, batches: list[Batch], is_drifting: bool
) -> None:
    faults = (Fault.DRIFTING_BATCHNORM,) if is_drifting else ()
    trainer = make(trainable="head", faults=faults)
    before = _weights(trainer)
    moved = _moved(before, _weights(_trained(trainer, batches[:1])))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    drifted = {name for name in moved if name.endswith(statistics)}
    assert moved - drifted == HEAD
    assert bool(drifted) == is_drifting


def test_backbone_and_its_statistics_stay_when_the_classifier_trains(
    make: Make, batches: list[Batch]
) -> None:
    trainer = make(trainable="classifier")
    before = _weights(trainer)
    moved = _moved(before, _weights(_trained(trainer, batches[:1])))
    assert {name.partition(".")[0] for name in moved} == {"classifier"}
    assert {"classifier.0.convs.0.0.weight", "classifier.2.running_mean"} < moved


def test_moving_tensors_are_trained_weights_and_all_buffers(network: FlowerNet) -> None:
    set_trainable(network, "classifier")
    expected = {
        name
        for name in network.state_dict()
        if name.startswith("classifier")
        or name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    assert set(moving_tensors(network)) == expected


# How far a step goes


def _head_gradient(trainer: Trainer, batch: Batch, overlap_weight: float) -> list[Tensor]:
    """Of the head's weight and bias, by autograd alone."""
    network = copy.deepcopy(trainer.network).eval()
    images, labels = batch
    loss = masked_loss(network(images), labels, overlap_weight)
    return list(torch.autograd.grad(loss, [network.head.weight, network.head.bias]))


def _norm(gradients: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))


@pytest.mark.parametrize(("overlap_weight", "is_clipped"), [(0.5, False), (1e4, True)])
def test_gradient_is_clipped_to_its_norm_and_keeps_its_direction(
    make: Make, batches: list[Batch], overlap_weight: float, is_clipped: bool
) -> None:
    trainer = make(overlap_weight=overlap_weight)
    expected = _head_gradient(trainer, batches[0], overlap_weight)
    assert (_norm(expected) > CLIP_NORM) == is_clipped
    if is_clipped:
        expected = [gradient * (CLIP_NORM / _norm(expected)) for gradient in expected]
    stepped: list[Tensor | None] = []
    weights = (trainer.network.head.weight, trainer.network.head.bias)
    trainer._optimiser.register_step_pre_hook(lambda *_: stepped.extend(w.grad for w in weights))
    trainer.train_one_epoch(batches[:1])
    for found, wanted in zip(stepped, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_weight_decay_is_for_tensors_of_more_than_one_dimension(
    make: Make, trainable: Trainable
) -> None:
    trainer = make(trainable=trainable)
    groups = trainer._optimiser.param_groups
    decays = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    weights = [weight for weight in trainer.network.parameters() if weight.requires_grad]
    assert decays == {id(w): WEIGHT_DECAY if w.ndim > 1 else 0.0 for w in weights}


def test_adam_of_the_study_has_no_weight_decay(make: Make) -> None:
    trainer = make(optimiser="adam")
    assert type(trainer._optimiser) is torch.optim.Adam
    assert [group["weight_decay"] for group in trainer._optimiser.param_groups] == [0]


def _lrs(trainer: Trainer, batches: list[Batch]) -> list[float]:
    """The learning rate of each step."""
    lrs = [trainer.lr]
    trainer.train_one_epoch(batches, lambda *_: lrs.append(trainer.lr))
    return lrs[:-1]


def test_one_cycle_rises_to_the_rate_and_falls_to_almost_nothing(
    make: Make, kept: list[Batch]
) -> None:
    # Smith and Topin 2018 as torch has it: from a 25th, over the peak at 30 %, to 10000 times less
    # than at first, along half waves of the cosine.
    def half_wave(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    first, peak, last = 0.02 / 25, 0.02, 0.02 / 25e4
    expected = [half_wave(first, peak, step / 2) for step in range(3)]
    expected += [half_wave(peak, last, step / 7) for step in range(1, 8)]
    trainer = make(steps=5, epochs=2, lr=0.02, schedule="one-cycle")
    found = [lr for _ in range(2) for lr in _lrs(trainer, kept[:1] * 5)]
    assert found == pytest.approx(expected)


def test_constant_schedule_stays(make: Make, kept: list[Batch]) -> None:
    assert _lrs(make(lr=0.02), kept) == [0.02] * 4


def test_every_step_is_told_and_their_mean_returned(make: Make, batches: list[Batch]) -> None:
    told: list[tuple[float, int]] = []
    trainer = make(lr=1e-6)
    expected = []
    for images, labels in batches:
        with torch.no_grad():
            expected.append(float(masked_loss(trainer.network(images), labels, 0.5)))
    mean = trainer.train_one_epoch(batches, lambda *step: told.append(step))
    assert [photos for _, photos in told] == [3] * 4
    # The rate is too small for a step to show in the next loss.
    assert [loss for loss, _ in told] == pytest.approx(expected, rel=1e-3)
    assert mean == pytest.approx(sum(loss for loss, _ in told) / 4)


def test_first_step_that_overflows_in_fp16_is_left_out_quietly(
    small_network: FlowerNet, kept: list[Batch]
) -> None:
    # The scaler begins with 65536 and halves it until gradients are finite: by design.
    config = TrainConfig(data=Path("none"), out=Path("none"), epochs=1, overlap_weight=2000.0)
    trainer = Trainer(config, copy.deepcopy(small_network), "cpu", "fp16", steps_per_epoch=4)
    before = _weights(trainer)
    trainer.train_one_epoch(kept[:1])
    assert not _moved(before, _weights(trainer))
    assert trainer.state()["scaler"]["scale"] == 65536 / 2


# Features in place of images


def test_head_trains_on_kept_features_as_on_images(
    make: Make, batches: list[Batch], kept: list[Batch]
) -> None:
    on_images, on_features = make(lr=1e-3), make(lr=1e-3)
    start = on_images.network.head.weight.detach().clone()
    losses: dict[str, list[float]] = {"images": [], "features": []}
    on_images.train_one_epoch(batches, lambda loss, _: losses["images"].append(loss))
    on_features.train_one_epoch(kept, lambda loss, _: losses["features"].append(loss))
    # Half precision rounds a feature by at most 2**-11 of it, and the gradient with it. The steps
    # of Adam do not depend on the gradient's scale and come out about as close, but where the
    # gradient is next to nothing: there rounding decides which way a whole step goes. That is one
    # weight in some thousand, and which one depends on the processor.
    trainers = (on_images, on_features)
    moved = [(trainer.network.head.weight.detach() - start).flatten() for trainer in trainers]
    apart = (moved[0] - moved[1]).abs().sort().values
    assert float(apart[: -len(apart) // 500].norm() / moved[0].norm()) < 4 * 2**-11
    assert losses["features"] == pytest.approx(losses["images"], rel=2**-11)
    assert losses["features"] != losses["images"]  # it was the features that were used


def test_loss_on_kept_features_is_off_by_no_more_than_their_rounding(
    make: Make, batches: list[Batch], kept: list[Batch]
) -> None:
    trainer = make(overlap_weight=0.0)
    network = trainer.network.eval()
    images, labels = batches[0]
    with torch.no_grad():
        expected = float(masked_loss(network(images), labels))
        # The margin is off by 2**-11 of the sum of all its absolute terms, cross-entropy changes
        # no faster than the margin, and upsampling takes weighted means.
        margin = (network.head.weight[1:] - network.head.weight[:1]).abs()
        bound = nn.functional.conv2d(network.features(images).abs(), margin, padding=1).max()
    found: list[float] = []
    trainer.train_one_epoch(kept[:1], lambda loss, _: found.append(loss))
    assert abs(found[0] - expected) < 2**-11 * float(bound) < 0.1


# Interruption


def _check_going_on(make: Make, first: Batch, second: Batch, path: Path, **settings: Any) -> None:
    settings = {"steps": 1, "epochs": 2, "lr": 1e-2} | settings
    interrupted = _trained(make(**settings), [first], seed=1)
    torch.save(interrupted.state(), path)
    restored = make(**settings)
    restored.restore(read_tensors(path))
    assert restored.lr == interrupted.lr
    after_first = _weights(restored)
    assert not _moved(after_first, _weights(interrupted))
    whole = _weights(_trained(interrupted, [second], seed=2))
    assert not _moved(whole, _weights(_trained(restored, [second], seed=2)))
    assert _moved(after_first, whole) >= HEAD


@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
@pytest.mark.parametrize("optimiser", ["adamw", "adam"])
def test_restored_head_goes_on_bit_for_bit(
    make: Make, kept: list[Batch], tmp_path: Path, schedule: str, optimiser: str
) -> None:
    path = tmp_path / "state.pt"
    _check_going_on(make, *kept[:2], path, schedule=schedule, optimiser=optimiser)


def test_restored_network_goes_on_bit_for_bit_with_its_statistics(
    make: Make, batches: list[Batch], tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    _check_going_on(make, *batches[:2], path, trainable="all", schedule="one-cycle")


def test_weights_alone_do_not_determine_the_next_step(make: Make, kept: list[Batch]) -> None:
    # Or the tests above could not fail.
    whole, fresh = _trained(make(), kept[:2]), make()
    fresh.restore(fresh.state() | {"network": whole.state()["network"]})
    assert not _moved(_weights(fresh), _weights(whole))
    assert _moved(_weights(_trained(fresh, kept[2:])), _weights(_trained(whole, kept[2:]))) == HEAD


# What stops a run


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_loss_that_is_not_finite_is_told_with_a_remedy(
    make: Make, kept: list[Batch], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    factors = iter([1.0, float(value)])
    monkeypatch.setattr(
        trainer_module, "masked_loss", lambda *batch: masked_loss(*batch) * next(factors)
    )
    taken: list[float] = []
    with pytest.raises(
        TrainingError, match=rf"the loss became {value}\. .* smaller --lr than 0\.001\."
    ):
        make().train_one_epoch(kept, lambda loss, _: taken.append(loss))
    assert len(taken) == 1


def _gpu_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore\nlines")


def _host_is_full() -> None:
    torch.empty(2**60, dtype=torch.uint8)  # the allocator's own complaint


def _python_is_full() -> None:
    raise MemoryError("no more")


class _Narrow:
    """Stands before a network's logits, whose memory holds so many photos only."""

    def __init__(self, network: FlowerNet, most: int, complain: Callable[[], None]) -> None:
        self._logits = network.logits
        self._most = most
        self._complain = complain

    def __call__(self, features: Tensor, size_hw: torch.Size) -> Tensor:
        if len(features) > self._most:
            self._complain()
        return self._logits(features, size_hw)


def _narrowed(trainer: Trainer, most: int, complain: Callable[[], None]) -> Trainer:
    trainer.network.logits = _Narrow(trainer.network, most, complain)
    return trainer


def _features(photos: int) -> Batch:
    return torch.ones(photos, 256, 4, 4), torch.zeros(photos, 64, 64, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("complain", "said"),
    [
        (_gpu_is_full, r"CUDA out of memory\. Tried to allocate 2 GiB\."),
        (_host_is_full, r".*can't allocate memory.*"),
        (_python_is_full, "no more"),
    ],
)
@pytest.mark.parametrize(("most", "fits"), [(11, 6), (6, 6), (5, 3), (3, 3)])
def test_batch_that_does_not_fit_is_told_with_the_size_that_does(
    make: Make, complain: Callable[[], None], said: str, most: int, fits: int
) -> None:
    trainer = _narrowed(make(), most, complain)
    before = _weights(trainer)
    message = (
        rf"^a batch of 12 photos does not fit into memory \({said}\)\. "
        rf"{fits} fit: train with --batch-size {fits}\.$"
    )
    with pytest.raises(TrainingError, match=message):
        trainer.train_one_epoch([_features(12)])
    assert not _moved(before, _weights(trainer))


@pytest.mark.parametrize(("photos", "most"), [(12, 1), (12, 0), (2, 1)])
def test_where_nothing_fits_it_says_so(make: Make, photos: int, most: int) -> None:
    trainer = _narrowed(make(), most, _gpu_is_full)
    with pytest.raises(TrainingError, match=r"Not even 2 fit: .*--size or --arch, or another"):
        trainer.train_one_epoch([_features(photos)])


def test_two_of_three_that_fit_are_found(make: Make) -> None:
    trainer = _narrowed(make(), 2, _gpu_is_full)
    with pytest.raises(TrainingError, match="2 fit: train with --batch-size 2"):
        trainer.train_one_epoch([_features(3)])


def test_other_errors_are_not_taken_for_lack_of_memory(make: Make) -> None:
    def broken() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        _narrowed(make(), 0, broken).train_one_epoch([_features(2)])


@given(data=st.data())
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_hostile_state_is_refused_or_is_the_same(
    make: Make, kept: list[Batch], data: st.DataObject
) -> None:
    """One value of a whole state is another, or is missing; only ValueError may end it."""
    chosen = {"steps": 2, "epochs": 2, "lr": 1e-2}
    state = _trained(make(**chosen), kept[:1], seed=1).state()
    changed = data.draw(hostile_values(state))
    restored = make(**chosen)
    with suppress(ValueError, TrainingError):
        restored.restore(changed)
        _trained(restored, kept[:1], seed=2)
