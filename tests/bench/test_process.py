"""The command as a process: what it says when it fails, and that it is watched."""

import os
from pathlib import Path

import pytest

from flowerseg.errors import FlowersegError
from flowerseg_bench import process
from flowerseg_bench.process import command_line, run_process


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(FlowersegError, match=r"exit code 2(?s:.)*No such option"):
        run_process(["train", "--no-such-option"], tmp_path)


def test_a_process_is_watched_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "WATCH_EVERY_S", 0.01)
    seen: list[int] = []

    run_process(["--version"], tmp_path, watch=seen.append)

    assert len(seen) > 1
    assert len(set(seen)) == 1


def test_a_process_has_the_environment_that_it_is_given(tmp_path: Path) -> None:
    run_process(["--version"], tmp_path, os.environ | {"PYTHONVERBOSE": "1"})
    assert "import 'flowerseg'" in (tmp_path / "command.log").read_text()


def test_a_command_line_hides_the_temporary_folder(tmp_path: Path) -> None:
    words = ["export", str(tmp_path / "a b.pt"), "--out", "b.onnx"]
    assert command_line(words, tmp_path) == "flowerseg export 'WORK/a b.pt' --out b.onnx"
