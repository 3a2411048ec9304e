"""Dataclasses through JSON and back: equal, or refused."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from flowerseg.artifact import Batch, BuiltFor, Data, Kind, Manifest, Parent, Precision
from flowerseg.folder import FolderRules
from flowerseg.jsonform import from_json
from flowerseg.model import Architecture
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Limits, Proof
from flowerseg.train import Fault, TrainConfig


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Petal:
    length_mm: float
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Flower:
    """One field of every kind that may be written."""

    name: str = "rose"
    count: int = 3
    is_wild: bool = True
    photo: Path = Path("a/b.jpg")
    kind: Literal["tree", "herb"] = "herb"
    petals: tuple[Petal, ...] = (Petal(1.5), Petal(2.5, Colour.BLUE))
    size_hw: tuple[int, int] = (3, 4)
    widths: list[float] = field(default_factory=lambda: [0.5, 2.0])
    versions: dict[str, str] = field(default_factory=lambda: {"torch": "2.9"})
    best: Petal | None = Petal(9.0)
    worst: Petal | None = None
    shades: Literal["any"] | tuple[tuple[int, int, int], ...] = ((1, 2, 3),)


def _written(value: Any) -> Any:
    return json.loads(json.dumps(asdict(value), default=str))


MANIFEST = Manifest(
    kind=Kind.ONNX,
    architecture="deeplabv3_resnet50",
    precision=Precision.INT8,
    preprocess=Preprocess((64, 96)),
    batch=Batch(1, 2, 4),
    parents=(Parent(Kind.CHECKPOINT, "a.pt", "ab"), Parent(Kind.ONNX, "b.onnx", "cd")),
    data=Data("mine", "f", 3, 2, 0.5, FolderRules(background_colours="any")),
    proof=Proof("proved", "by hand", Limits(0.9, 0.1), batch_sizes=(1, 4), model_iou=0.75),
    built_for=BuiltFor("H200", "9.0", "Linux"),
    versions={"torch": "2.9"},
)
CONFIG = TrainConfig(
    data=Path("flowers"),
    out=Path("runs/first"),
    rules=FolderRules(((1, 1, 1), (2, 3, 4)), ((9, 9, 9),), ((0, 0, 0),), 0.35, 11, 9),
    architecture=Architecture.MOBILENET_V3_LARGE,
    test_split="test",
    preprocess=Preprocess((96, 64)),
    faults=(Fault.BLENDED_MASKS, Fault.UNPADDED_HEAD),
    force=True,
)


@pytest.mark.parametrize(
    "value",
    [
        Flower(),
        Flower(best=None, shades="any", petals=(), versions={}, widths=[]),
        MANIFEST,
        Manifest(Kind.PT2, "x", Precision.FP16, Preprocess()),
        CONFIG,
        TrainConfig(data=Path("d"), out=Path("o")),
    ],
    ids=["flower", "empty", "manifest", "small-manifest", "config", "small-config"],
)
def test_what_was_written_comes_back(value: Any) -> None:
    found = from_json(type(value), _written(value))
    assert found == value
    # Equality of StrEnum and str, of int and float would hide a field left as JSON has it.
    assert repr(found) == repr(value)


def test_whole_number_may_stand_for_a_float() -> None:
    found = from_json(Petal, {"length_mm": 2})
    assert (found.length_mm, type(found.length_mm)) == (2.0, float)


def test_field_left_out_has_its_default() -> None:
    assert from_json(Flower, {"count": 4}) == Flower(count=4)


def test_field_without_a_default_is_missed() -> None:
    with pytest.raises(TypeError, match="length_mm"):
        from_json(Petal, {"colour": "red"})


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"smell": 1}, "smell"), ({"best": {"length_mm": 1.0, "width_mm": 2.0}}, "width_mm")],
)
def test_unknown_field_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {named}"):
        from_json(Flower, fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": 5},
        {"name": None},
        {"count": "5"},
        {"count": 5.0},
        {"count": True},
        {"is_wild": 1},
        {"is_wild": "true"},
        {"photo": 5},
        {"kind": "bush"},
        {"best": {"length_mm": "1"}},
        {"best": {"length_mm": True}},
        {"best": {"length_mm": 1.0, "colour": "green"}},
        {"best": 5},
        {"petals": 5},
        {"petals": [5]},
        {"petals": [{"length_mm": None}]},
        {"size_hw": [3]},
        {"size_hw": [3, 4, 5]},
        {"size_hw": [3, 4.5]},
        {"widths": ["wide"]},
        {"versions": "torch"},
        {"shades": "some"},
        {"shades": [[1, 2]]},
        {"shades": [[1, 2, "3"]]},
    ],
    ids=str,
)
def test_value_of_another_type_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(Flower, fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"best": []},  # AttributeError, which no caller expects
        {"versions": {"torch": 2}},
        {"versions": [["torch", "2.9"]]},
        {"petals": {}},
        {"petals": ""},
        {"shades": None},  # no option of the union is None
    ],
    ids=str,
)
def test_value_of_another_shape_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        from_json(Flower, fields)


def test_checks_of_the_dataclass_itself_hold() -> None:
    with pytest.raises(ValueError, match="size_hw"):
        from_json(TrainConfig, _written(CONFIG) | {"preprocess": {"size_hw": [8, 8]}})
