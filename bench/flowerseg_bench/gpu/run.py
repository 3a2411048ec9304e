"""Runs the steps of a plan within a time, and leaves of each what it printed and how it ended."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from flowerseg.artifact import manifest_path
from flowerseg.files import write_text
from flowerseg.shipped import shipped_model
from flowerseg_bench.gpu.plan import Command, Setup, Stage, Step, checkpoint_of, name_of
from flowerseg_bench.timing import Clock, wall_clock

STEP, LOG = "STEP.json", "log.txt"

LEAST_SHARE = 1 / 3
"""A step is not begun with less of its limit left: it would be killed before it has a result."""

_GRACE_S = 5.0  # between asking a process to end and killing it


@dataclass(frozen=True)
class Ended:
    """How a step ended."""

    name: str
    failed: tuple[str, ...]  # commands that did, those that may included
    is_done: bool
    seconds: float
    is_begun: bool = True
    is_cut: bool = False  # killed before its own limit, because the time for all steps was over

    @property
    def is_final(self) -> bool:
        """Whether another attempt would end in the same way."""
        return self.is_done or (self.is_begun and not self.is_cut)


class Runner(Protocol):
    """Runs commands, of several steps at a time."""

    def run(self, command: Command, log: int, limit_s: float) -> int | None:
        """Run a command and write what it prints to an open file.

        Returns:
            Its exit code; None: it was killed, or `stop` was called before.
        """

    def stop(self) -> None:
        """Kill what runs, and run nothing more."""


class Processes:
    """Runs commands as processes, each the leader of a group that ends as a whole.

    Workers of a data loader and compilers would otherwise stay and slow down what comes next.

    Args:
        environment: of the commands.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._lock = Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_stopped = False

    def run(self, command: Command, log: int, limit_s: float) -> int | None:
        """See `Runner`."""
        with self._lock:
            if self._is_stopped:
                return None
            process = self._started(command, log)
            self._running.add(process)
        try:
            return process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_group(process)
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """See `Runner`."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                end_group(process)

    def _started(self, command: Command, log: int) -> subprocess.Popen[bytes]:
        required = {"FLOWERSEG_REQUIRE": "gpu"} if command.requires_gpu else {}
        return subprocess.Popen(
            [sys.executable, "-m", *command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._environment | required,
            process_group=0,  # no session of its own, which would outlive the whole run
        )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it still runs, and everything in its group."""
    with suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_GRACE_S)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class StepRunner:
    """Runs stages until the time is over.

    Args:
        results: gets a folder for each step, with STEP.json and log.txt.
        runner: runs their commands.
        seconds: for all stages together.
        is_repeating: run steps again that failed before, and not only those that were cut short.
        clock: in seconds.
        on_step: called with a line whenever a step begins or ends.
        after_step: called after every step, by one thread at a time.
    """

    def __init__(
        self,
        results: Path,
        runner: Runner,
        seconds: float,
        *,
        is_repeating: bool = False,
        clock: Clock = wall_clock,
        on_step: Callable[[str], None] = lambda _: None,
        after_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._results = results
        self._runner = runner
        self._is_repeating = is_repeating
        self._clock = clock
        self._began = clock()
        self._end = self._began + seconds
        self._on_step = on_step
        self._after_step = after_step
        self._one_at_a_time = Lock()

    def run_stages(self, stages: Sequence[Stage]) -> list[Ended]:
        """Run the steps of each stage side by side, but for those that ended in an earlier call.

        Returns:
            How each step ended, now or in an earlier call, in the order of the plan.

        Raises:
            OutputError: a result cannot be written.
        """
        ended: list[Ended] = []
        for stage in stages:
            with ThreadPoolExecutor(len(stage)) as pool:
                try:
                    ended += pool.map(self._run_step, stage)
                except BaseException:
                    # Or leaving the pool would wait until all these steps have ended.
                    self._runner.stop()
                    raise
        return ended

    def _run_step(self, step: Step) -> Ended:
        folder = self._results / step.name
        before = _ended_before(folder)
        if before and (before.is_done or (before.is_final and not self._is_repeating)):
            self._say(f"{step.name}: {in_words(before)} before")
            return before
        left_s = self._end - self._clock()
        if left_s < LEAST_SHARE * step.limit_s:
            self._say(f"{step.name}: not begun, {max(0.0, left_s):.0f} s are left")
            return Ended(step.name, (), is_done=False, seconds=0.0, is_begun=False)
        self._say(f"{step.name} …")
        ended = self._run_commands(step, folder, min(step.limit_s, left_s))
        write_text(folder / STEP, json.dumps(asdict(ended), indent=2) + "\n")
        self._say(f"{step.name}: {in_words(ended)}")
        with self._one_at_a_time:
            self._after_step()
        return ended

    def _run_commands(self, step: Step, folder: Path, limit_s: float) -> Ended:
        folder.mkdir(parents=True, exist_ok=True)
        began = self._clock()
        failed: list[str] = []
        is_done, is_killed = True, False
        with (folder / LOG).open("w", encoding="utf-8") as log:
            for command in step.commands():
                left_s = began + limit_s - self._clock()
                code = self._exit_code(command, log.fileno(), left_s)
                is_done, is_killed = code == 0, code is None
                if not is_done:
                    failed.append(" ".join(command.arguments[:3]))
                    is_done = command.may_fail
                if is_done is step.is_one_enough:
                    break
        return Ended(
            name=step.name,
            failed=tuple(failed),
            is_done=is_done,
            seconds=round(self._clock() - began, 1),
            is_cut=is_killed and not is_done and limit_s < step.limit_s,
        )

    def _exit_code(self, command: Command, log: int, left_s: float) -> int | None:
        os.write(log, f"$ {' '.join(command.arguments)}\n".encode())
        code = self._runner.run(command, log, left_s) if left_s > 0 else None
        how = "killed: its time was over" if code is None else f"exit code {code}"
        os.write(log, f"{how}\n\n".encode())
        return code

    def _say(self, line: str) -> None:
        self._on_step(f"{self._clock() - self._began:5.0f} s  {line}")


def in_words(ended: Ended) -> str:
    """How a step ended, and what of it failed."""
    if not ended.is_begun:
        return "not begun, too little time was left"
    state = "done" if ended.is_done else "FAILED"
    failed = f"; failed: {'; '.join(ended.failed)}" if ended.failed else ""
    return f"{state} in {ended.seconds:.0f} s{failed}"


def environment_for(setup: Setup) -> dict[str, str]:
    """The environment of all commands: compilers keep their caches in the work folder."""
    caches = {
        name: str(setup.work.resolve() / "cache" / folder)
        for name, folder in (
            ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
            ("TRITON_CACHE_DIR", "triton"),
            ("XDG_CACHE_HOME", "user"),
        )
    }
    return caches | {"PYTHONUNBUFFERED": "1"} | dict(os.environ)


def bring_shipped_model(setup: Setup) -> None:
    """Copy the shipped MobileNetV3 to where its exports go: a proof writes into the manifest."""
    checkpoint = checkpoint_of(setup, name_of(setup, "mobilenet_v3"))
    if checkpoint.exists():
        return
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(manifest_path(shipped_model()), manifest_path(checkpoint))
    shutil.copy(shipped_model(), checkpoint)


def _ended_before(folder: Path) -> Ended | None:
    path = folder / STEP
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Ended(**content | {"failed": tuple(content["failed"])})
