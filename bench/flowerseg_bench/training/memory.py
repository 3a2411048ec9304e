"""How much memory head-only training takes while it fills its cache and trains from it."""

import dataclasses
from pathlib import Path

from flowerseg_bench.memory import KINDS, PeakMemory, gib, refuse_without_proc
from flowerseg_bench.process import WATCH_EVERY_S
from flowerseg_bench.record import Finding, table_of
from flowerseg_bench.training.command import Setup, Trained, train_once
from flowerseg_bench.training.start import RANDOM_NOTE, starting_weights


def measure_memory(setup: Setup, work: Path) -> Finding:
    """Train with an empty cache, and watch the command and its workers.

    Raises:
        FlowersegError: this is not Linux.
    """
    refuse_without_proc()
    options = setup.options(starting_weights(setup, work))
    memory = PeakMemory()
    run = train_once("cached", options, work, watch=memory.sample)
    return finding_of(setup, run, memory)


def finding_of(setup: Setup, run: Trained, memory: PeakMemory) -> Finding:
    """The peak in GiB, and what it is made of."""
    kinds = [
        (f"of which {words}", gib(memory.peak[name]))
        for name, words in KINDS.items()
        if name in memory.peak
    ]
    rows = [
        (f"PSS of the whole command, {_processes(memory)} at the peak", gib(memory.peak_pss)),
        *kinds,
        ("RSS of the main process alone, at its own peak", gib(memory.main_rss)),
    ]
    notes = [
        f"{len(memory.samples)} samples, {WATCH_EVERY_S} s apart; a shorter peak may be missed. "
        "The RSS is the kernel's own high-water mark",
        "Pages of files are those of libraries and of the mapped cache, which the kernel takes "
        "back when memory is short. PSS counts libraries that other processes hold too, this "
        "measurement among them, by the command's share; RSS counts them in full",
    ]
    return Finding(
        headline=(
            f"Head-only training of {setup.arch} in batches of {setup.batch_size}, from an empty "
            f"cache: at most {gib(memory.peak_pss)} GiB of memory as PSS of all its processes; its "
            f"main process alone has an RSS of {gib(memory.main_rss)} GiB at most"
        ),
        table=table_of("Peak memory", ("host memory", "GiB"), rows),
        notes=(*notes, *([RANDOM_NOTE] if setup.weights is None else [])),
        raw={
            "settings": dataclasses.asdict(setup),
            "peak_pss_bytes": memory.peak_pss,
            "peak_by_kind_bytes": memory.peak,
            "peak_processes": memory.peak_processes,
            "main_highest_rss_bytes": memory.main_rss,
            "sample_every_s": WATCH_EVERY_S,
            "samples_pss_bytes": memory.samples,
            "run": dataclasses.asdict(run),
        },
    )


def _processes(memory: PeakMemory) -> str:
    return f"{memory.peak_processes} process{'es' * (memory.peak_processes != 1)}"
