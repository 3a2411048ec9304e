"""One step after another: network, optimiser and schedule of one run."""

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from flowerseg.errors import TrainingError
from flowerseg.model import FlowerNet
from flowerseg.train.amp import Amp, autocast, keep_depthwise_fp32
from flowerseg.train.config import Fault, Trainable, TrainConfig
from flowerseg.train.form import require_form
from flowerseg.train.loss import known_pixels, masked_loss
from flowerseg.train.processes import Processes

# torchvision's MobileNetV3 has 0.01, meant for the long epochs of ImageNet: with 26 steps an epoch
# the running statistics trail the weights so far that the first ten epochs validate as empty masks.
BN_MOMENTUM = 0.1
# Ten times the usual norm of this loss's gradient: it touches nothing but accidents.
CLIP_NORM = 5.0
WEIGHT_DECAY = 0.01

OnStep = Callable[[float, int], None]
"""Called after each step with its loss and the photos that all processes took it with."""


class Trainer:
    """Trains a network by batches of frames, or of cached features where only the head trains."""

    def __init__(
        self,
        config: TrainConfig,
        network: FlowerNet,
        device: str,
        amp: Amp,
        steps_per_epoch: int,
        processes: Processes | None = None,
    ) -> None:
        self._config = config
        self._device = device
        self._amp = amp
        self._processes = processes or Processes()
        set_trainable(network, config.trainable)
        keep_depthwise_fp32(network)
        network.to(device).to(memory_format=torch.channels_last)
        self._forward, self._network = _parallel(network, config.trainable, device, self._processes)
        self._optimiser = _optimiser(self._network, config)
        self._schedule = _schedule(self._optimiser, config, config.epochs * steps_per_epoch)
        self._scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=amp == "fp16")

    @property
    def network(self) -> FlowerNet:
        """The network that is trained."""
        return self._network

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._schedule.get_last_lr()[0])

    def train_one_epoch(
        self, batches: Iterable[tuple[Tensor, Tensor]], on_step: OnStep = lambda *_: None
    ) -> float:
        """Mean loss over the steps of one pass.

        Args:
            batches: images (N, H, W, 3) uint8 or features (N, 256, h, w), and labels (N, H, W).
            on_step: told of each step.

        Raises:
            TrainingError: the loss is not finite, or a batch does not fit into memory.
        """
        train_mode(self._network, self._config.faults)
        losses = []
        for inputs, labels in batches:
            loss, photos = self._step_within_memory(inputs, labels)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss}. The best checkpoint so far is kept; train again with "
                    f"a smaller --lr than {self._config.lr:g}."
                )
            losses.append(loss)
            on_step(loss, photos)
        return math.fsum(losses) / len(losses)

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on and that frozen weights do not tell."""
        moving = {name: tensor.clone() for name, tensor in moving_tensors(self._network).items()}
        return {"network": moving} | {k: part.state_dict() for k, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state` as if there had been no interruption.

        Raises:
            ValueError: it is not the state of such a training, which cannot go on from it.
        """
        try:
            self._require_form(state)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{error} is missing, or is something else") from error
        self._network.load_state_dict(state["network"], strict=False)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _require_form(self, state: dict[str, Any]) -> None:
        parts = self._parts()
        require_form({"network": moving_tensors(self._network)}, {"network": state["network"]})
        for name in ("schedule", "scaler"):
            require_form({name: parts[name].state_dict()}, {name: state[name]})
        _require_optimiser_form(self._optimiser, state["optimiser"])

    def _parts(self) -> dict[str, Any]:
        return {
            "optimiser": self._optimiser,
            "schedule": self._schedule,
            "scaler": self._scaler,
        }

    def _step_within_memory(self, inputs: Tensor, labels: Tensor) -> tuple[float, int]:
        try:
            return self._step(inputs, labels)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            said = str(error).splitlines()[0]
        # Outside of the except block: the traceback would keep the step's tensors alive.
        raise TrainingError(self._out_of_memory(inputs, labels, said))

    def _step(self, inputs: Tensor, labels: Tensor) -> tuple[float, int]:
        inputs = inputs.to(self._device, non_blocking=True)
        labels = labels.to(self._device, non_blocking=True)
        counts = torch.stack([known_pixels(labels), torch.tensor(len(labels), device=self._device)])
        known, photos = self._processes.sum(counts)
        loss = self._loss(inputs, labels, known, int(photos))
        self._optimiser.zero_grad(set_to_none=True)
        # Each process has its part of one mean; DistributedDataParallel averages what is summed.
        self._scaler.scale(loss * self._processes.world).backward()  # type: ignore[no-untyped-call]  # torch's
        self._scaler.unscale_(self._optimiser)
        nn.utils.clip_grad_norm_(self._network.parameters(), CLIP_NORM)
        scale = self._scaler.get_scale()
        self._scaler.step(self._optimiser)
        self._scaler.update()
        if self._scaler.get_scale() >= scale:  # else the step was left out: fp16 overflowed
            self._schedule.step()
        return float(self._processes.sum(loss.detach())), int(photos)

    def _loss(self, inputs: Tensor, labels: Tensor, known: Tensor, photos: int) -> Tensor:
        with autocast(self._amp, self._device):
            logits = self._forward(inputs, labels.shape[1:])
        return masked_loss(logits, labels, self._config.overlap_weight, known, photos)

    def _out_of_memory(self, inputs: Tensor, labels: Tensor, said: str) -> str:
        """Say which batch size fits, by trying halves of the batch that did not."""
        message = f"a batch of {len(inputs)} photos does not fit into memory ({said})."
        # Alone: the other processes are not where a step that is averaged would wait for them.
        self._forward = _Logits(self._network, self._config.trainable)
        size = len(inputs)
        while size > 2:
            size = max(2, size // 2)
            try:
                self._optimiser.zero_grad(set_to_none=True)
                part, truth = inputs[:size].to(self._device), labels[:size].to(self._device)
                self._loss(part, truth, known_pixels(truth), size).backward()  # type: ignore[no-untyped-call]  # torch's
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
            else:
                fits = size * self._processes.world
                return f"{message} {size} fit: train with --batch-size {fits}."
        return f"{message} Not even 2 fit: choose a smaller --size or --arch, or another device."


def _require_optimiser_form(optimiser: Optimizer, state: dict[str, Any]) -> None:
    """Refuse what `optimiser.load_state_dict` takes and the next step does not.

    Raises:
        ValueError: other groups or other tensors than this optimiser has after a step.
    """
    require_form(
        {"param_groups": optimiser.state_dict()["param_groups"]},
        {k: v for k, v in state.items() if k != "state"},
    )
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for index, kept in state["state"].items():
        form = {"step": torch.zeros(()), "exp_avg": weights[index], "exp_avg_sq": weights[index]}
        require_form(form, kept, f"optimiser {index}")


def set_trainable(network: FlowerNet, trainable: Trainable) -> None:
    """Freeze everything but the chosen part, whose BatchNorms follow at `BN_MOMENTUM`."""
    parts: dict[Trainable, nn.Module] = {
        "head": network.head,
        "classifier": network.classifier,
        "all": network,
    }
    network.requires_grad_(False)
    parts[trainable].requires_grad_(True)
    for module in parts[trainable].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BN_MOMENTUM


def train_mode(network: FlowerNet, faults: Collection[Fault] = ()) -> None:
    """Train mode for what trains, eval mode for what is frozen.

    A frozen BatchNorm in train mode would go on moving its statistics, and a frozen block's
    dropout would only add noise.
    """
    for block in (network.backbone, *network.classifier):
        trains = any(weight.requires_grad for weight in block.parameters())
        block.train(trains or Fault.DRIFTING_BATCHNORM in faults)


def moving_tensors(network: FlowerNet) -> dict[str, Tensor]:
    """What training changes, by name: weights that train, and every buffer, which are few."""
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    buffers = {name for name, _ in network.named_buffers()}
    return {n: t for n, t in network.state_dict().items() if n in trained or n in buffers}


class _Logits(nn.Module):
    """What a step computes, as the one module that DistributedDataParallel wants."""

    def __init__(self, network: FlowerNet, trainable: Trainable) -> None:
        super().__init__()
        self.network = network
        self._trainable = trainable

    def forward(self, inputs: Tensor, size_hw: torch.Size) -> Tensor:
        """Logits (N, H, W) from images (N, H, W, 3) uint8, or from features (N, 256, h, w)."""
        if self._trainable != "head":
            return cast(Tensor, self.network(inputs))
        if inputs.dtype is torch.uint8:
            with torch.no_grad():
                inputs = self.network.features(inputs)
        return self.network.logits(inputs.float(), size_hw)


def _parallel(
    network: FlowerNet, trainable: Trainable, device: str, processes: Processes
) -> tuple[nn.Module, FlowerNet]:
    """What computes logits, and the network in it."""
    on_gpu = device.startswith("cuda")
    if processes.world == 1:
        return _Logits(network, trainable), network
    if on_gpu and trainable != "head":
        # Statistics over the whole batch, as one process would have them. CPUs have no such layer.
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch's
    whole = _Logits(network, trainable)
    ids = [torch.device(device).index] if on_gpu else None
    return DistributedDataParallel(whole, device_ids=ids), network


def _optimiser(network: FlowerNet, config: TrainConfig) -> Optimizer:
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if config.optimiser == "adam":
        return Adam(weights, lr=config.lr)
    # Biases and the scales of BatchNorm are not what makes a network overfit.
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.lr)


def _schedule(optimiser: Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    if config.schedule == "constant":
        return ConstantLR(optimiser, factor=1.0, total_iters=0)
    return OneCycleLR(optimiser, config.lr, total_steps=steps)


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU's allocator raises a plain RuntimeError.
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
