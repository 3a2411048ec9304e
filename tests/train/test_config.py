"""A run's configuration: bounds, and a command that says all of it."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowerseg.cli.train import train as command
from flowerseg.errors import TrainingError
from flowerseg.folder import FolderRules
from flowerseg.model import Architecture
from flowerseg.preprocess import Preprocess
from flowerseg.train import DEFAULTS, Fault, TrainConfig
from flowerseg.train.config import rebuild_command

USUAL = TrainConfig(data=Path("flowers"), out=Path("runs/first"))
ALL_RULES = FolderRules(
    flower_colours=((1, 1, 1), (255, 0, 128)),
    void_colours=((7, 7, 7), (9, 9, 9)),
    background_colours=((0, 0, 0), (2, 3, 4)),
    val_share=0.35,
    split_seed=11,
    mask_tolerance=40,
)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The runs that the real command would have begun."""
    found: list[TrainConfig] = []

    def run(config: TrainConfig, *_: object, **__: object) -> None:
        found.append(config)
        raise TrainingError("only parsed")

    monkeypatch.setattr("flowerseg.train.train", run)
    return found


@pytest.mark.parametrize(
    "config",
    [
        USUAL,
        replace(
            USUAL,
            architecture=Architecture.MOBILENET_V3_LARGE,
            weights="runs/my best.pt",
            trainable="all",
            train_split="trn1+trn2",
            val_split="val2",
            test_split="tst1",
            epochs=7,
            batch_size=24,
            lr=0.00125,
            optimiser="adam",
            schedule="constant",
            overlap_weight=0.75,
            amp="off",
            preprocess=Preprocess((96, 96)),
            seed=5,
        ),
        replace(USUAL, views=8, cache=False, amp="bf16"),
        # The defaults of a classifier's run, as numbers: none may be taken from those of a head.
        replace(USUAL, trainable="classifier", epochs=10, lr=1e-2, overlap_weight=0.0),
        replace(USUAL, faults=tuple(Fault)),
        replace(USUAL, rules=ALL_RULES),
        replace(USUAL, rules=FolderRules(background_colours="any")),
        replace(USUAL, data=Path("my flowers/don't"), out=Path("$HOME run;1")),
    ],
    ids=["usual", "all", "head", "classifier", "faults", "rules", "any", "quoted"],
)
def test_rebuild_command_describes_the_same_run(
    config: TrainConfig, parsed: list[TrainConfig]
) -> None:
    program, *arguments = shlex.split(rebuild_command(config))
    result = CliRunner().invoke(command, arguments)
    assert program == "flowerseg-train"
    assert parsed == [config], result.output


@pytest.mark.parametrize(
    "change",
    [{"lr": 0.00123456789}, {"overlap_weight": 1 / 3}, {"rules": FolderRules(val_share=1 / 3)}],
)
def test_rebuild_command_keeps_every_digit(
    change: dict[str, object], parsed: list[TrainConfig]
) -> None:
    config = replace(USUAL, **change)
    CliRunner().invoke(command, shlex.split(rebuild_command(config))[1:])
    assert parsed == [config]


@pytest.mark.parametrize("trainable", ["head", "classifier", "all"])
def test_command_without_numbers_takes_those_that_suit_what_trains(
    trainable: str, parsed: list[TrainConfig]
) -> None:
    CliRunner().invoke(command, ["--data", "d", "--out", "o", "--trainable", trainable])
    numbers = [(run.epochs, run.lr, run.overlap_weight) for run in parsed]
    usual = DEFAULTS[parsed[0].trainable]
    assert numbers == [(usual.epochs, usual.lr, usual.overlap_weight)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("lr", 0.0),
        ("lr", 1.0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("overlap_weight", -0.1),
        ("views", 0),
    ],
)
def test_config_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*not .*{value}"):
        replace(USUAL, **{name: value})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"cache": False}, False),
        ({"trainable": "classifier"}, False),
        ({"trainable": "all"}, False),
        # Its statistics drift: the same frame has other features in every epoch.
        ({"faults": (Fault.DRIFTING_BATCHNORM,)}, False),
        ({"faults": (Fault.BLENDED_MASKS, Fault.VOID_AS_BACKGROUND)}, True),
    ],
)
def test_features_are_cached_only_where_they_stay_the_same(
    change: dict[str, object], expected: bool
) -> None:
    assert replace(USUAL, **change).caches_features is expected


def test_every_fault_says_what_is_wrong() -> None:
    words = [fault.words for fault in Fault]
    assert len(set(words)) == 5
    assert not any(sentence.endswith(".") for sentence in words)
