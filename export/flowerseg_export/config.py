"""What an export is asked for, and the command that asks for the same again."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowerseg.artifact import (
    Artifact,
    Batch,
    EngineBuild,
    Hardware,
    Kind,
    Manifest,
    Precision,
    manifest_path,
    open_artifact,
    read_manifest,
    rebuild_advice,
    whole_range,
)
from flowerseg.errors import ArtifactError, ExportError
from flowerseg.files import convert_paths
from flowerseg_export.int8 import Calibration

ENGINES = (Kind.TENSORRT, Kind.TENSORRT_RTX)


@dataclass(frozen=True)
class ExportConfig:
    """Everything that decides what an export writes."""

    source: Path  # a checkpoint; for engines also an ONNX file of flowerseg
    out: Path
    target: Kind = Kind.ONNX
    precision: Precision = Precision.FP32  # of a checkpoint's export; an ONNX file carries its own
    float_type: Precision = Precision.FP32  # of INT8: what is not quantised computes in it
    profiles: tuple[Batch, ...] = (Batch(),)  # of an engine: batch sizes of each profile
    build: EngineBuild = field(default_factory=EngineBuild)
    keep_fp32: tuple[str, ...] = ()  # globs of modules that FP16 and INT8 leave alone
    repair: bool = False  # add to keep_fp32 what FP16 needs to pass its proof
    calibration: Calibration = Calibration.MINMAX
    refit: Path | None = None  # the engine whose kernels are kept, with the weights of `source`
    reference: Path | None = None  # the checkpoint to prove against, where `source` is not it
    data: Path | None = None  # labelled photos for the proof, and for INT8's calibration
    split: str = "val"
    calibration_split: str = "train"
    limit: int | None = 64
    few_photos: bool = False  # prove on fewer than `proof.limits.LEAST_PHOTOS` too
    device: str = "auto"
    force: bool = False
    trust: bool = False  # take the engine of `refit` although another user can change it

    def __post_init__(self) -> None:
        convert_paths(self, "source", "out", "refit", "reference", "data")
        whole_range(self.profiles)
        if self.precision is Precision.INT8 and self.target in (Kind.PT2, Kind.CHECKPOINT):
            raise ValueError(f"INT8 is made for ONNX and TensorRT, not for {self.target}")
        if self.float_type is Precision.FP16 and self.target not in ENGINES:
            raise ValueError(
                "--int8 with --fp16 is for engines (--to tensorrt or tensorrt-rtx): on processors "
                "ONNX Runtime and OpenVINO compute FP16 in FP32. Leave --fp16 out"
            )
        if self.precision is Precision.INT8 and self.data is None:
            raise ValueError("INT8 needs photos to calibrate on: --data")
        if self.precision is Precision.TF32 and self.target is not Kind.TENSORRT:
            raise ValueError("TF32 is a mode of TensorRT's matrix units: --to tensorrt")
        if self.precision is Precision.BF16:
            raise ValueError("no file is exported in BF16: OpenVINO computes FP32 files in it")
        if self.keep_fp32 and self.precision not in (Precision.FP16, Precision.INT8):
            raise ValueError("--keep-fp32 leaves modules out of --fp16 or --int8")
        if self.repair and (self.precision is not Precision.FP16 or self.data is None):
            raise ValueError(
                "--repair finds on photos what half gets wrong: give --fp16 and --data, without "
                "--int8"
            )
        if self.repair and self.target is Kind.CHECKPOINT:
            raise ValueError("--repair is for what computes in half; a checkpoint only stores it")
        if self.build.compute_capabilities and self.target is not Kind.TENSORRT_RTX:
            raise ValueError("--compute-capability is for TensorRT-RTX, which builds for any GPU")
        if self.build.version_compatible and self.target is not Kind.TENSORRT:
            raise ValueError("--version-compatible is for TensorRT; RTX has no lean runtime")
        if self.build.hardware is not Hardware.SAME and self.target is not Kind.TENSORRT:
            raise ValueError(
                "--hardware-compatible is for TensorRT; RTX engines run on all RTX GPUs"
            )

    @property
    def batch(self) -> Batch:
        """The batch sizes that an engine takes."""
        return whole_range(self.profiles)

    @property
    def onnx_path(self) -> Path:
        """Where the ONNX file goes: beside an engine, or it is what was asked for."""
        return self.out.with_suffix(".onnx") if self.target in ENGINES else self.out


def rebuild_command(config: ExportConfig) -> str:
    """The command that makes the same file again."""
    words = ["flowerseg-export", str(config.source)]
    if config.refit:  # whose manifest says the rest
        words += ["--refit", str(config.refit)]
        return shlex.join([*words, *_proof_options(config), "--out", str(config.out), "--force"])
    words += ["--to", str(config.target)]
    words += [f"--{config.precision}"] if config.precision is not Precision.FP32 else []
    words += ["--fp16"] if config.float_type is Precision.FP16 else []
    for glob in config.keep_fp32:
        words += ["--keep-fp32", glob]
    if config.precision is Precision.INT8:
        words += ["--calibration", str(config.calibration)]
    if config.target in ENGINES:
        for batch in config.profiles:
            words += ["--batch", str(batch)]
        words += _build_options(config.build)
    words += ["--reference", str(config.reference)] if config.reference else []
    return shlex.join([*words, *_proof_options(config), "--out", str(config.out), "--force"])


def config_to_rebuild(engine: Path, **proof: Any) -> ExportConfig:
    """The config that builds an engine again from the ONNX file beside it, for this machine.

    The engine's own bytes are not looked at: they may be of another GPU, or gone.

    Args:
        engine: where it is, or was; its manifest must be there.
        proof: fields of `ExportConfig` that the proof needs: reference, data, split, limit, device.

    Raises:
        ArtifactError: the manifest is missing or damaged, or the ONNX file is missing or another
            one.
        ExportError: the file is no engine.
    """
    manifest = read_manifest(manifest_path(engine))
    if manifest.kind not in ENGINES or not manifest.parents:
        raise ExportError(
            f"{engine}: a file of kind {manifest.kind} runs wherever its runtime does; only "
            f"engines are rebuilt. {rebuild_advice(engine)}"
        )
    parent = manifest.parents[-1]
    source = _parent_beside(engine, parent.name, parent.sha256)
    return config_of_engine(
        engine,
        manifest,
        source=source.path,
        out=engine,
        # What else the engine computes in is in the ONNX file.
        precision=Precision.TF32 if manifest.precision is Precision.TF32 else Precision.FP32,
        force=True,
        **proof,
    )


def config_of_engine(engine: Path, manifest: Manifest, **fields: Any) -> ExportConfig:
    """The config of an engine that is built or refitted as a manifest describes it.

    Args:
        engine: whose manifest it is.
        manifest: kind, batch sizes and build are taken from it.
        fields: the other fields of `ExportConfig`.

    Raises:
        ArtifactError: no such engine can be built, so the manifest was changed.
    """
    try:
        return ExportConfig(
            target=manifest.kind,
            profiles=manifest.ranges or (Batch(),),
            build=manifest.engine or EngineBuild(),
            **fields,
        )
    except ValueError as error:
        raise ArtifactError(
            f"{manifest_path(engine)}: describes an engine that cannot be built ({error}). Copy "
            "the engine and its manifest again, or export the checkpoint again."
        ) from error


def _proof_options(config: ExportConfig) -> list[str]:
    if config.data is None:
        return []
    few = ["--few-photos"] if config.few_photos else []
    return ["--data", str(config.data), "--split", config.split, *few]


def _parent_beside(engine: Path, name: str, sha256: str) -> Artifact:
    path = engine.with_name(name)
    if not path.is_file():
        raise ArtifactError(
            f"{path}: the ONNX file that {engine.name} was built from is not beside it. Copy it "
            "and its manifest here, or export the checkpoint again."
        )
    source = open_artifact(path)
    if source.manifest.sha256 != sha256:
        raise ArtifactError(
            f"{path}: not the file that {engine.name} was built from (SHA-256 "
            f"{source.manifest.sha256[:12]}…, its manifest names {sha256[:12]}…). Copy the right "
            f"one, or build anew: flowerseg-export {path} --to … --out {engine} --force"
        )
    return source


def _build_options(build: EngineBuild) -> list[str]:
    words = []
    if build.workspace_mib is not None:
        words += ["--workspace", str(build.workspace_mib)]
    if build.optimisation_level is not None:
        words += ["--optimisation-level", str(build.optimisation_level)]
    if build.hardware is not Hardware.SAME:
        words += ["--hardware-compatible", str(build.hardware)]
    words += ["--version-compatible"] if build.version_compatible else []
    words += ["--refittable"] if build.refittable else []
    for capability in build.compute_capabilities:
        words += ["--compute-capability", capability]
    return words
