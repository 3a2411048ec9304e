"""The figures of a proof, from what was measured."""

from collections.abc import Sequence
from typing import Any

from flowerseg.metrics import agreement_iou, iou, total
from flowerseg.proof.compare import Expected
from flowerseg.proof.emulation import Int8Emulation
from flowerseg.proof.faults import (
    difference_of,
    model_iou,
    other_agreements,
    reference_iou,
    tail_difference,
    undecided_difference,
)
from flowerseg.proof.passes import Parity, agreement_of
from flowerseg.proof.statistics import statistics_of
from flowerseg.proofrecord import WorstPhoto


def figures_of(
    parity: Parity, expected: Sequence[Expected], int8: Int8Emulation | None, rounding: float
) -> dict[str, Any]:
    """The fields of a proof that are measured; `rounding` as in `Limits`."""
    alone, folder = agreement_of(parity.alone), agreement_of(parity.folder)
    lower = parity.alone if alone <= folder else parity.folder
    return {
        "batch_sizes": parity.batch_sizes,
        "folder_batch": parity.folder_batch,
        "streams": parity.streams,
        "agreement_iou": min(alone, folder),
        "alone_agreement_iou": alone,
        "folder_agreement_iou": folder,
        "band_iou": iou(total(c.band for c in lower)),
        "flipped_pixels": sum(c.flipped for c in lower),
        "pixels": sum(c.pixels for c in lower),
        "flipped_share": max(c.flipped_share for c in parity.all),
        "jumped_share": max(c.jumped_share(rounding) for c in parity.all),
        "largest_difference": max(c.largest_difference for c in parity.all),
        "undecided_difference": max(map(undecided_difference, parity.passes.values())),
        "other_agreement_iou": min(
            agreement
            for found in parity.passes.values()
            for agreement in other_agreements(found).values()
        ),
        "tail_difference": max(map(tail_difference, parity.passes.values())),
        "stressed_difference": max((s.mean_difference for s in parity.stressed), default=None),
        "stress_frames": len(parity.stressed),
        "statistics": statistics_of(parity.alone, expected),
        "batched_share": max(d.flipped_share for d in parity.departures),
        "batched_difference": max(d.largest_difference for d in parity.departures),
        "worst": tuple(
            WorstPhoto(
                w.compared.name, w.batch, agreement_iou(w.compared.agreement), w.compared.flipped
            )
            for w in parity.worst
        ),
        "model_iou": model_iou(parity),
        "reference_iou": reference_iou(expected),
        **(_int8_figures(parity, int8, rounding) if int8 else {}),
    }


def _int8_figures(parity: Parity, int8: Int8Emulation, rounding: float) -> dict[str, Any]:
    return {
        "quantised_agreement_iou": agreement_of(int8.parity.alone),
        "emulated_iou": agreement_of(parity.emulated),
        "emulated_share": max(c.jumped_share(rounding) for c in parity.emulated),
        "module_difference": max(map(difference_of, int8.layers)),
    }
