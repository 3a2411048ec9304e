"""A folder run in several processes: what comes out, and what happens when one of them does not."""

import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from flowerseg.arrays import Images
from flowerseg.backends import device
from flowerseg.backends.null import NullBackend
from flowerseg.errors import BackendUnavailable, FlowersegError, ImageError, OutputError, Stopped
from flowerseg.listing import list_photos
from flowerseg.predict import (
    PredictSettings,
    Save,
    hands_of,
    processes,
    segment_folder,
    segment_listing,
)
from flowerseg.predict.remote import RemoteFolder
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

Opened = Callable[..., Segmenter]
LeftIn = Callable[[Path], dict[str, object]]

TWO = PredictSettings(batch=4, workers=4, processes=2)


def _helpers(parent: int) -> list[int]:
    """The helpers that a process has started; other tests leave children of other kinds."""
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(pid) for pid in listed.split() if b"predict.helper" in _command(pid)]


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class _Acting:
    """A watcher that does something at the first photo."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._has_acted = False

    def note(self, text: str) -> None:
        """Nothing."""

    def photo(self, result: object, *, is_kept: bool) -> None:
        if not self._has_acted:
            self._has_acted = True
            self._act()


@pytest.fixture
def bad(photos: Path) -> Path:
    """The photos, with some that cannot be read and a name that is not UTF-8 among them."""
    (photos / "cut.png").write_bytes((photos / "01.png").read_bytes()[:200])
    (photos / "empty.jpg").touch()
    good = (photos / "02.png").read_bytes()
    (photos / os.fsdecode(b"line\nbreak \xff.png")).write_bytes(good)
    return photos


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("isolate_s", [None, 60.0])
def test_files_and_rows_are_those_of_one_process(
    bad: Path, tmp_path: Path, opened: Opened, left_in: LeftIn, count: int, isolate_s: float | None
) -> None:
    save = tuple(Save)
    segment_folder(bad, opened(), tmp_path / "one", PredictSettings(save=save, processes=1))
    settings = PredictSettings(3, 4, count, save, isolate_s=isolate_s)
    report = segment_folder(bad, opened(), tmp_path / "out", settings)
    assert left_in(tmp_path / "out") == left_in(tmp_path / "one")
    assert (report.run.counts.ok, report.run.counts.failed) == (17, 2)
    assert (report.run.workers, report.run.processes) == (4, count)
    assert 0 <= report.run.effort.waited_share < 1
    assert not _helpers(os.getpid())


def test_what_one_process_did_is_kept_by_several_and_the_reverse(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    segment_folder(photos, opened(), tmp_path / "out")
    (tmp_path / "out/masks/02.png.png").unlink()
    effort = segment_folder(photos, opened(), tmp_path / "out", TWO).run.effort
    assert (effort.kept, effort.segmented) == (15, 1)
    assert segment_folder(photos, opened(), tmp_path / "out").run.effort.kept == 16


def test_no_more_helpers_are_started_than_there_are_batches(
    photos: Path, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    really = processes.subprocess.Popen

    def popen(command: list[str], **options: object) -> object:
        started.append(command)
        return really(command, **options)  # type: ignore[call-overload]  # as it came

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    settings = PredictSettings(batch=7, workers=8, processes=8)
    assert segment_folder(photos, opened(), tmp_path / "out", settings).run.counts.ok == 16
    assert len(started) == 3


def test_stopped_run_ends_cleanly_and_the_next_goes_on(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    for i in range(300):
        (photos / f"again {i}.png").symlink_to(photos / "01.png")
    stop = Event()
    settings = PredictSettings(batch=1, workers=2, processes=2)
    with pytest.raises(Stopped, match="Run the same again to go on"):
        segment_folder(photos, opened(), tmp_path / "out", settings, _Acting(stop.set), stop)
    assert not _helpers(os.getpid())
    assert not list((tmp_path / "out").rglob(".tmp-*"))
    done = len(list((tmp_path / "out/masks").rglob("*.png")))
    assert 1 <= done < 316
    report = segment_folder(photos, opened(), tmp_path / "out", settings)
    assert report.run.effort.kept == done  # what was under way was finished, and noted
    segment_folder(photos, opened(), tmp_path / "whole")
    assert left_in(tmp_path / "out") == left_in(tmp_path / "whole")


def test_first_bad_photo_stops_the_run_where_that_is_asked(
    bad: Path, tmp_path: Path, opened: Opened
) -> None:
    for i in range(300):
        (bad / f"later {i}.png").symlink_to(bad / "01.png")
    settings = PredictSettings(2, 2, 2, fail_fast=True)
    with pytest.raises(ImageError, match="Stopped there, as asked"):
        segment_folder(bad, opened(), tmp_path / "out", settings)
    assert not _helpers(os.getpid())
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) < 300


def test_helper_that_dies_ends_the_run_and_the_next_goes_on(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    for i in range(300):
        (photos / f"again {i}.png").symlink_to(photos / "01.png")

    def kill() -> None:
        os.kill(_helpers(os.getpid())[0], signal.SIGKILL)

    settings = PredictSettings(batch=1, workers=2, processes=2)
    with pytest.raises(FlowersegError, match=r"ended \(SIGKILL\).* with --isolate SECONDS if"):
        segment_folder(photos, opened(), tmp_path / "out", settings, _Acting(kill))
    assert not _helpers(os.getpid())
    segment_folder(photos, opened(), tmp_path / "out", settings)
    segment_folder(photos, opened(), tmp_path / "whole")
    assert left_in(tmp_path / "out") == left_in(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".tmp-*"))


class _Failing(NullBackend):
    def upload(self, images: Images) -> None:
        raise RuntimeError("out of memory")


def test_error_of_the_backend_is_raised_and_no_helper_waits_on(
    photos: Path, tmp_path: Path
) -> None:
    segmenter = Segmenter(_Failing((64, 64)), Preprocess((64, 64)))
    with pytest.raises(BackendUnavailable, match="out of memory"):
        segment_folder(photos, segmenter, tmp_path / "out", TWO)
    assert not _helpers(os.getpid())


def test_output_that_a_helper_cannot_write_is_an_error(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    (tmp_path / "out/masks").mkdir(parents=True)
    (tmp_path / "out/masks/sub").touch()
    with pytest.raises(OutputError, match="masks/sub is a file, not a folder"):
        segment_folder(photos, opened(), tmp_path / "out", TWO)
    assert not _helpers(os.getpid())
    (tmp_path / "out/masks/sub").unlink()
    segment_folder(photos, opened(), tmp_path / "out", TWO)
    segment_folder(photos, opened(), tmp_path / "whole")
    assert left_in(tmp_path / "out") == left_in(tmp_path / "whole")


def test_fault_in_a_helper_is_raised_with_its_place(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    listing = list_photos(photos, tmp_path / "out")
    with pytest.raises(TypeError) as raised:  # -path is no number
        segment_listing(listing, opened(), tmp_path / "out", TWO, read=operator.neg)
    assert "in a process that decodes photos" in raised.value.__notes__[0]
    assert "in make\n" in raised.value.__notes__[0]


def test_photos_behind_a_uri_are_read_by_the_helpers(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    remote = RemoteFolder.at(f"file://{photos}")
    out = tmp_path / "out"
    segment_listing(remote.photos(), opened(), out, TWO, read=remote.read)
    segment_folder(photos, opened(), tmp_path / "whole")
    assert left_in(out) == left_in(tmp_path / "whole")


# Each photo takes its time, so that a kill comes while both helpers are at work.
_RUN = """
import sys, time
from pathlib import Path
from flowerseg.artifact import Artifact, Kind, Manifest, Precision
from flowerseg.backends.null import NullBackend
from flowerseg.predict import PredictSettings, segment_folder
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

class Slow(NullBackend):
    def execute(self): time.sleep(0.01)

class Saying:
    def note(self, text): pass
    def photo(self, result, *, is_kept): print(result.path, flush=True)

preprocess = Preprocess((64, 64))
manifest = Manifest(Kind.ONNX, "green", Precision.FP32, preprocess, sha256="a" * 64)
segmenter = Segmenter(Slow((64, 64)), preprocess, artifact=Artifact(Path("green.onnx"), manifest))
settings = PredictSettings(batch=1, workers=2, processes=2)
segment_folder(Path(sys.argv[1]), segmenter, Path(sys.argv[2]), settings, Saying())
"""


def test_killed_run_leaves_no_helper_and_the_next_goes_on(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    for i in range(300):
        (photos / f"again {i}.png").symlink_to(photos / "01.png")
    words = [sys.executable, "-c", _RUN, str(photos), str(tmp_path / "out")]
    for after in (1, 60):
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            for _ in range(after):
                run.stdout.readline()
            helpers = _helpers(run.pid)
            run.kill()
        assert len(helpers) == 2
        until = time.monotonic() + 20
        while any(map(_is_running, helpers)):
            assert time.monotonic() < until
            time.sleep(0.01)
    report = segment_folder(photos, opened(), tmp_path / "out")
    assert report.run.effort.kept >= 60
    segment_folder(photos, opened(), tmp_path / "whole")
    assert left_in(tmp_path / "out") == left_in(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("cores", "where", "photos", "asked", "expected"),
    [
        (1, "cpu", 9999, {}, (2, 1)),
        (64, "cpu", 9999, {}, (8, 1)),
        (16, "cuda:0", 9999, {}, (16, 4)),
        (16, "cuda:0", 1999, {}, (16, 3)),
        (16, "cuda:0", 499, {}, (16, 1)),
        (64, "cuda:1", 9999, {}, (32, 8)),
        (2, "cuda:0", 9999, {}, (2, 1)),
        (16, "cuda:0", 9999, {"workers": 6}, (6, 2)),
        (16, "cuda:0", 9999, {"processes": 1}, (16, 1)),
        (16, "cpu", 1, {"workers": 3, "processes": 8}, (3, 3)),
    ],
)
def test_hands_fit_the_cores_the_device_and_the_photos(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    where: str,
    photos: int,
    asked: dict[str, int],
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr(device, "allowed_cores", lambda: set(range(cores)))
    hands = hands_of(PredictSettings(**asked), where, photos)
    assert (hands.workers, hands.processes) == expected
