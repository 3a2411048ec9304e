"""Train, export at every precision, and collect what the proofs say."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowerseg.artifact import manifest_path
from flowerseg.errors import FlowersegError
from flowerseg.jsonform import from_json
from flowerseg.proofrecord import Fault, fault_text
from flowerseg_bench.process import run_process
from flowerseg_bench.record import Finding, table_of

PRECISIONS = {"FP32": (), "FP16": ("--fp16",), "INT8": ("--int8",)}
"""What is exported of each trained network, and by which options."""


@dataclass(frozen=True)
class Setup:
    """What is trained, and on which photos it is proved. The names are flowerseg-train's."""

    data: Path
    arch: str
    weights: str
    epochs: int
    size: int
    train_split: str
    val_split: str
    device: str
    seeds: tuple[int, ...]
    limit: int  # photos for the proof, at most

    def training(self, seed: int, out: Path) -> list[str]:
        """The words behind `flowerseg` that train from one seed."""
        named = {
            "data": self.data,
            "arch": self.arch,
            "weights": self.weights,
            "trainable": "all",
            "epochs": self.epochs,
            "size": self.size,
            "train-split": self.train_split,
            "val-split": self.val_split,
            "device": self.device,
            "seed": seed,
            "out": out,
        }
        return [
            "train",
            *(word for name, value in named.items() for word in (f"--{name}", str(value))),
        ]

    def exporting(self, run: Path, precision: str) -> list[str]:
        """The words that export what a run trained, and prove it."""
        proof = ["--data", self.data, "--split", self.val_split, "--limit", self.limit]
        out = ["--out", exported_path(run, precision), "--device", self.device]
        words = ["export", run / "best.pt", *PRECISIONS[precision], *proof, *out]
        return [str(word) for word in words]


@dataclass(frozen=True)
class Verdict:
    """What the proof said of one correct export in one runtime."""

    seed: int
    precision: str
    val_iou: float  # of the trained network, at its frame
    proof: dict[str, Any]  # as the manifest has it

    @property
    def export(self) -> str:
        """What was proved, and in what."""
        return f"seed {self.seed}, {self.precision} in {self.proof['runtime']}"

    @property
    def is_alarm(self) -> bool:
        """A correct export that was not proved."""
        return bool(self.proof["status"] != "proved")


def measure_false_alarms(setup: Setup, work: Path) -> Finding:
    """Train from every seed, export at every precision, and collect what the proofs say.

    Raises:
        FlowersegError: a command failed for another reason than a proof.
    """
    return finding_of(setup, [v for seed in setup.seeds for v in verdicts_of(setup, seed, work)])


def verdicts_of(setup: Setup, seed: int, work: Path) -> list[Verdict]:
    """The verdicts on one trained network at every precision."""
    run = work / f"seed-{seed}"
    run_process(setup.training(seed, run), work)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    val_iou = float(report["splits"][0]["scores"]["iou"])
    return [
        Verdict(seed, precision, val_iou, proof)
        for precision in PRECISIONS
        for proof in _proofs_of(setup, run, precision, work)
    ]


def exported_path(run: Path, precision: str) -> Path:
    """Where the export of a run at one precision lies."""
    return run / f"{precision.lower()}.onnx"


def _proofs_of(setup: Setup, run: Path, precision: str, work: Path) -> list[dict[str, Any]]:
    """Of one export, in each runtime here."""
    path = manifest_path(exported_path(run, precision))
    try:
        run_process(setup.exporting(run, precision), work)
    except FlowersegError:
        # A file whose proof failed is written all the same, and its manifest says why.
        if not path.is_file():
            raise
    manifest = json.loads(path.read_text(encoding="utf-8"))
    return [manifest["proof"], *manifest["further_proofs"]]


def finding_of(setup: Setup, verdicts: Sequence[Verdict]) -> Finding:
    """Every export in a row, and how many of them were refused although they are correct."""
    refused = sum(verdict.is_alarm for verdict in verdicts)
    reasons = [
        f"{v.export}: {fault_text(from_json(Fault, fault))}"
        for v in verdicts
        for fault in v.proof["faults"]
    ]
    return Finding(
        headline=(
            f"{refused} of {len(verdicts)} proofs of correct exports of {setup.arch}, trained "
            f"from {len(setup.seeds)} seeds, failed"
        ),
        table=table_of(
            "Does the proof pass correct exports",
            ("export", "val IoU", "lowest agreement", "most flipped", "undecided", "IoU lost"),
            [_row(verdict) for verdict in verdicts],
            words=("verdict",),
        ),
        notes=(
            *reasons,
            f"Each network was trained from {setup.weights} for {setup.epochs} epochs on "
            f"{setup.train_split} at {setup.size} x {setup.size}; it is proved on up to "
            f"{setup.limit} photos of {setup.val_split}",
            "Agreement is the IoU of the file's masks and the checkpoint's, the lower of photo "
            "by photo and as folders are run; flipped are pixels of one photo on the other side of "
            "the threshold; undecided is the mean difference of probabilities from 1/16 to 15/16",
        ),
        raw={
            "settings": asdict(setup) | {"data": str(setup.data)},
            "verdicts": [asdict(verdict) for verdict in verdicts],
        },
    )


def _iou_lost(proof: dict[str, Any]) -> str:
    if proof["reference_iou"] is None or proof["model_iou"] is None:
        return "n/a"
    return f"{proof['reference_iou'] - proof['model_iou']:+.5f}"


def _row(verdict: Verdict) -> tuple[str, ...]:
    proof = verdict.proof
    return (
        verdict.export,
        f"{verdict.val_iou:.3f}",
        f"{proof['agreement_iou']:.5f}",
        f"{proof['flipped_share']:.3%}",
        f"{proof['undecided_difference']:.5f}",
        _iou_lost(proof),
        proof["status"],
    )
