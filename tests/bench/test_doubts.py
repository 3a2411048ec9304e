from dataclasses import replace

import pytest

from flowerseg.preprocess import Preprocess
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.conditions import Conditions
from flowerseg_bench.doubts import doubts_of, machine_doubts, with_early_returns
from flowerseg_bench.jobs import Turn
from flowerseg_bench.monitor import GpuState, Seen
from flowerseg_bench.results import Measurement, Scenario
from flowerseg_bench.rows import null_row
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


def seen_in_rounds(*seen: Seen) -> Measurement:
    rounds = tuple(replace(STEADY.rounds[0], seen=one) for one in seen)
    return replace(STEADY, rounds=rounds)


def gpu(mhz: int, *throttling: str) -> Seen:
    return Seen(gpu=GpuState(mhz, 1980, 84, throttling))


@pytest.mark.parametrize(
    ("seen", "doubt"),
    [
        ([Seen(others=0.02), Seen(others=0.08)], None),
        ([Seen(others=0.02), Seen(others=0.10)], "other work: other processes took 6% of the"),
        ([Seen(stolen=0.01)], None),
        ([Seen(stolen=0.03), Seen(stolen=0.0)], "stolen: the hypervisor kept 1.5% of the cores'"),
        ([Seen(core_mhz=2400), Seen(core_mhz=2500)], None),
        ([Seen(core_mhz=2400), Seen(core_mhz=3000)], "frequency: the cores ran at 2400 to 3000"),
        ([gpu(1980), gpu(1410)], "frequency: the GPU ran at 1410 to 1980 MHz"),
        (
            [gpu(1980), gpu(1980, "power cap")],
            "throttled: power cap held the GPU back, at up to 84",
        ),
        ([Seen(), Seen()], None),
    ],
)
def test_what_the_machine_did_meanwhile_is_held_against_a_number(
    seen: list[Seen], doubt: str | None
) -> None:
    found = doubts_of(seen_in_rounds(*seen), NULL, 50.0)

    assert len(found) == (doubt is not None)
    assert doubt is None or found[0].startswith(doubt)


@pytest.mark.parametrize(("device_ms", "is_doubted"), [(9.6, False), (10.4, False), (2.0, True)])
def test_the_gpus_clock_and_the_wall_clock_must_agree(device_ms: float, is_doubted: bool) -> None:
    found = doubts_of(replace(STEADY, device_ms=device_ms), NULL, 50.0)

    assert bool(found) is is_doubted
    if found:
        assert found[0].startswith(
            "two clocks: the GPU's own events say 2.000 ms, the wall clock 10.000 ms"
        )


def test_a_backend_that_returns_before_it_is_done_is_noticed_when_its_result_is_fetched() -> None:
    engine = replace(STEADY, boundary=Boundary.ENGINE)
    stages_ms = {"upload": 0.1, "execute": 0.1, "synchronize": 0.0, "download": 9.8}
    transfers = replace(STEADY, boundary=Boundary.TRANSFERS, stages_ms=stages_ms)
    file = replace(STEADY, boundary=Boundary.FILE)
    row = null_row(Preprocess()).row

    doubted = with_early_returns([engine, transfers, file], [replace(row, file="a.onnx")])

    assert [item.doubts[0][:41] if item.doubts else "" for item in doubted] == [
        "early return: download takes 98% of a run",
        "early return: download takes 98% of a run",
        "",
    ]
    honest = replace(transfers, stages_ms=stages_ms | {"synchronize": 9.8, "download": 0.1})
    assert not with_early_returns([honest], [replace(row, file="a.onnx")])[0].doubts
    # To fetch the result is all that the null row does.
    assert not with_early_returns([transfers], [row])[0].doubts
