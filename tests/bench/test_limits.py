from dataclasses import replace

import numpy as np
import pytest
import torch

from flowerseg.preprocess import Preprocess
from flowerseg_bench import limits
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.jobs import Turn
from flowerseg_bench.limits import (
    copy_gb_per_s,
    int8_product,
    limits_of,
    matrix_gflop_per_s,
    matrix_type,
    with_shares,
)
from flowerseg_bench.report import html, markdown
from flowerseg_bench.results import Limit, Measurement, Results, Row, Scenario
from flowerseg_bench.rows import null_row
from flowerseg_bench.suite import Cell, measurement_of
from flowerseg_bench.tables import boundary_table, limits_in_brief, limits_table
from flowerseg_bench.timing import Budget, Laps, WarmUp

BUDGET = Budget(for_s=0.0, at_least=3)


class SlowingClock:
    """Each reading comes later than the one before, by ever more seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.step_s = 0.0

    def __call__(self) -> float:
        self.step_s += 0.25
        self.now_s += self.step_s
        return self.now_s


def row(precision: str = "fp32", device: str = "cpu", multiply_adds: int | None = 10**9) -> Row:
    null = null_row(Preprocess(size_hw=(32, 32))).row
    return replace(
        null,
        name=f"a.onnx · onnxruntime {precision}",
        file="a.onnx",
        precision=precision,
        device=device,
        multiply_adds=multiply_adds,
    )


def measured(
    boundary: Boundary = Boundary.ENGINE, scenario: Scenario = Scenario.THROUGHPUT
) -> Measurement:
    """Four photos in 80 ms: 50 photos a second."""
    stages = (0.08,) + (0.0,) * (1 if boundary is Boundary.ENGINE else 3)
    turn = Turn(Laps((stages,), 0.08), 4)
    return measurement_of(Cell(boundary, scenario, 4), 0, WarmUp(1, 1.0, True), [turn])


def test_the_matrix_rate_is_two_operations_a_multiply_add_over_the_fastest_repetition() -> None:
    # Readings 0.25 s, then 0.5, 0.75, … apart. Two around the product that is not counted, one
    # to begin, then start, end and check of each: the first product lasts from the 4th to the
    # 5th reading, 1.25 s, the others longer.
    rate = matrix_gflop_per_s("cpu", "fp32", 10, BUDGET, SlowingClock())

    assert rate == round(2e-9 * 10**3 / 1.25, 3)
    assert matrix_gflop_per_s("cpu", "fp32", 1000, BUDGET, SlowingClock()) == 1.6  # 2 / 1.25


def test_a_copied_byte_is_read_and_written() -> None:
    assert copy_gb_per_s("cpu", 50 * 10**6, BUDGET, SlowingClock()) == 0.08  # 0.1 GB in 1.25 s


def test_bytes_are_multiplied_by_weights_of_seven_bits() -> None:
    random = np.random.default_rng(1)
    left = random.integers(0, 256, (24, 40), np.uint8)
    right = random.integers(-64, 64, (40, 32), np.int8)

    (product,) = int8_product(left, right)()

    assert np.array_equal(product, left.astype(int) @ right.astype(int))
    assert matrix_gflop_per_s("cpu", "int8", 1000, BUDGET, SlowingClock()) == 1.6  # 2 / 1.25


def test_the_precision_of_matrices_is_as_it_was_afterwards() -> None:
    before = torch.get_float32_matmul_precision()

    matrix_gflop_per_s("cpu", "tf32", 4, BUDGET, SlowingClock())

    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("fp32", "cpu", "fp32"),
        ("fp16", "cpu", "fp32"),  # the CPU's runtimes compute FP16 nodes in FP32
        ("fp16", "cuda:0", "fp16"),
        ("tf32", "cuda:0", "tf32"),
        ("bf16", "cpu", "bf16"),
        ("int8", "cpu", "int8"),
        ("int8", "cuda:0", None),  # nobody multiplies matrices of it there
        ("", "cpu", None),  # the null row
    ],
)
def test_a_row_is_measured_by_the_type_that_it_computes_in(
    precision: str, device: str, expected: str | None
) -> None:
    assert matrix_type(precision, device) == expected


def test_share_is_twice_the_multiply_adds_a_second_over_the_matrix_rate() -> None:
    limit = Limit("cpu", {"fp32": 400.0}, 10.0, None)

    (item,) = with_shares([measured()], [row()], [limit])

    assert item.share_of_limit == 0.25  # 50 photos/s of 2 GFLOP, of 400 GFLOP/s


def test_int8_has_its_own_limit() -> None:
    limit = Limit("cpu", {"fp32": 400.0, "int8": 800.0}, 10.0, None)

    (item,) = with_shares([measured()], [row("int8")], [limit])

    assert item.share_of_limit == 0.125


@pytest.mark.parametrize(
    ("item", "of"),
    [
        (measured(Boundary.TRANSFERS), row()),
        (measured(scenario=Scenario.LATENCY), row()),
        (measured(), row(precision="int8")),  # whose own rate was not measured
        (measured(), row(multiply_adds=None)),
        (measured(), row(device="cuda:0")),
        (measured(), null_row(Preprocess(size_hw=(32, 32))).row),
    ],
)
def test_no_share_is_claimed_where_it_would_mislead(item: Measurement, of: Row) -> None:
    limit = Limit("cpu", {"fp32": 400.0}, 10.0, None)

    assert with_shares([item], [of], [limit])[0].share_of_limit is None


def test_each_device_is_measured_once_for_the_types_of_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SIDE", {"cpu": 1000})
    monkeypatch.setattr(limits, "COPIED_BYTES", 50 * 10**6)
    rows = [row(), row("fp16"), row("int8"), null_row(Preprocess(size_hw=(32, 32))).row]

    (limit,) = limits_of(rows, BUDGET, SlowingClock())

    assert limit.device == "cpu"
    assert limit.matrix_gflop_per_s.keys() == {"fp32", "int8"}
    assert limit.matrix_gflop_per_s["fp32"] == 1.6
    assert limit.upload_gb_per_s is None


def test_the_share_stands_in_the_engine_table_and_the_limit_beside_it(
    tiny_results: Results,
) -> None:
    first = tiny_results.measurements
    results = replace(
        tiny_results,
        limits=(Limit("cpu", {"fp32": 400.0, "int8": 800.0}, 10.0, None),),
        measurements=tuple(
            replace(item, share_of_limit=0.25)
            if (item.row, item.boundary, item.scenario) == (0, Boundary.ENGINE, Scenario.THROUGHPUT)
            else item
            for item in first
        ),
    )

    table = boundary_table(results, Boundary.ENGINE)
    columns = [i for i, c in enumerate(table.columns) if c.title == "of the limit"]

    assert [[cells[i] for i in columns] for cells in table.rows] == [["25.0%"] * 2, ["-"] * 2]
    assert limits_table(results).rows == (
        ("cpu", "matrix product, fp32", "400 GFLOP/s"),
        ("cpu", "matrix product, int8", "800 GOP/s"),
        ("cpu", "copy in memory", "10.0 GB/s"),
    )
    assert limits_in_brief(results)[1] == (
        "Of the matrix product, batch 2: tiny.onnx · onnxruntime fp32 25.0%"
    )
    for text in (html(results), markdown(results)):
        assert "25.0%" in text
        assert "400 GFLOP/s" in text


def test_a_run_measures_its_device(tiny_results: Results) -> None:
    (limit,) = tiny_results.limits

    assert limit.device == "cpu"
    assert limit.matrix_gflop_per_s["fp32"] > 0
    assert limit.copy_gb_per_s > 0
    assert tiny_results.rows[0].multiply_adds is None  # of no architecture that is known
