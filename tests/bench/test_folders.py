"""The figures of folder runs: what is computed from what was measured, and that it is measured."""

import dataclasses
import itertools
import os
from pathlib import Path

import pytest

from flowerseg.predict.settings import Hands
from flowerseg_bench.folders import kills, memory, throughput
from flowerseg_bench.folders.kills import Differences, Left, differences
from flowerseg_bench.folders.memory import Peak
from flowerseg_bench.folders.throughput import Opened, Round, Speed


def test_limit_is_the_engine_and_a_cores_share_of_the_rest() -> None:
    rounds = (Round(0.010, 0.004, 0.016, 0.1), Round(0.012, 0.006, 0.014, 0.3))
    speed = Speed(
        "openvino 1", 8, Hands(2, 1), cores=2, rounds=(*rounds, Round(0.011, 0.005, 0.015, 0.2))
    )
    assert speed.limit_s == pytest.approx(0.011 + 0.005 / 2)
    assert speed.share == pytest.approx(0.0135 / 0.015)
    finding = throughput.finding_of(Path(__file__), 160, 2000, [speed])
    (row,) = finding.table.rows
    assert row == ("openvino 1", "11.00", "5.00", "74.1", "66.7", "0.900", "20 %")
    assert "2000 photos is segmented at 0.900 (openvino)" in finding.headline


def test_limit_on_a_gpu_is_the_engine_alone() -> None:
    one = Round(0.001, 0.004, 0.00125, 0.2)
    speed = Speed(
        "pytorch-fp16 2 on H200", 64, Hands(16, 4), cores=16, rounds=(one,), device="cuda"
    )
    assert speed.limit_s == 0.001
    finding = throughput.finding_of(Path(__file__), 160, 8000, [speed])
    assert finding.raw["shares"] == [0.8]
    assert "the speed that the engine alone has with its transfers" in finding.headline
    assert "batch 64, 16 workers in 4 processes" in finding.notes[2]


def test_engine_rest_and_folder_are_each_timed_by_themselves(
    photo_folder: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    ticks = itertools.count()  # one second a stage
    (tmp_path / "work").mkdir()
    how = Opened(tiny_onnx, ("onnxruntime",))
    finding = throughput.measure_throughput(
        photo_folder, how, 24, 1, tmp_path / "work", lambda: next(ticks)
    )
    (speed,) = finding.raw["speeds"]
    (one,) = speed["rounds"]
    # Six photos, of which the folder has 24 links.
    assert (one["engine_s"], one["photo_s"], one["folder_s"]) == (1 / 6, 1 / 6, 1 / 24)
    cores = len(os.sched_getaffinity(0))
    assert finding.raw["shares"] == [round((1 / 6 + 1 / 6 / cores) * 24, 4)]
    assert not (tmp_path / "work/out").exists()


_WANTED = Left(
    masks={"masks/a.png": "1", "masks/b.png": "2"},
    others=("results.csv",),
    rows=[{"path": "a"}, {"path": "b"}],
    counts={"ok": 2},
)


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ({}, Differences(0, 0, 0, False)),
        ({"masks": {"masks/a.png": "1"}}, Differences(1, 0, 0, False)),
        ({"masks": {"masks/a.png": "1", "masks/b.png": "cut"}}, Differences(0, 1, 0, False)),
        ({"masks": {**_WANTED.masks, "masks/c.png": "3"}}, Differences(0, 0, 1, False)),
        ({"others": ("masks/.tmp-x.png", "results.csv")}, Differences(0, 0, 1, False)),
        ({"rows": [{"path": "a"}]}, Differences(0, 0, 0, True)),
        ({"counts": {"ok": 1}}, Differences(0, 0, 0, True)),
    ],
)
def test_whatever_a_killed_run_left_otherwise_is_counted(
    left: dict[str, object], found: Differences
) -> None:
    assert differences(dataclasses.replace(_WANTED, **left), _WANTED) == found  # type: ignore[arg-type]  # of several fields
    assert found.total == bool(left)


@pytest.mark.slow
def test_runs_are_killed_and_compared(photo_folder: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    finding = kills.measure_kills(photo_folder, tiny_onnx, 1, 30, 0, tmp_path / "work")
    assert len(finding.raw["masks_at_each_kill"]) == 1
    assert finding.raw["comparisons"] >= 1
    assert set(finding.raw["found"].values()) == {0}


def test_memory_is_compared_with_that_of_the_small_folder() -> None:
    peaks = [Peak(1000, 400 << 20, 100 << 20), Peak(20000, 410 << 20, 108 << 20)]
    finding = memory.finding_of(Path(__file__), "flowerseg predict …", peaks)
    assert finding.raw["ratio"] == 1.025
    assert finding.table.rows == (("1000", "400", "100"), ("20000", "410", "108"))
