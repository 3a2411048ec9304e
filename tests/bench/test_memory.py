"""Memory of a process tree, read from a /proc that is made of files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowerseg.errors import FlowersegError
from flowerseg_bench.memory import (
    PeakMemory,
    highest_rss,
    pss_of,
    refuse_without_proc,
    tree_of,
)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """100 has the children 200 and 300, of two threads; 300 has 400. 500 is somebody else's."""
    add_process(tmp_path, 100, {100: "200 ", 101: "300 "}, pss_kb=1000, anonymous_kb=600)
    add_process(tmp_path, 200, {200: ""}, pss_kb=30, anonymous_kb=10)
    add_process(tmp_path, 300, {300: "400 "}, pss_kb=7, anonymous_kb=2)
    add_process(tmp_path, 400, {400: ""}, pss_kb=5, anonymous_kb=1)
    add_process(tmp_path, 500, {500: ""}, pss_kb=9999, anonymous_kb=9999)
    return tmp_path


def add_process(
    proc: Path, pid: int, children: dict[int, str], pss_kb: int, anonymous_kb: int
) -> None:
    for thread, listed in children.items():
        (proc / str(pid) / "task" / str(thread)).mkdir(parents=True)
        (proc / str(pid) / "task" / str(thread) / "children").write_text(listed)
    set_pss(proc, pid, pss_kb, anonymous_kb)
    status = f"Name:\tpython\nVmPeak:\t 99999 kB\nVmHWM:\t  {2 * pss_kb} kB\nThreads:\t2\n"
    (proc / str(pid) / "status").write_text(status)


def set_pss(proc: Path, pid: int, pss_kb: int, anonymous_kb: int) -> None:
    (proc / str(pid) / "smaps_rollup").write_text(
        "55642ac53000-7ffc69f03000 ---p 00000000 00:00 0                          [rollup]\n"
        f"Rss:                {3 * pss_kb} kB\n"
        f"Pss:                 {pss_kb} kB\n"
        f"Pss_Dirty:           {anonymous_kb} kB\n"
        f"Pss_Anon:            {anonymous_kb} kB\n"
        f"Pss_File:            {pss_kb - anonymous_kb} kB\n"
        "Pss_Shmem:             0 kB\n"
    )


def test_a_tree_is_a_process_and_the_descendants_of_all_its_threads(proc: Path) -> None:
    assert tree_of(100, proc) == [100, 200, 300, 400]


def test_pss_and_its_kinds_are_read_in_bytes(proc: Path) -> None:
    assert pss_of(100, proc) == {
        "Pss": 1000 * 1024,
        "Pss_Anon": 600 * 1024,
        "Pss_File": 400 * 1024,
        "Pss_Shmem": 0,
    }


def test_the_peak_is_of_the_whole_tree_at_one_moment(proc: Path) -> None:
    memory = PeakMemory(proc)

    memory.sample(100)
    set_pss(proc, 100, pss_kb=1500, anonymous_kb=1200)
    set_pss(proc, 200, pss_kb=10, anonymous_kb=10)
    memory.sample(100)
    set_pss(proc, 100, pss_kb=100, anonymous_kb=90)
    set_pss(proc, 200, pss_kb=800, anonymous_kb=500)
    memory.sample(100)

    # 1000 + 30 + 7 + 5, then 1500 + 10 + 7 + 5, then 100 + 800 + 7 + 5; never 1500 + 800.
    assert memory.samples == [1042 * 1024, 1522 * 1024, 912 * 1024]
    assert memory.peak_pss == 1522 * 1024
    assert memory.peak["Pss_Anon"] == (1200 + 10 + 2 + 1) * 1024
    assert memory.peak_processes == 4


def test_a_process_that_ended_between_two_looks_counts_nothing(proc: Path) -> None:
    (proc / "300" / "smaps_rollup").unlink()
    (proc / "400" / "task" / "400" / "children").unlink()
    (proc / "100" / "task" / "101" / "children").write_text("300 12345 ")
    memory = PeakMemory(proc)

    memory.sample(100)

    assert memory.samples == [(1000 + 30 + 5) * 1024]
    assert memory.peak_processes == 3


def test_kinds_that_the_kernel_does_not_tell_are_not_made_up(proc: Path) -> None:
    (proc / "200" / "smaps_rollup").write_text("Pss:  30 kB\n")
    memory = PeakMemory(proc)

    memory.sample(200)

    assert memory.peak == {"Pss": 30 * 1024}


def test_the_resident_set_is_the_kernels_own_highest_mark_of_the_main_process(proc: Path) -> None:
    assert highest_rss(100, proc) == 2000 * 1024
    assert highest_rss(12345, proc) == 0


def test_without_proc_the_measurement_is_refused_plainly(tmp_path: Path) -> None:
    with pytest.raises(FlowersegError, match="only be measured on Linux"):
        refuse_without_proc(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_real_child_and_what_it_allocates_are_seen() -> None:
    refuse_without_proc()
    words = "held = bytearray(b'x') * (64 << 20); print('there', flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        memory = PeakMemory()
        memory.sample(child.pid)
        assert child.pid in tree_of(os.getpid())
        child.communicate(b"\n")

    assert 64 * 2**20 < memory.peak_pss < 96 * 2**20
    assert 64 * 2**20 < memory.main_rss < 96 * 2**20
