"""Files that hold what a runtime timed or compiled for one GPU. They save time and nothing else.

A cache that cannot be read, used or written therefore never ends a command: the user gets one
line about it, and the work is done without the cache.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch

from flowerseg.backends.device import device_name
from flowerseg.doctor.gpu import driver_here
from flowerseg.errors import OutputError
from flowerseg.files import write_bytes
from flowerseg.printable import printable
from flowerseg.smallfiles import reason_of
from flowerseg.trust import distrust, make_private_folder, with_their_folders
from flowerseg.usercache import user_cache

OnNotice: TypeAlias = Callable[[str], None]
"""Called with one plain line for the user, about something that does not end the command."""


def print_notice(line: str) -> None:
    """Write the line to stderr: so that the user sees notices that no caller shows."""
    print(printable(line), file=sys.stderr)


def cache_path(folder: str, device: str, *keys: str) -> Path:
    """The cache file of these keys for a GPU, its driver and the CUDA version of torch.

    A driver whose version cannot be read (no NVML, nvidia-smi or libcuda answers) is named
    `driver-unknown`. All such drivers share one file; TensorRT's own checks then decide whether
    the content still fits.

    Args:
        folder: folder within the user's cache folder.
        device: `cuda:N`.
        keys: what else the content depends on; runtime and version, for example.
    """
    words = (*keys, device_name(device), f"driver-{_driver()}", f"cuda-{torch.version.cuda}")
    name = "-".join(re.sub(r"[^\w.+]+", "-", word) for word in words)
    return user_cache(folder) / f"{name}.cache"


def read_cache(path: Path, on_notice: OnNotice) -> bytes:
    """The file's bytes; none where there is no file, it cannot be read, or others can change it."""
    try:
        reason = distrust(with_their_folders(path))
        if not reason:
            return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        reason = reason_of(error)
    on_notice(f"{path}: cache not used: {reason}; it only saves time")
    return b""


def write_cache(path: Path, content: bytes, on_notice: OnNotice) -> None:
    """Replace the file as a whole, so that processes that write at the same time harm no other."""
    try:
        make_private_folder(path.parent)
        write_bytes(path, content)
    except (OSError, OutputError) as error:
        on_notice(f"cache not written, the next start takes as long as this one: {error}")


def _driver() -> str:
    driver = driver_here()
    if driver is None:
        return "unknown"
    return driver.version or f"for-cuda-{driver.cuda}"
