"""What correcting each fault of the original study is worth, scored the right way every time."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowerseg.data import open_photos
from flowerseg.labelled import PhotoSet
from flowerseg.train import Fault
from flowerseg_bench.record import Finding, table_of
from flowerseg_bench.training.command import Setup, Trained, train_once
from flowerseg_bench.training.start import without_head

MARK = "†"  # behind a number that measures memory


@dataclass(frozen=True)
class Variant:
    """The sound recipe with some of the study's faults."""

    name: str
    faults: tuple[Fault, ...]
    words: str  # what is wrong

    @property
    def shares_photos(self) -> bool:
        """Whether it trains on what it is scored on."""
        return Fault.SHARED_PHOTOS in self.faults


@dataclass(frozen=True)
class Outcome:
    """A variant, its run, and the share of the scored photos that it was trained on."""

    variant: Variant
    run: Trained
    known_val: float
    known_test: float


VARIANTS = (
    Variant("sound", (), "nothing"),
    *(Variant(str(fault), (fault,), fault.words) for fault in Fault),
    Variant(
        "all but shared-photos",
        tuple(fault for fault in Fault if fault is not Fault.SHARED_PHOTOS),
        "the others together",
    ),
    Variant("all faults", tuple(Fault), "all of them together, as in the study"),
)


def measure_corrections(setup: Setup, test_split: str, shared_split: str, work: Path) -> Finding:
    """Train the head of each variant from the same weights and seed.

    Args:
        setup: the sound recipe.
        test_split: scored once by each run's best checkpoint.
        shared_split: what variants with `Fault.SHARED_PHOTOS` train on.
        work: a temporary folder.
    """
    weights = without_head(str(setup.weights), work / "without-head.pt")
    scored = [open_photos(setup.data, split) for split in (setup.val_split, test_split)]
    outcomes = []
    for variant in VARIANTS:
        split = shared_split if variant.shares_photos else setup.train_split
        options = dataclasses.replace(setup, train_split=split).options(weights)
        options += ["--test-split", test_split]
        options += [word for fault in variant.faults for word in ("--fault", str(fault))]
        run = train_once(variant.name.replace(" ", "-"), options, work)
        photos = open_photos(setup.data, split)
        outcomes.append(Outcome(variant, run, *(known_share(photos, part) for part in scored)))
    return finding_of(setup, outcomes)


def known_share(train: PhotoSet, scored: PhotoSet) -> float:
    """Share of the photos of `scored` that are in `train`, by content."""
    known = set(train.content_hashes)
    return sum(content in known for content in scored.content_hashes) / len(scored)


def finding_of(setup: Setup, outcomes: Sequence[Outcome]) -> Finding:
    """Every variant beside the first, which is the sound one."""
    sound = outcomes[0].run
    comparable = [outcome for outcome in outcomes[1:] if not outcome.variant.shares_photos]
    worst = min(comparable, key=lambda outcome: outcome.run.test_iou)
    memory = [
        f"{MARK} {outcome.variant.name}: trained on {100 * outcome.known_val:.0f} % of the "
        f"validation and {100 * outcome.known_test:.0f} % of the test photos; its IoU measures "
        "memory and is not comparable"
        for outcome in outcomes
        if outcome.variant.shares_photos
    ]
    return Finding(
        headline=(
            f"{setup.arch}, head only, {setup.epochs} epochs: flower IoU on test is "
            f"{sound.test_iou:.4f} by the sound recipe and {worst.run.test_iou:.4f} by "
            f"{worst.variant.name}, the worst that can be compared"
        ),
        table=table_of(
            "What each correction is worth",
            ("variant", "IoU val", "IoU test", "test − sound"),
            [_row(outcome, sound) for outcome in outcomes],
            words=("what is wrong",),
        ),
        notes=(
            "All are scored in the same sound way: true labels, void left out, best epoch by "
            "validation. Weights, seed of the new head, optimiser, learning rate and batch size "
            "are the same in all",
            "Single runs: a difference may be one of the seed",
            *memory,
        ),
        raw={
            "settings": dataclasses.asdict(setup),
            "variants": [_raw(outcome, sound) for outcome in outcomes],
        },
    )


def _row(outcome: Outcome, sound: Trained) -> tuple[str, ...]:
    variant, run = outcome.variant, outcome.run
    mark = f" {MARK}" if variant.shares_photos else ""
    difference = f"{run.test_iou - sound.test_iou:+.4f}"
    if run is sound or variant.shares_photos:
        difference = "" if run is sound else MARK
    return (
        variant.name,
        f"{run.val_iou:.4f}{mark}",
        f"{run.test_iou:.4f}{mark}",
        difference,
        variant.words,
    )


def _raw(outcome: Outcome, sound: Trained) -> dict[str, object]:
    variant, run = outcome.variant, outcome.run
    comparable = not variant.shares_photos
    return {
        "name": variant.name,
        "faults": list(variant.faults),
        "val_iou": run.val_iou,
        "test_iou": run.test_iou,
        "val_minus_sound": run.val_iou - sound.val_iou if comparable else None,
        "test_minus_sound": run.test_iou - sound.test_iou if comparable else None,
        "trained_on_share_of_val": outcome.known_val,
        "trained_on_share_of_test": outcome.known_test,
        "run": dataclasses.asdict(run),
    }
