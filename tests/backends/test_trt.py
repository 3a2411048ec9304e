"""Engines: what is refused, and that it is refused before a byte of the file is read."""

import dataclasses
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flowerseg.artifact import (
    Artifact,
    BuiltFor,
    EngineBuild,
    Hardware,
    Kind,
    Manifest,
    Parent,
    Precision,
    open_artifact,
)
from flowerseg.backends import open_backend
from flowerseg.backends.trt import Engine, check_engine_fits
from flowerseg.errors import ArtifactError, BackendUnavailable
from flowerseg.preprocess import Preprocess

REBUILD = "flowerseg-export best.pt --to tensorrt --fp16 --out a.engine --force"
HERE = ("10.12.0", "8.0", "Linux")


def _engine(
    kind: Kind = Kind.TENSORRT, capability: str = "8.0", build: EngineBuild | None = None
) -> Artifact:
    """The manifest of an engine whose file is not there: whoever reads it fails otherwise."""
    manifest = Manifest(
        kind=kind,
        architecture="deeplabv3_resnet101",
        precision=Precision.FP16,
        preprocess=Preprocess(),
        built_for=BuiltFor("NVIDIA A100-SXM4-80GB", capability, "Linux"),
        versions={str(kind): "10.12.0"},
        parents=(Parent(Kind.CHECKPOINT, "best.pt", "1"), Parent(Kind.ONNX, "a.onnx", "2")),
        engine=build,
        rebuild=REBUILD,
    )
    return Artifact(Path("nowhere/a.engine"), manifest)


def test_engine_built_for_this_machine_fits() -> None:
    check_engine_fits(_engine(), *HERE)


@pytest.mark.parametrize(
    ("here", "differing"),
    [
        (("11.0.0", "8.0", "Linux"), "TensorRT 10.12.0, here 11.0.0"),
        (("10.12.0", "9.0", "Linux"), "compute capability 8.0, here 9.0"),
        (("10.12.0", "8.0", "Windows"), "system Linux, here Windows"),
        (
            ("10.13.0", "8.6", "Linux"),
            "TensorRT 10.12.0, here 10.13.0; compute capability 8.0, here 8.6",
        ),
    ],
)
def test_engine_built_for_something_else_is_refused_with_the_rebuild_command(
    here: tuple[str, str, str], differing: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        check_engine_fits(_engine(), *here)
    assert str(caught.value) == (
        f"nowhere/a.engine: engine built for NVIDIA A100-SXM4-80GB: {differing}. Rebuild it from "
        f"a.onnx beside it: flowerseg-export nowhere/a.engine --rebuild. From the start: {REBUILD}"
    )


@pytest.mark.parametrize("capability", ["7.5", "8.9", "12.0"])
def test_rtx_engine_fits_any_rtx_gpu(capability: str) -> None:
    check_engine_fits(_engine(Kind.TENSORRT_RTX, ""), "10.12.0", capability, "Linux")


@pytest.mark.parametrize(
    ("here", "fits"), [("8.0", True), ("8.6", True), ("9.0", True), ("12.0", True), ("7.5", False)]
)
def test_ampere_plus_engine_fits_ampere_and_later(here: str, fits: bool) -> None:
    engine = _engine(build=EngineBuild(hardware=Hardware.AMPERE_PLUS))
    if fits:
        check_engine_fits(engine, "10.12.0", here, "Linux")
    else:
        with pytest.raises(ArtifactError, match=r"compute capability 8\.0, here 7\.5"):
            check_engine_fits(engine, "10.12.0", here, "Linux")


@pytest.mark.parametrize(
    ("here", "fits"),
    [("10.12.0", True), ("10.13.0", True), ("11.4.0", True), ("10.9.0", False), ("10.2.0", False)],
)
def test_version_compatible_engine_fits_newer_runtimes_only(here: str, fits: bool) -> None:
    engine = _engine(build=EngineBuild(version_compatible=True))
    if fits:
        check_engine_fits(engine, here, "8.0", "Linux")
    else:
        with pytest.raises(ArtifactError, match=f"TensorRT 10.12.0, here {here}"):
            check_engine_fits(engine, here, "8.0", "Linux")


@pytest.mark.parametrize(("here", "fits"), [("8.9", True), ("12.0", True), ("8.6", False)])
def test_rtx_engine_for_some_capabilities_fits_those(here: str, fits: bool) -> None:
    engine = _engine(Kind.TENSORRT_RTX, "8.9, 12.0")
    if fits:
        check_engine_fits(engine, "10.12.0", here, "Linux")
    else:
        with pytest.raises(ArtifactError, match=r"compute capability 8\.9, 12\.0, here 8\.6"):
            check_engine_fits(engine, "10.12.0", here, "Linux")


def test_engine_whose_manifest_names_no_gpu_is_refused() -> None:
    engine = _engine()
    unnamed = Artifact(engine.path, dataclasses.replace(engine.manifest, built_for=None))
    with pytest.raises(ArtifactError, match="does not say what GPU it is for"):
        check_engine_fits(unnamed, *HERE)


def test_engine_whose_manifest_names_no_version_is_refused() -> None:
    engine = _engine()
    unnamed = Artifact(engine.path, dataclasses.replace(engine.manifest, versions={}))
    with pytest.raises(ArtifactError, match=r"TensorRT unknown, here 10\.12\.0"):
        check_engine_fits(unnamed, *HERE)


def test_file_of_another_engine_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(ArtifactError, match=r"TensorRT 10\.12\.0, here 1\."):
        Engine(_engine(Kind.TENSORRT_RTX, ""))


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("auto", "runs on an NVIDIA GPU only, and there is none here"),
        ("cpu", "runs on an NVIDIA GPU only, and --device cpu was asked for"),
        ("cuda", "torch sees 0 CUDA devices"),
    ],
)
def test_real_engine_on_a_machine_without_gpu_is_unavailable(
    rtx_engine: Artifact, device: str, said: str
) -> None:
    with pytest.raises(BackendUnavailable, match=said):
        open_backend(rtx_engine, device)


def test_engine_with_a_changed_byte_is_refused(
    rtx_engine: Artifact, copied: Callable[[Path], Path]
) -> None:
    path = copied(rtx_engine.path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not the one .* rebuild: flowerseg-export"):
        open_artifact(path)
