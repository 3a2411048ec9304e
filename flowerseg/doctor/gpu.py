"""The NVIDIA driver, the GPU and cuDNN; and where torch sees no GPU, why it sees none."""

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowerseg.doctor.finding import Trouble

PCI_DEVICES = Path("/sys/bus/pci/devices")
# CUDA Compatibility guide, "minor version compatibility": the first driver for each major CUDA.
OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}

_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor, first byte of a PCI class
_INSTALL_DRIVER = (
    "Install the driver: nvidia.com/drivers\nIn a container: start it with docker run --gpus all"
)


@dataclass(frozen=True)
class Driver:
    """An NVIDIA driver that answers."""

    version: str  # 580.65.06; empty: not told
    cuda: str  # the newest CUDA that it runs, 13.0; empty: not told

    def __str__(self) -> str:
        runs = f"runs CUDA up to {self.cuda}" if self.cuda else ""
        return ", ".join(word for word in (self.version, runs) if word)


def try_driver() -> str:
    """Version of the driver, and the newest CUDA that it runs."""
    driver = driver_here()
    if driver:
        return str(driver)
    raise _no_driver("there is no NVIDIA GPU to drive")


def try_gpu() -> str:
    """Every GPU adds two numbers."""
    import torch

    if not torch.cuda.is_available():
        hidden_by = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise why_no_gpu(torch.version.cuda, driver_here(), hidden_by)
    return "; ".join(_computing(index) for index in range(torch.cuda.device_count()))


def try_cudnn() -> str:
    """A convolution runs, as in every network here."""
    import torch

    require_gpu()
    version = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch's
    if version is None:
        raise Trouble("broken", "PyTorch comes without it")
    image = torch.ones(1, 1, 3, 3, device="cuda")
    if torch.nn.functional.conv2d(image, image).item() != 9:
        raise Trouble("broken", f"cuDNN {version} convolves wrongly")
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}, convolves"


def require_gpu() -> None:
    """Stop a check that needs a GPU.

    Raises:
        Trouble: torch sees none; why, the GPU's own finding says.
    """
    import torch

    if not torch.cuda.is_available():
        raise Trouble("missing", "no GPU to try it on", "")


def why_no_gpu(built_for: str | None, driver: Driver | None, hidden_by: str | None) -> Trouble:
    """The reason why torch sees no GPU.

    Args:
        built_for: torch's CUDA version; None for a build without CUDA.
        driver: what drives the GPU, if anything answers.
        hidden_by: CUDA_VISIBLE_DEVICES; None where it is not set.
    """
    if driver is None:
        return _no_driver("none; all but TensorRT engines runs on the CPU")
    if built_for is None:
        return Trouble(
            "broken",
            "a driver is here, but this PyTorch is built without CUDA",
            "pip install --force-reinstall torch torchvision",
        )
    if _major(driver.cuda) and _major(driver.cuda) < _major(built_for):
        oldest = OLDEST_DRIVER.get(_major(built_for), "a newer one")
        return Trouble(
            "broken",
            f"PyTorch is built for CUDA {built_for}, newer than the driver ({driver})",
            f"Update the driver to {oldest} or later: nvidia.com/drivers\n"
            f"Or install a PyTorch for CUDA {_major(driver.cuda)}: pytorch.org/get-started",
        )
    if hidden_by is not None:
        return Trouble(
            "broken", f"CUDA_VISIBLE_DEVICES={hidden_by!r} hides it", "unset CUDA_VISIBLE_DEVICES"
        )
    return Trouble("broken", f"the driver answers ({driver}), but torch sees no GPU", "nvidia-smi")


def driver_here() -> Driver | None:
    """The NVIDIA driver; None where nothing tells of one."""
    for ask in (_from_nvml, _from_nvidia_smi, _from_libcuda):
        if driver := _answer(ask):
            return driver
    return None


def has_nvidia_device(devices: Path = PCI_DEVICES) -> bool:
    """Whether a graphics card of NVIDIA's is plugged in, driven or not (Linux tells)."""
    folders = devices.glob("*") if devices.is_dir() else []
    return any(
        _word(folder / "vendor") == _NVIDIA and _word(folder / "class").startswith(_DISPLAY)
        for folder in folders
    )


def _no_driver(without_gpu: str) -> Trouble:
    if has_nvidia_device():
        return Trouble("broken", "an NVIDIA GPU is here, but no driver answers", _INSTALL_DRIVER)
    return Trouble("missing", without_gpu, "")


def _computing(index: int) -> str:
    import torch

    if torch.ones(2, device=f"cuda:{index}").sum().item() != 2:
        raise Trouble("broken", f"cuda:{index} adds wrongly", "nvidia-smi -q")
    found = torch.cuda.get_device_properties(index)
    memory_gib = found.total_memory / 2**30
    return f"{found.name}, compute capability {found.major}.{found.minor}, {memory_gib:.0f} GiB"


def _answer(ask: Callable[[], Driver | None]) -> Driver | None:
    try:
        return ask()
    except Exception:  # this witness is broken or not here; another may know
        return None


def _from_nvml() -> Driver | None:
    import pynvml

    pynvml.nvmlInit()
    try:
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        return Driver(str(pynvml.nvmlSystemGetDriverVersion()), _cuda_version(cuda))
    finally:
        pynvml.nvmlShutdown()


def _from_nvidia_smi() -> Driver | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    done = subprocess.run([command], capture_output=True, text=True, timeout=30, check=True)
    version = re.search(r"Driver Version: *([\d.]+)", done.stdout)
    cuda = re.search(r"CUDA[\w ]* Version: *([\d.]+)", done.stdout)
    return Driver(version[1], cuda[1] if cuda else "") if version else None


def _from_libcuda() -> Driver | None:
    # torch 2.15 no longer passes this on, and a container may have neither NVML nor nvidia-smi.
    number = ctypes.c_int()
    if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)):
        return None
    return Driver("", _cuda_version(number.value))


def _cuda_version(number: int) -> str:
    """12020 -> 12.2, as the CUDA driver API writes versions."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _major(version: str) -> int:
    return int(version.partition(".")[0] or 0)


def _word(file: Path) -> str:
    return file.read_text(encoding="ascii").strip() if file.is_file() else ""
