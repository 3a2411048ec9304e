"""The requested device: whether this machine has it, and what it is."""

import os
import platform
from pathlib import Path

import torch

from flowerseg.artifact import Manifest, computed_in
from flowerseg.backends.base import BackendInfo, is_device_name
from flowerseg.errors import BackendUnavailable


def resolve_device(device: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> `cpu` or `cuda:N`.

    `auto` is the first CUDA GPU, or the CPU where there is none;
    `BackendInfo.device` says which. A device named by the user is never replaced by another.

    Raises:
        BackendUnavailable: this machine does not have the CUDA device.
        TypeError, ValueError: not a name of a device.
    """
    if not isinstance(device, str):
        raise TypeError(f"device must be text: auto, cpu, cuda or cuda:N, not {device!r}")
    if not is_device_name(device):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    index = device.partition(":")[2]
    if int(index or 0) >= torch.cuda.device_count():
        raise BackendUnavailable(
            f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices here. "
            "Use --device cpu, or run flowerseg-doctor to see what is missing."
        )
    return f"cuda:{index or 0}"


def device_name(device: str) -> str:
    """The name on the box: the GPU's, or the processor's."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def allowed_cores() -> list[int]:
    """The logical cores that this process may run on, which a container may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def compute_capability(device: str) -> str:
    """`9.0` for `cuda:N`; empty for the CPU."""
    if not device.startswith("cuda"):
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def info_of(manifest: Manifest, runtime: str, version: str, device: str) -> BackendInfo:
    """What runs where, for a file that its manifest describes."""
    return BackendInfo(
        runtime=runtime,
        version=version,
        device=device,
        device_name=device_name(device),
        precision=computed_in(runtime, manifest.precision),
        size_hw=manifest.preprocess.size_hw,
        batch=manifest.batch,
    )


def computes_bf16(device: str) -> bool:
    """Whether bfloat16 is computed in hardware: without that it is slower than FP32, not faster."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & set(_cpuinfo("flags").split()))


def has_avx2_alone() -> bool:
    """Whether the processor's widest vectors are of 256 bits, as far as the system tells."""
    flags = set(_cpuinfo("flags").split())
    return "avx2" in flags and "avx512f" not in flags


# Extensions of the instruction set by the beginnings of their names in Linux's /proc/cpuinfo, on
# x86 and ARM; a compiler with `-march=native` uses all of them.
_EXTENSIONS = (
    *("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "gfni", "vaes", "vpclmul", "sha"),
    *("movbe", "adx", "popcnt", "abm", "asimd", "sve", "bf16", "i8mm"),
)


def cpu_features() -> tuple[str, ...]:
    """The processor's extensions of its instruction set; empty where the system does not say."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return tuple(sorted(flag for flag in set(flags) if flag.startswith(_EXTENSIONS)))


def _cpuinfo(field: str) -> str:
    """A field of Linux's /proc/cpuinfo for the first core; empty on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
