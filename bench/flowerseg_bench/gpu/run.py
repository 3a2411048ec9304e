"""Steps one after the other, each leaving what it said and how it ended."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flowerseg.files import write_text
from flowerseg_bench.gpu.plan import Command, Step
from flowerseg_bench.timing import Clock, wall_clock

STEP, LOG = "STEP.json", "log.txt"


@dataclass(frozen=True)
class Ended:
    """How a step ended."""

    name: str
    failed: tuple[str, ...]  # commands that did, those that may included
    is_done: bool
    seconds: float


def run_steps(
    steps: Sequence[Step],
    out: Path,
    *,
    begin_within_s: float | None = None,
    clock: Clock = wall_clock,
    on_step: Callable[[str], None] = lambda _: None,
) -> list[Ended]:
    """Run all steps that are not done yet.

    Args:
        steps: in their order.
        out: gets a folder for each, with STEP.json and log.txt.
        begin_within_s: no step begins after so many seconds; None: all do.
        clock: in seconds.
        on_step: is told what happens.

    Returns:
        How each step ended that is done, now or before, or failed now.

    Raises:
        OutputError: a result cannot be written.
    """
    began = clock()
    ended = []
    for step in steps:
        if before := _done_before(out / step.name):
            on_step(f"{step.name}: done before")
            ended.append(before)
        elif begin_within_s is not None and clock() - began >= begin_within_s:
            on_step(f"{step.name}: not begun, the time is over")
        else:
            on_step(f"{step.name} …")
            ended.append(_run(step, out / step.name, clock))
            on_step(f"{step.name}: {in_words(ended[-1])}")
    return ended


def in_words(ended: Ended) -> str:
    """How a step ended, and what of it failed."""
    state = "done" if ended.is_done else "FAILED"
    failed = f"; failed: {'; '.join(ended.failed)}" if ended.failed else ""
    return f"{state} in {ended.seconds:.0f} s{failed}"


def _run(step: Step, folder: Path, clock: Clock) -> Ended:
    folder.mkdir(parents=True, exist_ok=True)
    began, failed, is_done = clock(), [], True
    with (folder / LOG).open("w", encoding="utf-8") as log:
        for command in step.commands():
            if not _succeeds(command, log.fileno()):
                failed.append(" ".join(command.arguments[:3]))
                if not command.may_fail:
                    is_done = False
                    break
    ended = Ended(step.name, tuple(failed), is_done, round(clock() - began, 1))
    write_text(folder / STEP, json.dumps(asdict(ended), indent=2) + "\n")
    return ended


def _succeeds(command: Command, log: int) -> bool:
    os.write(log, f"$ {' '.join(command.arguments)}\n".encode())
    environment = dict(os.environ)
    if command.requires_gpu:
        environment["FLOWERSEG_REQUIRE"] = "gpu"
    ran = subprocess.run(
        [sys.executable, "-m", *command.arguments],
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        env=environment,
        check=False,
    )
    os.write(log, f"exit code {ran.returncode}\n\n".encode())
    return ran.returncode == 0


def _done_before(folder: Path) -> Ended | None:
    path = folder / STEP
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    ended = Ended(**content | {"failed": tuple(content["failed"])})
    return ended if ended.is_done else None
