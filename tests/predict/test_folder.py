"""Folders of photos through a backend that answers each pixel with its green sample.

A green rectangle on black, on a grid that the frame can show, comes back as itself: what the mask
has to be is known without running anything.
"""

import csv
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowerseg.arrays import Mask, Rgb, SizeHW
from flowerseg.artifact import Batch
from flowerseg.backends.null import NullBackend
from flowerseg.errors import DataError, FlowersegError, ImageError, OutputError, Stopped
from flowerseg.images import encode_jpeg, read_mask_colours, write_jpeg, write_png
from flowerseg.predict import (
    FolderReport,
    PhotoResult,
    PredictSettings,
    Save,
    batch_size,
    segment_folder,
)
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

FRAME_HW = (64, 64)
SIZES_HW = [(64, 64), (128, 64), (64, 128), (128, 128), (32, 32)]  # the frame, its double, its half


def _segmenter(backend: NullBackend | None = None) -> Segmenter:
    return Segmenter(backend or NullBackend(FRAME_HW), Preprocess(FRAME_HW))


def _rectangle(size_hw: SizeHW, seed: int) -> Mask:
    """A rectangle with even corners, so that it lies on the frame's grid at each of SIZES_HW."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size_hw, np.bool_)
    top, left = (2 * int(rng.integers(0, side // 4)) for side in size_hw)
    height, width = (2 * int(rng.integers(2, side // 4)) for side in size_hw)
    mask[top : top + height, left : left + width] = True
    return mask


def _green(mask: Mask) -> Rgb:
    rgb = np.zeros((*mask.shape, 3), np.uint8)
    rgb[mask, 1] = 255
    return rgb


def _read_mask(path: Path) -> Mask:
    values = read_mask_colours(path)[..., 0]
    assert set(np.unique(values).tolist()) <= {0, 255}
    return values == 255


def _noise(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for i in range(count):
        height, width = rng.integers(20, 200, 2).tolist()
        write_jpeg(folder / f"{i}.jpg", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def _files(folder: Path) -> dict[str, bytes]:
    """All files but what the run notes for itself."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: files[name] for name in files if not name.startswith((".lock", "journal."))}


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class _Seen:
    """A watcher that keeps what it is told, and may do something at each photo."""

    def __init__(self, then: Callable[[], None] | None = None) -> None:
        self.notes: list[str] = []
        self.results: list[PhotoResult] = []
        self._then = then or (lambda: None)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def photo(self, result: PhotoResult, *, is_kept: bool) -> None:
        self.results.append(result)
        self._then()


def _segment(folder: Path, out: Path, settings: PredictSettings | None = None) -> FolderReport:
    return segment_folder(folder, _segmenter(), out, settings)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_photo_gets_the_mask_of_its_own_pixels(tmp_path: Path, batch: int) -> None:
    truth = {f"{i}.png": _rectangle(SIZES_HW[i % 5], seed=i) for i in range(29)}
    for name, mask in truth.items():
        write_png(tmp_path / "photos" / name, _green(mask))

    _segment(tmp_path / "photos", tmp_path / "out", PredictSettings(batch=batch))

    assert len({mask.tobytes() for mask in truth.values()}) == 29  # a swap would show
    for name, mask in truth.items():
        np.testing.assert_array_equal(_read_mask(tmp_path / "out/masks" / f"{name}.png"), mask)


def test_masks_do_not_depend_on_batch_or_workers(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 11)
    outputs = []
    for batch, workers in [(1, 1), (4, 2), (8, 5), (64, 3)]:
        out = tmp_path / f"{batch}-{workers}"
        _segment(tmp_path / "photos", out, PredictSettings(batch=batch, workers=workers))
        for row in (rows := _rows(out)):
            assert float(row.pop("milliseconds")) > 0
        outputs.append((_files(out / "masks"), rows))
    assert len(outputs[0][0]) == 11
    assert all(output == outputs[0] for output in outputs)


@pytest.mark.parametrize(
    ("takes", "batch"),
    [(None, 8), (Batch(1, 32, 64), 32), (Batch(1, 2, 4), 2)],
)
def test_batch_is_eight_or_what_the_engine_is_tuned_for(takes: Batch | None, batch: int) -> None:
    assert batch_size(PredictSettings(), takes) == batch


def test_engine_that_takes_no_small_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batches of 4 to 16.*Build it with --batch 1:8:16"):
        batch_size(PredictSettings(batch=8), Batch(4, 8, 16))


def test_batch_above_the_models_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 1)
    with pytest.raises(ValueError, match=r"batch of 5.*at most 4"):
        segment_folder(
            tmp_path / "photos",
            _segmenter(NullBackend(FRAME_HW, Batch(1, 2, 4))),
            tmp_path / "out",
            PredictSettings(batch=5),
        )
    assert not (tmp_path / "out").exists()


def test_mask_path_is_the_photos_path_with_png_added(tmp_path: Path) -> None:
    names = ["b.jpg", "b.png", "sub/b.jpg", "sub/deeper/B.JPEG", "two words.bmp", "-dash.jpg"]
    names += ["Blüte 花.tif", "line\nbreak.webp", 'comma,quote".jpg']
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(np.full((40, 50, 3), 200, np.uint8)))

    _segment(tmp_path / "photos", tmp_path / "out")

    assert set(_files(tmp_path / "out/masks")) == {f"{name}.png" for name in names}
    cells = {"./-dash.jpg" if name == "-dash.jpg" else name for name in names}
    assert {row["path"] for row in _rows(tmp_path / "out")} == cells


def test_photos_that_differ_only_in_extension_have_two_masks(tmp_path: Path) -> None:
    first, second = _rectangle((64, 64), seed=1), _rectangle((64, 64), seed=2)
    write_png(tmp_path / "photos/rose.png", _green(first))
    write_png(tmp_path / "photos/rose.bmp", _green(second))
    _segment(tmp_path / "photos", tmp_path / "out")
    np.testing.assert_array_equal(_read_mask(tmp_path / "out/masks/rose.png.png"), first)
    np.testing.assert_array_equal(_read_mask(tmp_path / "out/masks/rose.bmp.png"), second)


def test_photo_and_folder_that_need_one_name_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    """The mask of a.jpg and the folder of the masks of a.jpg.png/: both masks/a.jpg.png."""
    _noise(tmp_path / "photos/sub", 1)
    for name in ("sub/a.jpg", "sub/a.jpg.png/deeper/b.png", "c.jpg.png/d.png"):
        write_png(tmp_path / "photos" / name, _green(_rectangle((64, 64), seed=1)))
    with pytest.raises(
        DataError, match=r"sub/a\.jpg and the folder sub/a\.jpg\.png need .* Rename"
    ):
        _segment(tmp_path / "photos", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "photos/sub/a.jpg").rename(tmp_path / "photos/sub/A.jpg")
    _segment(tmp_path / "photos", tmp_path / "out")
    assert (tmp_path / "out/masks/sub/a.jpg.png/deeper/b.png.png").is_file()


def test_name_that_is_not_utf8_is_segmented_and_spelled_out(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 1)
    name = os.fsdecode(b"ros\xe9.jpg")
    (tmp_path / "photos/0.jpg").rename(tmp_path / "photos" / name)
    _segment(tmp_path / "photos", tmp_path / "out")
    assert (tmp_path / "out/masks" / f"{name}.png").is_file()
    assert [row["path"] for row in _rows(tmp_path / "out")] == ["ros\\xe9.jpg"]


def test_hidden_and_other_files_and_linked_folders_are_skipped_and_counted(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    _noise(photos, 2)
    _noise(photos / ".thumbnails", 2)
    (photos / ".hidden.jpg").write_bytes(b"")
    (photos / "notes.txt").write_text("no photo")
    (photos / "loop").symlink_to(photos)
    os.mkfifo(photos / "pipe.jpg")
    report = _segment(photos, tmp_path / "out")
    assert [row["path"] for row in _rows(tmp_path / "out")] == ["0.jpg", "1.jpg"]
    assert report.run.counts.skipped == 5


def test_output_folder_among_the_photos_is_not_searched(tmp_path: Path) -> None:
    _noise(tmp_path, 2)
    first = _segment(tmp_path, tmp_path / "out", PredictSettings(save=tuple(Save)))
    second = _segment(tmp_path, tmp_path / "out")
    assert (first.run.counts.photos, second.run.counts.photos) == (2, 2)


@pytest.mark.parametrize("out", ["photos", "photos/../photos", "."])
def test_output_that_would_mix_with_the_photos_is_refused(tmp_path: Path, out: str) -> None:
    folder = tmp_path / ("masks" if out == "." else "photos")
    _noise(folder, 2)
    before = _files(tmp_path)
    with pytest.raises(DataError, match="Choose another output folder"):
        _segment(folder, tmp_path / out)
    assert _files(tmp_path) == before


def _missing(path: Path) -> None:
    """Nothing is there."""


def _file(path: Path) -> None:
    path.write_bytes(b"")


def _without_photos(path: Path) -> None:
    (path / "sub").mkdir(parents=True)
    (path / "sub/notes.txt").write_text("no photo")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "No such file or directory. Check the path"),
        (_file, "a file, not a folder"),
        (_without_photos, r"no photos in it; 1 other files .* Photos end in .bmp, .jpeg"),
    ],
)
def test_folder_without_photos_is_an_error_that_touches_nothing(
    tmp_path: Path, make: object, message: str
) -> None:
    assert callable(make)
    make(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/results.csv").write_text("of another run")
    with pytest.raises(DataError, match=message):
        _segment(tmp_path / "photos", tmp_path / "out")
    assert _files(tmp_path / "out") == {"results.csv": b"of another run"}


def test_bad_photos_are_reported_and_the_others_segmented(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    _noise(photos, 5)
    (photos / "text.jpg").write_text("no photo at all")
    (photos / "empty.png").write_bytes(b"")
    whole = (photos / "1.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    seen = _Seen()

    settings = PredictSettings(batch=2)
    report = segment_folder(photos, _segmenter(), tmp_path / "out", settings, seen)

    assert {result.path: result.error.partition(": ")[2][:20] for result in report.failed} == {
        "cut.jpg": "a JPEG image of 138 ",
        "empty.png": "is empty (0 bytes). ",
        "gone.jpg": "cannot be read: No s",
        "text.jpg": "is a text file. Phot",
    }
    assert set(_files(tmp_path / "out/masks")) == {f"{i}.jpg.png" for i in range(5)}
    assert (report.run.counts.photos, report.run.counts.ok, report.run.counts.failed) == (9, 5, 4)
    assert sorted(result.path for result in seen.results) == [
        row["path"] for row in _rows(tmp_path / "out")
    ]
    bad = {row["path"]: row for row in _rows(tmp_path / "out") if row["status"] == "error"}
    assert bad["text.jpg"]["error"] == report.failed[-1].error
    assert bad["text.jpg"]["width"] == bad["text.jpg"]["flower_share"] == ""


def test_photo_whose_output_name_is_too_long_is_only_its_own_failure(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 2)
    (tmp_path / "photos/0.jpg").rename(tmp_path / "photos" / f"{'a' * 251}.jpg")
    report = _segment(tmp_path / "photos", tmp_path / "out")
    assert [row["path"] for row in _rows(tmp_path / "out") if row["status"] == "ok"] == ["1.jpg"]
    assert "too long" in report.failed[0].error
    assert set(_files(tmp_path / "out/masks")) == {"1.jpg.png"}


def test_subfolder_that_cannot_be_listed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _noise(tmp_path / "photos", 1)
    _noise(tmp_path / "photos/closed", 1)
    scandir = os.scandir

    def refusing(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = _segment(tmp_path / "photos", tmp_path / "out")
    assert [result.path for result in report.failed] == ["closed"]
    assert "Permission denied" in report.failed[0].error


def test_output_that_cannot_be_written_stops_the_run_and_leaves_whole_files(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 30)
    blocked = tmp_path / "out/masks/1.jpg.png"  # early: the others under way are written
    (blocked / "in the way").mkdir(parents=True)
    (tmp_path / "out/results.csv").write_text("of another run")

    with pytest.raises(FlowersegError, match=r"1\.jpg\.png: cannot be written: a folder has"):
        _segment(tmp_path / "photos", tmp_path / "out", PredictSettings(batch=2))

    written = _files(tmp_path / "out")
    assert "results.csv" not in written  # it would tell of masks that are no longer there
    assert len(written) < 29
    for name in written:
        assert name.startswith("masks/")
        assert not Path(name).name.startswith(".tmp-")
        _read_mask(tmp_path / "out" / name)


def test_a_disk_that_fills_up_stops_the_run_and_blames_no_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _noise(tmp_path / "photos", 30)
    room = iter(range(5))

    def fsync(handle: int) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    seen = _Seen()
    with pytest.raises(OutputError, match=r"\.jpg\.png: cannot be written: the disk is full \(\d"):
        segment_folder(tmp_path / "photos", _segmenter(), tmp_path / "out", None, seen)
    assert all(result.ok for result in seen.results)
    written = _files(tmp_path / "out")
    assert len(written) == 5
    assert all(name.endswith(".jpg.png") for name in written)


def test_output_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 1)
    (tmp_path / "out").write_text("precious")
    with pytest.raises(FlowersegError, match=r"cannot be written: .*out is a file, not a folder"):
        _segment(tmp_path / "photos", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_exception_on_the_way_leaves_whole_masks_and_nothing_else(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 40)

    def interrupt() -> None:
        if len(seen.results) == 3:
            raise KeyboardInterrupt

    seen = _Seen(interrupt)
    with pytest.raises(KeyboardInterrupt):
        segment_folder(tmp_path / "photos", _segmenter(), tmp_path / "out", None, seen)

    names = set(_files(tmp_path / "out"))
    assert {f"masks/{result.path}.png" for result in seen.results} <= names
    assert all(name.endswith(".jpg.png") for name in names)
    assert not [thread for thread in threading.enumerate() if "predict" in thread.name]


def test_run_that_is_told_to_stop_finishes_what_is_under_way(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 60)
    stop = threading.Event()
    seen = _Seen(stop.set)
    with pytest.raises(Stopped, match=r"out: stopped; (\d+) of 60 photos are done\. Run the same"):
        segment_folder(tmp_path / "photos", _segmenter(), tmp_path / "out", None, seen, stop)
    assert 1 <= len(seen.results) < 60
    assert set(_files(tmp_path / "out")) == {f"masks/{r.path}.png" for r in seen.results}


def test_stop_behind_a_bad_photo_is_a_stop_and_not_that_photos_error(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 60)
    (tmp_path / "photos/00.jpg").write_text("no photo")
    stop = threading.Event()

    def after_the_bad_one() -> None:
        if not all(result.ok for result in seen.results):
            stop.set()

    seen = _Seen(after_the_bad_one)
    with pytest.raises(Stopped, match=r"of 61 photos are done\. Run the same"):
        segment_folder(tmp_path / "photos", _segmenter(), tmp_path / "out", None, seen, stop)


def test_stop_that_comes_after_the_last_photo_has_begun_changes_nothing(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 3)
    stop = threading.Event()
    seen = _Seen(stop.set)
    segment_folder(tmp_path / "photos", _segmenter(), tmp_path / "out", None, seen, stop)
    assert len(_rows(tmp_path / "out")) == 3


def test_fail_fast_stops_at_the_first_bad_photo_and_names_it(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 60)
    (tmp_path / "photos/00.jpg").write_text("no photo")
    settings = PredictSettings(fail_fast=True)
    with pytest.raises(ImageError, match=r"00\.jpg: is a text file.*Stopped there.* of 61"):
        _segment(tmp_path / "photos", tmp_path / "out", settings)
    assert "results.csv" not in _files(tmp_path / "out")
    assert len(_files(tmp_path / "out/masks")) < 60


def test_results_csv_tells_of_a_painted_rectangle(tmp_path: Path) -> None:
    mask = np.zeros((128, 64), np.bool_)
    mask[20:60, 10:42] = True
    write_png(tmp_path / "photos/flower.png", _green(mask))
    write_png(tmp_path / "photos/none.png", _green(np.zeros((32, 32), np.bool_)))
    seen = _Seen()
    segment_folder(tmp_path / "photos", _segmenter(), tmp_path / "out", watcher=seen)
    lines = (tmp_path / "out/results.csv").read_text().splitlines()
    assert [line.rpartition(",")[0] for line in lines] == [
        "path,width,height,flower_share,x0,y0,x1,y1,status,error",
        "flower.png,64,128,0.156250,10,20,42,60,ok,",  # 40 x 32 of 128 x 64
        "none.png,32,32,0.000000,,,,,ok,",
    ]
    assert lines[0].endswith(",milliseconds")
    results = {result.path: result for result in seen.results}
    assert results["flower.png"] == PhotoResult("flower.png", (128, 64), 0.15625, (10, 20, 42, 60))
    assert results["none.png"].box is None


def test_run_json_tells_what_ran(tmp_path: Path) -> None:
    _noise(tmp_path / "photos", 3)
    _segment(tmp_path / "photos", tmp_path / "out", PredictSettings(batch=2, workers=3))
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["backend"]["runtime"] == "null"
    assert run["preprocess"]["size_hw"] == [64, 64]
    assert (run["threshold"], run["batch"], run["workers"], run["save"]) == (0.5, 2, 3, ["mask"])
    assert run["counts"] == {"photos": 3, "ok": 3, "failed": 0, "skipped": 0}
    assert (run["effort"]["segmented"], run["effort"]["kept"], run["left_behind"]) == (3, 0, 0)
    assert run["versions"]["flowerseg"]


def test_threshold_is_the_segmenters(tmp_path: Path) -> None:
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[:, 32:, 1] = 180  # 180 / 256 = 0.703
    write_png(tmp_path / "photos/a.png", rgb)
    seen = _Seen()
    for threshold in (0.70, 0.71):
        segmenter = Segmenter(NullBackend(FRAME_HW), Preprocess(FRAME_HW), threshold)
        segment_folder(tmp_path / "photos", segmenter, tmp_path / "out", watcher=seen)
    assert [result.flower_share for result in seen.results] == [0.5, 0.0]


def test_overlay_and_cutout_show_the_photo(tmp_path: Path) -> None:
    mask = _rectangle((64, 64), seed=3)
    rgb = _green(mask)
    rgb[..., 0] = 90
    write_png(tmp_path / "photos/a.png", rgb)
    settings = PredictSettings(save=(Save.OVERLAY, Save.CUTOUT))

    _segment(tmp_path / "photos", tmp_path / "out", settings)

    pictures = set(_files(tmp_path / "out")) - {"results.csv", "run.json"}
    assert pictures == {"overlays/a.png.png", "cutouts/a.png.png"}
    shown = read_mask_colours(tmp_path / "out/overlays/a.png.png")
    assert (shown[~mask] == [30, 0, 0]).all()
    np.testing.assert_array_equal(read_mask_colours(tmp_path / "out/cutouts/a.png.png"), rgb)


def test_probability_is_the_foreground_at_the_photos_size(tmp_path: Path) -> None:
    levels = np.arange(64, dtype=np.uint8) * 4
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[..., 1] = levels  # the null backend's answer
    write_png(tmp_path / "photos/a.png", rgb)
    settings = PredictSettings(save=(Save.PROBABILITY,))
    _segment(tmp_path / "photos", tmp_path / "out", settings)
    shown = read_mask_colours(tmp_path / "out/probabilities/a.png.png")
    assert (shown[..., 0] == levels).all()
    assert (tmp_path / "out/probabilities/a.png.png").read_bytes()[25] == 0  # PNG's type: grey


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"workers": 0}, {"save": ()}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PredictSettings(**wrong)  # type: ignore[arg-type]  # that is the point
