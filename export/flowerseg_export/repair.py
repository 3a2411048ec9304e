"""The least part of a network that has to stay in FP32 for the rest to be right in half."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from flowerseg.arrays import SizeHW
from flowerseg.artifact import Artifact, Precision
from flowerseg.backends.device import resolve_device
from flowerseg.backends.pytorch import PyTorchBackend, open_checkpoint
from flowerseg.checkpoint import network_from_artifact
from flowerseg.data import PhotoSet
from flowerseg.errors import ExportError, ParityError
from flowerseg.half import emulated_half_from_network, half_from_network, kept_modules
from flowerseg.model import FlowerNet, specialised
from flowerseg.proof import LIMITS, Expected, expect
from flowerseg.proof.faults import faults_of
from flowerseg.proof.passes import measure_alone
from flowerseg.proof.prove import REFERENCE_BATCH
from flowerseg.proof.stress import expect_stress
from flowerseg.segmenter import Segmenter
from flowerseg_export.graph import onnx_from_network

QUICK_PHOTOS = 4  # an overflow mostly shows on any photo
_TIMED_BATCH = 8
_TIMED_RUNS = 20

Passes = Callable[[Sequence[str]], bool]
"""Whether a file with these modules in FP32, the rest in half, passes."""


@dataclass(frozen=True)
class Repaired:
    """The modules that stay in FP32, and what they cost."""

    keep_fp32: tuple[str, ...]  # globs of modules
    half_bytes: int  # of the ONNX file all in half
    mixed_bytes: int  # of the ONNX file with these modules in FP32
    half_ms: float | None = None  # a batch of 8 in PyTorch; None where half cannot be executed
    mixed_ms: float | None = None

    def __str__(self) -> str:
        if not self.keep_fp32:
            return "repair: nothing to do, all modules pass in half"
        size = f"{self.mixed_bytes - self.half_bytes:+,} bytes on {self.half_bytes:,}"
        if self.mixed_ms is None or self.half_ms is None:
            time = "milliseconds cannot be measured here: only a GPU executes half"
        else:
            time = f"{self.mixed_ms - self.half_ms:+.3f} ms on {self.half_ms:.3f} for a batch of 8"
        return f"repair: in FP32 stay {', '.join(self.keep_fp32)} ({size}; {time})"


def least_islands(passes: Passes, modules: Sequence[str]) -> list[str]:
    """Modules of which none can be spared: kept together they pass, without any one they do not.

    Where each module that is needed is needed for itself, as with overflows, that is the smallest
    set there is. Each module is found by bisection: the shortest run of modules from the start
    that passes ends with one that is needed. For k of n modules that takes at most
    2 + k (1 + ceil(log2 n)) calls.

    Args:
        passes: keeping more modules never makes it fail.
        modules: in the order of execution.

    Raises:
        ValueError: not even all modules together pass.
    """
    if not passes(modules):
        raise ValueError("not even with all modules in FP32 does it pass")
    found: list[str] = []
    rest = list(modules)
    # What is found and the rest together were seen to pass, at every turn.
    while rest and not passes(found):
        fails, ends = 0, len(rest)
        while ends - fails > 1:
            middle = (fails + ends) // 2
            if passes([*rest[:middle], *found]):
                ends = middle
            else:
                fails = middle
        found.insert(0, rest[ends - 1])
        rest = rest[: ends - 1]
    return found


def repair(
    source: Artifact, photos: PhotoSet, *, keep_fp32: Sequence[str] = (), device: str = "auto"
) -> Repaired:
    """Find what has to stay in FP32 for emulated half to pass the proof.

    Args:
        source: the checkpoint.
        photos: labelled photos, those of the proof.
        keep_fp32: globs of modules that stay in FP32 anyhow.
        device: where the emulation and its reference run, and half is timed.

    Raises:
        ExportError: a glob matches nothing, or the checkpoint does not pass in FP32 either.
    """
    network = specialised(network_from_artifact(source), source.manifest.preprocess.size_hw)
    try:
        modules = islands_of(network, without=kept_modules(network, keep_fp32))
        trial = _Trial(network, source, photos, tuple(keep_fp32), device)
        needed = _needed(trial, modules)
    except ValueError as error:
        raise ExportError(f"--repair: {error}.") from error
    kept = (*keep_fp32, *needed)
    return _with_cost(network, tuple(kept), source.manifest.preprocess.size_hw, device)


def islands_of(network: FlowerNet, without: set[str]) -> list[str]:
    """The modules that can be kept in FP32 one by one, in the order of definition.

    Args:
        network: with its BatchNorms folded, so that a convolution and its BatchNorm are one module.
        without: modules that stay in FP32 anyhow.
    """
    return sorted(kept_modules(network, ["*"]) - without, key=_order(network))


def _order(network: nn.Module) -> Callable[[str], int]:
    places = {name: place for place, (name, _) in enumerate(network.named_modules())}
    return lambda name: places[name]


class _Trial:
    """The emulation of one network with various modules in FP32, beside its reference."""

    def __init__(
        self,
        network: FlowerNet,
        source: Artifact,
        photos: PhotoSet,
        keep_fp32: tuple[str, ...],
        device: str,
    ) -> None:
        self._network, self._manifest = network, source.manifest
        self._keep_fp32, self._device = keep_fp32, device
        own = self._manifest.threshold
        reference = open_checkpoint(source, device)
        with Segmenter(reference, self._manifest.preprocess, own) as truth:
            self._expected: list[Expected] = list(expect(truth, photos))
            self._stress = expect_stress(truth, self._expected)

    def is_finite(self, globs: Sequence[str]) -> bool:
        """Whether nothing overflows on a few photos."""
        frames = [item.frame for item in self._expected[:QUICK_PHOTOS]]
        try:
            with self._emulated(globs) as half:
                half.infer(frames)
        except ParityError:
            return False
        return True

    def is_proved(self, globs: Sequence[str]) -> bool:
        """Whether all photos come out within the limits of FP16."""
        try:
            with self._emulated(globs) as half:
                parity = measure_alone(half, self._expected, REFERENCE_BATCH, self._stress)
        except ParityError:
            return False
        return not faults_of(parity, self._expected, LIMITS[Precision.FP16])

    def _emulated(self, globs: Sequence[str]) -> Segmenter:
        emulation = emulated_half_from_network(self._network, [*self._keep_fp32, *globs])
        preprocess = self._manifest.preprocess
        backend = PyTorchBackend(emulation, preprocess.size_hw, self._device)
        return Segmenter(backend, preprocess, self._manifest.threshold)


def _needed(trial: _Trial, modules: Sequence[str]) -> list[str]:
    """Modules that have to stay: those that overflow on few photos, then what all photos ask for.

    A module that overflows on a few photos does so on all of them, too: it is needed for sure, and
    found at a fraction of the price.
    """
    if trial.is_proved([]):
        return []
    loud = least_islands(trial.is_finite, modules)
    rest = [name for name in modules if name not in loud]
    more = least_islands(lambda names: trial.is_proved([*loud, *names]), rest)
    return [name for name in modules if name in loud or name in more]


def _with_cost(
    network: FlowerNet, keep_fp32: tuple[str, ...], size_hw: SizeHW, device: str
) -> Repaired:
    half, mixed = half_from_network(network), half_from_network(network, keep_fp32)
    half_bytes = onnx_from_network(half, size_hw).ByteSize()
    mixed_bytes = onnx_from_network(mixed, size_hw).ByteSize() if keep_fp32 else half_bytes
    chosen = resolve_device(device)
    if chosen == "cpu":
        return Repaired(keep_fp32, half_bytes, mixed_bytes)
    half_ms, mixed_ms = (_measure_ms(each, size_hw, chosen) for each in (half, mixed))
    return Repaired(keep_fp32, half_bytes, mixed_bytes, half_ms, mixed_ms)


def _measure_ms(network: FlowerNet, size_hw: SizeHW, device: str) -> float:
    """Median time of a batch in PyTorch, by the GPU's own clock; the first runs warm up."""
    images = torch.zeros((_TIMED_BATCH, *size_hw, 3), dtype=torch.uint8, device=device)
    on_gpu = network.eval().to(device)
    times = []
    with torch.inference_mode(), torch.cuda.device(device):
        for _ in range(2 * _TIMED_RUNS):
            start, end = (torch.Event(device, enable_timing=True) for _ in range(2))
            start.record()
            on_gpu(images)
            end.record()
            end.synchronize()
            times.append(float(start.elapsed_time(end)))
    return statistics.median(times[_TIMED_RUNS:])
