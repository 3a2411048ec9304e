"""A command whose standard output or error is closed, full, or a pipe without a reader."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

_FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not _FULL.exists(), reason="/dev/full is Linux's")


def _run(words: str, redirection: str) -> "subprocess.CompletedProcess[str]":
    line = f"set -o pipefail; {sys.executable} -m flowerseg {words} {redirection}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True)


@pytest.mark.parametrize("words", ["--version", "predict --help"])
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [
        (">/dev/full", "No space left on device"),
        (">&-", "it is closed"),
        ("0<&- >&-", "it is closed"),
        ("| exec 0<&-", "the program that reads it has ended"),
    ],
)
def test_result_that_cannot_be_printed_is_an_error(
    words: str, redirection: str, reason: str
) -> None:
    said = _run(words, redirection)
    assert said.returncode == 1
    assert said.stderr == (
        f"Error: The result cannot be printed on standard output: {reason}. Files that were "
        "written are complete.\n"
    )


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
def test_notes_that_cannot_be_printed_are_left_out(redirection: str) -> None:
    said = _run("--version", redirection)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("flowerseg")


def test_error_without_standard_error_is_an_exit_code() -> None:
    said = _run("predict nowhere --out nowhere", "2>&-")
    assert (said.returncode, said.stdout, said.stderr) == (1, "", "")


def test_file_of_a_command_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "from flowerseg.cli.streams import checked_streams\n"
        "with checked_streams(), open('a', 'w') as file:\n"
        "    open('handle', 'w').write(str(file.fileno()))\n"
    )
    line = f'exec {sys.executable} -c "{program}" 0<&- >&- 2>&-'
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    assert int((tmp_path / "handle").read_text()) > 2


def test_what_decoders_print_about_damaged_photos_is_dropped(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(jpeg, "JPEG")
    tiff = io.BytesIO()
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tiff, "TIFF", compression="jpeg")
    damaged = bytearray(tiff.getvalue())
    scan = damaged.index(b"\xff\xda")
    damaged[scan + 20 : scan + 120] = bytes(100)
    (tmp_path / "stray.jpg").write_bytes(jpeg.getvalue()[:-2] + bytes(range(1, 17)) + b"\xff\xd9")
    (tmp_path / "damaged.tif").write_bytes(bytes(damaged))
    decode = f"""
import sys
from pathlib import Path
from flowerseg.cli.streams import checked_streams, library_messages_dropped
from flowerseg.errors import ImageError
from flowerseg.images import read_rgb

def read_all():
    for path in sorted(Path({str(tmp_path)!r}).iterdir()):
        try:
            read_rgb(path)
        except ImageError:
            pass

with checked_streams():
    read_all()
    print("apart", file=sys.stderr)
    with library_messages_dropped():
        print("together", file=sys.stderr)
        read_all()
    print("after", file=sys.stderr)
"""
    said = subprocess.run([sys.executable, "-c", decode], capture_output=True, text=True)
    before, after = said.stderr.split("apart\n")
    assert "JPEG" in before  # else the test would show no difference
    assert after == "together\nafter\n"
