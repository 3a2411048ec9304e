"""What brings photos to their outcomes: here, a pipeline in this process."""

import dataclasses
import uuid
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, Protocol

from flowerseg.artifact import Parent, as_parent
from flowerseg.backends import BackendInfo
from flowerseg.images import opencv_version
from flowerseg.predict.photo import Job, Making, Outcome, Task, begin
from flowerseg.predict.pipeline import Finished, Pipeline
from flowerseg.predict.settings import Hands, PredictSettings, batch_size
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter


@dataclass(frozen=True)
class Origin:
    """What the masks of a run come from."""

    model: Parent | None
    backend: BackendInfo
    preprocess: Preprocess
    threshold: float
    basis: dict[str, Any]  # all that the masks of a photo depend on, but the photo


class Engine(Protocol):
    """Brings photos to their outcomes; for one run."""

    @property
    def origin(self) -> Origin:
        """What the masks come from."""

    @property
    def batch(self) -> int:
        """Photos a batch."""

    @property
    def hands(self) -> Hands:
        """Who decodes and encodes; of a cluster, in each actor."""

    @property
    def wall_s(self) -> float:
        """Seconds that the run took, once it is over."""

    @property
    def waited_share(self) -> float:
        """Share of that time in which the backend had nothing to do."""

    def run(
        self, job: Job, tasks: Iterable[Task], is_over: Callable[[], bool]
    ) -> Generator[Finished[Outcome], None, None]:
        """Bring every task to its outcome, in any order; begin no other once it is over."""


def origin_of(segmenter: Segmenter) -> Origin:
    """Where the masks of a segmenter come from.

    Without a model file nothing tells it from another one, so it is like no other.
    """
    info, artifact = segmenter.info, segmenter.artifact
    basis = {
        "model": artifact.manifest.sha256 if artifact else f"unknown {uuid.uuid4()}",
        "threshold": segmenter.threshold,
        "preprocess": dataclasses.asdict(segmenter.preprocess),
        "runtime": f"{info.runtime} {info.version}",
        "device": info.device.partition(":")[0],
        "precision": info.precision,
        "opencv": opencv_version(),
    }
    model = as_parent(artifact) if artifact else None
    return Origin(model, info, segmenter.preprocess, segmenter.threshold, basis)


class Here:
    """The engine of one machine: a pipeline in this process."""

    def __init__(self, making: Making, settings: PredictSettings, hands: Hands) -> None:
        segmenter = making.segmenter
        self.origin = origin_of(segmenter)
        self.batch = batch_size(settings, segmenter.info.batch)
        self.hands = hands
        self._making = making
        self._pipeline: Pipeline[Outcome] = Pipeline(
            segmenter.streams, self.batch, self.hands.workers
        )

    @property
    def wall_s(self) -> float:
        return self._pipeline.wall_s

    @property
    def waited_share(self) -> float:
        return self._pipeline.waited_share

    def run(
        self, job: Job, tasks: Iterable[Task], is_over: Callable[[], bool]
    ) -> Generator[Finished[Outcome], None, None]:
        begun = takewhile(lambda _: not is_over(), tasks)
        return self._pipeline.run(partial(begin, job, self._making, task) for task in begun)
