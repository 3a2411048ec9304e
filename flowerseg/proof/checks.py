"""A proof as a list of checks: what was measured, what is allowed, and whether that holds."""

from collections.abc import Iterator
from dataclasses import dataclass

from flowerseg.caveats import caveat_text
from flowerseg.metrics import score_text
from flowerseg.proof import limits as rules
from flowerseg.proofrecord import Fault, FaultKind, Limits, Proof, fault_text

QUANTISATION_COSTS = (
    "Quantisation itself costs more than the limits allow, as an emulation with the file's scales "
    "shows: export with --calibration percentile, calibrate on photos like these "
    "(--data), keep modules in floats (--keep-fp32), or ship FP16."
)


@dataclass(frozen=True)
class Check:
    """One thing that had to hold, in words."""

    name: str
    found: str
    limit: str
    faults: tuple[str, ...] = ()
    is_skipped: bool = False  # it could not be checked

    @property
    def verdict(self) -> str:
        """`ok`, `FAILED`, or `n/a` where it could not be checked."""
        return "FAILED" if self.faults else "n/a" if self.is_skipped else "ok"


def checks_of(proof: Proof) -> list[Check]:
    """The checks of a proof that was run, each with the faults that belong to it."""
    if proof.limits is None:
        return []
    rows = list(_rows(proof, proof.limits))
    checks = [
        Check(
            row.name,
            row.found,
            row.limit,
            tuple(fault_text(fault) for fault in proof.faults if row.has(fault)),
            is_skipped=FaultKind.TRUTH in row.kinds and not is_scored(proof),
        )
        for row in rows
    ]
    if others := [f for f in proof.faults if not any(row.has(f) for row in rows)]:
        checks.append(Check("anything else", "", "", tuple(map(fault_text, others))))
    return checks


def is_scored(proof: Proof) -> bool:
    """Whether the labels gave a score against truth; without one only agreement was proved."""
    return proof.model_iou is not None and proof.reference_iou is not None


def warnings_of(proof: Proof) -> list[str]:
    """What is to be known about the figures against truth, in sentences."""
    texts = [caveat_text(caveat, "the reference") for caveat in proof.caveats]
    if proof.limits is not None and not is_scored(proof):
        texts.append("Agreement with the reference was checked, IoU against truth was not.")
    if 0 < proof.photos < rules.LEAST_PHOTOS:
        texts.append(
            f"Only {proof.photos} photos: results that change places in a batch may not show."
        )
    if any(fault.is_cost for fault in proof.faults):
        texts.append(QUANTISATION_COSTS)
    return [text[0].upper() + text[1:] for text in texts]


def percent(share: float | None) -> str:
    """A share with its first two digits, however small it is: `0.012 %`."""
    return "–" if share is None else f"{float(f'{100 * share:.2g}'):g} %"


def five_digits(iou: float | None) -> str:
    """An IoU as proofs print it."""
    return score_text(iou, 5)


@dataclass(frozen=True)
class _Row:
    name: str
    found: str
    limit: str
    kinds: tuple[FaultKind, ...] = ()
    is_emulated: bool = False

    def has(self, fault: Fault) -> bool:
        """Whether a fault belongs to this check."""
        return fault.is_emulated if self.is_emulated else self._has_kind(fault)

    def _has_kind(self, fault: Fault) -> bool:
        return fault.kind in self.kinds and not fault.is_emulated


# Fields of `Proof` and of `Limits`, with the name of the check, digits behind the point, and fault.
_DIFFERENCES = (
    (
        "largest_difference",
        "largest difference of a probability",
        3,
        FaultKind.DIFFERENCE,
    ),
    (
        "undecided_difference",
        "mean difference where PyTorch is undecided",
        5,
        FaultKind.UNDECIDED,
    ),
    ("tail_difference", "mean difference where PyTorch is sure", 5, FaultKind.TAILS),
)


def _rows(proof: Proof, limits: Limits) -> Iterator[_Row]:
    least = f"at least {limits.agreement_iou:g}"
    yield _Row(
        "agreement with PyTorch FP32",
        f"IoU {five_digits(proof.alone_agreement_iou)} photo by photo, "
        f"{five_digits(proof.folder_agreement_iou)} as folders are run, "
        f"{five_digits(proof.band_iou)} along outlines",
        least,
        (FaultKind.AGREEMENT,),
    )
    yield from _rows_of_int8(proof, limits)
    truth = f"{five_digits(proof.model_iou)}, PyTorch {five_digits(proof.reference_iou)}"
    yield _Row(
        "IoU against truth",
        truth if is_scored(proof) else "n/a",
        f"may drop by {limits.iou_drop:g}",
        (FaultKind.TRUTH,),
    )
    yield _Row(
        "pixels of one photo that change sides",
        f"{percent(proof.flipped_share)}; by more than rounding explains "
        f"{percent(proof.jumped_share)}",
        f"at most {percent(limits.flipped_share)}",
        (FaultKind.FLIPPED,),
    )
    for field, name, digits, kind in _DIFFERENCES:
        found = getattr(proof, field)
        if found is not None:
            most = f"at most {getattr(limits, field):g}"
            yield _Row(name, f"{found:.{digits}f}", most, (kind,))
    yield from _further_rows(proof, limits)
    if proof.mode == "emulated":
        yield _Row(
            "half precision, emulated",
            f"IoU {five_digits(proof.emulated_agreement_iou)}",
            least,
            is_emulated=True,
        )


def _rows_of_int8(proof: Proof, limits: Limits) -> Iterator[_Row]:
    if proof.quantised_agreement_iou is None:
        return
    yield _Row(
        "INT8 emulated in PyTorch, beside PyTorch FP32",
        f"IoU {five_digits(proof.quantised_agreement_iou)}: what quantisation costs",
        f"the file may lose {percent(limits.agreement_drop)} more",
        (FaultKind.AGREEMENT_DROP,),
    )
    yield _Row(
        "a module beside INT8 emulated in PyTorch",
        f"{proof.module_difference:.4f} of its spread",
        f"at most {limits.module_difference:g}",
        (FaultKind.MODULE,),
    )
    yield _Row(
        "the file beside INT8 emulated in PyTorch",
        f"IoU {five_digits(proof.emulated_iou)}; of one photo {percent(proof.emulated_share)} "
        "change sides by more than rounding explains",
        f"at most {percent(limits.emulated_share)}",
        (FaultKind.EMULATED,),
    )


def _further_rows(proof: Proof, limits: Limits) -> Iterator[_Row]:
    if proof.other_agreement_iou is not None:
        yield _Row(
            "agreement at thresholds 0.1 and 0.9",
            f"IoU {five_digits(proof.other_agreement_iou)}",
            f"at least {limits.other_agreement_iou:g}",
            (FaultKind.OTHER_THRESHOLD,),
        )
    if proof.stressed_difference is not None:
        yield _Row(
            "mean difference of a stress frame",
            f"{proof.stressed_difference:.4f}, the worst of {proof.stress_frames}",
            f"at most {limits.stressed_difference:g}",
            (FaultKind.STRESSED,),
        )
    if proof.batched_share is not None and proof.batched_difference is not None:
        yield _Row(
            "the same photo in a batch and alone",
            f"{percent(proof.batched_share)} of its pixels, probabilities by "
            f"{proof.batched_difference:.3f}",
            f"at most {percent(limits.batched_share)}, {limits.batched_difference:g}",
            (
                FaultKind.BATCHED,
                FaultKind.BATCHED_DIFFERENCE,
                FaultKind.STREAMED,
                FaultKind.STREAMED_DIFFERENCE,
            ),
        )
