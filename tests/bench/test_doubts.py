from dataclasses import replace

import pytest

from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.conditions import Conditions
from flowerseg_bench.doubts import doubts_of, machine_doubts
from flowerseg_bench.jobs import Turn
from flowerseg_bench.results import Measurement, Scenario
from flowerseg_bench.suite import Cell, measurement_of
from flowerseg_bench.timing import Laps, WarmUp

WARM = WarmUp(10, 200.0, True)


def measured(rounds_s: list[list[float]], boundary: Boundary = Boundary.ENGINE) -> Measurement:
    turns = [
        Turn(Laps(tuple((run_s, 0.0) for run_s in runs_s), sum(runs_s)), len(runs_s))
        for runs_s in rounds_s
    ]
    return measurement_of(Cell(boundary, Scenario.LATENCY, 1), 0, WARM, turns)


STEADY = measured([[0.010] * 200, [0.010] * 200])
NULL = measured([[1e-6] * 200, [1e-6] * 200])


def test_steady_runs_raise_no_doubt() -> None:
    assert doubts_of(STEADY, NULL, timer_resolution_ns=50.0) == ()


def test_varying_runs_are_called_noisy() -> None:
    noisy = measured([[0.010, 0.013] * 100, [0.010, 0.013] * 100])

    (doubt,) = doubts_of(noisy, NULL, 50.0)

    assert doubt.startswith("noisy: the runs vary by 13.1%")


def test_a_planted_drift_between_rounds_is_noticed() -> None:
    drifting = measured([[0.0100] * 200, [0.0103] * 200, [0.0106] * 200])

    assert any(
        doubt.startswith("drift: the rounds lie 5.8% apart")
        for doubt in doubts_of(drifting, NULL, 50.0)
    )


def test_too_few_samples_are_counted() -> None:
    (doubt,) = doubts_of(measured([[0.010] * 15, [0.010] * 15]), NULL, 50.0)

    assert doubt == "few samples: 30, and even p90 takes 36"


def test_a_row_that_never_settled_says_so() -> None:
    restless = replace(STEADY, warm_up=WarmUp(40, 9000.0, False))

    assert doubts_of(restless, NULL, 50.0) == ("not warm: the times did not settle in 9.0 s",)


def test_a_run_as_short_as_the_harness_is_not_believed() -> None:
    (doubt,) = doubts_of(measured([[20e-6] * 200, [20e-6] * 200]), NULL, 50.0)

    assert doubt == "harness: 5.0% of it is the measuring itself"


def test_a_run_of_few_clock_ticks_is_not_believed() -> None:
    assert any("100 ticks" in doubt for doubt in doubts_of(STEADY, None, 1e6))


@pytest.mark.parametrize(("load", "is_busy"), [(2.0, False), (2.1, True), (None, False)])
def test_load_beyond_the_cores_makes_every_number_doubtful(
    load: float | None, is_busy: bool
) -> None:
    here = Conditions(
        date="",
        command="",
        system="",
        processor="",
        cores=2,
        load_at_start=load,
        gpu="",
        cuda="",
        commit="",
        versions={},
        timer_resolution_ns=50.0,
    )

    assert bool(machine_doubts(here)) is is_busy
