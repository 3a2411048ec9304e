"""What is asked of a folder run, and the batch and the hands that follow from it."""

from dataclasses import dataclass
from enum import StrEnum

from flowerseg.artifact import UNTUNED_BATCH, Batch
from flowerseg.images import MAX_PIXELS
from flowerseg.ranges import require_count


class Save(StrEnum):
    """What is written of each photo."""

    MASK = "mask"
    OVERLAY = "overlay"
    CUTOUT = "cutout"
    PROBABILITY = "probability"

    @property
    def folder(self) -> str:
        """Name of the folder, under the output folder, that it goes to."""
        return "probabilities" if self is Save.PROBABILITY else f"{self}s"


_MOST_ON_CPU = 8  # workers beside a model that wants the same cores
_MOST_ON_GPU = 32
# Estimates until a GPU has measured them: threads that one interpreter's lock hardly holds up, and
# photos on which a process saves more than its start takes.
_WORKERS_A_PROCESS = 4
_PHOTOS_A_PROCESS = 500


@dataclass(frozen=True)
class Hands:
    """Who decodes and encodes."""

    workers: int  # threads, of all processes together
    processes: int  # beside the one that holds the model; 1: that one itself

    @property
    def workers_each(self) -> int:
        """Threads of each process."""
        return -(-self.workers // self.processes)

    def __str__(self) -> str:
        return f"{self.workers} workers" + (
            f" in {self.processes} processes" if self.processes > 1 else ""
        )


@dataclass(frozen=True)
class PredictSettings:
    """How a folder is segmented. The threshold is the segmenter's."""

    batch: int | None = None  # None: what an engine is tuned for, else 8
    workers: int | None = None  # threads; None: see `hands_of`
    processes: int | None = None  # that they are divided among; None: see `hands_of`
    save: tuple[Save, ...] = (Save.MASK,)
    fail_fast: bool = False  # stop at the first photo that cannot be segmented
    max_pixels: int = MAX_PIXELS  # a photo of more is not decoded
    isolate_s: float | None = None  # decode in other processes, for so long at most

    def __post_init__(self) -> None:
        require_count(
            batch=self.batch,
            workers=self.workers,
            processes=self.processes,
            max_pixels=self.max_pixels,
        )
        if not self.save:
            raise ValueError("save names nothing to write")
        if self.isolate_s is not None and self.isolate_s <= 0:
            raise ValueError(f"isolate_s must be more than 0, not {self.isolate_s}")


def hands_of(settings: PredictSettings, device: str, photos: int = 0) -> Hands:
    """The threads that decode and encode beside a model on a device, and their processes.

    One thread a core, two at least: on the CPU eight at most, all in the model's own process; for a
    GPU, which asks for photos faster than one interpreter can hand them on, 32 at most, in
    processes of four where there are so many photos that starting them pays.
    """
    from flowerseg.backends.device import allowed_cores  # brings torch along: not for --help

    on_gpu = device.startswith("cuda")
    most = _MOST_ON_GPU if on_gpu else _MOST_ON_CPU
    workers = settings.workers or max(2, min(most, len(allowed_cores())))
    pays = min(-(-workers // _WORKERS_A_PROCESS), photos // _PHOTOS_A_PROCESS) if on_gpu else 1
    return Hands(workers, min(settings.processes or max(1, pays), workers))


def batch_size(settings: PredictSettings, takes: Batch | None) -> int:
    """The batch that will run on a model that takes these.

    Raises:
        ValueError: the settings ask for more than the model takes, or it takes no small batch.
    """
    if takes is None:
        return settings.batch or UNTUNED_BATCH
    if takes.min > 1:
        raise ValueError(
            f"this model takes batches of {takes.min} to {takes.max}, and a folder may end with "
            f"fewer. Build it with --batch 1:{takes.opt}:{takes.max}"
        )
    if settings.batch and settings.batch > takes.max:
        raise ValueError(
            f"a batch of {settings.batch}; this model takes at most {takes.max}, or was proved "
            f"with no more. Where the file takes that many, flowerseg-verify --largest-batch "
            f"{settings.batch} proves it"
        )
    return settings.batch or takes.opt
