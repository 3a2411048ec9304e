"""What could make ResNet-101 faster in FP16: variants timed in one process, a result for each.

Weights are random: the time of a convolution does not depend on them. Times are those of CUDA
events, the median of several runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowerseg.arrays import SizeHW
from flowerseg.backends.cudnn import CudnnSwitches, computed_with, cudnn_switches
from flowerseg.backends.device import device_name, resolve_device
from flowerseg.backends.transfer import CudaGraph, DeviceBatch
from flowerseg.files import write_text
from flowerseg.half import half_from_network
from flowerseg.model import Architecture, Deployable, specialised
from flowerseg_bench.gpu.fused import FusedNetwork
from flowerseg_bench.limits import COPIED_BYTES, SIDE, copy_gb_per_s, matrix_gflop_per_s
from flowerseg_bench.macs import multiply_adds_of
from flowerseg_bench.network import random_network
from flowerseg_bench.results import readable_json
from flowerseg_bench.timing import Budget, Clock, wall_clock

JSON = "probe.json"

SIZE_HW = (224, 224)
BATCHES = (1, 64, 256)
COMPILED_BATCH = 64
COMPILE_S = 45.0  # what torch.compile may take: it is not begun with less time left

Line: TypeAlias = dict[str, object]
"""What one measurement found, by name with its unit."""


@dataclass(frozen=True)
class Networks:
    """The same network in three forms, on a device."""

    exact: nn.Module  # in FP32
    eager: nn.Module  # as flowerseg opens a checkpoint in FP16; in FP32 where it is not half
    fused: nn.Module  # in the precision of `eager`


@dataclass(frozen=True)
class Variant:
    """A way to run a network."""

    network: Literal["eager", "fused"]
    batch: int
    has_graph: bool = False
    is_timed_first: bool = False  # cuDNN times its kernels and takes the fastest

    def __str__(self) -> str:
        return (
            f"{self.network}, batch {self.batch}"
            + (", cuDNN benchmark" if self.is_timed_first else "")
            + (", CUDA graph" if self.has_graph else "")
        )


VARIANTS = tuple(
    Variant(network, batch, has_graph, is_timed_first)
    for is_timed_first in (False, True)  # the plain ones first: cuDNN's benchmark takes long
    for batch in BATCHES
    for has_graph in (False, True)
    for network in ("eager", "fused")
)


@dataclass(frozen=True)
class Convolution:
    """One convolution of a ResNet-101's second half, at a batch of 64."""

    channels_in: int
    channels_out: int
    kernel: int
    dilation: int
    side: int  # of its maps
    batch: int = 64

    def __str__(self) -> str:
        return (
            f"convolution {self.kernel} x {self.kernel}, {self.channels_in} to {self.channels_out} "
            f"channels, dilation {self.dilation}, {self.side} x {self.side}"
        )

    @property
    def gflop(self) -> float:
        """Operations, two a multiply-add; taps that meet padding count."""
        products = self.channels_in * self.channels_out * self.kernel**2 * self.side**2
        return 2e-9 * self.batch * products


CONVOLUTIONS = (
    # The same work with and without dilation, in layers 3 and 4 and in the pyramid.
    Convolution(256, 256, 3, 1, 28),
    Convolution(256, 256, 3, 2, 28),
    Convolution(512, 512, 3, 1, 28),
    Convolution(512, 512, 3, 4, 28),
    Convolution(2048, 256, 3, 1, 28),
    Convolution(2048, 256, 3, 12, 28),
    Convolution(2048, 256, 3, 24, 28),
    # 1 x 1 convolutions, which are matrix products.
    Convolution(64, 256, 1, 1, 56),
    Convolution(1024, 256, 1, 1, 28),
    Convolution(256, 1024, 1, 1, 28),
)


class Record:
    """Keeps what was found in a file that is whole after every line.

    Args:
        out: gets the file.
        seconds: after which nothing new is begun.
        on_line: called with each line.
        clock: in seconds.
    """

    def __init__(
        self, out: Path, seconds: float, on_line: Callable[[str], None], clock: Clock
    ) -> None:
        self._path = out / JSON
        self._clock = clock
        self._began = clock()
        self._seconds = seconds
        self._on_line = on_line
        self._found: dict[str, Line] = {}

    def add(self, name: str, line: Line) -> None:
        """Keep a result. Raises OutputError where it cannot be written."""
        self._found[name] = line
        values = ", ".join(f"{what} {value}" for what, value in line.items())
        self._on_line(f"{name}: {values}")
        write_text(self._path, readable_json(self._found))

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._began + self._seconds - self._clock()


def probe_into(
    out: Path,
    seconds: float,
    device: str,
    *,
    on_line: Callable[[str], None] = lambda _: None,
    clock: Clock = wall_clock,
) -> None:
    """Compare the fused network with the eager one, then, on a GPU, time what may make it faster.

    Args:
        out: gets probe.json.
        seconds: after which nothing new is begun.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; on the CPU a small network is compared, and that
            is all.
        on_line: called with each result.
        clock: for the whole time.

    Raises:
        BackendUnavailable: the device is not here.
        OutputError: a result cannot be written.
    """
    chosen = resolve_device(device)
    record = Record(out, seconds, on_line, clock)
    if chosen == "cpu":
        networks = networks_on(chosen, Architecture.RESNET50, (64, 64), is_half=False)
        record.add("difference from FP32", difference(networks, chosen, (64, 64)))
        return
    networks = networks_on(chosen, Architecture.RESNET101, SIZE_HW, is_half=True)
    with torch.inference_mode():
        for name, measure in _measurements(networks, chosen):
            if record.left_s <= 0:
                record.add("the time was over before", {"measurement": name})
                return
            record.add(name, _result_of(measure))
        if record.left_s > COMPILE_S:
            record.add(
                "torch.compile for one size", _result_of(partial(_compiled, networks, chosen))
            )


@torch.no_grad()
def networks_on(
    device: str, architecture: Architecture, size_hw: SizeHW, *, is_half: bool
) -> Networks:
    """The networks with the same random weights, which give probabilities from near 0 to near 1."""
    frames = _frames(4, size_hw, "cpu")
    network = random_network(architecture, frames, seed=0)
    scale = 2 / network(frames).std()
    network.head.weight.mul_(scale)
    cast(Tensor, network.head.bias).mul_(scale)
    special = specialised(network, size_hw)
    eager = Deployable(half_from_network(special) if is_half else special).eval()
    fused = FusedNetwork(network, size_hw, torch.float16 if is_half else torch.float32).eval()
    return Networks(
        Deployable(special).eval().to(device),
        eager.to(device).to(memory_format=torch.channels_last),
        fused.to(device),
    )


@torch.inference_mode()
def difference(networks: Networks, device: str, size_hw: SizeHW) -> Line:
    """How far the bytes of both are from FP32's in the mean, and how much those vary.

    Random layers amplify rounding, so the fused network is right if it is as near as the eager one.
    """
    images = _frames(4, size_hw, device)
    with cudnn_switches(CudnnSwitches()):  # without TF32
        exact = networks.exact(images).float()
        eager, fused = (each(images).float() for each in (networks.eager, networks.fused))
    return {
        "eager_levels": round(float((eager - exact).abs().mean()), 4),
        "fused_levels": round(float((fused - exact).abs().mean()), 4),
        "spread_levels": round(float(exact.std()), 1),
    }


def _measurements(networks: Networks, device: str) -> Iterator[tuple[str, Callable[[], Line]]]:
    """Every measurement by name, the most important first."""
    yield "machine", partial(_machine, device)
    yield "difference from FP32", partial(difference, networks, device, SIZE_HW)
    for variant in VARIANTS:
        yield str(variant), partial(_variant, variant, networks, device)
    for convolution in CONVOLUTIONS:
        yield str(convolution), partial(_convolution, convolution, device)


def _result_of(measure: Callable[[], Line]) -> Line:
    """What a measurement found, or why it failed: the others go on."""
    try:
        return measure()
    except Exception as error:  # out of memory, or a kernel that this GPU does not have
        torch.cuda.empty_cache()
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


def _machine(device: str) -> Line:
    """Names, and what the device does at most, as the bench measures it."""
    budget = Budget(for_s=0.5)
    fp16 = matrix_gflop_per_s(device, "fp16", SIDE["cuda"], budget, wall_clock)
    copied = copy_gb_per_s(device, COPIED_BYTES, budget, wall_clock)
    torch.cuda.empty_cache()
    return {
        "gpu": device_name(device),
        "torch": torch.__version__,
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]  # torch's
        "fp16_tflop_per_s": round(fp16 / 1e3, 1),
        "copy_gb_per_s": copied,
    }


def _variant(variant: Variant, networks: Networks, device: str) -> Line:
    network = networks.eager if variant.network == "eager" else networks.fused
    computed = computed_with(network, device, CudnnSwitches(benchmark=variant.is_timed_first))
    return _speed_of(computed, variant.batch, device, has_graph=variant.has_graph)


def _compiled(networks: Networks, device: str) -> Line:
    # fullgraph: what it cannot compile it would run eagerly, in silence.
    compiled = torch.compile(networks.eager, dynamic=False, fullgraph=True)
    return {"batch": COMPILED_BATCH} | _speed_of(compiled, COMPILED_BATCH, device)


def _speed_of(
    network: Callable[[Tensor], Tensor], batch: int, device: str, *, has_graph: bool = False
) -> Line:
    work = DeviceBatch(device)
    images = _frames(batch, SIZE_HW, device)
    torch.cuda.synchronize(device)  # the frames are there before another stream reads them
    run = CudaGraph(network, work) if has_graph else network
    with work.working():
        run_ms = _median_ms(lambda: run(images), runs=10 if batch > COMPILED_BATCH else 20)
    multiply_adds = multiply_adds_of(Architecture.RESNET101, SIZE_HW) or 0
    return {
        "ms": round(run_ms, 3),
        "photos_per_s": round(1e3 * batch / run_ms, 1),
        "tflop_per_s": round(2e-9 * multiply_adds * batch / run_ms, 1),
    }


def _convolution(convolution: Convolution, device: str) -> Line:
    """A convolution in FP16, channels last, and where it is 1 x 1 the same as a matrix product."""
    each, channels_last = convolution, torch.channels_last
    shape = (each.batch, each.channels_in, each.side, each.side)
    features = torch.randn(shape, device=device).to(torch.float16, memory_format=channels_last)
    weight = torch.randn(
        (each.channels_out, each.channels_in, each.kernel, each.kernel), device=device
    ).to(torch.float16, memory_format=channels_last)
    padding = each.dilation * (each.kernel // 2)

    def convolve() -> Tensor:
        return functional.conv2d(features, weight, None, 1, padding, each.dilation)

    line = _rate(each.gflop, _median_ms(convolve, runs=20))
    if each.kernel > 1:
        return line
    rows = features.permute(0, 2, 3, 1).reshape(-1, each.channels_in)
    matrix = weight.reshape(each.channels_out, each.channels_in)
    product = _rate(each.gflop, _median_ms(lambda: functional.linear(rows, matrix), runs=20))
    return line | {f"product_{what}": value for what, value in product.items()}


def _rate(gflop: float, run_ms: float) -> Line:
    return {"ms": round(run_ms, 4), "tflop_per_s": round(gflop / run_ms, 1)}


def _median_ms(run: Callable[[], Tensor], runs: int) -> float:
    """Median time of a run on the current stream, by the GPU's own clock, after three others."""
    for _ in range(3):
        run()
    marks = [_event() for _ in range(runs + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    marks[-1].synchronize()
    return median(float(begin.elapsed_time(end)) for begin, end in pairwise(marks))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's


def _frames(count: int, size_hw: SizeHW, device: str) -> Tensor:
    """Noise (count, H, W, 3), the same every time."""
    seeded = torch.Generator().manual_seed(count)
    noise = torch.randint(0, 256, (count, *size_hw, 3), dtype=torch.uint8, generator=seeded)
    return noise.to(device)
