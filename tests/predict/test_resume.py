"""What an earlier run made is kept as long as it is what this run would make."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from flowerseg.errors import OutputError, Stopped
from flowerseg.images import write_png
from flowerseg.predict import PredictSettings, Save, check_folder, segment_folder
from flowerseg.segmenter import Segmenter

Opened = Callable[..., Segmenter]
LeftIn = Callable[[Path], dict[str, object]]


def _frames(segmenter: Segmenter) -> int:
    """How many photos it was given to infer."""
    backend: Any = segmenter.backend
    return int(backend.frames)


@pytest.fixture
def out(photos: Path, tmp_path: Path, opened: Opened) -> Path:
    """A folder that a whole run has written."""
    segment_folder(photos, opened(), tmp_path / "out")
    return tmp_path / "out"


def test_second_run_infers_nothing_and_leaves_the_same(
    photos: Path, out: Path, opened: Opened, watcher: Any, left_in: LeftIn
) -> None:
    before, csv = left_in(out), (out / "results.csv").read_bytes()
    again = opened()
    report = segment_folder(photos, again, out, watcher=watcher)
    assert _frames(again) == 0
    assert (report.run.counts.ok, report.run.effort.kept, report.run.effort.segmented) == (
        16,
        16,
        0,
    )
    assert left_in(out) == before
    assert (out / "results.csv").read_bytes() == csv  # even the time it took then
    assert watcher.notes == [
        f"{out}: an earlier run segmented 16 photos; those that have not changed are kept."
    ]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"threshold": 0.6}, "threshold 0.5 -> 0.6"),
        ({"sha256": "b" * 64}, "model aaaaaaaaaaaa… -> bbbbbbbbbbbb…"),
    ],
)
def test_another_model_or_threshold_does_all_again_and_says_so(
    photos: Path,
    out: Path,
    tmp_path: Path,
    opened: Opened,
    watcher: Any,
    left_in: LeftIn,
    changed: dict[str, Any],
    told: str,
) -> None:
    again = opened(**changed)
    segment_folder(photos, again, out, watcher=watcher)
    assert _frames(again) == 16
    (note,) = watcher.notes
    assert told in note
    assert note.endswith("done again.")
    segment_folder(photos, opened(**changed), tmp_path / "fresh")
    assert left_in(out) == left_in(tmp_path / "fresh")


def test_run_after_an_interrupted_one_with_another_threshold_tells_what_of_both_there_is(
    photos: Path, out: Path, opened: Opened, watcher: Any
) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(Stopped):
        segment_folder(photos, opened(threshold=0.6), out, stop=stop)
    (photos / "01.png").rename(photos.parent / "01.png")
    for path in sorted(photos.rglob("*.png"))[1:]:
        path.rename(photos.parent / path.name)
    segment_folder(photos, opened(threshold=0.6), out)  # one photo
    segment_folder(photos, opened(threshold=0.6), out, watcher=watcher)
    assert watcher.notes == [
        f"{out}: an earlier run segmented 1 photos; those that have not changed are kept.",
        f"{out}: 15 photos were segmented before this changed: threshold 0.5 -> 0.6. They are done "
        "again.",
    ]


def test_model_that_comes_back_finds_the_masks_of_another_one_and_does_them_again(
    photos: Path, out: Path, opened: Opened
) -> None:
    segment_folder(photos, opened(threshold=0.6), out)
    back = opened()
    segment_folder(photos, back, out)
    assert _frames(back) == 16


def test_batch_and_workers_change_nothing(photos: Path, out: Path, opened: Opened) -> None:
    again = opened()
    segment_folder(photos, again, out, PredictSettings(batch=3, workers=5))
    assert _frames(again) == 0


def test_segmenter_without_a_model_file_is_never_taken_for_another(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    for _ in range(2):
        nameless = opened()
        nameless.artifact = None
        segment_folder(photos, nameless, tmp_path / "out")
        assert _frames(nameless) == 16


def _replace(photos: Path, out: Path) -> None:
    write_png(photos / "01.png", np.full((30, 30, 3), 200, np.uint8))


def _swap(photos: Path, out: Path) -> None:
    (photos / "01.png").write_bytes((photos / "02.png").read_bytes())


def _remove_mask(photos: Path, out: Path) -> None:
    (out / "masks/01.png.png").unlink()


def _cut_mask(photos: Path, out: Path) -> None:
    mask = out / "masks/01.png.png"
    mask.write_bytes(mask.read_bytes()[:-1])


def _exchange_mask(photos: Path, out: Path) -> None:
    (out / "masks/01.png.png").write_bytes((out / "masks/02.png.png").read_bytes())


@pytest.mark.parametrize("happened", [_replace, _swap, _remove_mask, _cut_mask, _exchange_mask])
def test_photo_or_mask_that_is_not_as_it_was_is_done_again_alone(
    photos: Path,
    out: Path,
    tmp_path: Path,
    opened: Opened,
    watcher: Any,
    left_in: LeftIn,
    happened: Callable[[Path, Path], None],
) -> None:
    happened(photos, out)
    segment_folder(photos, opened(), out, watcher=watcher)
    assert watcher.done == {"01.png"}
    segment_folder(photos, opened(), tmp_path / "fresh")
    assert left_in(out) == left_in(tmp_path / "fresh")


def test_photo_that_came_and_one_that_went_are_noticed(
    photos: Path, out: Path, opened: Opened, watcher: Any
) -> None:
    (photos / "01.png").rename(photos / "new.png")
    report = segment_folder(photos, opened(), out, watcher=watcher)
    assert watcher.done == {"new.png"}
    assert (report.run.counts.photos, report.run.left_behind) == (16, 1)
    assert (out / "masks/01.png.png").is_file()  # nobody asked for it to go
    assert "\n01.png" not in (out / "results.csv").read_text()


def test_mask_of_a_photo_that_became_bad_goes(photos: Path, out: Path, opened: Opened) -> None:
    (photos / "01.png").write_text("no photo")
    report = segment_folder(photos, opened(), out)
    assert [result.path for result in report.failed] == ["01.png"]
    assert not (out / "masks/01.png.png").exists()


def test_bad_photo_is_tried_again(photos: Path, tmp_path: Path, opened: Opened) -> None:
    whole = (photos / "01.png").read_bytes()
    (photos / "01.png").write_bytes(b"")
    assert segment_folder(photos, opened(), tmp_path / "out").run.counts.failed == 1
    (photos / "01.png").write_bytes(whole)
    report = segment_folder(photos, opened(), tmp_path / "out")
    assert (report.run.counts.failed, report.run.effort.segmented) == (0, 1)


def test_more_to_save_does_the_photos_again_and_less_does_not(
    photos: Path, out: Path, opened: Opened, left_in: LeftIn
) -> None:
    before = left_in(out)
    frames = []
    for save in [(Save.OVERLAY,), (Save.MASK,), (Save.MASK, Save.OVERLAY)]:
        segmenter = opened()
        segment_folder(photos, segmenter, out, PredictSettings(save=save))
        frames.append(_frames(segmenter))
    assert frames == [16, 0, 0]
    assert before.items() <= left_in(out).items()


def test_overlays_of_another_threshold_do_not_stay_beside_the_new_masks(
    photos: Path, out: Path, opened: Opened
) -> None:
    segment_folder(photos, opened(), out, PredictSettings(save=tuple(Save)))
    segment_folder(photos, opened(threshold=0.6), out)
    pictures = {path.relative_to(out).parts[0] for path in out.rglob("*.png")}
    assert pictures == {"masks"}


def test_temporary_files_of_a_killed_run_go(photos: Path, out: Path, opened: Opened) -> None:
    left = [out / ".tmp-a1b2c3d4.csv", out / "masks/sub/.tmp-q_w2e3r4.png"]
    others = [out / ".tmp-mine.csv", out / "masks/.tmp-a1b2c3d4e.png"]
    for path in (*left, *others):
        path.write_bytes(b"half")
    with sqlite3.connect(out / "journal.sqlite") as db:
        db.execute("UPDATE runs SET finished = 0")
    db.close()
    segment_folder(photos, opened(), out)
    assert [path.exists() for path in (*left, *others)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"not a database" * 99), "not a database. Remove it"),
        (lambda path: _as_of_version(path, 7), "of version 7, this flowerseg writes 2. Remove it"),
    ],
    ids=["garbage", "another version"],
)
def test_journal_that_cannot_be_read_is_an_error_that_says_what_to_do(
    photos: Path, out: Path, opened: Opened, spoil: Callable[[Path], None], message: str
) -> None:
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    del before[out / "journal.sqlite"], before[out / ".lock"]
    spoil(out / "journal.sqlite")
    with pytest.raises(OutputError, match=rf"journal\.sqlite: the journal.*{message}"):
        segment_folder(photos, opened(), out)
    assert all(path.read_bytes() == content for path, content in before.items())


def _as_of_version(path: Path, version: int) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {version}")
    db.close()


def test_outputs_that_are_gone_and_not_asked_for_again_are_forgotten(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    out = tmp_path / "out"
    segment_folder(photos, opened(), out, PredictSettings(save=(Save.MASK, Save.OVERLAY)))
    (out / "overlays/01.png.png").unlink()
    shutil.rmtree(out / "overlays/sub")
    (out / "masks/02.png.png").unlink()  # done again, beside an overlay that is still there
    (out / "masks/01.png.png").unlink()  # done again, beside one that is gone
    report = segment_folder(photos, opened(), out)
    assert (report.run.effort.kept, report.run.effort.segmented) == (14, 2)
    # 16 masks, and the overlays that are left: all but the six of sub and that of 01.png.
    assert check_folder(out, pytest.fail).outputs == 16 + 9
