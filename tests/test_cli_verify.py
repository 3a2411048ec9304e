"""`flowerseg-verify`: proves again, writes the proof, and fails where the masks differ."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowerseg.artifact import Artifact, open_artifact, rewrite_manifest
from flowerseg.cli.verify import verify

Verify = Callable[..., Result]


@pytest.fixture
def model(fp32_onnx: Artifact, copied: Callable[[Path], Path]) -> Artifact:
    """A copy of the FP32 export whose proof was lost."""
    return rewrite_manifest(open_artifact(copied(fp32_onnx.path)), proof=None)


@pytest.fixture
def run(model: Artifact, checkpoint: Path, painted: Path) -> Verify:
    def invoke(*options: str, **replaced: Path) -> Result:
        paths = {"model": model.path, "reference": checkpoint, "data": painted} | replaced
        arguments = [paths["model"], "--reference", paths["reference"], "--data", paths["data"]]
        words = [*map(str, arguments), "--device", "cpu", *options]
        return CliRunner().invoke(verify, words)

    return invoke


def test_proof_is_printed_and_written_into_the_manifest(run: Verify, model: Artifact) -> None:
    result = run("--limit", "3")
    assert result.exit_code == 0, result.output
    assert f"{model.path}: PROVED on 3 photos of flowers/val1[3] " in result.stdout
    assert "batch 1, 3, 8" in result.stdout
    proof = open_artifact(model.path).manifest.proof
    assert proof is not None
    assert (proof.status, proof.photos) == ("proved", 3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_json_is_the_proof_of_the_runtime_that_was_asked_for(run: Verify, runtime: str) -> None:
    result = run("--limit", "2", "--json", "--runtime", runtime)
    told = json.loads(result.stdout)
    assert told["status"] == "proved"
    assert told["how"].startswith(f"executed by {runtime} ")
    assert told["batch_sizes"] == [1, 3, 8]


def test_masks_that_differ_are_exit_1_and_the_manifest_says_failed(
    run: Verify, model: Artifact
) -> None:
    rewrite_manifest(model, threshold=0.55)
    result = run()
    assert result.exit_code == 1
    assert "FAILED" in result.stdout
    assert "is below 0.9995" in result.stderr
    assert "Traceback" not in result.output
    proof = open_artifact(model.path).manifest.proof
    assert proof is not None
    assert proof.status == "failed"


def test_other_split_is_used_when_named(run: Verify) -> None:
    told = json.loads(run("--split", "tst1", "--limit", "2", "--json").stdout)
    assert told["data"].startswith("flowers/tst1[2] ")


def test_wrong_file_is_exit_1_and_the_manifest_stays(
    run: Verify, model: Artifact, tmp_path: Path
) -> None:
    for replaced, said in [
        ({"model": tmp_path / "none.onnx"}, "no such model file"),
        ({"reference": tmp_path / "none.pt"}, "no such model file"),
        ({"reference": model.path}, "the reference must be a checkpoint"),
        ({"data": tmp_path / "none"}, "no such folder of labelled photos"),
    ]:
        result = run(**replaced)
        assert result.exit_code == 1
        assert said in result.stderr
    assert open_artifact(model.path).manifest.proof is None


@pytest.mark.parametrize(
    "options", [["--limit", "0"], ["--device", "gpu"], ["--runtime", "tensorflow"]]
)
def test_wrong_usage_is_exit_2(run: Verify, options: list[str]) -> None:
    assert run(*options).exit_code == 2
