"""flowerseg-predict beside plain loops: what the loops do, and how the ways are compared."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from flowerseg.arrays import Rgb
from flowerseg.artifact import Artifact, Precision
from flowerseg.backends.null import NullBackend
from flowerseg.errors import ArtifactError
from flowerseg.images import read_mask_colours, read_rgb, use_one_thread_per_call
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.jobs import Turn
from flowerseg_bench.peers import ceiling, loops, measure
from flowerseg_bench.peers.ceiling import Ceiling
from flowerseg_bench.peers.cli import main
from flowerseg_bench.peers.measure import (
    Result,
    Setup,
    Way,
    best_peer,
    finding_of,
    measure_peers,
    overtaken,
)
from flowerseg_bench.results import Scenario
from flowerseg_bench.suite import Cell, measurement_of
from flowerseg_bench.timing import Budget, Laps, WarmUp

SIZE_HW = (32, 32)
SETUP = Setup(Path("a.pt"), (Path("a.onnx"),), Path("flowers"))


def result(
    name: str,
    sha256: str,
    rounds_s: Sequence[float],
    *,
    is_ours: bool = False,
    precision: Precision = Precision.FP32,
) -> Result:
    """Ten photos in each round."""
    turns = [Turn(Laps((), wall_s), 10) for wall_s in rounds_s]
    cell = Cell(Boundary.FILE, Scenario.THROUGHPUT, 1)
    measurement = measurement_of(cell, 0, WarmUp(1, 1.0, None), turns)
    way = Way(name, "file", sha256, precision, is_ours, lambda folder, out: None, is_auto=is_ours)
    return Result(way, measurement, (), flower_iou=0.98, agreement_iou=1.0)


RESULTS = [
    result("notebook", "pt", [1.0, 1.0]),
    result("torch.compile", "pt", [0.5, 0.5]),
    result("ONNX Runtime, a", "a", [0.25, 0.25]),
    result("OpenVINO, b", "b", [0.1, 0.1]),
    result("predict, a", "a", [0.2, 0.25], is_ours=True),
    result("predict, b", "b", [0.1, 0.15], is_ours=True),
]


def test_the_best_peer_runs_the_same_file_or_is_the_compiled_checkpoint() -> None:
    by_name = {found.way.name: best_peer(RESULTS, found) for found in RESULTS[4:]}

    assert {name: r.way.name for name, r in by_name.items() if r} == {
        "predict, a": "ONNX Runtime, a",
        "predict, b": "OpenVINO, b",
    }
    compiled = best_peer([*RESULTS[:2], RESULTS[4]], RESULTS[4])
    assert compiled is not None
    assert compiled.way.name == "torch.compile"


def test_ratios_are_of_all_time_with_the_rounds_beside_them() -> None:
    finding = finding_of(SETUP, RESULTS, "6 photos")

    # 2 s over 0.45 s, 0.5 s over 0.45 s; the rounds 5 and 4, and 1.25 and 1.
    assert finding.table.rows[4][1:4] == ("44.4", "4.44 (4.00–5.00)", "1.11 (1.00–1.25)")
    assert finding.table.rows[5][3] == "0.80 (0.67–1.00)"  # behind, and it says so
    assert finding.headline == (
        "predict, a: 4.44 times the notebook's way, 1.11 times ONNX Runtime, a; "
        "predict, b: 8.00 times the notebook's way, 0.80 times OpenVINO, b"
    )
    assert finding.raw["ways"][4]["times_best_peer"] == {"times": 1.1111, "low": 1.0, "high": 1.25}


def test_a_files_arithmetic_is_set_beside_what_the_processor_does_at_most() -> None:
    ceiling = Ceiling("b.onnx", "b", Precision.INT8, 2 * 10**9, matrix_gflop_per_s=200.0)

    finding = finding_of(SETUP, RESULTS, "6 photos", [ceiling])

    # 200 G operations/s over 4 G a photo; the notebook does 10 photos/s.
    assert any(
        note.startswith("b.onnx in int8 takes 2.00 G multiply-adds")
        and "at most 50.0 photos/s, 5.00 times the notebook's way" in note
        for note in finding.notes
    )
    assert finding.raw["ceilings"][0]["photos_per_s"] == 50.0


def test_a_runtime_that_auto_should_have_taken_is_named() -> None:
    other = result("predict, a in the other runtime", "a", [0.19, 0.24], is_ours=True)
    other = replace(other, way=replace(other.way, is_auto=False))
    slower_once = replace(other, measurement=RESULTS[2].measurement)

    assert overtaken([*RESULTS, other]) == ["predict, a in the other runtime"]
    assert overtaken([*RESULTS, slower_once]) == []


def test_a_peer_computes_in_the_same_precision() -> None:
    bf16 = result("OpenVINO in bfloat16, a", "a", [0.1, 0.1], precision=Precision.BF16)
    ours = result("predict, a", "a", [0.2, 0.2], is_ours=True, precision=Precision.BF16)
    results = [*RESULTS, bf16, ours]
    assert best_peer(results, RESULTS[4]) is RESULTS[2]
    assert best_peer(results, ours) is bf16


def green(frame: Rgb) -> loops.Map:
    return frame[..., 1]


def test_a_loop_writes_the_masks_that_flowerseg_writes(photo_folder: Path, tmp_path: Path) -> None:
    segmenter = Segmenter(NullBackend(SIZE_HW), Preprocess(size_hw=SIZE_HW))

    loops.segment_in_turn(loops.Engine(green, 128), SIZE_HW, photo_folder, tmp_path / "out")

    for photo in sorted(photo_folder.iterdir()):
        mask = read_mask_colours(tmp_path / "out" / f"{photo.name}.png")[..., 0] == 255
        assert np.array_equal(mask, segmenter.segment(read_rgb(photo)))
        assert 0 < mask.mean() < 1


def test_a_loop_has_opencvs_own_threads_though_predict_ran_before(
    photo_folder: Path, tmp_path: Path
) -> None:
    cv2.setNumThreads(-1)
    own = cv2.getNumThreads()
    use_one_thread_per_call()
    seen: list[int] = []

    def look(frame: Rgb) -> loops.Map:
        seen.append(cv2.getNumThreads())
        return frame[..., 1]

    loops.segment_in_turn(loops.Engine(look, 128), SIZE_HW, photo_folder, tmp_path / "out")

    assert seen == [own] * 6


def test_all_ways_are_opened_judged_and_measured(
    checkpoint: Path,
    fp32_onnx: Artifact,
    painted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loops, "compiled", loops.eager)  # a compiler takes a minute
    monkeypatch.setattr(measure, "LEAST_PHOTOS", 2)
    monkeypatch.setattr(ceiling, "SIDE", {"cpu": 64})
    monkeypatch.setattr(ceiling, "_BUDGET", Budget(for_s=0.01))
    words = [checkpoint, fp32_onnx.path, "--data", painted, "--seconds", "0.01", "--out", tmp_path]

    done = CliRunner().invoke(main, [str(word) for word in words])

    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "RESULT.json").read_text())
    ways = found["ways"]
    assert [way["name"] for way in ways] == [
        "notebook, small.pt",
        "torch.compile, small.pt",
        "ONNX Runtime, small.onnx",
        "OpenVINO, small.onnx",
        "flowerseg-predict, small.onnx in openvino",
        "flowerseg-predict, small.onnx in onnxruntime",
    ]
    assert [way["is_auto"] for way in ways] == [False] * 4 + [True, False]
    assert all(way["agreement_iou"] > 0.999 for way in ways)
    assert ways[-1]["best_peer"] in [way["name"] for way in ways[1:4]]
    assert all(len(way["rounds"]) == measure.ROUNDS for way in ways)
    (most,) = found["ceilings"]
    assert most["precision"] == "fp32"
    assert most["photos_per_s"] > 0


def test_a_file_of_another_checkpoint_is_refused(
    checkpoint: Path, tiny_onnx: Path, painted: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"tiny\.onnx was not made from .*small\.pt"):
        measure_peers(Setup(checkpoint, (tiny_onnx,), painted), tmp_path)
