"""Few threads, processes or files allowed: a run ends with a sentence, and does not hang."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowerseg.backends.null import NullBackend
from flowerseg.errors import FlowersegError
from flowerseg.images import write_png
from flowerseg.limits import explained_start
from flowerseg.predict import PredictSettings, check_folder, segment_folder
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

FRAME_HW = (32, 32)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photos."""
    for i in range(12):
        write_png(tmp_path / f"photos/{i}.png", np.full((20, 20, 3), i, np.uint8))
    return tmp_path / "photos"


def _refusing(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    start, numbers = threading.Thread.start, count()

    def refuse(thread: threading.Thread) -> None:
        if next(numbers) >= allowed:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def _segment(photos: Path, out: Path, **settings: Any) -> None:
    segmenter = Segmenter(NullBackend(FRAME_HW), Preprocess(FRAME_HW))
    segment_folder(photos, segmenter, out, PredictSettings(batch=2, **settings))


@pytest.mark.parametrize("allowed", range(5))
@pytest.mark.parametrize("processes", [1, 2])
def test_threads_that_run_out_are_an_error_wherever_they_do(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int, processes: int
) -> None:
    segmenting: Callable[[], None] = lambda: _segment(  # noqa: E731  # named for the reader
        photos, tmp_path / "out", workers=4, processes=processes
    )
    with monkeypatch.context() as patch:
        _refusing(patch, allowed)
        if processes == 2 and allowed > 2:  # the others are threads of the helpers
            segmenting()
            return
        with pytest.raises(FlowersegError, match=r"does not start another thread.*ulimit -u"):
            segmenting()
    segmenting()
    with monkeypatch.context() as patch:
        _refusing(patch, 0)
        with pytest.raises(FlowersegError, match="does not start another thread"):
            check_folder(tmp_path / "out", pytest.fail)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("settings", [{"processes": 2, "workers": 2}, {"isolate_s": 9.0}])
def test_processes_that_do_not_start_are_an_error(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    code: int,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(FlowersegError, match="does not start another process that decodes"):
        _segment(photos, tmp_path / "out", **settings)


def test_program_that_is_missing_keeps_its_error() -> None:
    with pytest.raises(FileNotFoundError), explained_start("a process"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "program")
