"""What the device does at most, measured in the same run, and each row's share of that."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from flowerseg.artifact import Precision
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
"""What a row computes in, as far as PyTorch multiplies matrices of it."""


def limits_of(rows: Sequence[Row], budget: Budget, clock: Clock) -> tuple[Limit, ...]:
    """Measure every device that rows run on, for the types that they compute in there."""
    needed: dict[str, dict[str, None]] = {}
    for row in rows:
        if computes_in := matrix_type(row.precision, row.device):
            needed.setdefault(row.device, {})[computes_in] = None
    return tuple(_limit(device, tuple(types), budget, clock) for device, types in needed.items())


def matrix_type(precision: str, device: str) -> str | None:
    """Whose matrix rate limits what computes in a precision; None where none is measured.

    On the CPU FP16 is FP32: there ONNX Runtime and OpenVINO run FP16 nodes in FP32. On a GPU no
    rate of INT8 is measured.
    """
    on_gpu = device.startswith("cuda")
    if precision not in TYPES and (on_gpu or precision != Precision.INT8):
        return None
    return "fp32" if precision == "fp16" and not on_gpu else precision


def with_shares(
    items: Sequence[Measurement], rows: Sequence[Row], limits: Sequence[Limit]
) -> list[Measurement]:
    """Add to each throughput of an engine its share of the device's matrix rate."""
    rates = {limit.device: limit.matrix_gflop_per_s for limit in limits}
    shared = []
    for item in items:
        row = rows[item.row]
        rate = rates.get(row.device, {}).get(matrix_type(row.precision, row.device) or "")
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
    with _matrix_precision("high" if computes_in == "tf32" else "highest"):
        multiply = (
            _int8_square(side)
            if computes_in == Precision.INT8
            else _square(device, computes_in, side)
        )
        best_s = _fastest_s(multiply, device, budget, clock)
    return round(2e-9 * side**3 / best_s, 3)


def _square(device: str, computes_in: str, side: int) -> Callable[[], object]:
    random = torch.Generator().manual_seed(0)
    left, right = (
        torch.rand((side, side), generator=random).to(device, TYPES[computes_in]) for _ in range(2)
    )
    product = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=product)


def _int8_square(side: int) -> Callable[[], object]:
    random = np.random.default_rng(0)
    left = random.integers(0, 256, (side, side), np.uint8)
    return int8_product(left, random.integers(-64, 64, (side, side), np.int8))


def int8_product(
    left: NDArray[np.uint8], right: NDArray[np.int8]
) -> Callable[[], Sequence[NDArray[np.int32]]]:
    """The product of bytes (m, k) and weights (k, n) of seven bits: what INT8 files for CPUs have.

    By ONNX Runtime, because PyTorch multiplies such matrices in a plain loop on the CPU
    (torch._int_mm), or in types that it is about to drop (torch.ops.quantized.linear).
    """
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
            "product",
            [helper.make_tensor_value_info("left", TensorProto.UINT8, left.shape)],
            [helper.make_tensor_value_info("product", TensorProto.INT32, None)],
            [numpy_helper.from_array(right, "right")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as many as torch.mm has
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def multiply() -> Sequence[NDArray[np.int32]]:
        product: Sequence[NDArray[np.int32]] = session.run(None, {"left": left})
        return product

    return multiply


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
