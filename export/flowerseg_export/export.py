"""One export: checkpoint -> ONNX -> engine, each link published with its manifest and proved."""

import dataclasses
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from flowerseg.arrays import Rgb
from flowerseg.artifact import (
    Artifact,
    Batch,
    BuiltFor,
    Kind,
    Manifest,
    Precision,
    Proof,
    as_parent,
    open_artifact,
    publish,
    rewrite_manifest,
)
from flowerseg.backends.device import compute_capability, device_name, resolve_device
from flowerseg.backends.trt import import_tensorrt
from flowerseg.checkpoint import network_from_artifact, save_checkpoint
from flowerseg.data import PhotoSet, open_photos
from flowerseg.errors import BackendUnavailable, ExportError
from flowerseg.half import half_from_network
from flowerseg.model import FlowerNet
from flowerseg.parity import OnBatch, prove
from flowerseg.preprocess import frame_from_photo
from flowerseg_export.engine import built_for, engine_from_onnx
from flowerseg_export.graph import onnx_from_network, set_metadata
from flowerseg_export.int8 import Flavour, int8_from_onnx
from flowerseg_export.pt2 import write_pt2

CALIBRATION_PHOTOS = 48
ENGINES = (Kind.TENSORRT, Kind.TENSORRT_RTX)

OnStage = Callable[[str], None]
"""Called with what is being done now, for progress."""


@dataclass(frozen=True)
class ExportConfig:
    """Everything that decides what an export writes."""

    checkpoint: Path
    out: Path
    target: Kind = Kind.ONNX
    precision: Precision = Precision.FP32
    batch: Batch = dataclasses.field(default_factory=Batch)
    data: Path | None = None  # labelled photos for the proof, and for INT8's calibration
    split: str = "val"
    calibration_split: str = "train"
    limit: int | None = 64
    device: str = "auto"
    force: bool = False

    def __post_init__(self) -> None:
        if self.precision is Precision.INT8 and self.target in (Kind.PT2, Kind.CHECKPOINT):
            raise ValueError(f"INT8 is made for ONNX and TensorRT, not for {self.target}")
        if self.precision is Precision.INT8 and self.data is None:
            raise ValueError("INT8 needs photos to calibrate on: --data")


def export_model(
    config: ExportConfig,
    on_stage: OnStage = lambda _: None,
    on_batch: OnBatch = lambda *_: None,
) -> list[Artifact]:
    """Export and prove; return the files written, the one asked for last.

    An engine leaves the ONNX file that it was built from beside it: the chain can be checked, and
    the engine rebuilt.

    Raises:
        ArtifactError, DataError: the checkpoint or the data cannot be used.
        BackendUnavailable: the target needs a module or a GPU that is not here.
        ExportError: a converter refuses, or a target exists and `force` is not set.
    """
    source = open_artifact(config.checkpoint)
    network = network_from_artifact(source)
    rules = source.manifest.rules
    photos = open_photos(config.data, config.split, rules) if config.data else None
    _refuse_existing(config)
    if config.target is Kind.CHECKPOINT:
        written = [_write_compact(config, source, network)]
    elif config.target is Kind.PT2:
        on_stage("compiling with AOTInductor")
        written = [_write_pt2(config, source, network)]
    else:
        if config.target in ENGINES:
            built_for(config.target)  # no GPU, no engine: said before minutes of work
            import_tensorrt(config.target)
        on_stage("exporting to ONNX")
        written = [_write_onnx(config, source, network)]
        if config.target in ENGINES:
            on_stage(f"building the {config.target} engine")
            written.append(_write_engine(config, source, written[0]))
    limited = photos.limited(config.limit) if photos else None
    on_stage("proving")
    return [_proved(artifact, source, limited, config.device, on_batch) for artifact in written]


def _write_compact(config: ExportConfig, source: Artifact, network: FlowerNet) -> Artifact:
    """A checkpoint of half the size: weights are stored in half and computed with in FP32."""
    stored = half_from_network(network) if config.precision is Precision.FP16 else network
    return save_checkpoint(config.out, stored, _manifest(config, source, Kind.CHECKPOINT))


def _write_onnx(config: ExportConfig, source: Artifact, network: FlowerNet) -> Artifact:
    size_hw = source.manifest.preprocess.size_hw
    half = config.precision is Precision.FP16
    model = onnx_from_network(half_from_network(network) if half else network, size_hw)
    manifest = _manifest(config, source, Kind.ONNX)
    if config.precision is Precision.INT8:
        flavour = Flavour.TENSORRT if config.target in ENGINES else Flavour.CPU
        model = int8_from_onnx(model, _calibration_frames(config, source), flavour)
        manifest = dataclasses.replace(manifest, quantisation=str(flavour))
    set_metadata(model, _metadata(manifest))
    return publish(_onnx_path(config), manifest, lambda path: _save(model, path))


def _write_engine(config: ExportConfig, source: Artifact, parent: Artifact) -> Artifact:
    size_hw = source.manifest.preprocess.size_hw
    model = onnx.load(parent.path)
    engine = engine_from_onnx(model, config.target, size_hw, config.batch)
    manifest = dataclasses.replace(
        _manifest(config, source, config.target),
        batch=config.batch,
        quantisation=parent.manifest.quantisation,
        parents=(as_parent(source), as_parent(parent)),
        built_for=built_for(config.target),
        # The module's own word, which is what opening the engine compares.
        versions={str(config.target): import_tensorrt(config.target).__version__},
    )
    return publish(config.out, manifest, lambda path: _write(path, engine))


def _write_pt2(config: ExportConfig, source: Artifact, network: FlowerNet) -> Artifact:
    device = resolve_device(config.device)
    typed = half_from_network(network) if config.precision is Precision.FP16 else network
    typed.to(device)
    gpu = device_name(device) if device != "cpu" else ""
    manifest = dataclasses.replace(
        _manifest(config, source, Kind.PT2),
        built_for=BuiltFor(gpu, compute_capability(device), platform.system()),
    )
    size_hw = source.manifest.preprocess.size_hw
    return publish(config.out, manifest, lambda path: write_pt2(typed, size_hw, path))


def _manifest(config: ExportConfig, source: Artifact, kind: Kind) -> Manifest:
    return Manifest(
        kind=kind,
        architecture=source.manifest.architecture,
        # A checkpoint is computed with in FP32, whatever its weights are stored in.
        precision=Precision.FP32 if kind is Kind.CHECKPOINT else config.precision,
        preprocess=source.manifest.preprocess,
        threshold=source.manifest.threshold,
        parents=(as_parent(source),),
        data=source.manifest.data,
        rebuild=rebuild_command(config),
    )


def rebuild_command(config: ExportConfig) -> str:
    """The command that makes the same file again."""
    words = [f"flowerseg-export {config.checkpoint} --to {config.target}"]
    words += [f"--{config.precision}"] if config.precision is not Precision.FP32 else []
    words += [f"--batch {config.batch}"] if config.target in ENGINES else []
    words += [f"--data {config.data} --split {config.split}"] if config.data else []
    return " ".join([*words, f"--out {config.out}", "--force"])


def _metadata(manifest: Manifest) -> dict[str, str]:
    """What the ONNX file says about itself; no dates, so that equal input gives equal bytes."""
    fields = json.loads(manifest.to_json())
    kept = ("schema", "kind", "architecture", "precision", "quantisation", "preprocess")
    inside = {name: fields[name] for name in (*kept, "threshold", "parents", "data")}
    return {"flowerseg": json.dumps(inside, sort_keys=True)}


def _calibration_frames(config: ExportConfig, source: Artifact) -> list[Rgb]:
    if config.data is None:
        raise AssertionError("ExportConfig lets no INT8 pass without data")
    manifest = source.manifest
    photos = open_photos(config.data, config.calibration_split, manifest.rules)
    return [
        frame_from_photo(item.read_rgb(), manifest.preprocess)
        for item in photos.limited(CALIBRATION_PHOTOS).photos
    ]


def _proved(
    artifact: Artifact, source: Artifact, photos: PhotoSet | None, device: str, on_batch: OnBatch
) -> Artifact:
    if photos is None:
        how = "no labelled photos were given (--data)"
        return rewrite_manifest(artifact, proof=Proof("not run", how))
    try:
        proof = prove(artifact, source, photos, device=device, on_batch=on_batch)
    except BackendUnavailable as error:
        # Built for a GPU that is not here. That is no failure, and it is no proof either.
        reason = str(error).removeprefix(f"{artifact.path}: ")
        proof = Proof("not run", f"built, not run: {reason}")
    return rewrite_manifest(artifact, proof=proof)


def _refuse_existing(config: ExportConfig) -> None:
    if config.target in ENGINES and config.out == _onnx_path(config):
        name = config.out.with_suffix(".engine").name
        raise ExportError(f"{config.out}: the ONNX file goes there. Name the engine {name}.")
    existing = [path for path in {config.out, _onnx_path(config)} if path.exists()]
    if existing and not config.force:
        raise ExportError(f"{existing[0]} exists. Choose another --out, or say --force.")


def _onnx_path(config: ExportConfig) -> Path:
    return config.out.with_suffix(".onnx") if config.target in ENGINES else config.out


def _save(model: onnx.ModelProto, path: Path) -> None:
    # Deterministic: protobuf may order maps differently from run to run.
    path.write_bytes(model.SerializeToString(deterministic=True))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
