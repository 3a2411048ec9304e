"""The real `flowerseg`, as a process of its own that may be watched while it runs."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flowerseg.errors import FlowersegError

_LOG = "command.log"
WATCH_EVERY_S = 0.1

Watch = Callable[[int], None]
"""Called with the process's id again and again while it runs."""


def run_process(
    arguments: Sequence[str],
    work: Path,
    environment: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> None:
    """Run `flowerseg` with `arguments` to its end, showing nothing of what it prints.

    Raises:
        FlowersegError: it failed; the message ends with what it said last.
    """
    words = [sys.executable, "-m", "flowerseg", *arguments]
    with (work / _LOG).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        try:
            code = _watched(process, watch) if watch else process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code:
        said = (work / _LOG).read_text(encoding="utf-8").strip().splitlines()[-5:]
        raise FlowersegError(f"{shlex.join(words)} failed with exit code {code}:", *said)


def command_line(arguments: Sequence[str], work: Path) -> str:
    """What a user would type; the temporary folder is called WORK."""
    return shlex.join(["flowerseg", *arguments]).replace(str(work), "WORK")


def _watched(process: "subprocess.Popen[bytes]", watch: Watch) -> int:
    while process.poll() is None:
        watch(process.pid)
        try:
            process.wait(WATCH_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    return process.returncode
