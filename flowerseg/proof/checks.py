"""A proof as a list of checks: what was measured, what is allowed, and whether that holds."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from flowerseg.artifact import Limits, Proof
from flowerseg.caveats import caveat_text
from flowerseg.metrics import score_text

_TRUTH = "IoU against truth"


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
    """The checks of a proof that was run, each with the faults that belong to it.

    A fault that belongs to none of them gets a check of its own: none is ever lost.
    """
    if proof.limits is None:
        return []
    checks = [
        Check(
            name,
            found,
            limit,
            tuple(f for f in proof.faults if re.match(words, f)),
            is_skipped=name == _TRUTH and not is_scored(proof),
        )
        for name, found, limit, words in _rows(proof, proof.limits)
    ]
    known = {fault for check in checks for fault in check.faults}
    if strange := tuple(fault for fault in proof.faults if fault not in known):
        checks.append(Check("anything else", "", "", strange))
    return checks


def is_scored(proof: Proof) -> bool:
    """Whether the labels gave a score against truth; without one only agreement was proved."""
    return proof.model_iou is not None and proof.reference_iou is not None


def warnings_of(proof: Proof) -> list[str]:
    """What is to be known about the figures against truth, in sentences."""
    texts = [caveat_text(caveat, "the reference") for caveat in proof.caveats]
    if proof.limits is not None and not is_scored(proof):
        texts.append("Agreement with the reference was checked, IoU against truth was not.")
    return [text[0].upper() + text[1:] for text in texts]


def percent(share: float | None) -> str:
    """A share with its first two digits, however small it is: `0.012 %`."""
    return "–" if share is None else f"{float(f'{100 * share:.2g}'):g} %"


def five_digits(iou: float | None) -> str:
    """An IoU as proofs print it."""
    return score_text(iou, 5)


def _rows(proof: Proof, limits: Limits) -> Iterator[tuple[str, str, str, str]]:
    """Name, finding, limit, and a pattern of how `prove` words the fault."""
    least = f"at least {limits.agreement_iou:g}"
    most = f"at most {percent(limits.flipped_share)}"
    for found in proof.agreement_by_batch:
        name = f"agreement with PyTorch FP32, batch {found.batch}"
        words = rf"agreement IoU .* at batch {found.batch} is below "
        yield name, f"IoU {found.agreement_iou:.5f}", least, words
    truth = f"{five_digits(proof.model_iou)}, PyTorch {five_digits(proof.reference_iou)}"
    yield (
        _TRUTH,
        truth if is_scored(proof) else "n/a",
        f"may drop by {limits.iou_drop:g}",
        "IoU against truth ",
    )
    share = percent(proof.flipped_share)
    yield "pixels of one photo that change sides", share, most, r"[\d.]+% of the pixels of "
    if proof.largest_difference is not None:
        yield (
            "largest difference of a probability",
            f"{proof.largest_difference:.3f}",
            f"at most {limits.largest_difference:g}",
            "probabilities of ",
        )
    if proof.undecided_difference is not None:
        yield (
            "mean difference where PyTorch is undecided",
            f"{proof.undecided_difference:.5f}",
            f"at most {limits.undecided_difference:g}",
            "undecided probabilities ",
        )
    if any(size > 1 for size in proof.batch_sizes):
        share = percent(proof.place_share)
        yield "the same photo at every place of a batch", share, most, "the same photo at place "
    if proof.mode == "emulated":
        yield (
            "half precision, emulated",
            f"IoU {five_digits(proof.emulated_agreement_iou)}",
            least,
            "emulated half: ",
        )
