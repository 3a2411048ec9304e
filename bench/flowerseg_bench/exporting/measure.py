"""Time, memory and size of each step from a checkpoint to an engine."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from flowerseg.artifact import Kind, Manifest, Precision
from flowerseg.checkpoint import save_checkpoint
from flowerseg.preprocess import Preprocess
from flowerseg_bench.memory import PeakMemory, gib, refuse_without_proc
from flowerseg_bench.network import random_network
from flowerseg_bench.process import WATCH_EVERY_S, Watch, command_line, run_process
from flowerseg_bench.record import Finding, table_of
from flowerseg_bench.timing import Clock, timed, wall_clock

_CALIBRATION_FRAMES = 4


@dataclass(frozen=True)
class Setup:
    """What is exported."""

    arch: str
    size: int  # side of the frame, in pixels
    pt2: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One run of `flowerseg export`, from one file to another."""

    name: str
    source: str
    out: str
    options: tuple[str, ...] = ()

    def arguments(self, folder: Path) -> list[str]:
        """The words behind `flowerseg`; both files are in `folder`."""
        files = str(folder / self.source), "--out", str(folder / self.out)
        return ["export", *files, *self.options]


@dataclass(frozen=True)
class Exported:
    """What a step cost."""

    step: Step
    command: str
    wall_s: float  # of the whole command, from its start to its exit
    peak_rss_bytes: int  # of the command's main process, the kernel's own mark
    peak_pss_bytes: int  # of the command and all that it starts, the largest sample
    file_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The larger of the two ways to look at memory."""
        return max(self.peak_rss_bytes, self.peak_pss_bytes)


@dataclass(frozen=True)
class Bar:
    """A limit that the project set itself, and what was measured."""

    what: str
    limit: float
    unit: str  # with the space before it
    measured: float

    @property
    def is_met(self) -> bool:
        """At the limit is within it."""
        return self.measured <= self.limit

    def __str__(self) -> str:
        verdict = "met" if self.is_met else "MISSED"
        return (
            f"{self.what}: {self.measured:.3g}{self.unit} of {self.limit:g}{self.unit}, {verdict}"
        )


CHECKPOINT = "random.pt"
FP32 = Step("ONNX FP32", CHECKPOINT, "fp32.onnx")
FP16 = Step("ONNX FP16", CHECKPOINT, "fp16.onnx", ("--fp16",))
ENGINE = Step("RTX engine", FP16.out, "fp16.engine", ("--to", "tensorrt-rtx"))
PT2 = Step("pt2 FP32", CHECKPOINT, "fp32.pt2", ("--to", "pt2", "--device", "cpu"))
BARRED = ("deeplabv3_resnet101", 224)
"""Architecture and size that the bars are set for."""


def measure_exports(setup: Setup, work: Path, clock: Clock = wall_clock) -> Finding:
    """Make a checkpoint and export it: watched in one folder, timed in another.

    Raises:
        FlowersegError: this is not Linux, or a command failed.
    """
    refuse_without_proc()
    watched, alone = work / "watched", work / "alone"
    for folder in (watched, alone):
        write_random_checkpoint(setup, folder / CHECKPOINT)
    steps = [FP32, FP16, ENGINE, *([PT2] if setup.pt2 else [])]
    return finding_of(setup, [_exported(step, watched, alone, clock) for step in steps])


def write_random_checkpoint(setup: Setup, path: Path) -> None:
    """Write a network of random weights, with its manifest."""
    shape = (_CALIBRATION_FRAMES, setup.size, setup.size, 3)
    seeded = torch.Generator().manual_seed(setup.seed)
    noise = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded)
    network = random_network(setup.arch, noise, setup.seed)
    preprocess = Preprocess((setup.size, setup.size))
    save_checkpoint(
        path, network, Manifest(Kind.CHECKPOINT, setup.arch, Precision.FP32, preprocess)
    )


def _exported(step: Step, watched: Path, alone: Path, clock: Clock) -> Exported:
    memory = PeakMemory()
    _run(step, watched, memory.sample)
    (wall_s,) = timed(clock, lambda: _run(step, alone))
    return Exported(
        step=step,
        command=command_line(step.arguments(alone), alone),
        wall_s=round(wall_s, 3),
        peak_rss_bytes=memory.main_rss,
        peak_pss_bytes=memory.peak_pss,
        file_bytes=(alone / step.out).stat().st_size,
    )


def _run(step: Step, folder: Path, watch: Watch | None = None) -> None:
    # What AOTInductor compiled before must not be found again in a run that is timed.
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    run_process(step.arguments(folder), folder, environment, watch)


def finding_of(setup: Setup, exports: Sequence[Exported]) -> Finding:
    """Every step in a row, and the bars where they were set for this network."""
    by_step = {exported.step: exported for exported in exports}
    fp16, engine = by_step[FP16], by_step[ENGINE]
    ratio = fp16.file_bytes / by_step[FP32].file_bytes
    largest = max(exported.peak_bytes for exported in exports)
    bars = [
        Bar("Checkpoint to ONNX FP16", 30, " s", fp16.wall_s),
        Bar("ONNX FP16 to RTX engine", 10, " s", engine.wall_s),
        Bar("Peak memory of any command", 4, " GiB", largest / 2**30),
        Bar("ONNX FP16 over FP32, bytes", 0.51, "", ratio),
    ]
    kept = bars if (setup.arch, setup.size) == BARRED else []
    return Finding(
        headline=(
            f"Exporting {setup.arch} at {setup.size}: checkpoint to ONNX FP16 in {fp16.wall_s:.1f} "
            f"s, to a TensorRT-RTX engine in {engine.wall_s:.1f} s more, in at most {gib(largest)} "
            f"GiB of memory; FP16 takes {ratio:.3f} of the bytes of FP32"
        ),
        table=table_of(
            "What an export costs",
            ("written", "whole command, s", "peak RSS, GiB", "peak PSS, GiB", "file, MiB"),
            [_row(exported) for exported in exports],
        ),
        notes=(
            *(str(bar) for bar in kept),
            "Each command ran twice: watched for its memory, then timed alone. Single runs; "
            "nothing was proved, for which export needs labelled photos",
            f"PSS is of the command and all that it starts, sampled every {WATCH_EVERY_S} s; RSS "
            "is of its main process, the kernel's own high-water mark, with libraries in full",
            "Weights are random, their BatchNorms calibrated on noise: cost and size are those of "
            "trained weights",
        ),
        raw={
            "settings": asdict(setup),
            "fp16_over_fp32_bytes": round(ratio, 6),
            "peak_bytes": largest,
            "bars": [asdict(bar) | {"is_met": bar.is_met} for bar in kept],
            "exports": [asdict(exported) for exported in exports],
        },
    )


def _row(exported: Exported) -> tuple[str, ...]:
    return (
        exported.step.name,
        f"{exported.wall_s:.1f}",
        gib(exported.peak_rss_bytes),
        gib(exported.peak_pss_bytes),
        f"{exported.file_bytes / 2**20:.1f}",
    )
