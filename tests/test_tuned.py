"""A measured setting: written, read, and refused where it was not measured."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from flowerseg.errors import ArtifactError
from flowerseg.tuned import Tuned, machine_here, read_tuned, require_fit, write_tuned

SHA256 = "ab" * 32
MODEL = Path("flower.onnx")


@pytest.fixture
def tuned() -> Tuned:
    return Tuned(
        model="flower.onnx",
        sha256=SHA256,
        machine=machine_here("cpu"),
        goal="most photos a second, file to mask",
        runtime="openvino",
        batch=4,
        threads=2,
        streams=1,
        cuda_graph=False,
        images_per_s=123.4,
        flower_iou=0.98,
        agreement_iou=None,
        measured="2026-11-22T00:00:00+00:00",
    )


def test_what_was_written_is_read(tuned: Tuned, tmp_path: Path) -> None:
    write_tuned(tmp_path / "tuned.json", tuned)

    assert read_tuned(tmp_path / "tuned.json") == tuned
    require_fit(tuned, MODEL, SHA256)


def test_a_setting_of_another_file_is_refused_with_the_command_that_measures(tuned: Tuned) -> None:
    other = dataclasses.replace(tuned, sha256="cd" * 32)

    with pytest.raises(ArtifactError, match=r"for flower.onnx \(cdcdcdcdcdcd…\), and this is abab"):
        require_fit(other, MODEL, SHA256)
    with pytest.raises(ArtifactError, match=r"flowerseg-bench flower\.onnx "):
        require_fit(other, MODEL, SHA256)


@pytest.mark.parametrize(
    "changed",
    [{"cores": 512}, {"device_name": "another processor"}, {"device": "cuda:99"}],
    ids=["cores", "processor", "GPU that is not here"],
)
def test_a_setting_of_another_machine_is_refused(tuned: Tuned, changed: dict[str, Any]) -> None:
    machine = dataclasses.replace(tuned.machine, **changed)

    with pytest.raises(ArtifactError, match="and this is another machine"):
        require_fit(dataclasses.replace(tuned, machine=machine), MODEL, SHA256)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not a readable setting"),
        ("{", "not a readable setting"),
        ("[]", "schema None"),
        ('{"schema": 3}', "schema 3"),
        ('{"schema": 2}', "not what flowerseg-bench writes"),
    ],
)
def test_a_file_that_is_no_setting_is_refused(
    content: str | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "tuned.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ArtifactError, match=said):
        read_tuned(path)


def test_a_field_of_another_type_is_refused(tuned: Tuned, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps(dataclasses.asdict(tuned) | {"batch": "8"}))

    with pytest.raises(ArtifactError, match="not what flowerseg-bench writes"):
        read_tuned(path)
