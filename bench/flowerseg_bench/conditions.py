"""Under which conditions the numbers were made: a number without them is a rumour."""

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import flowerseg
from flowerseg.artifact import versions_here
from flowerseg.backends.device import allowed_cores, device_name


@dataclass(frozen=True)
class Conditions:
    """The machine and the moment. Nothing in here names its owner or the host."""

    date: str
    command: str
    system: str
    processor: str
    cores: int  # that this process may use
    load_at_start: float | None  # runnable processes, mean over the last minute
    gpu: str  # empty: none that torch sees
    cuda: str  # that torch was built for; empty: none
    commit: str  # of flowerseg's own checkout, `+` behind it if changed; empty: installed
    versions: dict[str, str]
    timer_resolution_ns: float
    load_at_end: float | None = None  # this run's own work is in it


def conditions_here(timer_resolution_s: float) -> Conditions:
    """Read the conditions of this machine, now."""
    gpu, cuda = _gpu()
    return Conditions(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=device_name("cpu"),
        cores=len(allowed_cores()),
        load_at_start=load_here(),
        gpu=gpu,
        cuda=cuda,
        commit=commit_of(Path(flowerseg.__file__)),
        versions={"python": platform.python_version()} | versions_here(),
        timer_resolution_ns=round(1e9 * timer_resolution_s, 1),
    )


def commit_of(file: Path) -> str:
    """Commit of the git checkout that tracks a file; empty where none does.

    An environment inside somebody's checkout is not tracked by it, and its commit says nothing.
    """
    folder = str(file.resolve().parent)
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return ""
    commit = _git(folder, "rev-parse", "--short=12", "HEAD") or ""
    return commit + ("+" if _git(folder, "status", "--porcelain") else "")


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def load_here() -> float | None:
    """Processes that wanted to compute, averaged over the last minute; None where unknown."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):  # not on every system
        return None


def _gpu() -> tuple[str, str]:
    import torch

    if not torch.cuda.is_available():
        return "", ""
    return device_name("cuda:0"), str(torch.version.cuda or "")
