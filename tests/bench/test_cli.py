import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowerseg.errors import FlowersegError
from flowerseg_bench.boundaries import Boundary
from flowerseg_bench.cli import bench
from flowerseg_bench.rows import Variants
from flowerseg_bench.suite import Plan


def test_models_are_measured_and_reported_end_to_end(
    tiny_onnx: Path, photo_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    result = CliRunner().invoke(
        bench,
        [
            str(tiny_onnx),
            *("--photos", str(photo_folder), "--seconds", "0.05", "--batch", "2"),
            *("--runtime", "onnxruntime", "--out", str(out), "--json"),
        ],
    )

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((out / "results.json").read_text())
    names = ["report.html", "results.json", "summary.md", "tuned.json"]
    assert sorted(p.name for p in out.iterdir()) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give --photos DIR, --data DIR or both"),
        (["--photos", ".", "--batch", "0"], "is not a list of numbers"),
        (["--photos", ".", "--batch", "1,x"], "is not a list of numbers"),
        (["--photos", ".", "--seconds", "0"], "--seconds"),
        (["--photos", ".", "--runtime", "tvm"], "--runtime"),
    ],
)
def test_wrong_usage_is_exit_2(tiny_onnx: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(bench, [str(tiny_onnx), *arguments, "--out", "unused"])

    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("model", "photos", "message"),
    [
        ("missing.onnx", "photos", "no such model file"),
        ("tiny.onnx", "nowhere", "nowhere"),
        ("unproven.onnx", "photos", "proof"),
    ],
)
def test_what_a_user_can_mend_is_exit_1_without_traceback(
    model: str,
    photos: str,
    message: str,
    tiny_onnx: Path,
    unproven_onnx: Path,
    photo_folder: Path,
    tmp_path: Path,
) -> None:
    result = CliRunner().invoke(
        bench,
        [str(tmp_path / model), "--photos", str(tmp_path / photos), "--out", str(tmp_path / "out")],
    )

    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert message in result.output


def test_options_of_the_command_become_the_plan(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []

    def run(plan: Plan, _: Path) -> None:
        plans.append(plan)
        raise FlowersegError("enough")

    monkeypatch.setattr("flowerseg_bench.cli._run", run)
    options = ["--cudnn-benchmark", "both", "--layout", "both", "--cuda-graph", "on"]
    options += ["--leave-out", "*fp32*CUDA graph", "--boundary", "engine"]
    for more in ([], options):
        command = [str(tiny_onnx), "--photos", ".", "--out", "unused", *more]
        CliRunner().invoke(bench, command)
    plain, asked = plans
    assert plain.variants == Variants()
    assert plain.boundaries == tuple(Boundary)
    assert asked.variants == Variants(
        cuda_graph=(True,),
        cudnn_benchmark=(False, True),
        layout=("channels-first", "channels-last"),
    )
    assert asked.leave_out == ("*fp32*CUDA graph",)
    assert asked.boundaries == (Boundary.ENGINE,)


def test_help_imports_no_runtime_and_no_matplotlib() -> None:
    code = (
        "import sys; from flowerseg_bench.cli import bench\n"
        "try: bench(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'matplotlib', 'scipy', 'cv2'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "--reference CHECKPOINT" in done.stdout
