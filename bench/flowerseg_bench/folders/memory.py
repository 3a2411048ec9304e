"""What a folder run needs at most, with few photos and with many."""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowerseg.files import sha256_of
from flowerseg.listing import list_photos
from flowerseg_bench.memory import PeakMemory, refuse_without_proc
from flowerseg_bench.photos import link_photos
from flowerseg_bench.process import command_line, run_process
from flowerseg_bench.record import Finding, table_of


@dataclass(frozen=True)
class Peak:
    """The most memory of one run, in bytes."""

    photos: int
    rss: int  # resident, as the kernel noted it
    pss_own: int  # of that private memory, without files that are mapped


def measure_memory(photos: Path, model: Path, counts: Sequence[int], work: Path) -> Finding:
    """Segment folders of so many links to the photos, each in a process of its own."""
    refuse_without_proc()
    listing = list_photos(photos, work)
    files = [listing.folder / path for path in listing.photos]
    arguments = [
        *("predict", str(work / "photos"), "--model", str(model)),
        *("--device", "cpu", "--out", str(work / "out")),
    ]
    peaks = []
    for count in counts:
        link_photos(files, 0, count, work / "photos")
        peak = PeakMemory()
        run_process(arguments, work, watch=peak.sample)
        peaks.append(Peak(count, peak.main_rss, peak.peak.get("Pss_Anon", 0)))
        shutil.rmtree(work / "photos")
        shutil.rmtree(work / "out")
    return finding_of(model, command_line(arguments, work), peaks)


def finding_of(model: Path, command: str, peaks: Sequence[Peak]) -> Finding:
    """The ratio of the last to the first."""
    few, many = peaks[0], peaks[-1]
    ratio = many.rss / few.rss
    rows = [
        (str(peak.photos), f"{peak.rss / 2**20:.0f}", f"{peak.pss_own / 2**20:.0f}")
        for peak in peaks
    ]
    return Finding(
        headline=(
            f"flowerseg-predict needs {ratio:.3f} times the memory at {many.photos} photos that it "
            f"needs at {few.photos}"
        ),
        table=table_of(
            "Memory of a folder run",
            ("photos", "resident at most, MiB", "of that its own, MiB"),
            rows,
        ),
        notes=(
            f"`{command}`; the photos are links to the same files, around and around",
            "Resident: the kernel's own mark (VmHWM). Its own: private memory at the largest of "
            "samples every 0.1 s",
        ),
        raw={
            "model": model.name,
            "sha256": sha256_of(model),
            "ratio": round(ratio, 4),
            "peaks": [dataclasses.asdict(peak) for peak in peaks],
        },
    )
