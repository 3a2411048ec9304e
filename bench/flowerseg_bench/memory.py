"""Memory of a process and its descendants, as Linux's /proc tells it.

PSS counts a page that n processes share as 1/n in each of them, so that it adds up over the
processes of a tree; their RSS would count it n times.
"""

from dataclasses import dataclass, field
from pathlib import Path

from flowerseg.errors import FlowersegError

PROC = Path("/proc")
# Of smaps_rollup: everything, and its kinds. Linux before 5.9 does not tell the kinds.
_ALL = "Pss"
KINDS = {"Pss_Anon": "own", "Pss_Shmem": "shared between processes", "Pss_File": "files"}
_GONE = (FileNotFoundError, ProcessLookupError)  # a process may end between two looks


def refuse_without_proc(proc: Path = PROC) -> None:
    """Say what is missing where memory of a process tree cannot be read.

    Raises:
        FlowersegError: this is not Linux, or its kernel does not tell.
    """
    main = proc / "self"
    if (main / "smaps_rollup").is_file() and list(main.glob("task/*/children")):
        return
    raise FlowersegError(
        f"{proc}: no self/smaps_rollup or self/task/*/children. The memory of a process tree can "
        "only be measured on Linux (4.14 or later, with CONFIG_PROC_CHILDREN). Measure there."
    )


@dataclass
class PeakMemory:
    """Keeps the largest of the samples that it is asked to take; all values in bytes."""

    proc: Path = PROC
    samples: list[int] = field(default_factory=list)  # PSS of the whole tree
    peak: dict[str, int] = field(default_factory=dict)  # fields of smaps_rollup at the peak
    peak_processes: int = 0
    main_rss: int = 0

    def sample(self, pid: int) -> None:
        """Look at the tree below `pid` now."""
        found = [fields for one in tree_of(pid, self.proc) if (fields := pss_of(one, self.proc))]
        total = {name: sum(fields.get(name, 0) for fields in found) for name in (_ALL, *KINDS)}
        if total[_ALL] > self.peak.get(_ALL, 0):
            known = set().union(*found)
            self.peak = {name: value for name, value in total.items() if name in known}
            self.peak_processes = len(found)
        self.samples.append(total[_ALL])
        self.main_rss = max(self.main_rss, highest_rss(pid, self.proc))

    @property
    def peak_pss(self) -> int:
        """The largest PSS of the whole tree."""
        return self.peak.get(_ALL, 0)


def gib(count: int) -> str:
    """Bytes in GiB, to two places."""
    return f"{count / 2**30:.2f}"


def tree_of(pid: int, proc: Path = PROC) -> list[int]:
    """A process and all its descendants, parents first."""
    found = [pid]
    for task in _entries(proc / str(pid) / "task"):
        try:
            children = (task / "children").read_text(encoding="ascii").split()
        except _GONE:
            continue
        for child in children:
            found += tree_of(int(child), proc)
    return found


def pss_of(pid: int, proc: Path = PROC) -> dict[str, int]:
    """PSS of one process and its kinds in bytes; empty if the process has ended."""
    fields = _fields(proc / str(pid) / "smaps_rollup")
    return {name: value for name, value in fields.items() if name in (_ALL, *KINDS)}


def highest_rss(pid: int, proc: Path = PROC) -> int:
    """The largest resident set that a process ever had, in bytes; 0 if it has ended.

    The kernel's own mark, not a sample. `ru_maxrss` is the same, but begins with the size of the
    process that started it (Linux, exec_mmap) and takes the largest child in.
    """
    return _fields(proc / str(pid) / "status").get("VmHWM", 0)


def _fields(file: Path) -> dict[str, int]:
    """`Name:   123 kB` -> bytes by name; lines of another form are left out."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except _GONE:
        return {}
    split = [line.replace(":", " ").split() for line in lines]
    return {words[0]: 1024 * int(words[1]) for words in split if words[2:] == ["kB"]}


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except _GONE:
        return []
