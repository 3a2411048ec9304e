import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowerseg.artifact import Artifact
from flowerseg.backends import SessionOptions
from flowerseg.backends.null import NullBackend
from flowerseg.errors import ArtifactError, BackendUnavailable, FlowersegError
from flowerseg.images import read_rgb, write_png
from flowerseg.jsonform import from_json
from flowerseg.preprocess import Preprocess
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.ratios import why_not_comparable
from flowerseg_bench.report import html, markdown
from flowerseg_bench.results import Results, Scenario, read_results
from flowerseg_bench.rows import Variants, null_row, open_rows, wanted_rows
from flowerseg_bench.suite import Plan, cells_of, run_suite
from flowerseg_bench.tables import boundary_table
from tests.bench.conftest import PLANTED, write_labelled, write_tiny_onnx


def test_every_row_is_measured_at_every_boundary_in_both_scenarios(tiny_results: Results) -> None:
    made = {(m.row, m.boundary, m.scenario, m.batch) for m in tiny_results.measurements}

    latency = {(r, b, Scenario.LATENCY, 1) for r in (0, 1) for b in Boundary}
    throughput = {(r, b, Scenario.THROUGHPUT, n) for r in (0, 1) for b in Boundary for n in (1, 2)}
    assert made == latency | throughput
    assert len(tiny_results.measurements) == len(made)


def test_the_null_row_is_always_there_and_never_compared(tiny_results: Results) -> None:
    null = tiny_results.rows[1]

    assert null.is_null
    assert all(
        m.ratio is None for m in tiny_results.measurements if tiny_results.rows[m.row].is_null
    )


def test_summaries_are_those_of_the_raw_samples_in_the_file(tiny_results: Results) -> None:
    for item in json.loads(tiny_results.to_json())["measurements"]:
        samples = sorted(ms for each in item["rounds"] for ms in each["samples_ms"])
        if item["latency"]:
            middle = (samples[(len(samples) - 1) // 2] + samples[len(samples) // 2]) / 2
            assert item["latency"]["median_ms"] == pytest.approx(middle, abs=1e-4)
            assert item["latency"]["n"] == len(samples)
        if item["throughput"]:
            images = sum(each["images"] for each in item["rounds"])
            wall_ms = sum(each["wall_ms"] for each in item["rounds"])
            expected = 1e3 * images / wall_ms
            assert item["throughput"]["images_per_s"] == pytest.approx(expected, abs=1e-3)


def test_flower_iou_of_a_perfect_model_is_one_and_agreement_needs_a_reference(
    tiny_results: Results,
) -> None:
    quality = tiny_results.rows[0].quality

    assert quality.flower_iou is not None
    assert quality.flower_iou > 0.9  # the frame is smaller than the photo: the border is soft
    assert quality.agreement_iou is None
    assert "no checkpoint" in quality.note


def test_labels_of_one_class_give_no_iou_and_a_warning(tiny_onnx: Path, tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "labelled")
    for mask in (data / "masks").iterdir():
        write_png(mask, np.zeros_like(read_rgb(mask)[..., 0]))
    plan = Plan((tiny_onnx,), data=data, batches=(1,), seconds=0.01, rounds=1)
    (tmp_path / "work").mkdir()
    results = run_suite(plan, tmp_path / "out", tmp_path / "work")
    quality = results.rows[0].quality
    assert quality.flower_iou is None
    assert [caveat.kind for caveat in quality.caveats] == ["no-labelled-flower"]
    (note,) = (note for note in results.notes if note.startswith("WARNING"))
    assert "no flower is labelled in the 4 photos" in note
    table = boundary_table(results, Boundary.FILE)
    assert table.rows[0][2] == "n/a"
    assert from_json(Results, json.loads(results.to_json())) == results


def test_what_could_not_be_measured_as_asked_is_said(
    tiny_onnx: Path, photo_folder: Path, tmp_path: Path
) -> None:
    for photo in sorted(photo_folder.iterdir())[1:]:
        photo.unlink()
    plan = Plan((tiny_onnx,), photo_folder, batches=(8,), seconds=0.01, rounds=1)
    (tmp_path / "work").mkdir()

    results = run_suite(plan, tmp_path / "out", tmp_path / "work")

    assert "only 1 photos for batches of 8: photos repeat within a batch" in results.notes
    assert any("takes batches of 1 to 4: batch 8 is not measured" in n for n in results.notes)
    assert results.find(0, Boundary.ENGINE, Scenario.THROUGHPUT, 8) is None
    assert results.rows[0].quality.flower_iou is None


def test_auto_is_every_runtime_that_the_file_was_proved_in(tiny_onnx: Path) -> None:
    wanted = wanted_rows([tiny_onnx], ["auto"], device="cpu", allow_unproven=False)
    rows, notes = open_rows(wanted, "cpu", lambda: 0.0)

    assert [opened.row.runtime for opened in rows] == ["onnxruntime"]
    (note,) = notes
    assert note.startswith("tiny.onnx in openvino is left out: ")
    assert "flowerseg-verify" in note
    assert "--runtime openvino" in note


def test_a_runtime_that_the_file_was_not_proved_in_is_refused_by_name(tiny_onnx: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not proved in openvino \(its proof was never run\)"):
        wanted_rows([tiny_onnx], ["openvino"], allow_unproven=False)

    wanted = wanted_rows([tiny_onnx], ["openvino"], allow_unproven=True)
    (opened,), _ = open_rows(wanted, "cpu", lambda: 0.0)
    assert opened.row.is_unproven


def test_a_named_runtime_does_not_concern_files_that_it_does_not_open(tiny_onnx: Path) -> None:
    wanted = wanted_rows([tiny_onnx], ["torch-compile"], device="cpu", allow_unproven=True)

    assert [item.runtime for item in wanted] == ["openvino", "onnxruntime"]


@pytest.mark.parametrize(
    ("runtime", "device", "options"),
    [
        ("openvino", "cpu", {(1, 1, False), (1, 3, False), (2, 1, False), (2, 3, False)}),
        ("pytorch", "cpu", {(None, 1, False)}),
        ("pytorch", "cuda", {(None, 1, False), (None, 1, True)}),
        ("onnxruntime", "cuda", {(None, n, graph) for n in (1, 3) for graph in (False, True)}),
        ("torch-compile", "cuda", {(None, 1, False)}),
    ],
)
def test_a_runtime_has_rows_for_what_it_can_be_told(
    runtime: str, device: str, options: set[tuple[int | None, int, bool]]
) -> None:
    made = Variants((1, 2), (1, 3), (False, True)).of(runtime, device)
    assert [(o.threads, o.streams, o.cuda_graph) for o in made] == sorted(
        options, key=lambda found: (found[0] or 0, *found[1:])
    )


@pytest.mark.parametrize(
    ("runtime", "device", "options"),
    [
        (
            "pytorch",
            "cuda",
            [
                ("channels-first", False),
                ("channels-first", True),
                ("channels-last", False),
                ("channels-last", True),
            ],
        ),
        ("pytorch-fp16", "cuda", [(None, False), (None, True)]),
        ("torch-compile-fp16", "cuda", [(None, False), (None, True)]),
        ("onnxruntime", "cuda", [(None, False)]),
        ("pytorch", "cpu", [(None, False)]),
    ],
)
def test_layouts_and_cudnn_have_rows_where_a_runtime_knows_them(
    runtime: str, device: str, options: list[tuple[str | None, bool]]
) -> None:
    variants = Variants(cudnn_benchmark=(False, True), layout=("channels-first", "channels-last"))
    assert [(o.layout, o.cudnn_benchmark) for o in variants.of(runtime, device)] == options


def test_way_in_which_a_row_was_opened_is_in_its_name_and_in_the_results(
    tiny_onnx: Path, tiny_results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain,) = wanted_rows([tiny_onnx], ["onnxruntime"], device="cpu", allow_unproven=True)
    options = SessionOptions(cuda_graph=True, cudnn_benchmark=True, layout="channels-last")
    monkeypatch.setattr("flowerseg_bench.rows.open_backends", lambda *_: (NullBackend((32, 32)),))
    ((opened,), _) = open_rows([replace(plain, options=options)], "cpu", lambda: 0.0)
    row = opened.row
    assert row.name.endswith(", channels last, cuDNN benchmark, CUDA graph")
    written = json.loads(replace(tiny_results, rows=(row,)).to_json())["rows"][0]
    assert (written["layout"], written["cudnn_benchmark"]) == ("channels-last", True)


def test_results_from_before_a_field_existed_are_still_read(
    tiny_results: Results, tmp_path: Path
) -> None:
    content = json.loads(tiny_results.to_json())
    for row in content["rows"]:
        del row["layout"], row["cudnn_benchmark"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert read_results(tmp_path / "old.json").rows == tiny_results.rows


def test_rows_are_left_out_by_their_name(tiny_onnx: Path) -> None:
    variants = Variants(threads=(1, 2))

    def names(*leave_out: str) -> list[str]:
        wanted = wanted_rows(
            [tiny_onnx],
            ["onnxruntime", "openvino"],
            device="cpu",
            variants=variants,
            leave_out=leave_out,
            allow_unproven=True,
        )
        rows, _ = open_rows(wanted, "cpu", lambda: 0.0)
        assert [opened.row.name for opened in rows] == [item.name for item in wanted]
        return [item.name.partition(" · ")[2] for item in wanted]

    assert names("*openvino*2 threads", "*onnxruntime*1 thread") == [
        "onnxruntime fp32, 2 threads",
        "openvino fp32, 1 thread",
    ]
    with pytest.raises(FlowersegError, match="leaves no row"):
        names("*")


def test_only_the_boundary_that_was_asked_for_is_measured_and_shown(
    tiny_onnx: Path, photo_folder: Path, tmp_path: Path
) -> None:
    plan = Plan(
        (tiny_onnx,),
        photo_folder,
        batches=(2,),
        seconds=0.02,
        runtimes=("onnxruntime",),
        boundaries=(Boundary.ENGINE,),
        device="cpu",
        rounds=1,
    )
    (tmp_path / "work").mkdir()
    results = run_suite(plan, tmp_path / "out", tmp_path / "work")
    assert {item.boundary for item in results.measurements} == {Boundary.ENGINE}
    for text in (markdown(results), html(results)):
        assert "Engine alone" in text
        assert "Photo file to mask file" not in text


def test_several_streams_are_measured_where_they_mean_something(
    tiny_onnx: Path, photo_folder: Path, tmp_path: Path
) -> None:
    plan = Plan(
        models=(tiny_onnx,),
        photos=photo_folder,
        batches=(1, 2),
        seconds=0.05,
        runtimes=("onnxruntime",),
        variants=Variants((1,), (1, 2)),
        device="cpu",
        rounds=2,
    )
    (tmp_path / "work").mkdir()
    results = run_suite(plan, tmp_path, tmp_path / "work")
    one, two, _ = results.rows
    assert two.name == "tiny.onnx · onnxruntime fp32, 1 thread, 2 streams"
    assert (one.streams, two.streams) == (1, 2)
    kinds = {(m.boundary, m.scenario, m.batch) for m in results.measurements if m.row == 1}
    assert kinds == {
        (boundary, Scenario.THROUGHPUT, batch)
        for boundary in (Boundary.TRANSFERS, Boundary.FILE)
        for batch in (1, 2)
    }


def test_each_number_of_threads_has_a_row_of_its_own(tiny_onnx: Path) -> None:
    wanted = wanted_rows(
        [tiny_onnx], ["onnxruntime"], variants=Variants((1, 2)), allow_unproven=False
    )
    rows, _ = open_rows(wanted, "cpu", lambda: 0.0)

    assert [(opened.row.name, opened.row.threads) for opened in rows] == [
        ("tiny.onnx · onnxruntime fp32, 1 thread", 1),
        ("tiny.onnx · onnxruntime fp32, 2 threads", 2),
    ]


def test_an_unproven_file_is_refused_unless_asked_for_and_then_marked(unproven_onnx: Path) -> None:
    with pytest.raises(ArtifactError, match="proof"):
        wanted_rows([unproven_onnx], ["onnxruntime"], allow_unproven=False)

    wanted = wanted_rows([unproven_onnx], ["onnxruntime"], allow_unproven=True)
    (opened,), _ = open_rows(wanted, "cpu", lambda: 0.0)

    assert (opened.row.proof, opened.row.is_unproven) == ("not run", True)


def test_a_runtime_that_was_asked_for_by_name_is_never_left_out(tiny_onnx: Path) -> None:
    wanted = wanted_rows([tiny_onnx], ["openvino", "onnxruntime"], allow_unproven=True)

    with pytest.raises(BackendUnavailable):
        open_rows(wanted, "cuda:99", lambda: 0.0)


def test_file_that_no_runtime_opens_is_left_out_with_the_reason(
    tiny_onnx: Path, unproven_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU where ONNX Runtime is a build for the CPU."""

    def open_model(artifact: Artifact, *_: object) -> tuple[NullBackend]:
        if artifact.path == unproven_onnx:
            raise BackendUnavailable("ONNX Runtime has no CUDA provider.")
        return (NullBackend((32, 32)),)

    monkeypatch.setattr("flowerseg_bench.rows.open_backends", open_model)
    monkeypatch.setattr("flowerseg_bench.rows.runtimes_here", lambda *_: ["onnxruntime"])
    wanted = wanted_rows([tiny_onnx, unproven_onnx], ["auto"], device="cpu", allow_unproven=True)
    rows, notes = open_rows(wanted, "cpu", lambda: 0.0)
    assert [Path(opened.row.file) for opened in rows] == [tiny_onnx]
    assert notes == ["unproven.onnx in onnxruntime is left out: ONNX Runtime has no CUDA provider."]

    with pytest.raises(BackendUnavailable, match="no CUDA provider"):
        open_rows(wanted[1:], "cpu", lambda: 0.0)


def test_runtime_that_is_not_installed_says_so_itself(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowerseg_bench.rows.runtimes_here", lambda *_: [])
    (wanted,) = wanted_rows([tiny_onnx], ["auto"], device="cpu", allow_unproven=False)
    assert (wanted.runtime, wanted.is_optional) == ("onnxruntime", True)


def test_rows_of_other_contracts_are_not_compared() -> None:
    small, large = (null_row(Preprocess(size_hw=(s, s))).row for s in (32, 64))
    small = replace(small, file="a.onnx")
    large = replace(large, file="b.onnx")

    assert why_not_comparable(large, small, True) == "other contract: 64 × 64, not 32 × 32"
    assert why_not_comparable(small, small, True) == ""


def test_folders_are_measured_last() -> None:
    cells = cells_of((1, 8))

    assert len(cells) == 9
    assert [c.boundary for c in cells[-2:]] == [Boundary.FILE] * 2
    assert all(c.scenario is Scenario.THROUGHPUT for c in cells[3:])


def test_a_row_takes_the_batches_of_its_manifest(tiny_results: Results) -> None:
    row = tiny_results.rows[0]

    assert [batch for batch in (1, 2, 4, 5) if row.takes(batch)] == [1, 2, 4]


def test_batches_that_were_not_proved_are_measured_and_named(
    photo_folder: Path, tmp_path: Path
) -> None:
    proof = replace(PLANTED, batch_sizes=(1, 2))
    model = write_tiny_onnx(tmp_path / "few.onnx", proof)
    plan = Plan((model,), photo_folder, batches=(1, 4), seconds=0.01, rounds=1)
    (tmp_path / "work").mkdir()

    results = run_suite(plan, tmp_path / "out", tmp_path / "work")

    row = results.rows[0]
    assert (row.proof, row.proved_batch) == ("proved", 2)
    (note,) = (note for note in results.notes if "was proved with batches" in note)
    assert "of up to 2, and is measured with 4: flowerseg-verify --largest-batch 4" in note
    assert results.find(0, Boundary.ENGINE, Scenario.THROUGHPUT, 4) is not None


def test_file_that_was_proved_in_another_version_is_not_proved_here(tmp_path: Path) -> None:
    proof = replace(PLANTED, version="1.0.0")
    model = write_tiny_onnx(tmp_path / "old.onnx", proof)
    wanted = wanted_rows([model], ["onnxruntime"], device="cpu", allow_unproven=True)
    ((opened,), _) = open_rows(wanted, "cpu", lambda: 0.0)
    assert (opened.row.proof, opened.row.is_unproven) == ("not proved here", True)
