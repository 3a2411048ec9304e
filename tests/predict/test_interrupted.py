"""Killed, stopped, out of disk, locked: the next run ends with what one run would have left."""

import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowerseg.errors import OutputError
from flowerseg.images import write_png
from flowerseg.predict import PredictSettings, segment_folder
from flowerseg.predict.lock import locked
from flowerseg.segmenter import Segmenter

Opened = Callable[..., Segmenter]
LeftIn = Callable[[Path], dict[str, object]]

# The segmenter of `opened`, in a process of its own, which says when a photo is done.
_RUN = """
import signal, sys
from pathlib import Path
from flowerseg.artifact import Artifact, Kind, Manifest, Precision
from flowerseg.backends.null import NullBackend
from flowerseg.predict import segment_folder
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

class Saying:
    def note(self, text): pass
    def photo(self, result, *, is_kept): print(result.path, flush=True)

preprocess = Preprocess((64, 64))
manifest = Manifest(Kind.ONNX, "green", Precision.FP32, preprocess, sha256="a" * 64)
segmenter = Segmenter(
    NullBackend((64, 64)), preprocess, artifact=Artifact(Path("green.onnx"), manifest)
)
segment_folder(Path(sys.argv[1]), segmenter, Path(sys.argv[2]), watcher=Saying())
"""


def _started(photos: Path, out: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", _RUN, str(photos), str(out)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def _killed(photos: Path, out: Path, after: int) -> None:
    """Run in another process, and kill it once it has told of `after` photos."""
    with _started(photos, out) as process:
        assert process.stdout
        for _ in range(after):
            process.stdout.readline()
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """400 photos: enough to be killed among them."""
    rng = np.random.default_rng(0)
    for i in range(400):
        write_png(tmp_path / f"many/{i:03}.png", rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    return tmp_path / "many"


def test_run_that_was_killed_again_and_again_ends_as_one_that_was_not(
    many: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    segment_folder(many, opened(), tmp_path / "whole")
    out = tmp_path / "out"
    rng = random.Random(0)
    for _ in range(3):
        _killed(many, out, after=rng.randrange(1, 120))
        assert not (out / "results.csv").exists()
    segmenter = opened()
    report = segment_folder(many, segmenter, out)
    assert report.run.effort.kept >= 1
    assert left_in(out) == left_in(tmp_path / "whole")
    assert not list(out.rglob(".tmp-*"))


def test_lock_of_a_killed_run_is_taken_over(many: Path, tmp_path: Path, opened: Opened) -> None:
    _killed(many, tmp_path / "out", after=1)
    assert (tmp_path / "out/.lock").read_text()
    assert segment_folder(many, opened(), tmp_path / "out").run.counts.ok == 400


def test_second_run_is_refused_and_told_whose_the_first_is(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    out = tmp_path / "out"
    with locked(out), pytest.raises(OutputError, match=rf"out: process {os.getpid()} on .* is wr"):
        segment_folder(photos, opened(), out)
    assert segment_folder(photos, opened(), out).run.counts.ok == 16


def test_second_process_is_refused(photos: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        words = [sys.executable, "-c", _RUN, str(photos), str(tmp_path / "out")]
        said = subprocess.run(words, capture_output=True, text=True)
    assert f"process {os.getpid()} on " in said.stderr
    assert not (tmp_path / "out/masks").exists()


def test_full_disk_stops_the_run_and_the_next_goes_on(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment_folder(photos, opened(), tmp_path / "whole")
    room = iter(range(5))

    def fsync(handle: int) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutputError, match="the disk is full"):
            segment_folder(photos, opened(), tmp_path / "out")
    segment_folder(photos, opened(), tmp_path / "out")
    assert left_in(tmp_path / "out") == left_in(tmp_path / "whole")


_FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))\n"


# Below what SQLite's first page needs, below what the journal grows to, and below a mask.
@pytest.mark.parametrize("size", [100, 20_000, 70_000])
def test_journal_that_finds_no_room_stops_the_run_and_the_next_goes_on(
    many: Path, tmp_path: Path, opened: Opened, left_in: LeftIn, size: int
) -> None:
    program = _FULL.replace("BYTES", str(size)) + _RUN
    words = [sys.executable, "-c", program, str(many), str(tmp_path / "out")]
    said = subprocess.run(words, capture_output=True, text=True)
    assert "flowerseg.errors.OutputError" in said.stderr.splitlines()[-1]
    assert "journal.sqlite: cannot be written" in said.stderr
    segment_folder(many, opened(), tmp_path / "out")
    segment_folder(many, opened(), tmp_path / "whole")
    assert left_in(tmp_path / "out") == left_in(tmp_path / "whole")


def test_folder_gone_read_only_stops_the_run_and_the_next_goes_on(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment_folder(photos, opened(), tmp_path / "whole")
    really, calls = os.replace, iter(range(100))

    def replace(source: str, target: str) -> None:
        if next(calls) >= 4:
            raise OSError(errno.EROFS, "Read-only file system", source)
        really(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(OutputError, match="the disk is read-only"):
            segment_folder(photos, opened(), tmp_path / "out")
    segment_folder(photos, opened(), tmp_path / "out")
    assert left_in(tmp_path / "out") == left_in(tmp_path / "whole")


def test_journal_that_may_not_be_written_is_an_error(
    photos: Path, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment_folder(photos, opened(), tmp_path / "out")
    connect = sqlite3.connect

    def read_only(address: str, **options: Any) -> sqlite3.Connection:
        return connect(address.replace("mode=rwc", "immutable=1"), **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(OutputError, match=r"journal\.sqlite: cannot be written: .*readonly"):
        segment_folder(photos, opened(), tmp_path / "out")


def test_photo_that_disappears_on_the_way_is_reported_and_the_next_run_knows_it_no_more(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    gone = photos / "11.png"

    class Removing:
        def note(self, text: str) -> None:
            """Nothing."""

        def photo(self, result: object, *, is_kept: bool) -> None:
            gone.unlink(missing_ok=True)

    settings = PredictSettings(batch=1, workers=1)
    for i in range(12, 60):  # so that it is not read before the first photo is done
        (photos / f"10-{i}.png").symlink_to(photos / "01.png")
    report = segment_folder(photos, opened(), tmp_path / "out", settings, Removing())
    assert [result.error for result in report.failed] == [
        f"{gone}: cannot be read: No such file or directory."
    ]
    report = segment_folder(photos, opened(), tmp_path / "out")
    assert (report.run.counts.photos, report.run.counts.failed) == (63, 0)
    segment_folder(photos, opened(), tmp_path / "whole")
    assert left_in(tmp_path / "out") == left_in(tmp_path / "whole")
