"""What is seen of the machine while rows run: by a planted /proc/stat, and a fake NVML."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flowerseg_bench import monitor
from flowerseg_bench.monitor import CoreTimes, Monitor, core_mhz, core_times, monitor_for, shares

STAT = """cpu  900 90 90 900 90 0 0 90 0 0
cpu0 100 1 20 300 4 5 6 7 50 0
cpu1 200 2 30 400 8 9 10 11 60 0
cpu2 600 87 40 200 78 0 0 72 0 0
intr 5 4 3
"""


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "allowed_cores", lambda: [0, 1])


def test_what_others_and_the_hypervisor_took_is_told_apart() -> None:
    before = CoreTimes(busy=1000, stolen=10, total=4000, mine=500.0)
    after = CoreTimes(busy=1090, stolen=12, total=4200, mine=540.0)

    # 200 ticks: 90 busy, of which 40 were mine; 2 stolen.
    assert shares(before, after) == (0.25, 0.01)


def test_ticks_that_are_counted_late_are_no_negative_work_of_others() -> None:
    before = CoreTimes(busy=0, stolen=0, total=0, mine=0.0)

    assert shares(before, CoreTimes(busy=10, stolen=0, total=100, mine=11.0)) == (0.0, 0.0)


def test_without_readings_nothing_is_claimed() -> None:
    times = CoreTimes(1, 1, 1, 1.0)

    assert shares(None, times) == (None, None)
    assert shares(times, times) == (None, None)


@pytest.mark.usefixtures("two_cores")
def test_only_the_cores_of_this_process_count(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(STAT)

    found = core_times(stat)

    assert found is not None
    # user, nice, system, irq and softirq; guests are in user already.
    assert found.busy == (100 + 1 + 20 + 5 + 6) + (200 + 2 + 30 + 9 + 10)
    assert found.stolen == 7 + 11
    assert found.total == found.busy + (300 + 4 + 7) + (400 + 8 + 11)


def test_work_of_this_process_is_its_own(tmp_path: Path) -> None:
    before, start = os.times(), core_times()
    if start is None:
        pytest.skip("this system has no /proc/stat")
    while os.times().user - before.user < 0.1:
        sum(range(10_000))
    after = core_times()

    assert after is not None
    assert after.mine - start.mine >= 0.1 * os.sysconf("SC_CLK_TCK") - 1


@pytest.mark.usefixtures("two_cores")
def test_frequency_is_the_mean_of_the_cores_or_unknown(tmp_path: Path) -> None:
    assert core_mhz(tmp_path) is None

    for core, khz in enumerate((2_000_000, 3_000_000)):
        folder = tmp_path / f"cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{khz}\n")

    assert core_mhz(tmp_path) == 2500.0


class FakeNvml(SimpleNamespace):
    """The calls that are used, of a GPU that is capped and warm."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        super().__init__(asked=[])

    def nvmlInit(self) -> None:
        self.asked.append("init")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        return "handle"

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return 0x1 | 0x4 | 0x40  # idle is no throttling

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return 1410

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return 84


@pytest.fixture
def cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(uuid="6f1e")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.mark.usefixtures("cuda_device")
def test_a_gpu_is_looked_at_after_the_work_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    watch, notes = monitor_for(["cpu", "cuda:0"])
    done, seen = watch.over(lambda: "done")

    assert (done, notes) == ("done", [])
    assert nvml.asked == ["init", "GPU-6f1e"]
    assert seen.gpu == monitor.GpuState(1410, 1980, 84, ("power cap", "hardware thermal slowdown"))


@pytest.mark.usefixtures("cuda_device")
@pytest.mark.parametrize(
    ("module", "said"),
    [(None, 'pip install "flowerseg[monitor]"'), ("broken", "Driver Not Loaded")],
)
def test_a_gpu_that_cannot_be_watched_is_said(
    monkeypatch: pytest.MonkeyPatch, module: str | None, said: str
) -> None:
    nvml = None
    if module:
        nvml = FakeNvml()

        def fail() -> None:
            raise RuntimeError("Driver Not Loaded")

        nvml.nvmlInit = fail
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    watch, (note,) = monitor_for(["cuda:0"])

    assert said in note
    assert watch.over(lambda: None)[1].gpu is None


def test_work_is_watched_between_two_readings() -> None:
    readings = iter([CoreTimes(0, 0, 0, 0.0), CoreTimes(30, 0, 100, 10.0)])

    _, seen = Monitor(lambda: next(readings)).over(lambda: None)

    assert (seen.others, seen.stolen, seen.gpu) == (0.2, 0.0, None)
