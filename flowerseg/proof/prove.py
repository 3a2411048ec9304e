"""Run the very file that ships against its checkpoint, and say what was found."""

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from flowerseg.arrays import Mask, size_of
from flowerseg.artifact import (
    COMPUTED_IN,
    RUNTIMES,
    Artifact,
    Batch,
    BatchAgreement,
    Kind,
    Limits,
    Precision,
    Proof,
    WorstPhoto,
)
from flowerseg.backends.pytorch import PyTorchBackend, open_checkpoint
from flowerseg.caveats import Caveat, label_caveats
from flowerseg.checkpoint import network_from_artifact
from flowerseg.data import PhotoSet
from flowerseg.errors import ArtifactError, ParityError
from flowerseg.evaluate import seen_caveats
from flowerseg.half import emulated_half_from_network
from flowerseg.metrics import Counts, agreement_iou, count, iou, set_iou, total
from flowerseg.model import specialised
from flowerseg.proof.compare import Compared, Expected, compare, expect, undecided_difference
from flowerseg.proof.limits import LIMITS
from flowerseg.seen import signature_of
from flowerseg.segmenter import Segmenter
from flowerseg.selftest import own_map, require_same_map

ODD_BATCH = 3
REFERENCE_BATCH = 8
MIXABLE = 2  # the fewest photos of which one can be taken for another
WORST_KEPT = 8  # photos whose masks are kept for the report
# Runtimes that compute FP16 nodes in FP32 when they run on the CPU.
_WIDENS_HALF = {"onnxruntime", "openvino"}

OnBatch = Callable[[int, int], None]
"""Called with photos done and photos in all."""


@dataclass(frozen=True)
class Worst:
    """The mask of a photo where the model is far from the reference."""

    compared: Compared
    batch: int
    mask: Mask  # (h, w), the model's


@dataclass
class Parity:
    """What was measured between a model and its reference, photo by photo."""

    by_batch: dict[int, list[Compared]] = field(default_factory=dict)
    by_place: list[tuple[int, int, Compared]] = field(default_factory=list)  # batch, place
    worst: list[Worst] = field(default_factory=list)  # the worst first

    @property
    def agreements(self) -> dict[int, float]:
        """Agreement IoU over all photos at each batch size."""
        return {
            n: agreement_iou(total(c.agreement for c in found))
            for n, found in self.by_batch.items()
        }

    @property
    def all(self) -> list[Compared]:
        """Every comparison at every batch size."""
        return [compared for found in self.by_batch.values() for compared in found]


@dataclass(frozen=True)
class Emulated:
    """What half would do to the network, and what of that is beyond the limits."""

    parity: Parity
    faults: list[str]


@dataclass(frozen=True)
class Evidence:
    """A proof with what it rests on."""

    proof: Proof
    parity: Parity
    expected: list[Expected]
    emulated: Emulated | None = None  # where the runtime computes half in FP32


def prove(
    artifact: Artifact,
    reference: Artifact,
    photos: PhotoSet,
    *,
    device: str = "auto",
    runtime: str = "auto",
    limits: Limits | None = None,
    on_batch: OnBatch = lambda *_: None,
    before: Evidence | None = None,
) -> Evidence:
    """Run the file against its checkpoint on labelled photos, at every batch size worth a doubt.

    Args:
        artifact: the file that ships.
        reference: the checkpoint that it was made from; it runs in FP32, one photo at a time.
        photos: labelled photos.
        device: where the file runs; the reference runs there too.
        runtime: what opens the file; `auto` is the first of its kind in `RUNTIMES`.
        limits: None takes `LIMITS` of the precision that the runtime computes in.
        on_batch: progress.
        before: what was found of the same file in another runtime, with the same photos on the
            same device: the reference is not run again.

    Raises:
        ArtifactError: the file was made from another checkpoint, or cannot be opened; or the
            runtime computes with fewer bits than the file has, and it is not proved with its own;
            or photos go another way here than in training, which an INT8 file cannot tell.
        BackendUnavailable: the runtime or the device is not here.
    """
    refuse_stranger(artifact, reference)
    manifest = artifact.manifest
    opener = RUNTIMES[manifest.kind][0] if runtime == "auto" else runtime
    _refuse_fewer_bits_first(artifact, opener)
    with Segmenter.open(
        artifact.path,
        device=device,
        runtime=opener,
        allow_unproven=True,
        is_tested=False,
        trust=True,  # who opened `artifact` has decided
    ) as model:
        info = model.info
        expected = before.expected if before else _expected(artifact, reference, photos, device)
        parity = measure_parity(model, expected, batch_sizes(manifest.ranges), on_batch)
        selftest_map = own_map(artifact, model.backend)
    precision = Precision(info.precision)  # a checkpoint may be opened in another than its own
    allowed = limits or LIMITS[precision]
    how = f"executed by {info}"
    faults = faults_of(parity, expected, allowed)
    emulated: Emulated | None = None
    computes_in_half = Precision.FP16 in (precision, manifest.float_type)
    if computes_in_half and info.device == "cpu" and info.runtime in _WIDENS_HALF:
        how += ", which computes half in FP32, so half was emulated in PyTorch too"
        emulated = before.emulated if before else None
        emulated = emulated or _emulate_half(artifact, reference, expected, allowed)
        faults += emulated.faults
    proof = Proof(
        status="failed" if faults else "proved",
        how=how,
        runtime=opener,
        mode="executed" if emulated is None else "emulated",
        faults=tuple(faults),
        limits=allowed,
        photos=len(photos),
        data=f"{photos.name} {photos.fingerprint[:12]}",
        reference_sha256=reference.manifest.sha256,
        **_figures(parity, expected),
        emulated_agreement_iou=_lowest(emulated.parity if emulated else None),
        caveats=_caveats(reference, photos, expected),
        selftest_map="" if faults else selftest_map,
    )
    return Evidence(proof, parity, expected, emulated)


def _refuse_fewer_bits_first(artifact: Artifact, runtime: str) -> None:
    """Rounding to few bits hides faults of a file that show in its own precision."""
    manifest = artifact.manifest
    if manifest.kind is not Kind.ONNX or runtime not in COMPUTED_IN:
        return
    exact = [each for each in RUNTIMES[manifest.kind] if each not in COMPUTED_IN]
    if not any(manifest.is_proved_in(each) for each in exact):
        raise ArtifactError(
            f"{artifact.path}: {runtime} computes in {COMPUTED_IN[runtime]}, whose rounding hides "
            f"faults of the file. Prove it first in {' or '.join(exact)}: the same command with "
            f"--runtime {exact[0]}."
        )


def _expected(
    artifact: Artifact, reference: Artifact, photos: PhotoSet, device: str
) -> list[Expected]:
    preprocess, own = artifact.manifest.preprocess, reference.manifest.threshold
    with Segmenter(open_checkpoint(reference, device), preprocess, own) as truth:
        if artifact.manifest.precision is Precision.INT8:
            # What the file makes of its self-test is about to become what it is held to, so the
            # photo must go the right way here.
            selftest = artifact.manifest.selftest
            manifest = dataclasses.replace(reference.manifest, selftest=selftest)
            require_same_map(Artifact(reference.path, manifest), truth.backend)
        return list(expect(truth, photos))


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


def batch_sizes(ranges: Sequence[Batch]) -> list[int]:
    """The batch sizes to prove: one, an odd one, and of each range the tuned one and the largest.

    Engines pick other kernels at other sizes; FP16 results that were right below 8 and wrong above
    have shipped (NVIDIA/TensorRT issue 1697). Each optimisation profile has kernels of its own.

    Args:
        ranges: batch sizes that the file takes, one range for each profile; none: any size.
    """
    if not ranges:
        return [1, ODD_BATCH, REFERENCE_BATCH]
    sizes = {1, ODD_BATCH, *(size for batch in ranges for size in (batch.opt, batch.max))}
    return sorted(size for size in sizes if ranges[0].min <= size <= ranges[-1].max)


def measure_parity(
    model: Segmenter,
    expected: Sequence[Expected],
    sizes: Sequence[int],
    on_batch: OnBatch = lambda *_: None,
) -> Parity:
    """Compare a model's results with the reference's at each batch size.

    Each size runs over all photos, and ends with a batch that is not full: see `_batches`. Then
    one photo fills a whole batch: at each place it has to come out the same.
    """
    least = model.info.batch.min if model.info.batch else 1
    batches = {size: list(_batches(expected, size, least)) for size in sizes}
    in_all = sum(len(batch) for size in sizes for batch in batches[size])
    in_all += sum(size for size in sizes if size > 1)
    parity, done = Parity(), 0
    for size in sizes:
        found = parity.by_batch[size] = []
        for batch in batches[size]:
            for compared in _run(model, batch, size, parity):
                found.append(compared)
            done += len(batch)
            on_batch(done, in_all)
        if size > 1:
            places = [_most_telling(expected)] * size
            results = _run(model, places, size, parity)
            parity.by_place += [(size, place, c) for place, c in enumerate(results)]
            done += size
            on_batch(done, in_all)
    return parity


def faults_of(parity: Parity, expected: Sequence[Expected], limits: Limits) -> list[str]:
    """What is beyond the limits, in words; empty when nothing is."""
    faults = [
        f"agreement IoU {agreement:.4f} at batch {size} is below {limits.agreement_iou} "
        f"({_worst_of(parity.by_batch[size])})"
        for size, agreement in parity.agreements.items()
        if agreement < limits.agreement_iou
    ]
    for size, found in parity.by_batch.items():
        faults += _faults_of_photos(size, found, limits)
        undecided = undecided_difference(found)
        if undecided > limits.undecided_difference:
            faults.append(
                f"undecided probabilities differ by {undecided:.4f} in the mean at batch {size}, "
                f"more than {limits.undecided_difference:g}"
            )
    faults += _faults_of_places(parity, limits)
    drop = _iou_drop(parity, expected)
    if drop is not None and drop > limits.iou_drop:
        faults.append(f"IoU against truth drops by {drop:.4f}, more than {limits.iou_drop}")
    if not any(item.band.any() for item in expected):
        faults.append(
            f"the reference draws no outline in any of the {len(expected)} photos, so nothing "
            "could disagree: train it for longer, or give photos with flowers"
        )
    return faults


def _faults_of_photos(size: int, found: Sequence[Compared], limits: Limits) -> Iterator[str]:
    """The photo that is worst by its mask, and the one that is worst by its probabilities."""
    flipped = max(found, key=lambda c: c.flipped_share)
    if flipped.flipped_share > limits.flipped_share:
        yield (
            f"{flipped.flipped_share:.1%} of the pixels of {flipped.name} change sides at batch "
            f"{size}, more than {limits.flipped_share:.1%}"
        )
    # A flower that is lost where the mask was all but empty flips next to nothing.
    apart = max(found, key=lambda c: c.largest_difference)
    if apart.largest_difference > limits.largest_difference:
        yield (
            f"probabilities of {apart.name} differ by up to {apart.largest_difference:.2f} at "
            f"batch {size}, more than {limits.largest_difference}"
        )


def _faults_of_places(parity: Parity, limits: Limits) -> list[str]:
    """Places of a batch at which a photo comes out worse than it does elsewhere."""
    faults = []
    for size, shares in _shares_by_place(parity).items():
        bad = max(shares, key=lambda place: shares[place])
        if shares[bad] - min(shares.values()) > limits.flipped_share:
            faults.append(
                f"the same photo at place {bad + 1} of a batch of {size} has "
                f"{shares[bad] - min(shares.values()):.1%} more pixels that change sides"
            )
    return faults


def _shares_by_place(parity: Parity) -> dict[int, dict[int, float]]:
    """At each batch size the share of the same photo's pixels that change sides, by place."""
    shares: dict[int, dict[int, float]] = {}
    for size, place, compared in parity.by_place:
        shares.setdefault(size, {})[place] = compared.flipped_share
    return shares


def _figures(parity: Parity, expected: Sequence[Expected]) -> dict[str, Any]:
    """The fields of a proof that are measured."""
    agreements = parity.agreements
    lowest = min(agreements, key=lambda size: agreements[size])
    found = parity.by_batch[lowest]
    return {
        "batch_sizes": tuple(agreements),
        "agreement_by_batch": tuple(BatchAgreement(n, a) for n, a in agreements.items()),
        "agreement_iou": agreements[lowest],
        "band_iou": iou(total(c.band for c in found)),
        "flipped_pixels": sum(c.flipped for c in found),
        "pixels": sum(c.pixels for c in found),
        "flipped_share": max(c.flipped_share for c in parity.all),
        "place_share": max(
            (max(s.values()) - min(s.values()) for s in _shares_by_place(parity).values()),
            default=None,
        ),
        "largest_difference": max(c.largest_difference for c in parity.all),
        "undecided_difference": max(map(undecided_difference, parity.by_batch.values())),
        "worst": tuple(
            WorstPhoto(
                w.compared.name, w.batch, agreement_iou(w.compared.agreement), w.compared.flipped
            )
            for w in parity.worst
        ),
        "model_iou": _model_iou(parity),
        "reference_iou": _reference_iou(expected),
    }


def _lowest(parity: Parity | None) -> float | None:
    return min(parity.agreements.values(), default=None) if parity else None


def _run(
    model: Segmenter, batch: Sequence[Expected], size: int, parity: Parity
) -> Iterator[Compared]:
    foregrounds = model.infer([item.frame for item in batch])
    for item, foreground in zip(batch, foregrounds, strict=True):
        mask = model.mask(foreground, size_of(item.labels))
        compared = compare(item, foreground, mask)
        _keep_if_bad(parity.worst, Worst(compared, size, mask))
        yield compared


def _keep_if_bad(worst: list[Worst], found: Worst) -> None:
    """Keep the worst photos, each once, the worst first."""
    if not found.compared.flipped:
        return
    same = [w for w in worst if w.compared.name == found.compared.name]
    if same and same[0].compared.flipped_share >= found.compared.flipped_share:
        return
    rest = [w for w in worst if w.compared.name != found.compared.name]
    worst[:] = heapq.nlargest(WORST_KEPT, [*rest, found], key=lambda w: w.compared.flipped_share)


def _most_telling(expected: Sequence[Expected]) -> Expected:
    """A photo with flower and background in near equal parts: what spoils it shows."""
    return min(expected, key=lambda e: abs(float(e.mask.mean()) - 0.5))


def _batches(expected: Sequence[Expected], size: int, least: int) -> Iterator[Sequence[Expected]]:
    """Full batches of all photos, then one of two photos or more that is not full.

    It stands for the end of every folder, where results have been mixed up or taken from padding.
    Photos repeat to fill the batches; none is smaller than the `least` that the model takes.
    """
    shortest = min(size, max(least, MIXABLE))
    count = max(size, len(expected))
    rest = count % size
    if rest < shortest:
        count += (shortest - rest) % size
    filled = list(islice(cycle(expected), count))
    for start in range(0, count, size):
        yield filled[start : start + size]


def _worst_of(found: Sequence[Compared]) -> str:
    worst = min(found, key=lambda c: agreement_iou(c.agreement))
    return f"worst photo {worst.name}: {agreement_iou(worst.agreement):.4f}"


def _model_iou(parity: Parity) -> float | None:
    """Of the batch size that does worst against truth, each photo once; None as in `set_iou`."""
    photos = min(len(found) for found in parity.by_batch.values())
    each = [set_iou(total(c.truth for c in found[:photos])) for found in parity.by_batch.values()]
    return min((found for found in each if found is not None), default=None)


def _reference_iou(expected: Sequence[Expected]) -> float | None:
    return set_iou(total(_against_truth(e) for e in expected))


def _iou_drop(parity: Parity, expected: Sequence[Expected]) -> float | None:
    """How much IoU against truth is lost; None where the labels give no score."""
    model, reference = _model_iou(parity), _reference_iou(expected)
    return None if model is None or reference is None else reference - model


def _caveats(
    reference: Artifact, photos: PhotoSet, expected: Sequence[Expected]
) -> tuple[Caveat, ...]:
    """What is to be known about the figures against truth; the file's are near the reference's."""
    data = reference.manifest.data
    counts = [_against_truth(item) for item in expected]
    found = label_caveats(counts, data.val_iou if data else None)
    if _reference_iou(expected) is None:
        return found
    return found + seen_caveats(data, photos, [signature_of(item.frame) for item in expected])


def _against_truth(expected: Expected) -> Counts:
    return count(expected.mask, expected.labels)


def _emulate_half(
    artifact: Artifact, reference: Artifact, expected: Sequence[Expected], limits: Limits
) -> Emulated:
    preprocess = reference.manifest.preprocess
    network = specialised(network_from_artifact(reference), preprocess.size_hw)
    emulation = emulated_half_from_network(network, artifact.manifest.keep_fp32)
    backend = PyTorchBackend(emulation, preprocess.size_hw, "cpu")
    try:
        with Segmenter(backend, preprocess, reference.manifest.threshold) as emulated:
            parity = measure_parity(emulated, expected, [REFERENCE_BATCH])
    except ParityError as error:
        return Emulated(Parity(), [f"emulated half: {error}"])
    faults = faults_of(parity, expected, limits)
    return Emulated(parity, [f"emulated half: {fault}" for fault in faults])
