"""What an export costs: the figures by hand, and the commands through a fake that writes files."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from flowerseg.checkpoint import load_checkpoint
from flowerseg_bench.exporting import measure
from flowerseg_bench.exporting.cli import main
from flowerseg_bench.exporting.measure import (
    ENGINE,
    FP16,
    FP32,
    PT2,
    Bar,
    Exported,
    Setup,
    Step,
    finding_of,
    write_random_checkpoint,
)
from flowerseg_bench.process import Watch

GIB = 2**30
RESNET = Setup("deeplabv3_resnet101", 224)
SMALL = Setup("deeplabv3_mobilenet_v3_large", 64)


def exported(step: Step, wall_s: float, rss: int, pss: int, size: int) -> Exported:
    return Exported(step, "flowerseg export", wall_s, rss, pss, size)


EXPORTS = [
    exported(FP32, 20.0, 2 * GIB, 1 * GIB, 400 << 20),
    exported(FP16, 25.0, 3 * GIB, 2 * GIB, 200 << 20),
    exported(ENGINE, 12.5, 1 * GIB, 5 * GIB // 2, 210 << 20),
]


def test_every_command_has_its_time_memory_and_file_in_a_row() -> None:
    finding = finding_of(RESNET, EXPORTS)
    assert finding.table.rows == (
        ("ONNX FP32", "20.0", "2.00", "1.00", "400.0"),
        ("ONNX FP16", "25.0", "3.00", "2.00", "200.0"),
        ("RTX engine", "12.5", "1.00", "2.50", "210.0"),
    )
    assert finding.headline == (
        "Exporting deeplabv3_resnet101 at 224: checkpoint to ONNX FP16 in 25.0 s, to a "
        "TensorRT-RTX engine in 12.5 s more, in at most 3.00 GiB of memory; FP16 takes 0.500 of "
        "the bytes of FP32"
    )
    assert finding.raw["fp16_over_fp32_bytes"] == 0.5
    assert finding.raw["peak_bytes"] == 3 * GIB


def test_the_bars_are_told_with_what_was_measured_and_whether_they_are_met() -> None:
    finding = finding_of(RESNET, EXPORTS)
    assert finding.notes[:4] == (
        "Checkpoint to ONNX FP16: 25 s of 30 s, met",
        "ONNX FP16 to RTX engine: 12.5 s of 10 s, MISSED",
        "Peak memory of any command: 3 GiB of 4 GiB, met",
        "ONNX FP16 over FP32, bytes: 0.5 of 0.51, met",
    )
    assert [bar["is_met"] for bar in finding.raw["bars"]] == [True, False, True, True]
    assert Bar("exactly", 4, " GiB", 4.0).is_met


@pytest.mark.parametrize("setup", [SMALL, Setup("deeplabv3_resnet101", 520)])
def test_another_network_or_size_has_no_bars(setup: Setup) -> None:
    finding = finding_of(setup, EXPORTS)
    assert finding.raw["bars"] == []
    assert not any("MISSED" in note for note in finding.notes)


def test_a_random_checkpoint_is_the_same_from_a_seed_and_in_range_of_half(tmp_path: Path) -> None:
    write_random_checkpoint(SMALL, tmp_path / "a.pt")
    torch.manual_seed(1)
    write_random_checkpoint(SMALL, tmp_path / "b.pt")
    (_, one), (artifact, two) = (
        load_checkpoint(tmp_path / "a.pt"),
        load_checkpoint(tmp_path / "b.pt"),
    )
    weights = two.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in one.state_dict().items())
    assert artifact.manifest.preprocess.size_hw == (64, 64)
    seeded = torch.Generator().manual_seed(0)
    with torch.no_grad():
        features = one.features(torch.randint(0, 256, (2, 64, 64, 3), generator=seeded).byte())
    assert torch.isfinite(features.half()).all()


class FakeExport:
    """Writes files of known sizes where the command would, and remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], bool]] = []
        self.caches: list[str] = []

    def __call__(
        self,
        arguments: Sequence[str],
        work: Path,
        environment: Mapping[str, str],
        watch: Watch | None,
    ) -> None:
        out = Path(arguments[arguments.index("--out") + 1])
        assert Path(arguments[1]).is_file()  # the checkpoint, or what a step before has written
        assert out.parent == work
        out.write_bytes(bytes(100 if "--fp16" in arguments else 300))
        self.calls.append((work.name, list(arguments), watch is not None))
        self.caches.append(environment["TORCHINDUCTOR_CACHE_DIR"])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_every_step_is_watched_once_and_timed_once_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeExport()
    monkeypatch.setattr(measure, "run_process", fake)
    words = ["--arch", SMALL.arch, "--size", "64", "--pt2", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output

    assert [(folder, is_watched) for folder, _, is_watched in fake.calls] == [
        ("watched", True),
        ("alone", False),
    ] * 4
    assert len(set(fake.caches)) == 2
    content = json.loads((tmp_path / "out" / "RESULT.json").read_text())
    assert [one["command"] for one in content["exports"]] == [
        "flowerseg export WORK/random.pt --out WORK/fp32.onnx",
        "flowerseg export WORK/random.pt --out WORK/fp16.onnx --fp16",
        "flowerseg export WORK/fp16.onnx --out WORK/fp16.engine --to tensorrt-rtx",
        "flowerseg export WORK/random.pt --out WORK/fp32.pt2 --to pt2 --device cpu",
    ]
    assert [one["step"]["name"] for one in content["exports"]] == [
        step.name for step in (FP32, FP16, ENGINE, PT2)
    ]
    assert content["fp16_over_fp32_bytes"] == 0.333333
    assert content["conditions"]["command"].startswith("python -m flowerseg_bench.exporting")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "RESULT.json",
        "RESULT.md",
    ]


def test_help_imports_no_torch() -> None:
    script = (
        "import sys; from click.testing import CliRunner;"
        "from flowerseg_bench.exporting.cli import main;"
        "print(CliRunner().invoke(main, ['--help']).output); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--pt2" in done.stdout
