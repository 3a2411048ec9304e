"""A setting that was measured to be the best for one file on one machine.

flowerseg-bench writes it, flowerseg-predict takes it with `--tuned`. Elsewhere, or for another
file, it would be a guess, so there it is refused.
"""

import dataclasses
import json
import reprlib
from dataclasses import dataclass
from pathlib import Path

from flowerseg.backends.base import Layout
from flowerseg.backends.device import allowed_cores, device_name
from flowerseg.errors import ArtifactError
from flowerseg.files import write_text
from flowerseg.jsonform import from_json, read_json
from flowerseg.proofrecord import LARGEST_BATCH
from flowerseg.ranges import require_between, require_shares
from flowerseg.smallfiles import reason_of

SCHEMA = 2
"""2: streams and CUDA graph."""


@dataclass(frozen=True)
class Machine:
    """What a setting depends on, as far as it can be read."""

    device: str  # "cpu" or "cuda:0"
    device_name: str
    cores: int  # that the process may use

    def __str__(self) -> str:
        return f"{self.device_name} ({self.device}), {self.cores} cores"


@dataclass(frozen=True)
class Tuned:
    """How one model file runs best on one machine, and how that was found."""

    model: str  # its name, for people
    sha256: str  # of its bytes
    machine: Machine
    goal: str
    runtime: str
    batch: int
    threads: int | None  # None: the runtime's own choice
    streams: int
    cuda_graph: bool
    images_per_s: float
    flower_iou: float | None  # None: not measured
    agreement_iou: float | None
    measured: str  # when
    schema: int = SCHEMA
    cudnn_benchmark: bool = False
    layout: Layout | None = None

    def __post_init__(self) -> None:
        require_between(1, LARGEST_BATCH, batch=self.batch, threads=self.threads)
        require_between(1, LARGEST_BATCH, streams=self.streams)
        require_between(0, None, images_per_s=self.images_per_s)
        require_shares(flower_iou=self.flower_iou, agreement_iou=self.agreement_iou)


def write_tuned(path: Path, tuned: Tuned) -> None:
    """Write a setting as readable JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, json.dumps(dataclasses.asdict(tuned), indent=2) + "\n")


def read_tuned(path: Path) -> Tuned:
    """Read a setting.

    Raises:
        ArtifactError: it is missing, of another schema, or not what `write_tuned` writes.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable setting: {reason_of(error)}. Measure again with "
            "flowerseg-bench."
        ) from error
    found = content.get("schema") if isinstance(content, dict) else None
    if type(found) is not int or found != SCHEMA:
        raise ArtifactError(
            f"{path}: a setting of schema {reprlib.repr(found)}; this flowerseg reads {SCHEMA}. "
            "Measure again with flowerseg-bench."
        )
    try:
        return from_json(Tuned, content)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not what flowerseg-bench writes: {error}.") from error


def machine_here(device: str) -> Machine:
    """This machine, for a device by its full name."""
    return Machine(device, device_name(device), len(allowed_cores()))


def require_fit(tuned: Tuned, model: Path, sha256: str) -> None:
    """Refuse a setting that was measured with another file or on another machine.

    Args:
        tuned: the setting.
        model: the file that it is to be used for.
        sha256: of that file, as its manifest has it.

    Raises:
        ArtifactError: naming what differs, and the command that measures again.
    """
    differing = []
    if tuned.sha256 != sha256:
        differing.append(f"for {tuned.model} ({tuned.sha256[:12]}…), and this is {sha256[:12]}…")
    if not _is_here(tuned.machine):
        differing.append(f"on {tuned.machine}, and this is another machine")
    if differing:
        raise ArtifactError(
            f"{model}: the setting was measured {'; '.join(differing)}. Measure here: "
            f"flowerseg-bench {model} --photos DIR --batch 1,4,8 {_variants(tuned.machine)} "
            "--out DIR"
        )


def _variants(machine: Machine) -> str:
    """What there is to choose from on such a device, as options of flowerseg-bench."""
    on_gpu = machine.device.startswith("cuda")
    return "--streams 1,2 --cuda-graph both" if on_gpu else "--threads 1,2 --streams 1,2"


def _is_here(machine: Machine) -> bool:
    import torch

    if machine.device.startswith("cuda"):
        index = int(machine.device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            return False
    return machine == machine_here(machine.device)
