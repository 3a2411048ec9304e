"""Whether the proof passes correct exports: the figures by hand, the commands through a fake."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flowerseg.errors import FlowersegError
from flowerseg.proofrecord import Fault, FaultKind
from flowerseg_bench.falsealarms import measure
from flowerseg_bench.falsealarms.cli import main
from flowerseg_bench.falsealarms.measure import Setup, Verdict, finding_of

SETUP = Setup(
    data=Path("flowers17"),
    arch="deeplabv3_mobilenet_v3_large",
    weights="coco",
    epochs=2,
    size=96,
    train_split="train",
    val_split="val",
    device="cpu",
    seeds=(0, 1),
    limit=32,
)


def proof_of(status: str, *faults: Fault) -> dict[str, Any]:
    return {
        "status": status,
        "runtime": "onnxruntime",
        "faults": [dataclasses.asdict(fault) for fault in faults],
        "agreement_iou": 0.99875,
        "flipped_share": 0.0025,
        "undecided_difference": 0.0006,
        "reference_iou": 0.9,
        "model_iou": 0.8995,
    }


LOW = Fault(FaultKind.AGREEMENT, 0.97, 0.98, "rose", (1,))


def test_a_correct_export_that_is_refused_is_counted_and_its_reason_told() -> None:
    proved = Verdict(0, "FP32", 0.875, proof_of("proved"))
    refused = Verdict(1, "INT8", 0.8125, proof_of("failed", LOW))
    finding = finding_of(SETUP, [proved, refused])
    assert finding.headline == (
        "1 of 2 proofs of correct exports of deeplabv3_mobilenet_v3_large, trained from 2 seeds, "
        "failed"
    )
    assert finding.notes[0] == (
        "seed 1, INT8 in onnxruntime: agreement IoU 0.9700 at batch 1 is below 0.98 "
        "(worst photo: rose)"
    )
    assert finding.table.rows == (
        (
            "seed 0, FP32 in onnxruntime",
            "0.875",
            "0.99875",
            "0.250%",
            "0.00060",
            "+0.00050",
            "proved",
        ),
        (
            "seed 1, INT8 in onnxruntime",
            "0.812",
            "0.99875",
            "0.250%",
            "0.00060",
            "+0.00050",
            "failed",
        ),
    )
    assert finding.raw["verdicts"][1]["proof"]["status"] == "failed"


class FakeFlowerseg:
    """Writes what the commands would; INT8 is written and not proved."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, arguments: Sequence[str], work: Path) -> None:
        self.calls.append(list(arguments))
        out = Path(arguments[arguments.index("--out") + 1])
        assert out.is_relative_to(work)
        if arguments[0] == "train":
            out.mkdir()
            report = {"splits": [{"scores": {"iou": 0.875}}]}
            (out / "report.json").write_text(json.dumps(report))
            return
        status = "failed" if "--int8" in arguments else "proved"
        further = [proof_of("proved") | {"runtime": "openvino"}]
        manifest = {"proof": proof_of(status), "further_proofs": further}
        out.with_name(out.name + ".json").write_text(json.dumps(manifest))
        if status == "failed":
            raise FlowersegError("written, but not proved")


def test_every_seed_is_trained_and_exported_at_every_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeFlowerseg()
    monkeypatch.setattr(measure, "run_process", fake)
    words = ["--data", "flowers17", "--seeds", "2", "--first-seed", "5", "--out"]
    result = CliRunner().invoke(main, [*words, str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert [call[0] for call in fake.calls] == ["train", "export", "export", "export"] * 2
    content = json.loads((tmp_path / "out" / "RESULT.json").read_text())
    found = [
        (v["seed"], v["precision"], v["proof"]["runtime"], v["proof"]["status"])
        for v in content["verdicts"]
    ]
    assert found == [
        (seed, precision, runtime, status)
        for seed in (5, 6)
        for precision in ("FP32", "FP16", "INT8")
        for runtime, status in (
            ("onnxruntime", "failed" if precision == "INT8" else "proved"),
            ("openvino", "proved"),
        )
    ]


def test_export_that_leaves_no_file_is_an_error_and_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: Sequence[str], work: Path) -> None:
        if arguments[0] == "export":
            raise FlowersegError("no such device")
        FakeFlowerseg()(arguments, work)

    monkeypatch.setattr(measure, "run_process", fail)
    result = CliRunner().invoke(main, ["--data", "flowers17", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "no such device" in result.output
    assert not (tmp_path / "out" / "RESULT.json").exists()


def test_help_imports_no_torch() -> None:
    script = (
        "import sys; from click.testing import CliRunner;"
        "from flowerseg_bench.falsealarms.cli import main;"
        "print(CliRunner().invoke(main, ['--help']).output); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--seeds" in done.stdout
