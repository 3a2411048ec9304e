"""The demo's choices and its page; the chain itself runs in .ci/run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowerseg import demo
from flowerseg.data import open_photos
from flowerseg.errors import DataError, DownloadError, FlowersegError, OutputError
from flowerseg.images import write_jpeg, write_png
from flowerseg.paint import write_painted_dataset

TINY = demo.Scale(
    epochs=1,
    from_shipped=False,
    painted=8,
    proof_photos=2,
    bench_seconds=0.1,
    folder_photos=1,
)


def no_network(root: Path) -> Path:
    raise DownloadError("no route to host")


def no_room(root: Path) -> Path:
    raise OutputError(f"{root}: cannot be written: the disk is read-only.")


def test_named_data_is_used_and_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "download_oxford17", no_network)
    monkeypatch.setenv("FLOWERSEG_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match="absent"):
        demo.choose_data(tmp_path / "out", TINY, print)
    write_painted_dataset(tmp_path / "mine", 8, (64, 64))
    monkeypatch.setenv("FLOWERSEG_DATA", str(tmp_path / "mine"))
    assert demo.choose_data(tmp_path / "out", TINY, print).root == tmp_path / "mine"


def test_user_without_a_home_sees_painted_flowers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("FLOWERSEG_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    lines: list[str] = []
    assert demo.choose_data(tmp_path, TINY, lines.append).root == tmp_path / "painted"
    assert "Set XDG_CACHE_HOME" in lines[0]


@pytest.mark.parametrize(
    ("download", "reason"), [(no_network, "no route to host"), (no_room, "read-only")]
)
def test_without_the_real_photos_flowers_are_painted_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: Callable[[Path], Path], reason: str
) -> None:
    monkeypatch.delenv("FLOWERSEG_DATA", raising=False)
    monkeypatch.setattr(demo, "download_oxford17", download)
    said: list[str] = []
    source = demo.choose_data(tmp_path, TINY, said.append)
    assert "painted" in source.words
    assert "not photographs" in source.words
    assert len(said) == 1
    assert reason in said[0]
    # 50/25/25 % of eight photos
    assert [len(open_photos(source.root, s)) for s in ("train", "val", "test")] == [4, 2, 2]


def test_a_failed_step_names_its_command_and_exit_code() -> None:
    step = demo.Step("Segment a folder", ["predict", "/no/such folder", "--bogus"])
    with pytest.raises(FlowersegError, match=r"exit code 2.*flowerseg-predict '/no/such folder'"):
        demo._run(step)


def test_bench_rows_take_each_figure_from_its_own_cell() -> None:
    def cell(row: int, boundary: str, scenario: str, value: float) -> dict[str, object]:
        latency = {"median_ms": value} if scenario == "latency" else None
        throughput = {"images_per_s": value} if scenario == "throughput" else None
        return {
            "row": row,
            "boundary": boundary,
            "scenario": scenario,
            "latency": latency,
            "throughput": throughput,
        }

    quality = {"agreement_iou": 0.999, "flower_iou": 0.9}
    rows = [
        {"name": "a.onnx", "file": "a.onnx", "quality": quality},
        {"name": "null", "file": "", "quality": quality},
    ]
    measurements = [
        cell(0, "engine", "latency", 1.0),
        cell(0, "file-to-mask", "latency", 2.0),
        cell(0, "engine", "throughput", 3.0),
        cell(0, "engine+transfers", "throughput", 99.0),
        cell(1, "engine", "latency", 77.0),
    ]
    (row,) = demo._bench_rows({"rows": rows, "measurements": measurements})
    assert row == {
        "name": "a.onnx",
        "engine_latency_ms": 1.0,
        "file_to_mask_latency_ms": 2.0,
        "engine_images_per_s": 3.0,
        "file_to_mask_images_per_s": None,
        "agreement_iou": 0.999,
        "flower_iou": 0.9,
    }


def test_the_page_needs_no_other_file_and_shows_an_unrun_engine_as_such(tmp_path: Path) -> None:
    page = demo.render_report(*report_input(tmp_path))
    assert "http" not in page.replace("http-equiv", "")
    assert "built, not run" in page
    assert 'src="data:image/png;base64,' in page
    assert "0.9123" in page
    assert "&lt;b&gt;bench&lt;/b&gt;" in page  # the bench page travels escaped, inside srcdoc


def test_warnings_of_the_steps_are_on_the_page_each_once(tmp_path: Path) -> None:
    source, steps, summary, out = report_input(tmp_path)
    seen = {"kind": "photos-seen-in-training", "photos": 2, "seen": 1}
    train = {"splits": [{"name": "painted/val1", "caveats": [seen]}]}
    void = {"kind": "no-labelled-pixel", "photos": 2}
    proof = {"status": "proved", "how": "", "limits": {"agreement_iou": 1, "iou_drop": 0}}
    manifests = [{"proof": proof | {"caveats": [void]}}] * 2
    warnings = demo._warnings(train, manifests)
    assert [text.split(":")[0] for text in warnings[:2]] == [
        "painted/val1",
        "No pixel of the 2 photos is labelled, all masks are void",
    ]
    assert len(warnings) == 3
    doubted = dataclasses.replace(summary, val_iou=None, warnings=warnings)
    page = demo.render_report(source, steps, doubted, out)
    assert all(text in page for text in warnings)
    assert "<b>n/a</b>" in page


def report_input(out: Path) -> tuple[demo.Source, list[demo.Step], demo.Summary, Path]:
    """A summary and the files that a finished chain leaves."""
    picture = np.full((8, 8, 3), 200, np.uint8)
    write_png(out / "run" / "curves.png", picture)
    write_jpeg(out / "run" / "panels" / "epoch_002.jpg", picture)
    write_jpeg(out / "run" / "panels" / "worst_val1.jpg", picture)
    write_png(out / "segmented" / "overlays" / "a.jpg.png", picture)
    (out / "bench").mkdir()
    (out / "bench" / "report.html").write_text("<b>bench</b>")
    scores = {"photos": 2, "iou": 0.9123, "mean_iou": 0.9, "dice": 0.95, "pixel_accuracy": 0.97}
    train = {
        "splits": [{"name": "painted/val1", "scores": scores, "worst": [["image_0001", 0.4]]}],
        "train_photos": 4,
        "epochs": [{}],
        "best_epoch": 1,
        "device": "a processor",
    }
    backend = {"runtime": "onnxruntime", "version": "1", "device_name": "a processor"}
    predict = {"backend": backend, "counts": {"photos": 1, "ok": 1, "failed": 0}}
    results = [train, None, None, None, None, predict]
    steps = [demo.Step("a step", ["train"], result=result) for result in results]
    engine = {
        "file": "fp16.engine",
        "precision": "fp16",
        "size_mib": 20.0,
        "proof": "not run",
        "agreement_iou": None,
        "model_iou": None,
        "reference_iou": None,
        "how": "built, not run: no GPU",
        "sha256": "0" * 64,
    }
    summary = demo.Summary("painted", 0.9123, (engine,), (), 1, str(out / "report.html"))
    return demo.Source(out, "painted"), steps, summary, out
