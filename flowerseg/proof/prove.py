"""Run the very file that ships against its checkpoint, and say what was found."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from flowerseg.artifact import COMPUTED_IN, RUNTIMES, Artifact, Kind, Manifest, Precision
from flowerseg.backends import STREAMED, BackendInfo, SessionOptions, for_folders, kind_of_device
from flowerseg.backends.pytorch import PyTorchBackend, open_checkpoint
from flowerseg.caveats import Caveat, label_caveats
from flowerseg.checkpoint import network_from_artifact
from flowerseg.data import PhotoSet
from flowerseg.errors import ArtifactError, DataError, ParityError
from flowerseg.evaluate import seen_caveats
from flowerseg.half import emulated_half_from_network
from flowerseg.model import specialised
from flowerseg.proof import limits as rules
from flowerseg.proof.compare import Expected, expect
from flowerseg.proof.emulation import Int8Emulation, emulate_int8
from flowerseg.proof.faults import faults_of, reference_counts, reference_iou
from flowerseg.proof.figures import figures_of
from flowerseg.proof.limits import limits_of
from flowerseg.proof.passes import (
    OnBatch,
    Parity,
    agreement_of,
    batch_sizes,
    measure_alone,
    measure_parity,
)
from flowerseg.proof.stress import expect_stress
from flowerseg.proofrecord import Fault, FaultKind, Limits, Proof
from flowerseg.seen import signature_of
from flowerseg.segmenter import Segmenter
from flowerseg.selftest import own_map, require_same_map

REFERENCE_BATCH = 8
# Runtimes that compute FP16 nodes in FP32 when they run on the CPU.
_WIDENS_HALF = {"onnxruntime", "openvino"}
_HALF_EMULATED = ", which computes half in FP32, so half was emulated in PyTorch too"


@dataclass(frozen=True)
class Emulated:
    """What half would do to the network, and what of that is beyond the limits."""

    parity: Parity
    faults: list[Fault]


@dataclass(frozen=True)
class Evidence:
    """A proof with what it rests on."""

    proof: Proof
    parity: Parity
    expected: list[Expected]
    stress: list[Expected] = field(default_factory=list)
    emulated: Emulated | None = None  # where the runtime computes half in FP32
    int8: Int8Emulation | None = None  # of a quantised file


def prove(
    artifact: Artifact,
    reference: Artifact,
    photos: PhotoSet,
    *,
    device: str = "auto",
    runtime: str = "auto",
    limits: Limits | None = None,
    largest_batch: int | None = None,
    cuda_graph: bool | None = None,
    few_photos: bool = False,
    on_batch: OnBatch = lambda *_: None,
    before: Evidence | None = None,
) -> Evidence:
    """Run the file against its checkpoint on photos, in all ways in which it is used.

    Args:
        artifact: the file that ships.
        reference: the checkpoint that it was made from; it runs in FP32, one photo at a time.
        photos: with labels or without; without them agreement alone is proved.
        device: where the file runs; the reference runs there too.
        runtime: what opens the file; `auto` is the first of its kind in `RUNTIMES`.
        limits: None takes `limits_of` the precision that the runtime computes in.
        largest_batch: to run, of a file that takes any; None: see `passes.batch_sizes`.
        cuda_graph: replay batches from a CUDA graph; None: as a folder run does in this runtime.
        few_photos: prove on fewer than `limits.LEAST_PHOTOS` different photos too.
        on_batch: progress.
        before: what was found of the same file in another runtime, with the same photos on the
            same device: the reference is not run again.

    Raises:
        ArtifactError: the file was made from another checkpoint, or cannot be opened; or the
            runtime computes with fewer bits than the file has, and it is not proved with its own;
            or photos go another way here than in training.
        BackendUnavailable: the runtime or the device is not here.
        DataError: there are too few photos.
    """
    refuse_stranger(artifact, reference)
    require_enough(photos, few_photos=few_photos)
    manifest = artifact.manifest
    opener = RUNTIMES[manifest.kind][0] if runtime == "auto" else runtime
    _refuse_fewer_bits_first(artifact, opener)
    _refuse_largest_batch_of_ranges(artifact, largest_batch)
    options = _as_folders_are_run(manifest, opener, device, cuda_graph)
    sizes = batch_sizes(manifest.ranges, largest_batch)
    with Segmenter.open(
        artifact.path,
        device=device,
        runtime=opener,
        options=options,
        allow_unproven=True,
        is_tested=False,
        trust=True,  # who opened `artifact` has decided
    ) as model:
        info = model.info
        expected, stress = (
            (before.expected, before.stress)
            if before
            else _expected(artifact, reference, photos, device)
        )
        int8 = _int8_emulation(artifact, reference, expected, stress, before)
        emulated_photos = int8.expected if int8 else []
        parity = measure_parity(model, expected, sizes, on_batch, stress, emulated_photos)
        selftest_map = own_map(artifact, model.backend)
    precision = Precision(info.precision)  # a checkpoint may be opened in another than its own
    allowed = limits or limits_of(precision, manifest.float_type)
    faults = [
        *_threshold_faults(artifact, reference),
        *faults_of(parity, expected, allowed, int8),
    ]
    emulated: Emulated | None = None
    if _widens_half(manifest, precision, info):
        emulated = before.emulated if before else None
        emulated = emulated or _emulate_half(artifact, reference, expected, stress, allowed)
        faults += emulated.faults
    proof = Proof(
        status="failed" if faults else "proved",
        how=f"executed by {info}{_HALF_EMULATED if emulated else ''}",
        runtime=opener,
        version=info.version,
        device=info.device.partition(":")[0],
        device_name=info.device_name,
        cuda_graph=options.cuda_graph,
        mode="executed" if emulated is None else "emulated",
        faults=tuple(faults),
        limits=allowed,
        photos=len(photos),
        data=f"{photos.name} {photos.fingerprint[:12]}",
        reference_sha256=reference.manifest.sha256,
        **figures_of(parity, expected, int8, allowed.rounding),
        emulated_agreement_iou=_agreement_of(emulated),
        caveats=_caveats(reference, photos, expected),
        selftest_map="" if faults else selftest_map,
    )
    return Evidence(proof, parity, expected, stress, emulated, int8)


def _widens_half(manifest: Manifest, precision: Precision, info: BackendInfo) -> bool:
    """Whether a runtime computes a file's half in FP32, which hides overflows."""
    computes_in_half = Precision.FP16 in (precision, manifest.float_type)
    return computes_in_half and info.device == "cpu" and info.runtime in _WIDENS_HALF


def _as_folders_are_run(
    manifest: Manifest, runtime: str, device: str, cuda_graph: bool | None
) -> SessionOptions:
    """The options of a folder run, with two streams at least where the runtime can.

    A folder run has one on a machine with one core, but a proof is for other machines too.
    """
    options = for_folders(manifest, runtime, device)
    if cuda_graph is not None:
        options = dataclasses.replace(options, cuda_graph=cuda_graph)
    if runtime in STREAMED[kind_of_device(manifest, runtime, device)]:
        return dataclasses.replace(options, streams=max(2, options.streams))
    return options


def _threshold_faults(artifact: Artifact, reference: Artifact) -> list[Fault]:
    own, given = artifact.manifest.threshold, reference.manifest.threshold
    return [Fault(FaultKind.THRESHOLD, own, given)] if own != given else []


def _refuse_fewer_bits_first(artifact: Artifact, runtime: str) -> None:
    """Rounding to few bits hides faults of a file that show in its own precision."""
    manifest = artifact.manifest
    if manifest.kind is not Kind.ONNX or runtime not in COMPUTED_IN:
        return
    exact = [each for each in RUNTIMES[manifest.kind] if each not in COMPUTED_IN]
    if not any(manifest.is_proved_in(each, "cpu") for each in exact):
        raise ArtifactError(
            f"{artifact.path}: {runtime} computes in {COMPUTED_IN[runtime]}, whose rounding hides "
            f"faults of the file. Prove it first in {' or '.join(exact)}: the same command with "
            f"--runtime {exact[0]}."
        )


def _refuse_largest_batch_of_ranges(artifact: Artifact, largest: int | None) -> None:
    ranges = artifact.manifest.ranges
    if largest is not None and ranges:
        raise ArtifactError(
            f"{artifact.path} takes batches of {', '.join(map(str, ranges))}, and all of them are "
            "proved: leave --largest-batch out, which is for models that take any."
        )


def _expected(
    artifact: Artifact, reference: Artifact, photos: PhotoSet, device: str
) -> tuple[list[Expected], list[Expected]]:
    """The reference's results of the photos, and of stress frames."""
    preprocess, own = artifact.manifest.preprocess, reference.manifest.threshold
    with Segmenter(open_checkpoint(reference, device), preprocess, own) as truth:
        # Reference and file get the same frames, so a photo that goes another way to its frame
        # here than in training, turned over for instance, would show in neither.
        manifest = dataclasses.replace(reference.manifest, selftest=artifact.manifest.selftest)
        require_same_map(Artifact(reference.path, manifest), truth.backend)
        found = list(expect(truth, photos))
        return found, expect_stress(truth, found)


def require_enough(photos: PhotoSet, *, few_photos: bool = False) -> None:
    """Refuse to prove on fewer than `limits.LEAST_PHOTOS` photos, unless few are accepted.

    Raises:
        DataError: there are fewer.
    """
    different = len(set(photos.content_hashes))
    least = rules.LEAST_PHOTOS
    if different < least and not few_photos:
        raise DataError(
            f"{photos.name}: {different} different photos, and a proof takes {least} at least: "
            "results that change places in a batch may not show on fewer. Give more (--limit, "
            "--split), or say --few-photos."
        )


def refuse_stranger(artifact: Artifact, reference: Artifact) -> None:
    """Refuse to compare a file with a checkpoint that it was not made from.

    Raises:
        ArtifactError: `reference` is no checkpoint, or not an ancestor of the file.
    """
    if reference.manifest.kind is not Kind.CHECKPOINT:
        raise ArtifactError(f"{reference.path}: the reference must be a checkpoint (.pt).")
    own = {parent.sha256 for parent in artifact.manifest.parents} | {artifact.manifest.sha256}
    if reference.manifest.sha256 not in own:
        raise ArtifactError(
            f"{artifact.path} was not made from {reference.path}: its manifest names another "
            "checkpoint. Export it again, or give the checkpoint that it came from."
        )
    if artifact.manifest.preprocess != reference.manifest.preprocess:
        raise ArtifactError(
            f"{artifact.path} and {reference.path} prepare photos differently "
            f"({artifact.manifest.preprocess}, {reference.manifest.preprocess}). Export it again."
        )


def _int8_emulation(
    artifact: Artifact,
    reference: Artifact,
    expected: Sequence[Expected],
    stress: Sequence[Expected],
    before: Evidence | None,
) -> Int8Emulation | None:
    """None of a file that is not quantised."""
    if artifact.manifest.precision is not Precision.INT8:
        return None
    return before.int8 if before else emulate_int8(artifact, reference, expected, stress)


def _agreement_of(emulated: Emulated | None) -> float | None:
    """None where it did not come through."""
    return agreement_of(emulated.parity.alone) if emulated and emulated.parity.alone else None


def _caveats(
    reference: Artifact, photos: PhotoSet, expected: Sequence[Expected]
) -> tuple[Caveat, ...]:
    """What is to be known about the figures against truth; the file's are near the reference's."""
    if not photos.is_labelled:
        return ()
    data = reference.manifest.data
    counts = [reference_counts(item) for item in expected]
    found = label_caveats(counts, data.val_iou if data else None)
    if reference_iou(expected) is None:
        return found
    return found + seen_caveats(data, photos, [signature_of(item.frame) for item in expected])


def _emulate_half(
    artifact: Artifact,
    reference: Artifact,
    expected: Sequence[Expected],
    stress: Sequence[Expected],
    limits: Limits,
) -> Emulated:
    preprocess = reference.manifest.preprocess
    network = specialised(network_from_artifact(reference), preprocess.size_hw)
    emulation = emulated_half_from_network(network, artifact.manifest.keep_fp32)
    backend = PyTorchBackend(emulation, preprocess.size_hw, "cpu")
    try:
        with Segmenter(backend, preprocess, reference.manifest.threshold) as emulated:
            parity = measure_alone(emulated, expected, REFERENCE_BATCH, stress)
    except ParityError as error:
        overflow = Fault(FaultKind.OVERFLOW, detail=str(error), is_emulated=True)
        return Emulated(Parity(), [overflow])
    faults = faults_of(parity, expected, limits)
    return Emulated(parity, [dataclasses.replace(fault, is_emulated=True) for fault in faults])
