"""Where a network's time goes, kernel by kernel."""

from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from flowerseg.artifact import open_artifact
from flowerseg.backends import open_backend, run
from flowerseg.files import write_text

RUNS = 10
ROWS = 40  # of the table: the longest


def profile(model: Path, runtime: str, device: str, batch: int) -> str:
    """A table of what ten batches spend their time on, the longest first.

    The frames are noise: no kernel of a convolution asks what it multiplies.

    Raises:
        ArtifactError: the model cannot be opened.
        BackendUnavailable: the runtime or the device is not here.
    """
    with closing(open_backend(open_artifact(model), device, runtime)) as backend:
        height, width = backend.info.size_hw
        noise = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
        for _ in range(RUNS):
            run(backend, noise)
        on_gpu = backend.info.device.startswith("cuda")
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        # One cycle only; torch 2.11 warns that it forgets earlier ones unless told not to.
        with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
            for _ in range(RUNS):
                run(backend, noise)
        sort_by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(
            sort_by=sort_by, row_limit=ROWS, max_name_column_width=100
        )
        return f"{backend.info}, batch {batch}, {RUNS} runs\n{table}\n"


def write_profile(model: Path, runtime: str, device: str, batch: int, out: Path) -> Path:
    """Write the table of `profile` to `out`/profile.txt. Raises as `profile` does."""
    path = out / "profile.txt"
    write_text(path, profile(model, runtime, device, batch))
    return path
