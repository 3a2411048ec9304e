"""`flowerseg-train`: options reach the run, and what comes out of it is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowerseg.artifact import open_artifact
from flowerseg.cli.train import train

Train = Callable[..., Result]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def run(painted: Path, checkpoint: Path, out: Path) -> Train:
    def invoke(*options: str, data: Path = painted) -> Result:
        arguments = ["--data", data, "--weights", checkpoint, "--out", out, "--device", "cpu"]
        arguments += ["--arch", "deeplabv3_mobilenet_v3_large", "--size", "64", "--epochs", "1"]
        return CliRunner().invoke(train, [*map(str, arguments), *options])

    return invoke


def test_run_tells_where_the_best_checkpoint_is(run: Train, out: Path) -> None:
    result = run("--batch-size", "6")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}/best.pt: best of 1 epochs is 1\nflower IoU 0.")
    assert "epoch   1  loss " in result.stderr
    assert open_artifact(out / "best.pt").manifest.preprocess.size_hw == (64, 64)


def test_json_is_the_report_and_nothing_else(run: Train, out: Path) -> None:
    result = run("--json", "--trainable", "classifier", "--lr", "0.005", "--seed", "3")
    told = json.loads(result.stdout)
    assert told == json.loads((out / "report.json").read_text())
    config = told["config"]
    assert (config["trainable"], config["lr"], config["seed"]) == ("classifier", 0.005, 3)
    assert (told["train_photos"], told["val_photos"]) == (12, 6)


def test_defaults_follow_what_trains(run: Train) -> None:
    config = json.loads(run("--json").stdout)["config"]
    assert (config["trainable"], config["lr"], config["batch_size"]) == ("head", 0.01, 16)


def test_second_run_into_the_same_folder_is_refused(run: Train, out: Path) -> None:
    assert run().exit_code == 0
    before = (out / "best.pt").read_bytes()
    result = run()
    assert result.exit_code == 1
    assert "say --force" in result.stderr
    assert (out / "best.pt").read_bytes() == before
    assert run("--force").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--arch", "unet"], "'unet' is not one of"),
        (["--trainable", "nothing"], "'nothing' is not one of"),
        (["--batch-size", "1"], "1 is not in the range"),
        (["--lr", "1"], "1.0 is not in the range"),
        (["--epochs", "0"], "0 is not in the range"),
        (["--size", "16"], "16 is not in the range"),
        (["--device", "cuda:x"], "is not auto, cpu, cuda or cuda:N"),
    ],
)
def test_wrong_usage_is_exit_2_and_writes_nothing(
    run: Train, out: Path, options: list[str], said: str
) -> None:
    result = run(*options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not out.exists()


def test_data_that_cannot_be_used_is_exit_1_and_writes_nothing(
    run: Train, out: Path, tmp_path: Path
) -> None:
    for options, data, said in [
        ([], tmp_path / "none", "no such folder of labelled photos"),
        ([], tmp_path, "neither jpg/"),
    ]:
        result = run(*options, data=data)
        assert result.exit_code == 1
        assert said in result.stderr
    result = run("--train-split", "trn7")
    assert result.exit_code == 1
    assert "no split 'trn7'" in result.stderr
    assert not out.exists()
