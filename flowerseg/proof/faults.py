"""What is beyond the limits in what was measured: each fault once, where it is worst."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

from flowerseg.metrics import Counts, agreement_iou, count, set_iou, total
from flowerseg.proof.compare import OTHER_THRESHOLDS, Compared, Expected, Steps
from flowerseg.proof.emulation import Int8Emulation
from flowerseg.proof.layers import Layer
from flowerseg.proof.passes import Departure, Parity, Stressed, agreement_of
from flowerseg.proofrecord import Fault, FaultKind, Limits


def faults_of(
    parity: Parity,
    expected: Sequence[Expected],
    limits: Limits,
    int8: Int8Emulation | None = None,
) -> list[Fault]:
    """What is beyond the limits; empty where all are kept.

    Args:
        parity: what was measured.
        expected: the photos, with the reference's results.
        limits: what is allowed.
        int8: of a quantised file, what the emulation of its arithmetic gave.
    """
    found = _faults_beside_pytorch(parity, expected, limits)
    if int8 is None:
        return found
    near = _part_of(limits, COST_SHARE)
    costs = {fault.kind for fault in _faults_beside_pytorch(int8.parity, expected, near)}
    costs.discard(FaultKind.NO_OUTLINE)
    return [
        *(replace(fault, is_cost=fault.kind in costs) for fault in found),
        *_faults_beside_emulation(parity, int8, limits),
    ]


def difference_of(layer: Layer) -> float:
    """The module's own error; at most 1, and 1 where it is not finite."""
    return min(1.0, layer.own_error) if layer.is_finite else 1.0


def _part_of(limits: Limits, share: float) -> Limits:
    """Limits that allow a share of the given ones; `rounding` is not changed."""
    least = {
        name: 1 - share * (1 - getattr(limits, name))
        for name in ("agreement_iou", "other_agreement_iou")
    }
    most = {
        field.name: share * getattr(limits, field.name)
        for field in fields(limits)
        if field.name not in (*least, "rounding")
    }
    return Limits(**least, **most, rounding=limits.rounding)


def _faults_beside_emulation(
    parity: Parity, int8: Int8Emulation, limits: Limits
) -> Iterator[Fault]:
    departing = [layer for layer in int8.layers if layer.departs(limits.module_difference)]
    if departing:
        layer = max(departing, key=difference_of)
        limit = layer.limit_from(limits.module_difference)
        yield Fault(FaultKind.MODULE, difference_of(layer), limit, module=layer.module)
    cost = 1 - agreement_of(int8.parity.alone)
    lost = 1 - agreement_of(parity.alone) - cost
    allowed = limits.agreement_drop * max(cost, LEAST_COST)
    if lost > allowed:
        yield Fault(FaultKind.AGREEMENT_DROP, lost, allowed)
    worst = _flipped(parity.emulated, limits.rounding)
    if worst.value > limits.emulated_share:
        yield Fault(FaultKind.EMULATED, worst.value, limits.emulated_share, worst.photo)


def _faults_beside_pytorch(
    parity: Parity, expected: Sequence[Expected], limits: Limits
) -> list[Fault]:
    return [
        *_faults_beside_reference(parity.passes, limits),
        *_faults_of_stress(parity.stressed, limits),
        *_faults_of_departures(
            parity.batched, limits, FaultKind.BATCHED, FaultKind.BATCHED_DIFFERENCE
        ),
        *_faults_of_departures(
            parity.streamed,
            limits,
            FaultKind.STREAMED,
            FaultKind.STREAMED_DIFFERENCE,
            parity.streams,
        ),
        *_faults_beside_truth(parity, expected, limits),
    ]


COST_SHARE = 0.6
"""A share of a limit. If the emulation alone uses this share, a file beyond the limit is counted as
a cost of quantisation: file and emulation are never equal, see `proof.emulation`."""

LEAST_COST = 0.002
"""The agreement IoU that quantisation is assumed to cost at least; half of less would be noise."""


@dataclass(frozen=True)
class _Found:
    """A figure of one pass, and the photo in which it is worst."""

    value: float
    photo: str = ""
    threshold: float = 0.0


def _faults_beside_reference(
    passes: Mapping[int, Sequence[Compared]], limits: Limits
) -> Iterator[Fault]:
    measures: list[tuple[FaultKind, float, Callable[[Sequence[Compared]], _Found]]] = [
        (FaultKind.AGREEMENT, limits.agreement_iou, _agreement),
        (FaultKind.FLIPPED, limits.flipped_share, partial(_flipped, rounding=limits.rounding)),
        # A flower that is lost where the mask was all but empty flips hardly a pixel.
        (FaultKind.DIFFERENCE, limits.largest_difference, _difference),
        (FaultKind.UNDECIDED, limits.undecided_difference, _undecided),
        (FaultKind.TAILS, limits.tail_difference, _tails),
        (FaultKind.OTHER_THRESHOLD, limits.other_agreement_iou, _other_threshold),
    ]
    for kind, limit, measure in measures:
        sign = -1 if kind in (FaultKind.AGREEMENT, FaultKind.OTHER_THRESHOLD) else 1
        found = {size: measure(compared) for size, compared in passes.items()}
        beyond = {size: f for size, f in found.items() if sign * f.value > sign * limit}
        if beyond:
            worst = max(beyond.values(), key=lambda f: sign * f.value)
            sizes = tuple(sorted(beyond))
            yield Fault(kind, worst.value, limit, worst.photo, sizes, threshold=worst.threshold)


def _agreement(found: Sequence[Compared]) -> _Found:
    worst = min(found, key=lambda c: agreement_iou(c.agreement))
    return _Found(agreement_of(found), worst.name)


def _flipped(found: Sequence[Compared], rounding: float) -> _Found:
    worst = max(found, key=lambda c: c.jumped_share(rounding))
    return _Found(worst.jumped_share(rounding), worst.name)


def _difference(found: Sequence[Compared]) -> _Found:
    worst = max(found, key=lambda c: c.largest_difference)
    return _Found(worst.largest_difference, worst.name)


def _undecided(found: Sequence[Compared]) -> _Found:
    return _Found(undecided_difference(found))


def _tails(found: Sequence[Compared]) -> _Found:
    return _Found(tail_difference(found))


def _other_threshold(found: Sequence[Compared]) -> _Found:
    agreements = other_agreements(found)
    threshold = min(agreements, key=lambda each: agreements[each])
    return _Found(agreements[threshold], threshold=threshold)


def undecided_difference(found: Sequence[Compared]) -> float:
    """Mean difference of the probabilities of which the reference is undecided, over all photos."""
    return sum((compared.undecided for compared in found), Steps()).mean


def tail_difference(found: Sequence[Compared]) -> float:
    """The larger mean difference of the probabilities of which the reference is sure: those of
    background, or those of flower."""
    background = sum((compared.background for compared in found), Steps())
    return max(background.mean, sum((compared.flower for compared in found), Steps()).mean)


def other_agreements(found: Sequence[Compared]) -> dict[float, float]:
    """Agreement IoU of the frames' masks at each of `OTHER_THRESHOLDS`."""
    return {
        threshold: agreement_iou(total(c.other_thresholds[i] for c in found if c.other_thresholds))
        for i, threshold in enumerate(OTHER_THRESHOLDS)
    }


def _faults_of_stress(stressed: Sequence[Stressed], limits: Limits) -> Iterator[Fault]:
    beyond = [each for each in stressed if each.mean_difference > limits.stressed_difference]
    if beyond:
        worst = max(beyond, key=lambda each: each.mean_difference)
        yield Fault(
            FaultKind.STRESSED,
            worst.mean_difference,
            limits.stressed_difference,
            worst.name,
            count=len(beyond),
        )


def _faults_of_departures(
    departures: Sequence[Departure],
    limits: Limits,
    of_masks: FaultKind,
    of_probabilities: FaultKind,
    streams: int = 0,
) -> Iterator[Fault]:
    """One fault at most: of the masks, or, where those hold, of the probabilities."""
    measures: list[tuple[FaultKind, float, Callable[[Departure], float]]] = [
        (of_masks, limits.batched_share, lambda d: d.flipped_share),
        (of_probabilities, limits.batched_difference, lambda d: d.largest_difference),
    ]
    for kind, limit, measure in measures:
        beyond = [departure for departure in departures if measure(departure) > limit]
        if beyond:
            worst = max(beyond, key=measure)
            sizes = tuple(sorted({departure.batch for departure in beyond}))
            yield Fault(
                kind, measure(worst), limit, worst.name, sizes, place=worst.place, count=streams
            )
            return


def _faults_beside_truth(
    parity: Parity, expected: Sequence[Expected], limits: Limits
) -> Iterator[Fault]:
    model = model_iou(parity)
    reference = reference_iou(expected) if model is not None else None
    if model is not None and reference is not None and reference - model > limits.iou_drop:
        yield Fault(FaultKind.TRUTH, reference - model, limits.iou_drop)
    if not any(item.band.any() for item in expected):
        yield Fault(FaultKind.NO_OUTLINE, count=len(expected))


def model_iou(parity: Parity) -> float | None:
    """Against truth, of the pass that does worst; None as in `set_iou`."""
    each = [set_iou(total(c.truth for c in found)) for found in parity.passes.values()]
    return min((found for found in each if found is not None), default=None)


def reference_iou(expected: Sequence[Expected]) -> float | None:
    """The reference's against truth; None as in `set_iou`."""
    return set_iou(total(map(reference_counts, expected)))


def reference_counts(expected: Expected) -> Counts:
    """The reference's mask of a photo against its labels."""
    return count(expected.mask, expected.labels)
