"""Leftovers of killed processes go; what a process is writing stays."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flowerseg.abandoned import remove_abandoned, temporary_folder
from flowerseg.files import replacing, write_bytes


def _writer(folder: Path) -> "subprocess.Popen[str]":
    """A process in the middle of writing a file, and a folder."""
    program = f"""
        import time
        from pathlib import Path
        from flowerseg.abandoned import temporary_folder
        from flowerseg.files import replacing
        with replacing(Path({str(folder)!r}) / "a.onnx") as path:
            with temporary_folder(Path({str(folder)!r})):
                path.write_bytes(b"half")
                print("writing", flush=True)
                time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_leftovers_of_a_killed_process_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    process = _writer(tmp_path)
    try:
        written = sorted(path.name for path in tmp_path.iterdir())
        assert len(written) == 2
        remove_abandoned(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == written
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_leftovers_stay(tmp_path: Path) -> None:
    kept = [".tmp-abc", ".tmp-abcdefgh.x.y", "a.onnx", "tmp-abcdefgh"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / ".tmp-abcdefgh").symlink_to(tmp_path / "a.onnx")
    os.mkfifo(tmp_path / ".tmp-abcdefg0")
    before = sorted(path.name for path in tmp_path.iterdir())
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    remove_abandoned(tmp_path / "missing")


@pytest.mark.parametrize("write", ["replacing", "write_bytes"])
def test_what_is_written_meanwhile_arrives(tmp_path: Path, write: str) -> None:
    if write == "replacing":
        with replacing(tmp_path / "a") as path:
            remove_abandoned(tmp_path)
            path.write_bytes(b"whole")
            remove_abandoned(tmp_path)
    else:
        write_bytes(tmp_path / "a", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_temporary_folder_goes_at_the_end(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "a").touch()
        remove_abandoned(tmp_path)
        assert (folder / "a").is_file()
    assert list(tmp_path.iterdir()) == []
