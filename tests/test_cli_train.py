"""`flowerseg-train`: options reach the run, and what comes out of it is told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from flowerseg.artifact import open_artifact
from flowerseg.cli.train import ARCHITECTURES, FAULTS, _TrainProgress, train
from flowerseg.images import write_jpeg, write_png
from flowerseg.model import Architecture
from flowerseg.train import Fault

Train = Callable[..., Result]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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
    lines = result.stdout.splitlines()
    assert lines[0] == f"{out}/best.pt: best of 1 epochs is 1"
    assert lines[1].startswith("flowers/val1, validation (chose the checkpoint): flower IoU 0.")
    assert lines[2].startswith("WARNING flowers/val1: it is not recorded which photos ")
    assert lines[3].startswith(f"{out}/report.html shows")
    assert "flowers/trn1: 12 photos" in result.stderr
    assert "epoch   1  loss " in result.stderr
    assert open_artifact(out / "best.pt").manifest.preprocess.size_hw == (64, 64)


def test_json_is_the_report_and_nothing_else(run: Train, out: Path) -> None:
    result = run("--json", "--trainable", "classifier", "--lr", "0.005", "--seed", "3")
    told = json.loads(result.stdout)
    assert told == json.loads((out / "report.json").read_text())
    config = told["config"]
    assert (config["trainable"], config["lr"], config["seed"]) == ("classifier", 0.005, 3)
    assert (told["train_photos"], told["splits"][0]["scores"]["photos"]) == (12, 6)


def test_defaults_follow_what_trains(run: Train) -> None:
    config = json.loads(run("--json").stdout)["config"]
    assert (config["trainable"], config["lr"], config["batch_size"]) == ("head", 0.01, 16)


def test_test_photos_are_scored_when_asked(run: Train) -> None:
    told = json.loads(run("--json", "--test-split", "test").stdout)
    assert [split["name"] for split in told["splits"]] == ["flowers/val1", "flowers/tst1"]


def test_recipe_fills_in_what_the_command_line_leaves_open(run: Train, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'trainable = "classifier"\nlr = 0.004\nbatch-size = 5\nfault = ["unpadded-head"]\n'
    )
    result = run("--recipe", str(recipe), "--lr", "0.003", "--json")
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)["config"]
    assert (config["trainable"], config["batch_size"], config["lr"]) == ("classifier", 5, 0.003)
    assert config["faults"] == ["unpadded-head"]
    assert "FAULT unpadded-head: the 3 x 3 head is not padded" in result.stderr


def test_notebook_recipe_names_each_fault_of_the_study(run: Train) -> None:
    result = run("--recipe", "notebook", "--json", "--train-split", "trn1+val1")
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)["config"]
    # DESIGN: Adam 0.05, batch 128, a new unpadded head; --epochs 1 and --weights are this test's.
    assert (config["optimiser"], config["lr"], config["batch_size"]) == ("adam", 0.05, 128)
    assert (config["trainable"], config["schedule"]) == ("head", "constant")
    assert result.stderr.count("FAULT ") == len(config["faults"]) == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epoch = 3\n", "unknown epoch"),
        ("epochs = \n", "cannot be read as TOML"),
        ("resume = 'x'\n", "unknown resume"),
        ("epochs = 'many'\n", "epochs = 'many' is not a whole number"),
        ("epochs = 1.5\n", "epochs = 1.5 is not a whole number"),
        ("lr = nan\n", "lr = nan is not a number"),
        ("lr = 0.1\nlr = 0.2\n", "cannot be read as TOML"),
        ("cache = 1\n", "cache = 1 is not true or false"),
        ('data = "a\\u0000b"\n', "is not a text"),
        ('fault = "unpadded-head"\n', "is not a list of texts"),
        ("x = " + "[" * 99_999, "cannot be read as TOML"),
        ("epochs = " + "9" * 5000, "holds a number that is too large"),
        ("epochs = 0x" + "f" * 5000, "epochs holds a number that is too large"),
        ("fault = [0x" + "f" * 5000 + "]", "fault holds a number that is too large"),
        ("seed = 9223372036854775808\n", "seed holds a number that is too large"),
    ],
)
def test_recipe_that_is_wrong_is_wrong_usage(
    run: Train, out: Path, tmp_path: Path, content: str, said: str
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(content)
    arguments = ["--recipe", str(recipe), "--data", "x", "--out", str(out)]
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "set_int_max_str_digits" not in result.stderr
    assert not out.exists()


def test_interrupted_run_is_gone_on_with(
    run: Train, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_TrainProgress, "step", interrupted)
        result = run()
    assert result.exit_code == 1
    assert f"Go on: flowerseg-train --resume {out}" in result.stderr
    result = CliRunner().invoke(train, ["--resume", str(out), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "No epoch of the run was finished: it begins again." in result.stderr
    open_artifact(out / "best.pt")
    again = CliRunner().invoke(train, ["--resume", str(out)])
    assert again.exit_code == 1
    assert "the run is finished" in again.stderr


def test_resume_takes_no_other_settings(out: Path) -> None:
    result = CliRunner().invoke(train, ["--resume", str(out), "--lr", "0.1", "--cache-gib", "1"])
    assert result.exit_code == 2
    assert "leave out --lr, --cache-gib" in result.stderr


def test_data_and_out_are_needed(out: Path) -> None:
    result = CliRunner().invoke(train, ["--out", str(out)])
    assert result.exit_code == 2
    assert "--data and --out are needed" in result.stderr


def test_choices_of_the_command_are_those_of_the_code() -> None:
    # The command may not import torch to show its help, so it spells them out.
    assert [str(fault) for fault in Fault] == FAULTS
    assert [str(architecture) for architecture in Architecture] == ARCHITECTURES


def test_folder_with_masks_of_its_own_colours(tmp_path: Path, checkpoint: Path) -> None:
    """Class indices 0 to 3 in grey PNGs: 2 is the flower, 3 is not labelled."""
    rng = np.random.default_rng(0)
    for i in range(6):
        labels = rng.integers(0, 4, (8, 8)).astype(np.uint8).repeat(10, 0).repeat(10, 1)
        write_png(tmp_path / f"data/masks/rose/{i}.png", labels)
        write_jpeg(tmp_path / f"data/photos/rose/{i}.jpg", np.dstack([labels * 60] * 3))
    out = tmp_path / "run"
    arguments = ["--data", tmp_path / "data", "--out", out, "--weights", checkpoint]
    arguments += ["--arch", "deeplabv3_mobilenet_v3_large", "--size", "64", "--epochs", "1"]
    arguments += ["--flower-colour", "2", "--void-colour", "3", "--background-colour", "any"]
    command = [str(word) for word in [*arguments, "--device", "cpu", "--batch-size", "2"]]
    assert CliRunner().invoke(train, command[:-8]).exit_code == 1  # colours without a meaning
    result = CliRunner().invoke(train, command)
    assert result.exit_code == 0, result.output
    rules = open_artifact(out / "best.pt").manifest.rules
    assert (rules.flower_colours, rules.void_colours) == (((2, 2, 2),), ((3, 3, 3),))
    assert rules.background_colours == "any"


def test_masks_without_any_flower_end_the_command_in_words(tmp_path: Path) -> None:
    for i in range(6):
        write_png(tmp_path / f"data/masks/{i}.png", np.zeros((8, 8), np.uint8))
        write_png(tmp_path / f"data/photos/{i}.png", np.full((8, 8, 3), i, np.uint8))
    out = tmp_path / "run"
    result = CliRunner().invoke(train, ["--data", str(tmp_path / "data"), "--out", str(out)])
    assert result.exit_code == 1
    assert "data/train: none of its 5 masks has a flower pixel (100.0 % background" in result.stderr
    assert "data/val: none of its 1 masks has a flower pixel" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize("tolerance", ["-1", "128", "1.5"])
def test_tolerance_that_makes_no_sense_is_wrong_usage(
    run: Train, out: Path, tolerance: str
) -> None:
    assert run("--mask-tolerance", tolerance).exit_code == 2
    assert not out.exists()


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
