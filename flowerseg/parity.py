"""The proof: do the masks of the very file that ships equal those of the FP32 PyTorch model?

Both go through the same `Segmenter`: same photos, preprocess, resize back and threshold. Only the
backend differs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from flowerseg.arrays import Labels, Mask, Rgb, size_of
from flowerseg.artifact import Artifact, Batch, Kind, Limits, Precision, Proof
from flowerseg.backends.pytorch import PyTorchBackend, open_checkpoint
from flowerseg.checkpoint import network_from_artifact
from flowerseg.data import PhotoSet
from flowerseg.errors import ArtifactError, ParityError
from flowerseg.evaluate import read_pair
from flowerseg.half import emulated_half_from_network
from flowerseg.metrics import Counts, count, count_agreement, iou, total
from flowerseg.model import specialised
from flowerseg.preprocess import frame_from_photo
from flowerseg.segmenter import Segmenter

# Rounding of a correct export stays above these, faults below: on a trained MobileNetV3 FP32 gave
# 1.0 and FP16 0.9998, while a threshold off by 0.05 gave 0.989 and a resize without antialiasing
# 0.990. INT8 gave 0.992.
LIMITS: dict[Precision, Limits] = {
    Precision.FP32: Limits(agreement_iou=0.9995, iou_drop=0.001),
    Precision.TF32: Limits(agreement_iou=0.998, iou_drop=0.002),  # the mantissa of FP16
    Precision.FP16: Limits(agreement_iou=0.998, iou_drop=0.002),
    Precision.INT8: Limits(agreement_iou=0.98, iou_drop=0.01),
}

ODD_BATCH = 3
REFERENCE_BATCH = 8
# Runtimes that compute FP16 nodes in FP32 when they run on the CPU.
_WIDENS_HALF = {"onnxruntime", "openvino"}

OnBatch = Callable[[int, int], None]
"""Called with photos done and photos in all."""


@dataclass(frozen=True)
class Expected:
    """One labelled photo as the model sees it, and what the reference makes of it."""

    name: str
    frame: Rgb  # (H, W, 3)
    labels: Labels  # (h, w)
    reference: Mask  # (h, w)


@dataclass(frozen=True)
class Parity:
    """What was measured between a model and its reference."""

    agreement_by_batch: dict[int, float]
    worst_photo: str
    worst_agreement: float
    model_iou: float
    reference_iou: float

    @property
    def agreement(self) -> float:
        """The lowest agreement over the batch sizes."""
        return min(self.agreement_by_batch.values())


def prove(
    artifact: Artifact,
    reference: Artifact,
    photos: PhotoSet,
    *,
    device: str = "auto",
    runtime: str = "auto",
    limits: Limits | None = None,
    on_batch: OnBatch = lambda *_: None,
) -> Proof:
    """Run the file against its checkpoint on labelled photos, at every batch size worth a doubt.

    Args:
        artifact: the file that ships.
        reference: the checkpoint that it was made from.
        photos: labelled photos.
        device: where the file runs; the reference runs there too.
        runtime: what opens an ONNX file.
        limits: None takes `LIMITS` of the file's precision.
        on_batch: progress.

    Raises:
        ArtifactError: the file was made from another checkpoint, or cannot be opened.
        BackendUnavailable: the runtime or the device is not here.
    """
    refuse_stranger(artifact, reference)
    manifest = artifact.manifest
    allowed = limits or LIMITS[manifest.precision]
    path = artifact.path
    with Segmenter.open(path, device=device, runtime=runtime, allow_unproven=True) as model:
        own = reference.manifest.threshold
        with Segmenter(open_checkpoint(reference, device), manifest.preprocess, own) as truth:
            expected = expect(truth, photos)
        parity = measure_parity(model, expected, batch_sizes(manifest.batch), on_batch)
        info = model.info
    how = [f"executed by {info}"]
    faults = _faults(parity, allowed)
    if (
        manifest.precision is Precision.FP16
        and info.device == "cpu"
        and info.runtime in _WIDENS_HALF
    ):
        how.append("which computes half in FP32, so half was emulated in PyTorch too")
        faults += _faults_of_emulated_half(artifact, reference, expected, allowed)
    return Proof(
        status="failed" if faults else "proved",
        how=", ".join(how) + "".join(f"; {fault}" for fault in faults),
        limits=allowed,
        photos=len(photos),
        data=f"{photos.name} {photos.fingerprint[:12]}",
        batch_sizes=tuple(parity.agreement_by_batch),
        agreement_iou=parity.agreement,
        model_iou=parity.model_iou,
        reference_iou=parity.reference_iou,
        reference_sha256=reference.manifest.sha256,
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


def batch_sizes(batch: Batch | None) -> list[int]:
    """The batch sizes to prove: one, an odd one, the tuned one and the largest.

    Engines pick other kernels at other sizes; FP16 results that were right below 8 and wrong above
    have shipped (NVIDIA/TensorRT issue 1697).
    """
    if batch is None:
        return [1, ODD_BATCH, REFERENCE_BATCH]
    sizes = {1, ODD_BATCH, batch.opt, batch.max}
    return sorted(size for size in sizes if batch.min <= size <= batch.max)


def expect(reference: Segmenter, photos: PhotoSet) -> list[Expected]:
    """Frames, labels and the reference's masks of labelled photos."""
    expected = []
    for item in photos.photos:
        rgb, labels = read_pair(item)
        frame = frame_from_photo(rgb, reference.preprocess)
        (foreground,) = reference.infer([frame])
        mask = reference.mask(foreground, size_of(rgb))
        expected.append(Expected(item.name, frame, labels, mask))
    return expected


def measure_parity(
    model: Segmenter,
    expected: Sequence[Expected],
    sizes: Sequence[int],
    on_batch: OnBatch = lambda *_: None,
) -> Parity:
    """Compare a model's masks with the reference's, and both with the truth, void left out.

    Each size runs over all photos, the last batch being partial; a size above their number runs
    once, filled up with repeated photos.
    """
    total_photos = sum(max(size, len(expected)) for size in sizes)
    done = 0
    by_size: dict[int, list[Counts]] = {}
    truths: list[Counts] = []
    for size in sizes:
        agreements = []
        for batch in _batches(expected, size):
            foregrounds = model.infer([item.frame for item in batch])
            for item, foreground in zip(batch, foregrounds, strict=True):
                mask = model.mask(foreground, size_of(item.labels))
                agreements.append(count_agreement(mask, item.reference))
                truths.append(count(mask, item.labels))
            done += len(batch)
            on_batch(done, total_photos)
        by_size[size] = agreements
    worst = min(
        ((iou(c), item.name) for cs in by_size.values() for c, item in zip(cs, cycle(expected))),
    )
    return Parity(
        agreement_by_batch={size: iou(total(counts)) for size, counts in by_size.items()},
        worst_photo=worst[1],
        worst_agreement=worst[0],
        model_iou=iou(total(truths[: len(expected)])),
        reference_iou=iou(total(count(e.reference, e.labels) for e in expected)),
    )


def _batches(expected: Sequence[Expected], size: int) -> Iterator[Sequence[Expected]]:
    filled = list(islice(cycle(expected), max(size, len(expected))))
    for start in range(0, len(filled), size):
        yield filled[start : start + size]


def _faults(parity: Parity, limits: Limits) -> list[str]:
    """What is beyond the limits, in words; empty when nothing is."""
    faults = [
        f"agreement IoU {agreement:.4f} at batch {size} is below {limits.agreement_iou} "
        f"(worst photo {parity.worst_photo}: {parity.worst_agreement:.4f})"
        for size, agreement in parity.agreement_by_batch.items()
        if agreement < limits.agreement_iou
    ]
    drop = parity.reference_iou - parity.model_iou
    if drop > limits.iou_drop:
        faults.append(f"IoU against truth drops by {drop:.4f}, more than {limits.iou_drop}")
    return faults


def _faults_of_emulated_half(
    artifact: Artifact, reference: Artifact, expected: Sequence[Expected], limits: Limits
) -> list[str]:
    preprocess = reference.manifest.preprocess
    network = specialised(network_from_artifact(reference), preprocess.size_hw)
    emulation = emulated_half_from_network(network, artifact.manifest.keep_fp32)
    backend = PyTorchBackend(emulation, preprocess.size_hw, "cpu")
    emulated = Segmenter(backend, preprocess, reference.manifest.threshold)
    try:
        with emulated:
            parity = measure_parity(emulated, expected, [REFERENCE_BATCH])
    except ParityError as error:
        return [f"emulated half: {error}"]
    return [f"emulated half: {fault}" for fault in _faults(parity, limits)]
