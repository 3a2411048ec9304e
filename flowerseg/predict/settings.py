"""What is asked of a folder run, and the batch that follows from it."""

from dataclasses import dataclass, field
from enum import StrEnum

from flowerseg.artifact import Batch
from flowerseg.images import MAX_PIXELS

UNTUNED_BATCH = 8  # for files that are tuned for no batch: enough to fill a GPU's pipeline


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


def default_workers() -> int:
    """Threads that decode and encode: one a core, but two at least and eight at most."""
    from flowerseg.backends.device import allowed_cores  # brings torch along: not for --help

    return max(2, min(8, len(allowed_cores())))


@dataclass(frozen=True)
class PredictSettings:
    """How a folder is segmented. The threshold is the segmenter's."""

    batch: int | None = None  # None: what an engine is tuned for, else 8
    workers: int = field(default_factory=default_workers)
    save: tuple[Save, ...] = (Save.MASK,)
    fail_fast: bool = False  # stop at the first photo that cannot be segmented
    max_pixels: int = MAX_PIXELS  # a photo of more is not decoded
    isolate_s: float | None = None  # decode in other processes, for so long at most

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be 1 or more, not {self.batch}")
        if self.workers < 1:
            raise ValueError(f"workers must be 1 or more, not {self.workers}")
        if not self.save:
            raise ValueError("save names nothing to write")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be 1 or more, not {self.max_pixels}")
        if self.isolate_s is not None and self.isolate_s <= 0:
            raise ValueError(f"isolate_s must be more than 0, not {self.isolate_s}")


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
        raise ValueError(f"a batch of {settings.batch}; this model takes at most {takes.max}")
    return settings.batch or takes.opt
