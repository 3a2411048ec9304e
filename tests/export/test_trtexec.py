"""The `trtexec` commands in a manifest, and that NVIDIA's tool has every flag in them."""

import dataclasses
import shlex

import pytest

from flowerseg.artifact import (
    Batch,
    EngineBuild,
    Hardware,
    Kind,
    Manifest,
    Parent,
    Precision,
    TrtexecCommands,
)
from flowerseg.preprocess import Preprocess
from flowerseg_export.trtexec import trtexec_commands

ENGINE = Manifest(
    kind=Kind.TENSORRT,
    architecture="deeplabv3_resnet101",
    precision=Precision.FP16,
    preprocess=Preprocess((224, 320)),
    batch=Batch(1, 8, 64),
    parents=(Parent(Kind.CHECKPOINT, "best.pt", "1"), Parent(Kind.ONNX, "flower 16.onnx", "2")),
    engine=EngineBuild(),
    profiles=(Batch(1, 8, 64),),
)
OPTIONS = EngineBuild(
    workspace_mib=512,
    optimisation_level=5,
    hardware=Hardware.AMPERE_PLUS,
    version_compatible=True,
    refittable=True,
)
FULL = dataclasses.replace(
    ENGINE,
    precision=Precision.TF32,
    batch=Batch(1, 64, 64),
    profiles=(Batch(1, 1, 1), Batch(2, 8, 64)),
    engine=OPTIONS,
)
# The help text of samples/common/sampleOptions.cpp in github.com/NVIDIA/TensorRT at 6d178ce8
# (10.12), 5302b288 (10.16) and a892d222 (11.1) has these in all three, not deprecated in any.
IN_10_AND_11 = {
    "onnx", "avgTiming", "noTF32", "profile", "minShapes", "optShapes", "maxShapes", "memPoolSize",
    "builderOptimizationLevel", "hardwareCompatibilityLevel", "versionCompatible", "refit",
    "profilingVerbosity", "saveEngine", "loadEngine", "skipInference", "shapes", "useProfile",
}  # fmt: skip
# 11.1 calls each of these "[Deprecated] … now enabled by default" or "… disabled by default".
IN_10_ALONE = {"stronglyTyped", "useCudaGraph", "noDataTransfers", "useSpinWait"}


def test_engine_of_one_profile() -> None:
    shapes = (
        "--minShapes=images:1x224x320x3 --optShapes=images:8x224x320x3 "
        "--maxShapes=images:64x224x320x3 --saveEngine=a.engine --skipInference"
    )
    loaded = "trtexec --loadEngine=a.engine --shapes=images:8x224x320x3"
    assert trtexec_commands(ENGINE, "a.engine") == {
        "10": TrtexecCommands(
            f"trtexec '--onnx=flower 16.onnx' --avgTiming=1 --profilingVerbosity=detailed "
            f"--stronglyTyped --noTF32 {shapes}",
            (f"{loaded} --useCudaGraph --noDataTransfers --useSpinWait",),
        ),
        "11": TrtexecCommands(
            f"trtexec '--onnx=flower 16.onnx' --avgTiming=1 --profilingVerbosity=detailed "
            f"--noTF32 {shapes}",
            (loaded,),
        ),
    }


def test_engine_with_every_option() -> None:
    commands = trtexec_commands(FULL, "a.engine")["11"]
    assert commands.build == (
        "trtexec '--onnx=flower 16.onnx' --avgTiming=1 --profilingVerbosity=detailed "
        "--profile=0 --minShapes=images:1x224x320x3 --optShapes=images:1x224x320x3 "
        "--maxShapes=images:1x224x320x3 --profile=1 --minShapes=images:2x224x320x3 "
        "--optShapes=images:8x224x320x3 --maxShapes=images:64x224x320x3 "
        "--memPoolSize=workspace:512M --builderOptimizationLevel=5 "
        "--hardwareCompatibilityLevel=ampere+ --versionCompatible --refit "
        "--saveEngine=a.engine --skipInference"
    )
    assert commands.time == (
        "trtexec --loadEngine=a.engine --shapes=images:1x224x320x3 --useProfile=0 "
        "--versionCompatible",
        "trtexec --loadEngine=a.engine --shapes=images:8x224x320x3 --useProfile=1 "
        "--versionCompatible",
    )


def test_hardware_level_is_spelled_as_the_tool_reads_it() -> None:
    build = EngineBuild(hardware=Hardware.SAME_CAPABILITY)
    command = trtexec_commands(dataclasses.replace(ENGINE, engine=build), "a.engine")["10"].build
    assert "--hardwareCompatibilityLevel=sameComputeCapability" in shlex.split(command)


@pytest.mark.parametrize("manifest", [ENGINE, FULL], ids=["plain", "full"])
@pytest.mark.parametrize(
    ("version", "known"), [("10", IN_10_AND_11 | IN_10_ALONE), ("11", IN_10_AND_11)]
)
def test_tool_has_every_flag(manifest: Manifest, version: str, known: set[str]) -> None:
    commands = trtexec_commands(manifest, "a.engine")[version]
    for command in (commands.build, *commands.time):
        program, *words = shlex.split(command)
        assert program == "trtexec"
        assert {word.removeprefix("--").partition("=")[0] for word in words} <= known


@pytest.mark.parametrize("kind", [Kind.TENSORRT_RTX, Kind.ONNX, Kind.PT2])
def test_other_kinds_have_no_commands(kind: Kind) -> None:
    assert trtexec_commands(dataclasses.replace(ENGINE, kind=kind), "a.engine") == {}
