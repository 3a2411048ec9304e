"""Prove files on all photos once, then on random samples of what was measured."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowerseg.artifact import Artifact, open_artifact
from flowerseg.backends import runtimes_here
from flowerseg.errors import DataError
from flowerseg.metrics import agreement_iou, total
from flowerseg.proof import Evidence, prove
from flowerseg.proof.emulation import Int8Emulation
from flowerseg.proof.faults import faults_of
from flowerseg.proof.passes import Parity
from flowerseg.proofrecord import Fault, fault_text
from flowerseg.unlabelled import open_unlabelled
from flowerseg_bench.record import Finding, table_of

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Setup:
    """Which files are proved, and on how many photos."""

    checkpoint: Path
    models: tuple[Path, ...]
    photos: Path
    limit: int | None
    sample: int
    resamples: int
    device: str


@dataclass(frozen=True)
class Verdicts:
    """What the proofs of one file in one runtime said."""

    model: str
    runtime: str
    evidence: Evidence
    agreements: tuple[float, ...]  # IoU of each sample
    faults: tuple[tuple[Fault, ...], ...] = field(repr=False)  # of each sample

    @property
    def alarms(self) -> list[tuple[Fault, ...]]:
        """Samples with a fault that quantisation does not explain."""
        return [found for found in self.faults if not all(fault.is_cost for fault in found)]

    @property
    def refused(self) -> int:
        """Samples on which quantisation costs more than the limits allow, and that is all."""
        return sum(bool(found) for found in self.faults) - len(self.alarms)


def measure_unseen(setup: Setup) -> Finding:
    """Prove every model in every runtime here.

    Raises:
        FlowersegError: a file cannot be opened, or was made from another checkpoint.
    """
    reference = open_artifact(setup.checkpoint)
    photos = open_unlabelled(setup.photos).limited(setup.limit)
    if len(photos) < setup.sample:
        raise DataError(f"{setup.photos}: fewer than --sample {setup.sample} photos. Lower it.")
    verdicts: list[Verdicts] = []
    for model in setup.models:
        artifact, before = open_artifact(model), None
        for runtime in runtimes_here(artifact.manifest, setup.device):
            before = prove(
                artifact, reference, photos, device=setup.device, runtime=runtime, before=before
            )
            verdicts.append(_verdicts(artifact, before, setup))
    return finding_of(setup, len(photos), verdicts)


def _verdicts(artifact: Artifact, evidence: Evidence, setup: Setup) -> Verdicts:
    samples = list(samples_of(evidence, setup.sample, setup.resamples))
    limits = evidence.proof.limits
    if limits is None:
        raise AssertionError("a proof that was run has limits")
    return Verdicts(
        artifact.path.name,
        evidence.proof.runtime,
        evidence,
        tuple(agreement_iou(total(c.agreement for c in sample.parity.alone)) for sample in samples),
        tuple(
            tuple(faults_of(sample.parity, sample.expected, limits, sample.int8))
            for sample in samples
        ),
    )


def samples_of(evidence: Evidence, photos: int, resamples: int) -> Iterator[Evidence]:
    """What would have been measured on random samples of the photos, without replacement."""
    rng = np.random.default_rng(0)
    for _ in range(resamples):
        picks = rng.choice(len(evidence.expected), photos, replace=False).tolist()
        yield dataclasses.replace(
            evidence,
            expected=[evidence.expected[i] for i in picks],
            parity=_part(evidence.parity, picks),
            int8=_int8_part(evidence.int8, picks),
        )


def _part(parity: Parity, picks: Sequence[int]) -> Parity:
    """What was measured of the photos at some places, and of all stress frames."""
    of_photos: dict[str, Any] = {
        name: [found[i] for i in picks]
        for name in ("alone", "folder", "emulated")
        if (found := getattr(parity, name))
    }
    return dataclasses.replace(parity, **of_photos)


def _int8_part(int8: Int8Emulation | None, picks: Sequence[int]) -> Int8Emulation | None:
    if int8 is None:
        return None
    expected = [int8.expected[i] for i in picks]
    return dataclasses.replace(int8, expected=expected, parity=_part(int8.parity, picks))


def finding_of(setup: Setup, photos: int, verdicts: Sequence[Verdicts]) -> Finding:
    """A row for each file in each runtime, and why proofs failed."""
    proofs = len(verdicts) * setup.resamples
    alarms = sum(len(each.alarms) for each in verdicts)
    refused = sum(each.refused for each in verdicts)
    reasons = Counter(
        f"{each.model} in {each.runtime}: {fault_text(fault)}"
        for each in verdicts
        for fault in each.evidence.proof.faults
    )
    return Finding(
        headline=(
            f"{alarms} of {proofs} proofs of correct files of {setup.checkpoint.name} were false "
            f"alarms; {refused} were refused for what quantisation costs"
        ),
        table=table_of(
            f"Proofs on {setup.sample} of {photos} photos, {setup.resamples} times",
            (
                "file",
                "agreement of all",
                "lowest",
                "highest",
                "most flipped",
                "probabilities",
                "undecided",
                "false alarms",
                "refused",
            ),
            [_row(each) for each in verdicts],
        ),
        notes=(
            *(f"On all photos: {reason}" for reason in reasons),
            "Agreement is the IoU of the masks of file and checkpoint, at the photos' own size; "
            "flipped are pixels of one photo on the other side of the threshold; probabilities "
            "differ by so much at most, undecided ones in the mean",
            "Refused: the emulation of the file's quantisation has the same faults, so that the "
            "file is right, and quantisation costs too much",
        ),
        raw={
            "settings": {name: str(value) for name, value in vars(setup).items()},
            "quantiles": QUANTILES,
            "verdicts": [_raw(each) for each in verdicts],
        },
    )


def _row(each: Verdicts) -> tuple[str, ...]:
    proof = each.evidence.proof
    return (
        f"{each.model} in {each.runtime}",
        f"{proof.agreement_iou:.5f}",
        f"{min(each.agreements):.5f}",
        f"{max(each.agreements):.5f}",
        f"{proof.flipped_share:.3%}",
        f"{proof.largest_difference:.3f}",
        f"{proof.undecided_difference:.5f}",
        str(len(each.alarms)),
        str(each.refused),
    )


def _raw(each: Verdicts) -> dict[str, Any]:
    return {
        "model": each.model,
        "runtime": each.runtime,
        "proof": dataclasses.asdict(each.evidence.proof),
        "agreement_quantiles": np.quantile(each.agreements, QUANTILES).tolist(),
        "false_alarms": len(each.alarms),
        "refused": each.refused,
        "samples_with_fault": Counter(
            kind for found in each.faults for kind in {str(fault.kind) for fault in found}
        ),
    }
