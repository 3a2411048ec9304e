"""What the device does at most, measured in the same run, and each row's share of that."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.results import Limit, Measurement, Row, Scenario
from flowerseg_bench.timing import Budget, Clock, repeat, timed

SIDE = {"cpu": 1536, "cuda": 8192}
"""Of the square matrices: 7 and 1,100 GFLOP a product, so that starting it costs nothing."""

COPIED_BYTES = 256 * 2**20  # more than the caches of what flowerseg runs on

TYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""What a row computes in, as far as matrices of it are measured."""


def limits_of(rows: Sequence[Row], budget: Budget, clock: Clock) -> tuple[Limit, ...]:
    """Measure every device that rows run on, for the types that they compute in there."""
    needed: dict[str, dict[str, None]] = {}
    for row in rows:
        if computes_in := matrix_type(row):
            needed.setdefault(row.device, {})[computes_in] = None
    return tuple(_limit(device, tuple(types), budget, clock) for device, types in needed.items())


def matrix_type(row: Row) -> str | None:
    """Whose matrix rate is a row's limit; None for INT8, which no rate of floats limits.

    On the CPU FP16 is FP32: there ONNX Runtime and OpenVINO run FP16 nodes in FP32.
    """
    if row.is_null or row.precision not in TYPES:
        return None
    is_widened = row.precision == "fp16" and not row.device.startswith("cuda")
    return "fp32" if is_widened else row.precision


def with_shares(
    items: Sequence[Measurement], rows: Sequence[Row], limits: Sequence[Limit]
) -> list[Measurement]:
    """Add to each throughput of an engine its share of the device's matrix rate."""
    rates = {limit.device: limit.matrix_gflop_per_s for limit in limits}
    shared = []
    for item in items:
        row = rows[item.row]
        rate = rates.get(row.device, {}).get(matrix_type(row) or "")
        is_told = item.boundary is Boundary.ENGINE and item.scenario is Scenario.THROUGHPUT
        if rate and is_told and row.multiply_adds and item.throughput:
            gflop_per_s = 2e-9 * row.multiply_adds * item.throughput.images_per_s
            item = replace(item, share_of_limit=round(gflop_per_s / rate, 4))
        shared.append(item)
    return shared


def matrix_gflop_per_s(
    device: str, computes_in: str, side: int, budget: Budget, clock: Clock
) -> float:
    """Products of square matrices: the fastest of several, two operations a multiply-add."""
    random = torch.Generator().manual_seed(0)
    left, right = (
        torch.rand((side, side), generator=random).to(device, TYPES[computes_in]) for _ in range(2)
    )
    product = torch.empty_like(left)
    with _matrix_precision("high" if computes_in == "tf32" else "highest"):
        best_s = _fastest_s(lambda: torch.mm(left, right, out=product), device, budget, clock)
    return round(2e-9 * side**3 / best_s, 3)


def copy_gb_per_s(device: str, copied_bytes: int, budget: Budget, clock: Clock) -> float:
    """Within a device's memory; every byte counts twice, once read and once written (STREAM)."""
    source = torch.ones(copied_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    best_s = _fastest_s(lambda: target.copy_(source), device, budget, clock)
    return round(2e-9 * copied_bytes / best_s, 3)


def upload_gb_per_s(device: str, copied_bytes: int, budget: Budget, clock: Clock) -> float:
    """From pinned host memory, which is what backends upload from; every byte counts once."""
    source = torch.ones(copied_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.zeros_like(source, device=device)
    best_s = _fastest_s(lambda: target.copy_(source, non_blocking=True), device, budget, clock)
    return round(1e-9 * copied_bytes / best_s, 3)


def _limit(device: str, types: Sequence[str], budget: Budget, clock: Clock) -> Limit:
    is_gpu = device.startswith("cuda")
    side = SIDE["cuda" if is_gpu else "cpu"]
    limit = Limit(
        device=device,
        matrix_gflop_per_s={
            each: matrix_gflop_per_s(device, each, side, budget, clock) for each in types
        },
        copy_gb_per_s=copy_gb_per_s(device, COPIED_BYTES, budget, clock),
        upload_gb_per_s=upload_gb_per_s(device, COPIED_BYTES, budget, clock) if is_gpu else None,
    )
    if is_gpu:
        torch.cuda.empty_cache()  # torch would keep a GiB that other runtimes may need
    return limit


def _fastest_s(work: Callable[[], object], device: str, budget: Budget, clock: Clock) -> float:
    """Seconds of the fastest repetition, after one that is not counted, until it has finished."""

    def run() -> None:
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    def step(_: int) -> tuple[float, ...]:
        return timed(clock, run)

    step(0)
    return min(repeat(step, 1, budget, clock).runs_s)


@contextmanager
def _matrix_precision(wanted: str) -> Iterator[None]:
    """Whether CUDA may compute products of FP32 in TF32 (`high`) or not (`highest`)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
