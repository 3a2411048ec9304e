"""Runs that are killed at random moments: what a last run leaves, against one that never was."""

import csv
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowerseg.files import sha256_of
from flowerseg.listing import list_photos
from flowerseg.predict import LOCK, RESULTS, RUN
from flowerseg_bench.photos import link_photos
from flowerseg_bench.process import run_process
from flowerseg_bench.record import Finding, table_of

# Of the time that a whole run works: kills fall into the first part of what each run does, so that
# several of them hit the same folder before one comes to its end.
_WITHIN = 1 / 3


@dataclass(frozen=True)
class Left:
    """What a run left, as far as it has to be the same in every run."""

    masks: dict[str, str]  # SHA-256 by path
    others: tuple[str, ...]  # files that nobody asked for
    rows: list[dict[str, str]]  # of results.csv, without the time they took
    counts: dict[str, int]


@dataclass(frozen=True)
class Differences:
    """Between a run after kills and one without."""

    missing: int  # masks
    different: int  # masks, truncated ones among them
    others: int  # files that the run without kills has not
    results_differ: bool  # results.csv without its times, or the counts

    @property
    def total(self) -> int:
        """All of them."""
        return self.missing + self.different + self.others + self.results_differ


def measure_kills(
    photos: Path, model: Path, kills: int, count: int, seed: int, work: Path
) -> Finding:
    """Kill runs on a folder of `count` links to the photos until `kills` have been killed."""
    listing = list_photos(photos, work)
    files = [listing.folder / path for path in listing.photos]
    folder, whole, out = work / "photos", work / "whole", work / "out"
    link_photos(files, 0, count, folder)
    arguments = ["predict", str(folder), "--model", str(model), "--device", "cpu", "--out"]
    run_process([*arguments, str(whole)], work)
    wanted = left_in(whole)
    works_s = json.loads((whole / RUN).read_text(encoding="utf-8"))["effort"]["seconds"]
    rng = random.Random(seed)
    killed: list[int] = []  # masks that were there at each kill
    found: list[Differences] = []
    while len(killed) < kills:
        if _is_killed([*arguments, str(out)], out, rng.uniform(0, works_s * _WITHIN)):
            killed.append(sum(1 for _ in out.rglob("*.png")))
        else:
            found.append(differences(left_in(out), wanted))
            shutil.rmtree(out)
    run_process([*arguments, str(out)], work)
    found.append(differences(left_in(out), wanted))
    return finding_of(model, count, killed, found)


def left_in(out: Path) -> Left:
    """What there is in an output folder after a run."""
    names = [p.relative_to(out).as_posix() for p in sorted(out.rglob("*")) if p.is_file()]
    masks = {name: sha256_of(out / name) for name in names if _is_mask(name)}
    with (out / RESULTS).open(encoding="utf-8", newline="") as file:
        rows = [
            {name: value for name, value in row.items() if name != "milliseconds"}
            for row in csv.DictReader(file)
        ]
    counts = json.loads((out / RUN).read_text(encoding="utf-8"))["counts"]
    return Left(masks, tuple(name for name in names if not _is_mask(name)), rows, counts)


def differences(left: Left, wanted: Left) -> Differences:
    """What is not as it should be."""
    return Differences(
        missing=len(wanted.masks.keys() - left.masks.keys()),
        different=sum(left.masks.get(n, digest) != digest for n, digest in wanted.masks.items()),
        others=len(left.masks.keys() - wanted.masks.keys())
        + len(set(left.others) ^ set(wanted.others)),
        results_differ=(left.rows, left.counts) != (wanted.rows, wanted.counts),
    )


def finding_of(
    model: Path, count: int, killed: Sequence[int], found: Sequence[Differences]
) -> Finding:
    """All comparisons together."""
    totals: dict[str, Any] = {
        name: sum(getattr(one, name) for one in found)
        for name in ("missing", "different", "others", "results_differ")
    }
    rows = [
        ("masks missing", str(totals["missing"])),
        ("masks truncated or otherwise different", str(totals["different"])),
        ("other files, such as temporary ones", str(totals["others"])),
        ("results.csv or counts that differ", str(totals["results_differ"])),
    ]
    return Finding(
        headline=(
            f"After {len(killed)} kills at random moments, {totals['missing']} masks are missing "
            f"and {totals['different']} truncated or different"
        ),
        table=table_of("Runs that were killed", ("after the last run", "found"), rows),
        notes=(
            f"flowerseg-predict on {count} photos, killed by SIGKILL at a moment drawn evenly from "
            f"the first third of the time that a whole run works, counted from when it holds its "
            "output folder; started again each time",
            f"Where a run came to its end before its kill, what it left was compared, removed, and "
            f"the next began anew: {len(found)} comparisons with a run that nobody killed, byte "
            "for byte; of results.csv all columns but the milliseconds",
        ),
        raw={
            "model": model.name,
            "sha256": sha256_of(model),
            "count": count,
            "kills": len(killed),
            "masks_at_each_kill": list(killed),
            "comparisons": len(found),
            "found": totals,
        },
    )


def _is_mask(name: str) -> bool:
    return name.startswith("masks/") and not Path(name).name.startswith(".tmp-")


def _is_killed(arguments: Sequence[str], out: Path, after_s: float) -> bool:
    """Run, and kill it so long after it took hold of its folder; False if it ended before."""
    words = [sys.executable, "-m", "flowerseg", *arguments]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, stdout=quiet, stderr=quiet) as process:
        while not _holds(process.pid, out) and process.poll() is None:
            _wait(process, 0.01)
        ended = _wait(process, after_s)
        process.kill()
    if ended and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return not ended


def _holds(pid: int, out: Path) -> bool:
    try:
        return f"process {pid} " in (out / LOCK).read_text()
    except OSError:
        return False


def _wait(process: "subprocess.Popen[bytes]", for_s: float) -> bool:
    """Whether it ends within that time."""
    try:
        process.wait(for_s)
    except subprocess.TimeoutExpired:
        return False
    return True
