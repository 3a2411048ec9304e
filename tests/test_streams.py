"""A command whose standard output or error is closed, full or read by nobody."""

import subprocess
import sys
from pathlib import Path

import pytest

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
