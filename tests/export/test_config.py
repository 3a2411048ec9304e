"""What an export can be asked for, and the command that asks for it again."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowerseg.artifact import (
    Artifact,
    Batch,
    EngineBuild,
    Hardware,
    Kind,
    Precision,
    manifest_path,
)
from flowerseg.errors import ArtifactError, ExportError
from flowerseg_export import export as export_module
from flowerseg_export.cli import export
from flowerseg_export.config import ExportConfig, config_to_rebuild, rebuild_command
from flowerseg_export.int8 import Calibration

BUILD = EngineBuild(
    workspace_mib=512,
    optimisation_level=5,
    hardware=Hardware.AMPERE_PLUS,
    version_compatible=True,
    refittable=True,
)


@pytest.mark.parametrize(
    "config",
    [
        ExportConfig(Path("best.pt"), Path("a.onnx")),
        ExportConfig(
            Path("my runs/best.pt"),
            Path("a.onnx"),
            precision=Precision.FP16,
            keep_fp32=("backbone.layer4.*", "classifier.4"),
        ),
        ExportConfig(
            Path("best.pt"),
            Path("a.onnx"),
            precision=Precision.INT8,
            calibration=Calibration.PERCENTILE,
            data=Path("photos"),
            split="test",
        ),
        ExportConfig(
            Path("best.pt"),
            Path("a.engine"),
            Kind.TENSORRT,
            Precision.TF32,
            profiles=(Batch(1, 4, 16),),
            build=BUILD,
        ),
        ExportConfig(
            Path("best.pt"),
            Path("a.engine"),
            Kind.TENSORRT,
            profiles=(Batch(1, 1, 1), Batch(2, 8, 16), Batch(17, 64, 64)),
        ),
        ExportConfig(
            Path("best.pt"),
            Path("a.engine"),
            Kind.TENSORRT,
            precision=Precision.INT8,
            float_type=Precision.FP16,
            keep_fp32=("backbone.0",),
            data=Path("photos"),
            few_photos=True,
        ),
        ExportConfig(
            Path("a.onnx"),
            Path("b.engine"),
            Kind.TENSORRT_RTX,
            build=EngineBuild(compute_capabilities=("8.9", "12.0")),
            reference=Path("best.pt"),
            data=Path("photos"),
        ),
    ],
)
def test_rebuild_command_asks_for_the_same(
    config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ExportConfig] = []

    def record(config: ExportConfig, _: object) -> list[Artifact]:
        asked.append(config)
        return []

    monkeypatch.setattr(export_module, "export_model", record)
    program, *arguments = shlex.split(rebuild_command(config))
    assert program == "flowerseg-export"
    CliRunner().invoke(export, arguments)
    assert asked == [dataclasses.replace(config, force=True)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"precision": Precision.INT8}, "photos to calibrate on"),
        ({"precision": Precision.INT8, "target": Kind.PT2}, "not for pt2"),
        (
            {"precision": Precision.INT8, "float_type": Precision.FP16, "data": Path("photos")},
            "--int8 with --fp16 is for engines",
        ),
        ({"precision": Precision.TF32}, "TF32 is a mode of TensorRT"),
        ({"precision": Precision.BF16}, "no file is exported in BF16"),
        ({"keep_fp32": ("classifier",)}, "--keep-fp32 leaves modules out of"),
        ({"profiles": ()}, "at least one optimisation profile"),
        ({"profiles": (Batch(1, 1, 1), Batch(3, 8, 8))}, "3:8:8 begins at 3, but 1:1:1 ends at 1"),
        ({"build": EngineBuild(compute_capabilities=("8.9",))}, "is for TensorRT-RTX"),
        ({"build": EngineBuild(version_compatible=True)}, "--version-compatible is for TensorRT;"),
        ({"build": EngineBuild(hardware=Hardware.AMPERE_PLUS)}, "--hardware-compatible is for"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object], said: str) -> None:
    config = ExportConfig(Path("best.pt"), Path("a.onnx"))
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(config, **wrong)


def test_engine_is_rebuilt_as_its_manifest_says_from_the_graph_beside_it(
    rtx_engine: Artifact, fp16_onnx: Artifact
) -> None:
    config = config_to_rebuild(rtx_engine.path, limit=3)
    assert config == ExportConfig(
        fp16_onnx.path,
        rtx_engine.path,
        Kind.TENSORRT_RTX,
        profiles=(Batch(1, 4, 8),),
        limit=3,
        force=True,
    )


@pytest.mark.parametrize(
    ("recorded", "profiles"),
    [
        ({"profiles": ["1:1:1", "2:8:16"]}, (Batch(1, 1, 1), Batch(2, 8, 16))),
        ({}, (Batch(1, 4, 8),)),  # a manifest of before profiles were recorded
    ],
)
def test_engine_is_rebuilt_with_the_profiles_of_its_manifest(
    rtx_engine: Artifact,
    fp16_onnx: Artifact,
    copied: Callable[[Path], Path],
    recorded: dict[str, list[str]],
    profiles: tuple[Batch, ...],
) -> None:
    copied(fp16_onnx.path)
    path = manifest_path(copied(rtx_engine.path))
    fields = json.loads(path.read_text())
    del fields["profiles"], fields["trtexec"]
    for name, texts in recorded.items():
        sizes = [map(int, text.split(":")) for text in texts]
        fields[name] = [dict(zip(("min", "opt", "max"), each, strict=True)) for each in sizes]
    path.write_text(json.dumps(fields))
    assert config_to_rebuild(path.with_suffix("")).profiles == profiles


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "tf32"}, "TF32 is a mode of TensorRT"),
        ({"engine": {"version_compatible": True}}, "--version-compatible is for TensorRT"),
        ({"engine": {"hardware": "ampere+"}}, "--hardware-compatible is for TensorRT"),
        (
            {"kind": "tensorrt", "engine": {"compute_capabilities": ["8.9"]}},
            "--compute-capability is for TensorRT-RTX",
        ),
    ],
)
def test_manifest_of_an_engine_that_cannot_be_is_refused(
    rtx_engine: Artifact,
    fp16_onnx: Artifact,
    copied: Callable[[Path], Path],
    changes: dict[str, object],
    message: str,
) -> None:
    copied(fp16_onnx.path)
    path = manifest_path(copied(rtx_engine.path))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ArtifactError, match=message) as refused:
        config_to_rebuild(path.with_suffix(""))
    assert str(refused.value).startswith(f"{path}: ")


def test_engine_whose_own_bytes_are_gone_is_rebuilt_all_the_same(
    rtx_engine: Artifact, fp16_onnx: Artifact, copied: Callable[[Path], Path]
) -> None:
    copied(fp16_onnx.path)
    engine = copied(rtx_engine.path)
    engine.unlink()
    assert config_to_rebuild(engine).out == engine


def test_graph_that_is_not_beside_its_engine_is_asked_for(
    rtx_engine: Artifact, copied: Callable[[Path], Path]
) -> None:
    with pytest.raises(ArtifactError, match=r"small\.onnx: the ONNX file that small\.engine was"):
        config_to_rebuild(copied(rtx_engine.path))


def test_engine_is_not_rebuilt_from_another_graph(
    rtx_engine: Artifact, fp32_onnx: Artifact, copied: Callable[[Path], Path]
) -> None:
    engine = copied(rtx_engine.path)
    other = copied(fp32_onnx.path)
    assert other.name == "small.onnx"
    with pytest.raises(ArtifactError, match=r"not the file that small\.engine was built"):
        config_to_rebuild(engine)


def test_only_engines_are_rebuilt(fp32_onnx: Artifact) -> None:
    with pytest.raises(ExportError, match="a file of kind onnx runs wherever its runtime does"):
        config_to_rebuild(fp32_onnx.path)


def test_rebuilding_without_a_manifest_says_so(tmp_path: Path) -> None:
    missing = manifest_path(tmp_path / "a.engine")
    with pytest.raises(ArtifactError, match=f"{missing.name}: the manifest is missing"):
        config_to_rebuild(tmp_path / "a.engine")
