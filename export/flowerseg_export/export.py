"""One export: checkpoint -> ONNX -> engine, each link published with its manifest and proved."""

import dataclasses
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from flowerseg.abandoned import remove_abandoned
from flowerseg.arrays import Rgb
from flowerseg.artifact import (
    Artifact,
    BuiltFor,
    Kind,
    Manifest,
    Precision,
    QuantisedFor,
    as_parent,
    open_artifact,
    publish,
    record_proof,
    rewrite_manifest,
)
from flowerseg.backends import kind_of_device, runtimes_here
from flowerseg.backends.device import (
    compute_capability,
    cpu_features,
    device_name,
    resolve_device,
)
from flowerseg.backends.trt import Engine, import_tensorrt
from flowerseg.checkpoint import network_from_artifact, save_checkpoint
from flowerseg.data import PhotoSet, open_photos
from flowerseg.errors import BackendUnavailable, ExportError, FlowersegError
from flowerseg.files import require_writable
from flowerseg.half import compact_from_network, half_from_network
from flowerseg.model import FlowerNet, specialised
from flowerseg.preprocess import frame_from_photo
from flowerseg.proof import Evidence, OnBatch, prove
from flowerseg.proof.command import verify_command
from flowerseg.proof.painted import with_selftest
from flowerseg.proof.prove import require_enough
from flowerseg.proof.report import write_due_report
from flowerseg.proofrecord import Fault, FaultKind, Proof
from flowerseg_export.config import ENGINES, ExportConfig, rebuild_command
from flowerseg_export.engine import OnProgress, built_for, engine_from_onnx
from flowerseg_export.graph import OPSET_OF_HALF_SCALES, onnx_from_network, set_metadata
from flowerseg_export.int8 import Flavour, int8_from_onnx
from flowerseg_export.pt2 import write_pt2
from flowerseg_export.refit import Refitted, refit, require_same_graph, require_same_network
from flowerseg_export.repair import Repaired, repair
from flowerseg_export.trtexec import trtexec_commands

CALIBRATION_PHOTOS = 48

OnStage = Callable[[str], None]
"""Called with what is being done now, for progress."""


@dataclass(frozen=True)
class Listener:
    """Called with the progress of an export."""

    on_stage: OnStage = lambda _: None
    on_progress: OnProgress = lambda *_: None  # of the engine's builder
    on_batch: OnBatch = lambda *_: None  # of the proof
    on_repaired: Callable[[Repaired], None] = lambda _: None


def export_model(config: ExportConfig, listener: Listener | None = None) -> list[Artifact]:
    """Export and prove; return the files written, the requested one last.

    An engine leaves the ONNX file that it was built from beside it: the chain can be checked, and
    the engine rebuilt.

    Raises:
        ArtifactError, DataError: the source or the data cannot be used.
        BackendUnavailable: the target needs a module or a GPU that is not here.
        ExportError: a converter refuses, or a target exists and `force` is not set.
        OutputError: the folder cannot be written to.
    """
    listener = listener or Listener()
    source = open_artifact(config.source)
    reference = _reference(config, source)
    photos = _photos(config, source)
    _refuse_existing(config, source)
    require_writable(config.out.parent)
    remove_abandoned(config.out.parent)
    config = _repaired(config, source, photos, listener)
    source = with_selftest(source)
    written = _write_chain(config, source, listener)
    listener.on_stage("proving")
    return [_proved(a, reference, photos, config, listener.on_batch) for a in written]


def _reference(config: ExportConfig, source: Artifact) -> Artifact | None:
    """The checkpoint to prove against; None where only an ONNX file is at hand."""
    if source.manifest.kind is Kind.CHECKPOINT:
        return source
    if source.manifest.kind is not Kind.ONNX or config.target not in ENGINES:
        raise ExportError(
            f"{source.path} is a model of kind {source.manifest.kind}; flowerseg-export starts "
            "from a checkpoint (.pt) of flowerseg-train, and for engines from an ONNX file too."
        )
    own = source.manifest.precision
    if config.precision not in (Precision.FP32, own) and not (
        config.precision is Precision.TF32 and own is Precision.FP32
    ):
        raise ExportError(
            f"{source.path} carries its own precision ({own}). Leave --{config.precision} out, or "
            "export the checkpoint."
        )
    own_float = source.manifest.float_type
    if config.precision is Precision.INT8 and config.float_type is not own_float:
        raise ExportError(
            f"{source.path} computes in {own_float} what is not quantised. Leave --int8 and --fp16 "
            "out, or export the checkpoint."
        )
    return open_artifact(config.reference) if config.reference else None


def _photos(config: ExportConfig, source: Artifact) -> PhotoSet | None:
    if config.data is None:
        return None
    photos = open_photos(config.data, config.split, source.manifest.rules).limited(config.limit)
    require_enough(photos, few_photos=config.few_photos)
    return photos


def _repaired(
    config: ExportConfig, source: Artifact, photos: PhotoSet | None, listener: Listener
) -> ExportConfig:
    """The config that names the modules which `--repair` keeps in FP32."""
    if not config.repair or photos is None:
        return config
    if source.manifest.kind is not Kind.CHECKPOINT:
        raise ExportError(f"{source.path}: --repair starts from a checkpoint (.pt).")
    listener.on_stage("looking for modules that have to stay in FP32")
    found = repair(source, photos, keep_fp32=config.keep_fp32, device=config.device)
    listener.on_repaired(found)
    return dataclasses.replace(config, keep_fp32=found.keep_fp32, repair=False)


def _write_chain(config: ExportConfig, source: Artifact, listener: Listener) -> list[Artifact]:
    """The requested file, after those that it is made from."""
    if config.refit:
        return _write_refitted(
            config, open_artifact(config.refit, trust=config.trust), source, listener
        )
    if config.target in ENGINES:
        # Without a GPU there is no engine: refuse before minutes of work.
        built_for(config.target, config.build, config.device)
        import_tensorrt(config.target)
    if source.manifest.kind is Kind.ONNX:
        return [_write_engine(config, source, listener)]
    network = network_from_artifact(source)
    match config.target:
        case Kind.CHECKPOINT:
            return [_write_compact(config, source, network)]
        case Kind.PT2:
            listener.on_stage("compiling with AOTInductor")
            return [_write_pt2(config, source, network)]
        case _:
            listener.on_stage("exporting to ONNX")
            graph = _write_onnx(config, source, network)
            return (
                [graph, _write_engine(config, graph, listener)]
                if config.target in ENGINES
                else [graph]
            )


def _write_compact(config: ExportConfig, source: Artifact, network: FlowerNet) -> Artifact:
    """A checkpoint of half the size: weights are stored in half and computed with in FP32."""
    stored = compact_from_network(network) if config.precision is Precision.FP16 else network
    return save_checkpoint(config.out, stored, _manifest(config, source, Kind.CHECKPOINT))


def _write_onnx(config: ExportConfig, source: Artifact, network: FlowerNet) -> Artifact:
    model, manifest = _graph(config, source, network)
    return publish(config.onnx_path, manifest, lambda path: _save(model, path))


def _graph(
    config: ExportConfig, source: Artifact, network: FlowerNet
) -> tuple[onnx.ModelProto, Manifest]:
    """The ONNX file's content, and its manifest."""
    manifest = _manifest(config, source, Kind.ONNX)
    if config.precision is Precision.INT8:
        model, how = _int8_model(config, source, network)
        quantised_for: QuantisedFor = "tensorrt" if config.target in ENGINES else "cpu"
        manifest = dataclasses.replace(manifest, quantisation=how, quantised_for=quantised_for)
    else:
        typed = _typed(config, source, network)
        model = onnx_from_network(typed, source.manifest.preprocess.size_hw)
    set_metadata(model, _metadata(manifest))
    return model, manifest


def _int8_model(
    config: ExportConfig, source: Artifact, network: FlowerNet
) -> tuple[onnx.ModelProto, str]:
    """The quantised graph, and how it was quantised."""
    size_hw = source.manifest.preprocess.size_hw
    special = specialised(network, size_hw)
    model, half = onnx_from_network(special, size_hw), None
    if config.float_type is Precision.FP16:
        half = onnx_from_network(_in_half(config, special), size_hw, OPSET_OF_HALF_SCALES)
    frames = _calibration_frames(config, source)
    flavour = Flavour.TENSORRT if config.target in ENGINES else Flavour.CPU
    calibration = config.calibration
    model = int8_from_onnx(model, frames, flavour, calibration, config.keep_fp32, half)
    rest = f", {config.float_type} between them" if flavour is Flavour.TENSORRT else ""
    return model, f"{flavour}{rest}; {calibration} over {len(frames)} photos"


def _write_engine(config: ExportConfig, graph: Artifact, listener: Listener) -> Artifact:
    """An engine from an ONNX file: what it is, it has from that file."""
    listener.on_stage(f"building the {config.target} engine")
    takes_tf32 = config.precision is Precision.TF32
    engine = engine_from_onnx(
        onnx.load(graph.path),
        config.target,
        graph.manifest.preprocess.size_hw,
        config.profiles,
        config.build,
        device=config.device,
        allow_tf32=takes_tf32,
        on_progress=listener.on_progress,
        on_notice=listener.on_stage,
    )
    manifest = dataclasses.replace(
        graph.manifest,
        kind=config.target,
        precision=Precision.TF32 if takes_tf32 else graph.manifest.precision,
        batch=config.batch,
        profiles=config.profiles,
        engine=config.build,
        parents=(*graph.manifest.parents, as_parent(graph)),
        built_for=built_for(config.target, config.build, config.device),
        proof=None,
        # The module's own word, which is what opening the engine compares.
        versions={str(config.target): import_tensorrt(config.target).__version__},
        rebuild=rebuild_command(config),
    )
    manifest = dataclasses.replace(manifest, trtexec=trtexec_commands(manifest, config.out.name))
    return publish(config.out, manifest, lambda path: _write(path, engine))


def _write_refitted(
    config: ExportConfig, old: Artifact, source: Artifact, listener: Listener
) -> list[Artifact]:
    """An engine with the weights of the checkpoint, after the ONNX file that holds them too.

    Nothing is written before TensorRT has taken the weights: refitted in place, an engine and its
    ONNX file stay as they were where it refuses.
    """
    require_same_network(old, source)
    engine = Engine(
        old, config.device, listener.on_stage
    )  # without its GPU: refused before the work
    listener.on_stage("exporting to ONNX")
    model, manifest = _graph(config, source, network_from_artifact(source))
    require_same_graph(old, model)
    listener.on_stage(f"replacing the weights of {old.path}")
    refitted = refit(engine, model)
    _report_lost_refit(config, old, refitted, listener)
    graph = publish(config.onnx_path, manifest, lambda path: _save(model, path))
    manifest = dataclasses.replace(
        graph.manifest,
        kind=config.target,
        precision=config.precision,
        batch=config.batch,
        profiles=config.profiles,
        engine=dataclasses.replace(config.build, refittable=refitted.is_refittable),
        parents=(*graph.manifest.parents, as_parent(graph)),
        built_for=old.manifest.built_for,
        versions={str(config.target): old.manifest.versions[config.target]},
        rebuild=rebuild_command(config),
    )
    manifest = dataclasses.replace(manifest, trtexec=trtexec_commands(manifest, config.out.name))
    return [graph, publish(config.out, manifest, lambda path: _write(path, refitted.content))]


def _report_lost_refit(
    config: ExportConfig, old: Artifact, refitted: Refitted, listener: Listener
) -> None:
    """TensorRT before 10.14 may serialise a refitted engine as one that takes no other weights."""
    if refitted.is_refittable:
        return
    if config.out.resolve() == old.path.resolve():
        raise ExportError(
            f"{old.path}: this version of TensorRT writes a refitted engine that cannot be "
            "refitted again, and it would replace the one that can. Choose another --out, or use "
            "TensorRT 10.14 or later."
        )
    listener.on_stage(
        f"{config.out} cannot be refitted again (TensorRT before 10.14): keep {old.path} for the "
        "next checkpoint"
    )


def _write_pt2(config: ExportConfig, source: Artifact, network: FlowerNet) -> Artifact:
    device = resolve_device(config.device)
    typed = _typed(config, source, network).to(device)
    gpu = device_name(device) if device != "cpu" else ""
    manifest = dataclasses.replace(
        _manifest(config, source, Kind.PT2),
        built_for=BuiltFor(
            gpu, compute_capability(device), platform.system(), cpu_features=cpu_features()
        ),
    )
    size_hw = source.manifest.preprocess.size_hw
    return publish(config.out, manifest, lambda path: write_pt2(typed, size_hw, path))


def _typed(config: ExportConfig, source: Artifact, network: FlowerNet) -> FlowerNet:
    """The network for its frames' size, in the precision that the graph is to have."""
    special = specialised(network, source.manifest.preprocess.size_hw)
    return _in_half(config, special) if config.precision is Precision.FP16 else special


def _in_half(config: ExportConfig, special: FlowerNet) -> FlowerNet:
    try:
        return half_from_network(special, config.keep_fp32)
    except ValueError as error:
        raise ExportError(f"--keep-fp32: {error}.") from error


def _manifest(config: ExportConfig, source: Artifact, kind: Kind) -> Manifest:
    # A checkpoint is computed with in FP32, whatever its weights are stored in; TF32 is a mode of
    # the engine, and the graph that it is built from is FP32.
    is_fp32 = kind is Kind.CHECKPOINT or config.precision is Precision.TF32
    return Manifest(
        kind=kind,
        architecture=source.manifest.architecture,
        precision=Precision.FP32 if is_fp32 else config.precision,
        float_type=config.float_type,
        keep_fp32=config.keep_fp32,
        preprocess=source.manifest.preprocess,
        threshold=source.manifest.threshold,
        parents=(as_parent(source),),
        data=source.manifest.data,
        selftest=source.manifest.selftest,
        rebuild=rebuild_command(config),
    )


def _metadata(manifest: Manifest) -> dict[str, str]:
    """What the ONNX file says about itself; no dates, so that equal input gives equal bytes."""
    fields = json.loads(manifest.to_json())
    kept = ("schema", "kind", "architecture", "precision", "quantisation", "keep_fp32")
    inside = {name: fields[name] for name in (*kept, "preprocess", "threshold", "parents", "data")}
    if inside["data"]:
        # One entry for each training photo: they would not say more inside the file.
        inside["data"].pop("seen")
    if manifest.float_type is not Precision.FP32:  # said only where it is not the default
        inside["float_type"] = manifest.float_type
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
    artifact: Artifact,
    reference: Artifact | None,
    photos: PhotoSet | None,
    config: ExportConfig,
    on_batch: OnBatch,
) -> Artifact:
    if photos is None or reference is None:
        missing = (
            "labelled photos were given (--data)"
            if reference
            else "checkpoint was given (--reference)"
        )
        return rewrite_manifest(artifact, proof=Proof("not run", f"no {missing}"))
    try:
        evidence = prove(
            artifact,
            reference,
            photos,
            device=config.device,
            few_photos=config.few_photos,
            on_batch=on_batch,
        )
    except BackendUnavailable as error:
        # Built for a GPU that is not here. That is no failure, and it is no proof either.
        reason = str(error).removeprefix(f"{artifact.path}: ")
        return rewrite_manifest(artifact, proof=Proof("not run", f"built, not run: {reason}"))
    proved = record_proof(artifact, evidence.proof)
    proved = _proved_elsewhere(proved, reference, photos, config, evidence)
    fields = ("data", "split", "limit", "few_photos", "device")
    requested = {name: getattr(config, name) for name in fields}
    command = verify_command(artifact.path, requested | {"reference": reference.path})
    write_due_report(evidence, proved, photos, command)
    return proved


def _proved_elsewhere(
    artifact: Artifact,
    reference: Artifact,
    photos: PhotoSet,
    config: ExportConfig,
    before: Evidence,
) -> Artifact:
    """Prove the file in every other runtime here: `auto` takes the fastest that was proved."""
    for runtime in runtimes_here(artifact.manifest, config.device):
        if runtime != before.proof.runtime:
            try:
                found = prove(
                    artifact,
                    reference,
                    photos,
                    device=config.device,
                    runtime=runtime,
                    few_photos=config.few_photos,
                    before=before,
                )
            except FlowersegError as error:
                failed = _not_opened(artifact, runtime, config.device, error)
                artifact = record_proof(artifact, failed)
            else:
                artifact = record_proof(artifact, found.proof)
    return artifact


def _not_opened(artifact: Artifact, runtime: str, device: str, error: FlowersegError) -> Proof:
    """The proof of a file that a runtime refuses."""
    return Proof(
        "failed",
        f"not opened: {error}",
        runtime=runtime,
        device=kind_of_device(artifact.manifest, runtime, device),
        faults=(Fault(FaultKind.NOT_OPENED, detail=f"not opened: {error}"),),
    )


def _refuse_existing(config: ExportConfig, source: Artifact) -> None:
    if config.target in ENGINES and config.out == config.onnx_path:
        name = config.out.with_suffix(".engine").name
        raise ExportError(f"{config.out}: the ONNX file goes there. Name the engine {name}.")
    written = {config.out}
    if source.manifest.kind is Kind.CHECKPOINT:
        written.add(config.onnx_path)
    existing = sorted(path for path in written if path.exists())
    if existing and not config.force:
        raise ExportError(f"{existing[0]} exists. Choose another --out, or say --force.")


def _save(model: onnx.ModelProto, path: Path) -> None:
    # Deterministic: protobuf may order maps differently from run to run.
    path.write_bytes(model.SerializeToString(deterministic=True))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
