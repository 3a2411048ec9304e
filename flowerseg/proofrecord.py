"""What a proof found, as the manifest of a model file keeps it: figures, limits and faults."""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from flowerseg.caveats import Caveat
from flowerseg.ranges import require_between, require_shares

LARGEST_BATCH = 65_536
"""Far beyond what any GPU's memory holds; a damaged manifest may name any number."""


@dataclass(frozen=True)
class Limits:
    """What a proof allows between a file and its reference."""

    agreement_iou: float  # of the masks, at least
    iou_drop: float  # against truth, at most
    flipped_share: float = 0.05  # of the pixels of one photo's frame, at most
    largest_difference: float = 1.0  # of probabilities, at most
    undecided_difference: float = 1.0  # of undecided probabilities, in the mean, at most
    # Between a photo in a batch, or beside other streams, and the same photo alone, at most.
    batched_share: float = 0.05  # of its pixels
    batched_difference: float = 1.0  # of its probabilities
    other_agreement_iou: float = 0.0  # of masks at thresholds 0.1 and 0.9, at least
    tail_difference: float = 1.0  # of probabilities near 0, or near 1, in the mean, at most
    stressed_difference: float = 1.0  # of a stress frame's probabilities, in the mean, at most
    rounding: float = 0.0  # of a probability: by more a pixel has to move to count as flipped
    # Between an INT8 file and the emulation of its arithmetic, at most.
    module_difference: float = 1.0  # of a module's output, see `proof.layers.relative_error`
    agreement_drop: float = 1.0  # of agreement with the reference, over what the emulation loses
    emulated_share: float = 1.0  # of the pixels of one photo's frame

    def __post_init__(self) -> None:
        require_shares(**dataclasses.asdict(self))


class FaultKind(StrEnum):
    """What is beyond a limit, or wrong in itself."""

    AGREEMENT = "agreement"  # of the masks over all photos
    FLIPPED = "flipped"  # pixels of one photo
    DIFFERENCE = "difference"  # of one photo's probabilities
    UNDECIDED = "undecided"  # mean difference of the probabilities the reference is undecided of
    TAILS = "tails"  # mean difference of the probabilities near 0, or near 1
    OTHER_THRESHOLD = "other-threshold"  # agreement of the masks at 0.1 or 0.9
    STRESSED = "stressed"  # mean difference of a frame unlike the photos
    TRUTH = "truth"  # IoU that is lost
    BATCHED = "batched"  # pixels of one photo, in a batch and alone
    BATCHED_DIFFERENCE = "batched-difference"  # probabilities of one photo, in a batch and alone
    STREAMED = "streamed"  # pixels of one photo, beside other streams and alone
    STREAMED_DIFFERENCE = "streamed-difference"  # its probabilities
    NO_OUTLINE = "no-outline"  # in any mask of the reference
    OVERFLOW = "overflow"  # of half, where it is emulated
    NOT_OPENED = "not-opened"  # the runtime refuses the file
    THRESHOLD = "threshold"  # the file has another one than its checkpoint
    # An INT8 file beside the emulation of its arithmetic.
    MODULE = "module"  # output of one, for the same input
    AGREEMENT_DROP = "agreement-drop"  # agreement with the reference
    EMULATED = "emulated"  # pixels of one photo


@dataclass(frozen=True)
class Fault:
    """One thing for which a file is not proved."""

    kind: FaultKind
    found: float = 0.0
    limit: float = 0.0
    photo: str = ""  # the one in which it is worst
    batches: tuple[int, ...] = ()  # batch sizes at which it shows
    place: int = 0  # of that photo in its batch, from 1; BATCHED
    count: int = 0  # streams of STREAMED, frames of STRESSED, photos of NO_OUTLINE
    threshold: float = 0.0  # OTHER_THRESHOLD
    detail: str = ""  # what was raised; OVERFLOW and NOT_OPENED
    is_emulated: bool = False  # found where half was emulated
    is_cost: bool = False  # of quantisation: the emulation of the file's arithmetic shows it too
    module: str = ""  # MODULE

    def __post_init__(self) -> None:
        require_shares(found=self.found, limit=self.limit, threshold=self.threshold)
        require_between(0, None, place=self.place, count=self.count)
        for size in self.batches:
            require_between(1, LARGEST_BATCH, batches=size)


def fault_text(fault: Fault) -> str:
    """A fault in a sentence without its full stop."""
    before = "emulated half: " if fault.is_emulated else ""
    after = " (quantisation itself costs that)" if fault.is_cost else ""
    return before + _text_of(fault) + after


def _text_of(fault: Fault) -> str:
    found, limit, photo = fault.found, fault.limit, fault.photo
    match fault.kind:
        case FaultKind.AGREEMENT:
            return (
                f"agreement IoU {found:.4f}{_at(fault)} is below {limit:g} (worst photo: {photo})"
            )
        case FaultKind.FLIPPED:
            return (
                f"{found:.1%} of the pixels of {photo} change sides by more than rounding "
                f"explains{_at(fault)}, more than {limit:.1%}"
            )
        case FaultKind.DIFFERENCE:
            return (
                f"probabilities of {photo} differ by up to {found:.2f}{_at(fault)}, more than "
                f"{limit:g}"
            )
        case FaultKind.UNDECIDED:
            return (
                f"undecided probabilities differ by {found:.4f} in the mean{_at(fault)}, more than "
                f"{limit:g}"
            )
        case FaultKind.TAILS:
            return (
                f"probabilities near 0 or 1 differ by {found:.4f} in the mean{_at(fault)}, more "
                f"than {limit:g}"
            )
        case FaultKind.OTHER_THRESHOLD:
            return (
                f"agreement IoU of masks at threshold {fault.threshold:g} is {found:.4f}"
                f"{_at(fault)}, below {limit:g}"
            )
        case FaultKind.STRESSED:
            return (
                f"probabilities of {fault.count} stress frame{'s' if fault.count != 1 else ''} "
                f"differ by more than {limit:g} in the mean, of '{photo}' by {found:.3f}"
            )
        case FaultKind.THRESHOLD:
            return f"the file's threshold is {found:g}, and its checkpoint's is {limit:g}"
        case FaultKind.TRUTH:
            return f"IoU against truth drops by {found:.4f}, more than {limit:g}"
        case FaultKind.BATCHED | FaultKind.STREAMED:
            return (
                f"{_beside_others(fault)}, {found:.1%} of the pixels of {photo} change sides, "
                f"compared with the same photo alone; more than {limit:.1%}"
            )
        case FaultKind.BATCHED_DIFFERENCE | FaultKind.STREAMED_DIFFERENCE:
            return (
                f"{_beside_others(fault)}, probabilities of {photo} differ by up to {found:.2f} "
                f"from those of the same photo alone, more than {limit:g}"
            )
        case FaultKind.NO_OUTLINE:
            return (
                f"the reference draws no outline in any of the {fault.count} photos, so masks "
                "could not disagree: train it for longer, or give photos with flowers"
            )
        case FaultKind.OVERFLOW | FaultKind.NOT_OPENED:
            return fault.detail
        case FaultKind.MODULE:
            return (
                f"{fault.module} departs by {found:.2g} of its spread from what its own scales "
                f"give, more than {limit:g}"
            )
        case FaultKind.AGREEMENT_DROP:
            return (
                f"agreement IoU is lower by {found:.4f} than that of an emulation with the same "
                f"scales, more than {limit:.4f}"
            )
        case FaultKind.EMULATED:
            return (
                f"{found:.1%} of the pixels of {photo} change sides by more than rounding "
                f"explains, compared with an emulation with the same scales; more than {limit:.1%}"
            )


def _at(fault: Fault) -> str:
    return f" at batch {_listed(fault.batches)}" if fault.batches else ""


def _beside_others(fault: Fault) -> str:
    if fault.kind in (FaultKind.BATCHED, FaultKind.BATCHED_DIFFERENCE):
        return f"in batches of {_listed(fault.batches)}, at place {fault.place}"
    return f"in batches of {_listed(fault.batches)} in {fault.count} streams at a time"


def _listed(sizes: tuple[int, ...]) -> str:
    *most, last = map(str, sizes)
    return f"{', '.join(most)} and {last}" if most else last


@dataclass(frozen=True)
class WorstPhoto:
    """A photo whose mask is far from the reference's, at the batch size where it is farthest."""

    name: str
    batch: int
    agreement_iou: float
    flipped_pixels: int

    def __post_init__(self) -> None:
        require_between(1, LARGEST_BATCH, batch=self.batch)
        require_between(0, None, flipped_pixels=self.flipped_pixels)
        require_shares(agreement_iou=self.agreement_iou)


@dataclass(frozen=True)
class Statistics:
    """What the photos of a proof cover, and how sure its agreement is."""

    agreement_low: float  # ends of the 95 % interval of the agreement IoU, by bootstrap over photos
    agreement_high: float
    least_flower: float  # share of a photo's pixels that the reference takes for flower
    most_flower: float
    least_brightness: float  # mean of a frame, from 0 to 1
    most_brightness: float

    def __post_init__(self) -> None:
        require_shares(**dataclasses.asdict(self))


@dataclass(frozen=True)
class Proof:
    """What was measured between the very file and the FP32 PyTorch reference.

    Where it was run is part of it: another device, another version of the runtime, several batches
    at a time or a larger batch may compute something else.
    """

    status: Literal["proved", "failed", "not run"]
    how: str  # which runtime executed it, or why none did
    limits: Limits | None = None
    photos: int = 0
    data: str = ""
    batch_sizes: tuple[int, ...] = ()  # that were run
    agreement_iou: float | None = None  # the lower of the next two
    alone_agreement_iou: float | None = None  # photo by photo
    folder_agreement_iou: float | None = None  # as a folder is run: batches, in all streams
    # Against the labels; None where they do not hold both classes, see `flowerseg.metrics`.
    model_iou: float | None = None
    reference_iou: float | None = None
    reference_sha256: str = ""
    # Half was executed, or, where the runtime computes it in FP32, emulated beside the execution.
    mode: Literal["executed", "emulated"] = "executed"
    faults: tuple[Fault, ...] = ()
    emulated_agreement_iou: float | None = None
    band_iou: float | None = None  # agreement along the reference's outlines
    flipped_pixels: int = 0  # on the other side of the threshold than in the reference
    pixels: int = 0
    flipped_share: float | None = None  # of the photo where most change sides
    jumped_share: float | None = None  # of the frame where most do by more than rounding explains
    largest_difference: float | None = None  # of probabilities
    undecided_difference: float | None = None  # mean where the reference is undecided
    other_agreement_iou: float | None = None  # of masks at thresholds 0.1 and 0.9, the lower
    tail_difference: float | None = None  # mean where the reference is sure
    stressed_difference: float | None = None  # mean over the worst stress frame
    stress_frames: int = 0
    statistics: Statistics | None = None
    batched_share: float | None = None  # of a photo's pixels, between a batch and the photo alone
    batched_difference: float | None = None  # of its probabilities
    # Of INT8: an emulation of the file's arithmetic beside the reference, and beside the file.
    quantised_agreement_iou: float | None = None  # what quantisation leaves of the agreement
    emulated_iou: float | None = None  # agreement of the file with the emulation
    emulated_share: float | None = None  # as `jumped_share`
    module_difference: float | None = None  # of the module's output that departs most
    worst: tuple[WorstPhoto, ...] = ()
    runtime: str = ""  # by name; empty: the first of the file's kind, or none
    version: str = ""  # of the runtime
    device: str = ""  # kind: "cpu" or "cuda"; empty: not recorded
    device_name: str = ""
    folder_batch: int = 1  # the batch that a folder was run with
    streams: int = 1  # batches that were computed at a time
    cuda_graph: bool = False  # whether batches were replayed from a CUDA graph
    caveats: tuple[Caveat, ...] = ()  # about the figures against truth; the model is the reference
    selftest_map: str = ""  # what a proved INT8 file makes of the self-test's photo; base64 PNG

    def __post_init__(self) -> None:
        for size in self.batch_sizes:
            require_between(1, LARGEST_BATCH, batch_sizes=size)
        require_between(1, LARGEST_BATCH, folder_batch=self.folder_batch, streams=self.streams)
        require_between(
            0, None, photos=self.photos, flipped_pixels=self.flipped_pixels, pixels=self.pixels
        )
        require_shares(
            agreement_iou=self.agreement_iou,
            alone_agreement_iou=self.alone_agreement_iou,
            folder_agreement_iou=self.folder_agreement_iou,
            model_iou=self.model_iou,
            reference_iou=self.reference_iou,
            emulated_agreement_iou=self.emulated_agreement_iou,
            band_iou=self.band_iou,
            flipped_share=self.flipped_share,
            jumped_share=self.jumped_share,
            largest_difference=self.largest_difference,
            undecided_difference=self.undecided_difference,
            batched_share=self.batched_share,
            batched_difference=self.batched_difference,
            other_agreement_iou=self.other_agreement_iou,
            tail_difference=self.tail_difference,
            stressed_difference=self.stressed_difference,
            quantised_agreement_iou=self.quantised_agreement_iou,
            emulated_iou=self.emulated_iou,
            emulated_share=self.emulated_share,
            module_difference=self.module_difference,
        )
        require_between(0, None, stress_frames=self.stress_frames)

    @property
    def why(self) -> str:
        """What keeps the file from being proved; else how it was proved."""
        return "; ".join(map(fault_text, self.faults)) or self.how

    @property
    def place(self) -> str:
        """Where it was run, as text: `cuda`, or `cpu (half emulated)`."""
        return self.device + (" (half emulated)" if self.mode == "emulated" else "")

    def why_not_as(self, version: str, device_name: str, streams: int, *, graph: bool) -> str:
        """Why this proof does not count for a file as it was opened, as text; empty where it does.

        Args:
            version: of the runtime.
            device_name: the GPU's; processors are not compared.
            streams: batches that are computed at a time.
            graph: whether they are replayed from a CUDA graph.
        """
        if self.version and self.version != version:
            return f"it was proved in version {self.version} of {self.runtime}, not in {version}"
        if self.device == "cuda" and self.device_name not in ("", device_name):
            return f"it was proved on {self.device_name}, not on {device_name}"
        if streams > 1 and self.streams == 1:
            return f"it was proved with one batch at a time, not with {streams}"
        if graph and not self.cuda_graph:
            return "it was proved without a CUDA graph"
        return ""

    def why_not_on(self, device: str) -> str:
        """Why this proof does not count on a kind of device, as text; empty where it does."""
        if self.status != "proved":
            return self.why.rstrip(".")
        if not self.device:
            return "its proof does not say on which device it was run"
        kind = device.partition(":")[0]
        return "" if self.device == kind else f"it was proved on {self.place}, not on {kind}"
