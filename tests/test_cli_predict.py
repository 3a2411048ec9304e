"""`flowerseg-predict` with a real ONNX file, whose flower is the green channel."""

import dataclasses
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from flowerseg.artifact import Artifact, Batch, Kind, Manifest, Precision, manifest_path, publish
from flowerseg.backends import SessionOptions, ort
from flowerseg.cli import predict as command
from flowerseg.cli.predict import _as_tuned, predict
from flowerseg.files import sha256_of
from flowerseg.images import read_mask_colours, write_jpeg, write_png
from flowerseg.predict.lock import locked
from flowerseg.predict.ray_ import Opening
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Proof
from flowerseg.tuned import Tuned, machine_here, read_tuned, write_tuned

SIDE = 32
PROVED = Proof(status="proved", how="test", device="cpu", streams=2)


def _green_channel_onnx() -> onnx.ModelProto:
    """The contract with a network of one node: `foreground` is channel 1 of `images`."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])
    foreground = helper.make_tensor_value_info(
        "foreground", TensorProto.UINT8, ["batch", SIDE, SIDE]
    )
    gather = helper.make_node("Gather", ["images", "green"], ["foreground"], axis=3)
    green = numpy_helper.from_array(np.array(1, np.int64), "green")
    graph = helper.make_graph([gather], "green", [images], [foreground], [green])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _publish(path: Path, proof: Proof | None) -> Path:
    manifest = Manifest(
        kind=Kind.ONNX,
        architecture="green",
        precision=Precision.FP32,
        preprocess=Preprocess((SIDE, SIDE)),
        batch=Batch(1, 2, 4),
        proof=proof,
    )
    publish(path, manifest, lambda file: onnx.save(_green_channel_onnx(), str(file)))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return _publish(tmp_path / "green.onnx", PROVED)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos: the upper half of each is green."""
    rgb = np.zeros((2 * SIDE, SIDE, 3), np.uint8)
    rgb[:SIDE, :, 1] = 255
    for i in range(5):
        write_png(tmp_path / "photos/sub" / f"{i}.png", rgb)
    return tmp_path / "photos"


def _predict(folder: Path, model: Path, *options: str) -> Result:
    out = folder.parent / "out"
    arguments = [str(folder), "--model", str(model), "--out", str(out), "--device", "cpu"]
    return CliRunner().invoke(predict, [*arguments, *options])


def test_folder_is_segmented(photos: Path, model: Path) -> None:
    result = _predict(photos, model)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("5 of 5 photos segmented, 0 failed; 0 other files")
    first = result.stderr.splitlines()[0]
    assert first.startswith("onnxruntime")
    assert "proved, fp32, 32 x 32: 5 photos, batch 2, " in first
    for i in range(5):
        mask = read_mask_colours(photos.parent / f"out/masks/sub/{i}.png.png")[..., 0]
        assert mask.shape == (2 * SIDE, SIDE)
        assert (mask[:SIDE] == 255).all()
        assert not mask[SIDE:].any()


def test_batch_that_was_not_proved_is_refused(photos: Path, tmp_path: Path) -> None:
    small = dataclasses.replace(PROVED, batch_sizes=(1, 2, 3))
    model = _publish(tmp_path / "small.onnx", small)
    result = _predict(photos, model, "--batch", "4")
    assert result.exit_code == 2
    assert "a batch of 4; this model takes at most 3, or was proved with no more" in result.stderr
    assert "flowerseg-verify --largest-batch 4" in result.stderr
    allowed = _predict(photos, model, "--batch", "4", "--unproven")
    assert allowed.exit_code == 0, allowed.output
    assert "NOT PROVED" in allowed.stderr
    assert _predict(photos, model, "--batch", "3").exit_code == 0


def test_json_is_what_run_json_says_and_names_the_model(photos: Path, model: Path) -> None:
    result = _predict(photos, model, "--json", "--batch", "3", "--threshold", "0.25")
    run = json.loads(result.stdout)
    assert run == json.loads((photos.parent / "out/run.json").read_text())
    assert run["model"] == {"kind": "onnx", "name": "green.onnx", "sha256": sha256_of(model)}
    assert (run["batch"], run["threshold"], run["counts"]["ok"]) == (3, 0.25, 5)


def test_progress_off_a_terminal_is_a_plain_line_every_few_seconds(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(command, "monotonic", lambda: float(next(seconds)))  # one a photo
    rgb = np.zeros((40, 40, 3), np.uint8)
    for i in range(8):
        write_jpeg(photos / f"{i}.jpg", rgb)
    stderr = _predict(photos, model).stderr
    assert "\x1b" not in stderr
    assert stderr.splitlines()[1:] == [
        "5 of 13 photos, 1.0 photos/s, 0 failed",
        "10 of 13 photos, 1.0 photos/s, 0 failed",
    ]


def test_bar_on_a_terminal_tells_speed_and_failures(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(command, "stderr_console", lambda: terminal)
    (photos / "bad.jpg").write_text("no photo")
    assert _predict(photos, model).exit_code == 1
    assert isinstance(terminal.file, io.StringIO)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", terminal.file.getvalue())  # without its colours
    assert re.search(r"6/6 \d+\.\d photos/s, 1 failed, ETA", shown)


def test_second_run_keeps_what_the_first_made_and_says_so(photos: Path, model: Path) -> None:
    assert _predict(photos, model).exit_code == 0
    again = _predict(photos, model)
    assert "5 of 5 photos segmented, 0 failed; " in again.stdout
    assert "5 of them an earlier run had done." in again.stdout
    assert "an earlier run segmented 5 photos; those that have not changed are kept" in again.stderr
    other = _predict(photos, model, "--threshold", "0.25")
    assert "this changed: threshold 0.5 -> 0.25. They are done again." in other.stderr
    assert "earlier run had done" not in other.stdout


def test_folder_that_another_run_holds_is_exit_1_and_names_it(photos: Path, model: Path) -> None:
    with locked(photos.parent / "out"):
        result = _predict(photos, model)
    assert result.exit_code == 1
    assert f"process {os.getpid()} on " in result.stderr
    assert "Wait for it to end, or choose another folder." in result.stderr


def test_fail_fast_is_exit_1_with_the_photo(photos: Path, model: Path) -> None:
    for i in range(60):
        (photos / f"bad {i:02}.jpg").write_text("no photo")
    result = _predict(photos, model, "--fail-fast")
    assert result.exit_code == 1
    assert re.search(r"Error: .*bad \d\d\.jpg: is a text.* Stopped there", result.stderr)
    assert not (photos.parent / "out/results.csv").exists()


@pytest.fixture
def many(photos: Path) -> Path:
    """Enough photos that some have not begun when the first is done."""
    for i in range(60):
        write_jpeg(photos / f"{i:02}.jpg", np.full((40, 40, 3), i, np.uint8))
    return photos


@pytest.fixture
def sigint() -> Iterator[None]:
    """Ctrl-C as in a terminal: a test that runs in the background would inherit it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_finishes_what_is_under_way_and_the_next_run_goes_on(
    many: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presses = iter([True])

    def press(*_: object, **__: object) -> None:
        if next(presses, False):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(command._Shown, "photo", press)
        result = _predict(many, model)
    assert result.exit_code == 130
    assert "Finishing the photos under way. Ctrl-C again ends at once." in result.stderr
    done = re.search(r"out: stopped; (\d+) of 65 photos are done\.", result.stderr)
    assert done
    masks = [path.name for path in (many.parent / "out/masks").rglob("*")]
    assert sum(name.endswith(".png") for name in masks) == int(done[1])
    assert not [name for name in masks if name.startswith(".tmp-")]
    again = _predict(many, model)
    assert again.exit_code == 0
    assert f"{done[1]} of them an earlier run had done." in again.stdout


_TWICE = """
import signal, sys
from flowerseg.cli import predict as command
signal.signal(signal.SIGINT, signal.default_int_handler)
def press(*_, **__):
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    print("still here")
command._Shown.photo = press
command.predict(sys.argv[1:])
"""


def test_second_ctrl_c_ends_at_once(many: Path, model: Path) -> None:
    out = many.parent / "out"
    words = [str(many), "--model", str(model), "--out", str(out), "--device", "cpu"]
    ended = subprocess.run([sys.executable, "-c", _TWICE, *words], capture_output=True, text=True)
    assert ended.returncode == 130
    assert ended.stdout == ""
    assert not (out / "results.csv").exists()
    assert _predict(many, model).exit_code == 0


def test_bad_photos_are_listed_and_the_exit_code_is_1(photos: Path, model: Path) -> None:
    for i in range(23):
        (photos / f"bad {i:02}.jpg").write_text("no photo")
    result = _predict(photos, model)
    assert result.exit_code == 1
    assert "5 of 28 photos segmented, 23 failed" in result.stdout
    lines = result.stderr.splitlines()
    listed = lines[lines.index("Failed photos (23):") + 1 :]
    assert len(listed) == 21
    assert listed[0].startswith(f"  {photos}/bad 00.jpg: is a text")
    assert listed[-1] == f"  and 3 more, in {photos.parent / 'out/results.csv'}"
    assert len(list((photos.parent / "out/masks").rglob("*.png"))) == 5


def test_save_writes_what_it_names(photos: Path, model: Path) -> None:
    assert _predict(photos, model, "--save", "overlay, cutout").exit_code == 0
    assert sorted(path.name for path in (photos.parent / "out").iterdir()) == [
        ".lock",
        "cutouts",
        "journal.sqlite",
        "overlays",
        "results.csv",
        "run.json",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "5"], "a batch of 5; this model takes at most 4"),
        (["--batch", "0"], "0 is not in the range"),
        (["--save", "mask,poster"], "'poster' is not one of mask, overlay, cutout, probability"),
        (["--save", ""], "'' is not one of"),
        (["--threshold", "1"], "1.0 is not in the range"),
    ],
)
def test_wrong_usage_is_exit_2_and_writes_nothing(
    photos: Path, model: Path, options: list[str], message: str
) -> None:
    result = _predict(photos, model, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (photos.parent / "out").exists()


def test_folder_without_photos_is_exit_1_without_traceback(tmp_path: Path, model: Path) -> None:
    (tmp_path / "photos").mkdir()
    result = _predict(tmp_path / "photos", model)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path}/photos: no photos in it")
    assert not (tmp_path / "out").exists()


def _without_manifest(model: Path) -> None:
    manifest_path(model).unlink()


def _changed(model: Path) -> None:
    model.write_bytes(model.read_bytes() + b"\0")


def _unproven(model: Path) -> None:
    _publish(model, None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_manifest, "the manifest is missing"),
        (_changed, "not the one its manifest describes"),
        (_unproven, "never run"),
        (Path.unlink, "no such model file"),
    ],
)
def test_wrong_model_is_exit_1_and_writes_nothing(
    photos: Path, model: Path, spoil: object, message: str
) -> None:
    assert callable(spoil)
    spoil(model)
    result = _predict(photos, model)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (photos.parent / "out").exists()


def test_unproven_model_runs_when_asked(photos: Path, model: Path) -> None:
    _unproven(model)
    assert _predict(photos, model, "--unproven").exit_code == 0


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from flowerseg.cli.predict import predict\n"
        "try: predict(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnxruntime', 'cv2', 'numpy'} & set(sys.modules)))\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "--threshold" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "[]"


def _piped(paths: bytes, model: Path, out: Path, *options: str) -> Result:
    arguments = ["-", "--model", str(model), "--out", str(out), "--device", "cpu", *options]
    return CliRunner().invoke(predict, arguments, input=paths)


def _masks(out: Path) -> list[str]:
    folder = out / "masks"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def test_list_on_standard_input_or_in_a_file_names_the_photos(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "sub/0.png").rename(photos / "sub/line\nbreak")
    monkeypatch.chdir(photos)
    result = _piped(b"sub/line\nbreak\0sub/1.png\0", model, tmp_path / "a", "-0")
    assert result.exit_code == 0, result.output
    assert _masks(tmp_path / "a") == ["sub/1.png.png", "sub/line\nbreak.png"]

    (tmp_path / "list").write_text(f"{photos}/sub/2.png\n{photos}/gone.png\n")
    result = _predict(tmp_path / "list", model)
    assert result.exit_code == 1
    assert f"{photos}/gone.png: cannot be read: No such file" in result.stderr
    assert _masks(tmp_path / "out") == [f"{photos}/sub/2.png.png"[1:]]


def test_nul_is_for_lists_only(photos: Path, model: Path) -> None:
    result = _predict(photos, model, "--null")
    assert result.exit_code == 2
    assert "-0 is for lists of photos" in result.stderr


def test_parts_go_to_folders_of_their_own_and_are_together_all(photos: Path, model: Path) -> None:
    found = []
    for part in ("1-of-3", "2-of-3", "3-of-3"):
        result = _predict(photos, model, "--shard", part.replace("-of-", "/"))
        assert result.exit_code == 0, result.output
        found += _masks(photos.parent / "out" / part)
    assert sorted(found) == [f"sub/{i}.png.png" for i in range(5)]


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3", "1/3 "])
def test_part_that_is_none_is_wrong_usage(photos: Path, model: Path, part: str) -> None:
    result = _predict(photos, model, "--shard", part)
    assert result.exit_code == 2
    assert "is not one of 1/N, 2/N" in result.stderr


@pytest.mark.parametrize("options", [[], ["--isolate", "60"]])
def test_photo_above_max_pixels_is_refused_by_name(
    photos: Path, model: Path, options: list[str]
) -> None:
    write_png(photos / "large.png", np.zeros((2 * SIDE, SIDE + 1, 3), np.uint8))
    result = _predict(photos, model, "--max-pixels", str(2 * SIDE * SIDE), *options)
    assert result.exit_code == 1
    assert "5 of 6 photos segmented, 1 failed" in result.stdout
    assert f"large.png: {SIDE + 1} x {2 * SIDE} pixels" in result.stderr
    assert len(_masks(photos.parent / "out")) == 5


@pytest.fixture
def tuned(model: Path, tmp_path: Path) -> Path:
    """What flowerseg-bench would leave."""
    setting = Tuned(
        model=model.name,
        sha256=sha256_of(model),
        machine=machine_here("cpu"),
        goal="most photos a second, file to mask",
        runtime="onnxruntime",
        batch=3,
        threads=1,
        streams=2,
        cuda_graph=False,
        images_per_s=100.0,
        flower_iou=None,
        agreement_iou=None,
        measured="2026-11-22",
    )
    write_tuned(tmp_path / "tuned.json", setting)
    return tmp_path / "tuned.json"


def test_a_measured_setting_is_used(
    photos: Path, model: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[SessionOptions] = []
    open_onnx = ort.open_onnx

    def spy(artifact: Artifact, device: str, options: SessionOptions) -> Any:
        opened.append(options)
        return open_onnx(artifact, device, options)

    monkeypatch.setattr(ort, "open_onnx", spy)
    result = _predict(photos, model, "--tuned", str(tuned), "--json")
    assert result.exit_code == 0, result.output
    run = json.loads(result.stdout)
    assert (run["batch"], run["backend"]["runtime"]) == (3, "onnxruntime")
    assert opened == [SessionOptions(threads=1, streams=2, shares_cores=True)]
    assert "batch 3, 2 streams, " in result.stderr


def test_every_measured_option_reaches_the_session(model: Path, tuned: Path) -> None:
    measured = replace(
        read_tuned(tuned), cuda_graph=True, cudnn_benchmark=True, layout="channels-last"
    )
    opening = _as_tuned(Opening(model), measured)
    assert opening.options() == SessionOptions(1, 2, True, True, True, "channels-last")


def test_several_streams_make_the_masks_of_one(photos: Path, model: Path, tmp_path: Path) -> None:
    for streams in ("1", "2"):
        out = str(tmp_path / streams)
        result = _predict(photos, model, "--streams", streams, "--out", out)
        assert result.exit_code == 0, result.output
    masks = sorted((tmp_path / "1" / "masks").rglob("*.png"))
    assert masks
    for mask in masks:
        other = tmp_path / "2" / "masks" / mask.relative_to(tmp_path / "1" / "masks")
        assert other.read_bytes() == mask.read_bytes()


@pytest.mark.usefixtures("no_gpu")
def test_a_cuda_graph_on_the_cpu_is_refused(photos: Path, model: Path) -> None:
    result = _predict(photos, model, "--cuda-graph")
    assert result.exit_code == 1
    assert "no CUDA graph of onnxruntime on cpu" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--batch", "2"],
        ["--runtime", "onnxruntime"],
        ["--engine", "ray"],
        ["--streams", "1"],
        ["--no-cuda-graph"],
    ],
)
def test_a_measured_setting_allows_no_other(
    photos: Path, model: Path, tuned: Path, options: list[str]
) -> None:
    result = _predict(photos, model, "--tuned", str(tuned), *options)
    assert result.exit_code == 2
    assert "--tuned brings its own" in result.stderr


def test_a_setting_that_was_measured_with_another_model_is_refused(
    photos: Path, model: Path, tuned: Path
) -> None:
    content = json.loads(tuned.read_text())
    tuned.write_text(json.dumps(content | {"sha256": "ab" * 32}))
    result = _predict(photos, model, "--tuned", str(tuned))
    assert result.exit_code == 1
    assert "the setting was measured for green.onnx (abababababab…)" in result.stderr
    assert not (photos.parent / "out").exists()


def test_input_that_is_neither_folder_nor_list_is_one_sentence(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42".ljust(600, b"\0"))
    (tmp_path / "photo").write_bytes((photos / "sub/2.png").read_bytes())
    (tmp_path / "loop").symlink_to("loop")
    expected = {
        tmp_path
        / "clip.mp4": "an MP4 or QuickTime video, not a list of photos. Extract its frames first",
        tmp_path / "photo": "a PNG photo, not a list of photos. Give the folder",
        photos / "sub/2.png": "a file, not a folder. Give the folder that the photo is in",
        Path("/dev/zero"): "a socket or device, not a folder",
        tmp_path / "loop": "cannot be opened: Too many levels of symbolic links",
        tmp_path / ("x" * 300): "cannot be opened: File name too long",
    }
    for source, message in expected.items():
        result = _predict(source, model)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {source}: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_folder_that_is_an_empty_word_is_not_the_working_folder(model: Path) -> None:
    result = CliRunner().invoke(predict, ["", "--model", str(model), "--out", "out"])
    assert result.exit_code == 2
    assert "FOLDER is empty" in result.stderr


def test_pipe_may_be_a_list(photos: Path, model: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["find", photos, "-name", "2.png", "-fprint", tmp_path / "pipe"]):
        result = _predict(tmp_path / "pipe", model)
    assert result.exit_code == 0, result.output
    assert "1 of 1 photos" in result.stdout


def test_standard_input_that_is_closed_is_one_sentence(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flowerseg", "predict", "-", "--out", str(tmp_path / "out")]
    shown = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True
    )
    assert (shown.returncode, shown.stderr) == (
        1,
        "Error: standard input is closed: pipe a list of photos into it, or name a file.\n",
    )


def test_failed_photos_are_a_line_each_whatever_their_names(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    (photos / "a\nError: all lost[red]\x1b[2J.jpg").write_bytes(b"")
    result = _predict(photos, model)
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "all lost" in line]
    assert "a\\nError: all lost[red]\\x1b[2J.jpg: " in line


def test_address_of_a_local_folder_is_read_as_the_folder_itself(photos: Path, model: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")  # which fsspec would wait for
    result = CliRunner().invoke(
        predict, [f"file://{photos}", "--model", str(model), "--out", str(photos.parent / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "1 other files and folders skipped" in result.stdout
