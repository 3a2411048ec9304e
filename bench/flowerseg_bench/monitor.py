"""What else the machine did while a row was measured: other processes, the hypervisor, the GPU.

Nothing is read while a clock runs. Counters of the system are read before and after a round, and
the GPU's clocks straight after it, when it has had no time to slow down.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from flowerseg.backends.device import allowed_cores

T = TypeVar("T")

STAT = Path("/proc/stat")
CPUFREQ = Path("/sys/devices/system/cpu")
PIP_LINE = 'pip install "flowerseg[monitor]"'

# Bits of nvmlDeviceGetCurrentClocksEventReasons that slow a GPU down (nvml.h, CUDA 13). Being idle
# and clocks that were set by hand are others.
THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


@dataclass(frozen=True)
class GpuState:
    """One look at a GPU."""

    sm_clock_mhz: int
    max_sm_clock_mhz: int
    temperature_c: int
    throttling: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What was seen of the machine over one round; None where the system does not tell."""

    others: float | None = None  # share of the cores' time that other processes took
    stolen: float | None = None  # likewise, by the hypervisor for other machines
    core_mhz: float | None = None  # mean of the cores, at the end
    gpu: GpuState | None = None


UNSEEN = Seen()


@dataclass(frozen=True)
class CoreTimes:
    """Ticks of the cores that this process may use, since the system started."""

    busy: int  # any process
    stolen: int
    total: int
    mine: float  # of this process, all threads


class Gpu(Protocol):
    """A GPU that can be asked how it is."""

    def state(self) -> GpuState:
        """Now."""


class Monitor:
    """Looks at the machine before and after a round.

    Args:
        read: the cores' times; None where the system does not tell.
        gpu: what rows run on, if that is a GPU and NVML is here.
    """

    def __init__(
        self, read: "Callable[[], CoreTimes | None] | None" = None, gpu: Gpu | None = None
    ) -> None:
        self._read = read or core_times
        self._gpu = gpu

    def over(self, work: Callable[[], T]) -> tuple[T, Seen]:
        """Do the work; what it returns, and what the machine did meanwhile."""
        before = self._read()
        done = work()
        gpu = self._gpu.state() if self._gpu else None
        others, stolen = shares(before, self._read())
        return done, Seen(others, stolen, core_mhz(), gpu)


def shares(before: CoreTimes | None, after: CoreTimes | None) -> tuple[float | None, float | None]:
    """Of the cores' time between two readings: what other processes and the hypervisor took."""
    if before is None or after is None or after.total <= before.total:
        return None, None
    total = after.total - before.total
    others = (after.busy - before.busy) - (after.mine - before.mine)
    return round(max(0.0, others / total), 4), round((after.stolen - before.stolen) / total, 4)


def core_times(stat: Path = STAT) -> CoreTimes | None:
    """Linux's /proc/stat for the cores that this process may use; None on other systems."""
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    mine = {f"cpu{core}" for core in allowed_cores()}
    rows = [[int(n) for n in line.split()[1:9]] for line in lines if line.split()[0] in mine]
    if not rows:
        return None
    user, nice, system, idle, iowait, irq, softirq, stolen = map(sum, zip(*rows, strict=True))
    busy = user + nice + system + irq + softirq
    own = os.times()
    return CoreTimes(
        busy=busy,
        stolen=stolen,
        total=busy + idle + iowait + stolen,
        mine=(own.user + own.system) * os.sysconf("SC_CLK_TCK"),
    )


def core_mhz(folder: Path = CPUFREQ) -> float | None:
    """Mean frequency of the cores now; None where the system does not tell, as in most VMs."""
    files = [folder / f"cpu{core}/cpufreq/scaling_cur_freq" for core in allowed_cores()]
    try:
        khz = [int(file.read_text(encoding="ascii")) for file in files]
    except (OSError, ValueError):
        return None
    return round(sum(khz) / len(khz) / 1e3, 1) if khz else None


class NvmlGpu:
    """A GPU through NVIDIA's management library, which costs the GPU nothing."""

    def __init__(self, nvml: ModuleType, uuid: str) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle: Any = nvml.nvmlDeviceGetHandleByUUID(uuid)

    def state(self) -> GpuState:
        """Clocks, temperature, and what slows it down now."""
        nvml, handle = self._nvml, self._handle
        reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
        return GpuState(
            sm_clock_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            max_sm_clock_mhz=nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            temperature_c=nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            throttling=tuple(name for bit, name in THROTTLING.items() if reasons & bit),
        )


def monitor_for(devices: Sequence[str]) -> tuple[Monitor, list[str]]:
    """A monitor for the devices that rows run on, and what it cannot watch."""
    cuda = next((device for device in devices if device.startswith("cuda")), None)
    if cuda is None:
        return Monitor(), []
    try:
        return Monitor(gpu=_nvml_gpu(cuda)), []
    except ImportError:
        return Monitor(), [f"the GPU's clocks and throttling were not watched: {PIP_LINE}"]
    except Exception as error:  # NVML raises a type of its own for each of its errors
        return Monitor(), [f"the GPU's clocks and throttling were not watched: {error}"]


def _nvml_gpu(device: str) -> NvmlGpu:
    import pynvml
    import torch

    # NVML does not know CUDA_VISIBLE_DEVICES: its numbers may be of other GPUs than torch's.
    uuid = torch.cuda.get_device_properties(device).uuid
    return NvmlGpu(pynvml, f"GPU-{uuid}")
