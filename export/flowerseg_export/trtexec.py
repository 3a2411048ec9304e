"""The `trtexec` command lines that build an engine without flowerseg, and time it.

NVIDIA's tool for TensorRT's builder and runtime. The flags are those of its help text in
samples/common/sampleOptions.cpp of github.com/NVIDIA/TensorRT: releases 10.12 (6d178ce8) to 10.16
(5302b288), and 11.1 (a892d222). TensorRT-RTX has a tool of its own, `tensorrt_rtx`; beyond `--onnx`
and `--saveEngine` no public document that we found lists its flags, so there is no command for it.
"""

import shlex
from collections.abc import Mapping
from types import MappingProxyType

from flowerseg.artifact import (
    Batch,
    EngineBuild,
    Hardware,
    Kind,
    Manifest,
    Precision,
    TrtexecCommands,
)

_BUILD_ONLY: Mapping[str, list[str]] = MappingProxyType(
    {
        "10": ["--stronglyTyped"],
        "11": [],  # always strongly typed: the flag is deprecated and does nothing
    }
)
_TIME_ONLY: Mapping[str, list[str]] = MappingProxyType(
    {
        # What 11 does by default, so that both time the same thing: the engine alone.
        "10": ["--useCudaGraph", "--noDataTransfers", "--useSpinWait"],
        "11": [],  # the three flags are deprecated and do nothing
    }
)
_HARDWARE = {
    Hardware.AMPERE_PLUS: "ampere+",
    Hardware.SAME_CAPABILITY: "sameComputeCapability",
}


def trtexec_commands(manifest: Manifest, engine: str) -> dict[str, TrtexecCommands]:
    """The commands for an engine, by TensorRT's major version; to be run where its files are.

    Args:
        manifest: of the engine; the last parent is the ONNX file that it was built from.
        engine: name of the engine's file.

    Returns:
        Commands for versions `10` (10.12 and later) and `11`; none for TensorRT-RTX.
    """
    if manifest.kind is not Kind.TENSORRT:
        return {}
    return {
        version: TrtexecCommands(
            shlex.join(_build(manifest, engine, version)),
            tuple(
                shlex.join(_time(manifest, engine, version, index))
                for index in range(len(manifest.ranges))
            ),
        )
        for version in _BUILD_ONLY
    }


def _build(manifest: Manifest, engine: str, version: str) -> list[str]:
    # As `engine.py` leaves and sets them; the tool's own defaults are 8 and layer_names_only.
    words = ["trtexec", f"--onnx={manifest.parents[-1].name}", "--avgTiming=1"]
    words += ["--profilingVerbosity=detailed", *_BUILD_ONLY[version]]
    words += [] if manifest.precision is Precision.TF32 else ["--noTF32"]
    words += _profiles(manifest)
    words += _options(manifest.engine or EngineBuild())
    return [*words, f"--saveEngine={engine}", "--skipInference"]


def _profiles(manifest: Manifest) -> list[str]:
    words = []
    for index, batch in enumerate(manifest.ranges):
        words += [f"--profile={index}"] if len(manifest.ranges) > 1 else []
        # The tool reads these three right behind their --profile, and nowhere else.
        words += _shapes(manifest, batch)
    return words


def _shapes(manifest: Manifest, batch: Batch) -> list[str]:
    return [
        f"--minShapes={_shape(manifest, batch.min)}",
        f"--optShapes={_shape(manifest, batch.opt)}",
        f"--maxShapes={_shape(manifest, batch.max)}",
    ]


def _shape(manifest: Manifest, batch: int) -> str:
    height, width = manifest.preprocess.size_hw
    return f"images:{batch}x{height}x{width}x3"


def _options(build: EngineBuild) -> list[str]:
    words = []
    if build.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{build.workspace_mib}M")
    if build.optimisation_level is not None:
        words.append(f"--builderOptimizationLevel={build.optimisation_level}")
    if build.hardware in _HARDWARE:
        words.append(f"--hardwareCompatibilityLevel={_HARDWARE[build.hardware]}")
    words += ["--versionCompatible"] if build.version_compatible else []
    words += ["--refit"] if build.refittable else []
    return words


def _time(manifest: Manifest, engine: str, version: str, profile: int) -> list[str]:
    batch = manifest.ranges[profile].opt
    words = ["trtexec", f"--loadEngine={engine}", f"--shapes={_shape(manifest, batch)}"]
    words += [f"--useProfile={profile}"] if len(manifest.ranges) > 1 else []
    # Such an engine holds host code, which the tool loads only with the flag.
    is_compatible = manifest.engine is not None and manifest.engine.version_compatible
    words += ["--versionCompatible"] if is_compatible else []
    return [*words, *_TIME_ONLY[version]]
