"""A folder run on a Ray cluster: an actor on each GPU, or on each share of the CPUs.

An actor reads photos itself, from a path that all machines see or from wherever fsspec reaches, and
sends back finished files, some 20 KB a mask. This process lists, writes and keeps the journal, as
in a run on one machine: whatever dies, nothing is left half done, and what an actor had in hand
when it died is done by another. Photos are decoded in processes of their own, for one that crashed
the decoder would else take actor after actor along.
"""

import logging
import os
import pickle
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Any

from flowerseg.artifact import manifest_path, read_manifest
from flowerseg.backends import SessionOptions, fastest_proved, for_folders
from flowerseg.backends.base import Layout
from flowerseg.errors import BackendUnavailable, FlowersegError
from flowerseg.isolate import IsolatedDecoder
from flowerseg.listing import Listing
from flowerseg.photofile import photo_bytes, within
from flowerseg.predict.engine import Origin, origin_of
from flowerseg.predict.folder import FolderReport, Watcher, photo_files_of, run_listing
from flowerseg.predict.photo import Job, Made, Making, Outcome, Task, finish, known_bytes, make
from flowerseg.predict.pipeline import WRITERS, Finished, ForDisk, Pipeline
from flowerseg.predict.settings import Hands, PredictSettings, batch_size, hands_of
from flowerseg.segmenter import Segmenter

if TYPE_CHECKING:
    import pyarrow as pa

DECODING_S = 60.0  # that reading a photo, and decoding it, may take where the settings do not say

# A task goes to this many actors before its end is taken for the task's own doing.
_RETRIES = 3
_BATCHES_A_TASK = 16  # the pipeline fills and drains once a task
_TASKS_AN_ACTOR = 4  # at least, so that the last ones end at about the same time


@dataclass(frozen=True)
class Opening:
    """A model that is still to be opened, here or elsewhere; see `Segmenter.open`.

    Threads, streams and CUDA graph are those of `backends.for_folders` where they are None; with
    streams alone, threads are the runtime's own choice.
    """

    model: Path
    device: str = "auto"
    runtime: str = "auto"
    threshold: float | None = None
    allow_unproven: bool = False
    threads: int | None = None
    streams: int | None = None
    cuda_graph: bool | None = None
    cores: int | None = None  # that it may take on the CPU; None: all
    cudnn_benchmark: bool = False
    layout: Layout | None = None
    trust: bool = False

    def options(self) -> SessionOptions:
        """How it is opened on this machine."""
        manifest = read_manifest(manifest_path(self.model))
        is_auto = self.runtime == "auto"
        runtime = fastest_proved(manifest, self.device) if is_auto else self.runtime
        chosen = for_folders(manifest, runtime, self.device, self.cores)
        if self.streams is not None:
            chosen = replace(chosen, streams=self.streams, threads=self.threads)
        if self.cuda_graph is not None:
            chosen = replace(chosen, cuda_graph=self.cuda_graph)
        return replace(chosen, cudnn_benchmark=self.cudnn_benchmark, layout=self.layout)

    def segmenter(self) -> Segmenter:
        """The model, opened on this machine."""
        return Segmenter.open(
            self.model,
            device=self.device,
            runtime=self.runtime,
            options=self.options(),
            threshold=self.threshold,
            allow_unproven=self.allow_unproven,
            trust=self.trust,
        )


@dataclass(frozen=True)
class Share:
    """What of the cluster each actor has, and how many there are."""

    actors: int
    cpus: int
    gpus: int  # 1 or 0


def segment_listing_on_ray(
    listing: Listing,
    opening: Opening,
    out: Path,
    settings: PredictSettings | None = None,
    watcher: Watcher | None = None,
    stop: Event | None = None,
    read: Callable[[Path], bytes] = photo_bytes,
) -> FolderReport:
    """Segment the photos of a listing on the Ray cluster at hand, or on one started here.

    Outputs, journal and errors are those of `segment_listing`, and either goes on where the other
    stopped, as long as the model runs in the same runtime.

    Args:
        listing: photos under a folder that every machine of the cluster sees.
        opening: the model; its file is sent to the actors.
        out: where masks, results.csv and run.json go, on this machine.
        settings: None takes the defaults; `workers` are the CPUs of an actor at most.
        watcher: is told how it goes.
        stop: once it is set, no more photos are taken in.
        read: bytes of the photo at a path, called on other machines; raises ImageError.

    Raises:
        BackendUnavailable: Ray is not installed, or the device is not in the cluster.
        ArtifactError: the model cannot be opened there, or not as everywhere else.
        FlowersegError: the cluster failed; and as `segment_listing`.
    """
    settings = settings or PredictSettings()
    with _cluster() as ray, _plainly(ray):
        share = _share(ray, opening.device, hands_of(settings, "cpu").workers)
        # Actors work in folders of their own; paths on other systems are from their root anyway.
        folder = listing.folder.absolute() if read is photo_bytes else listing.folder
        engine = _OnRay(ray, opening, settings, share, folder, read)
        if watcher:
            where = ray.get_runtime_context().gcs_address
            watcher.note(
                f"Ray at {where}: {share.actors} actors with {share.cpus} CPUs and {share.gpus} "
                f"GPUs each, {engine.origin.backend}, batch {engine.batch}"
            )
        files = photo_files_of(listing, read)
        return run_listing(listing, engine, out, settings, watcher, stop, files)


class _OnRay:
    """The engine of a cluster."""

    def __init__(
        self,
        ray: Any,
        opening: Opening,
        settings: PredictSettings,
        share: Share,
        folder: Path,
        read: Callable[[Path], bytes],
    ) -> None:
        self._ray = ray
        self._share = share
        self.hands = _hands(share.cpus)
        sent = [opening.model, manifest_path(opening.model)]
        # In a tuple, for a reference by itself would arrive as what it refers to.
        files = (ray.put([(path.name, path.read_bytes()) for path in sent]),)
        opening = replace(opening, device="cuda" if share.gpus else "cpu")
        settings = replace(settings, isolate_s=settings.isolate_s or DECODING_S)
        look = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus)(_look)
        self.origin, self.batch = ray.get(look.remote(files, opening, settings, share.cpus))
        self._arguments = (self.origin, files, opening, settings, share.cpus, folder, read)
        self.wall_s = 0.0
        self._backend_s = 0.0

    @property
    def waited_share(self) -> float:
        """Of the time of all actors."""
        all_s = self.wall_s * self._share.actors
        return 1.0 - self._backend_s / all_s if all_s else 0.0

    def run(
        self, job: Job, tasks: Iterable[Task], is_over: Callable[[], bool]
    ) -> Generator[Finished[Outcome], None, None]:
        """Outcomes as they come back, written by threads of this process."""
        if is_over():
            return
        began = time.perf_counter()
        waiting = {task.photo: task for task in tasks}
        rows = [
            {"task": pickle.dumps((photo, known_bytes(job, task)))}
            for photo, task in waiting.items()
        ]

        def written(made: Finished[Made]) -> Finished[Outcome]:
            step = finish(job, waiting[made.result.photo], made.result)
            return Finished(step.write() if isinstance(step, ForDisk) else step, made.worked_s)

        try:
            with ThreadPoolExecutor(WRITERS, "flowerseg-predict-write") as writing:
                for made, backend_s in self._answers(rows) if rows else ():
                    self._backend_s += backend_s
                    yield from writing.map(written, made)
                    if is_over():
                        return
        finally:
            self.wall_s = time.perf_counter() - began

    def _answers(
        self, rows: list[dict[str, bytes]]
    ) -> Iterator[tuple[list[Finished[Made]], float]]:
        size = min(
            _BATCHES_A_TASK * self.batch, len(rows) // (_TASKS_AN_ACTOR * self._share.actors)
        )
        size = max(size, self.batch)
        data = self._ray.data
        blocks = -(-len(rows) // size)
        with warnings.catch_warnings(action="ignore"):  # of Ray 2.60 about what 2.64 does away with
            answers = data.from_items(rows, override_num_blocks=blocks).map_batches(
                _Actor,
                fn_constructor_args=self._arguments,
                batch_size=size,
                batch_format="pyarrow",
                compute=data.ActorPoolStrategy(size=self._share.actors),
                num_cpus=self._share.cpus,
                num_gpus=self._share.gpus,
                # Without an end to it, what ends every actor would go round for ever.
                ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
            )
        for table in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            for answer in table.column("made").to_pylist():
                yield pickle.loads(answer)


class _Actor:
    """Makes the files of many photos, on one GPU or on some CPUs."""

    def __init__(
        self,
        origin: Origin,
        files: Any,
        opening: Opening,
        settings: PredictSettings,
        cpus: int,
        folder: Path,
        read: Callable[[Path], bytes],
    ) -> None:
        self._segmenter = _opened(files, opening, cpus)
        here = origin_of(self._segmenter)
        if here.basis != origin.basis:
            raise BackendUnavailable(
                f"{here.basis} on this machine of the cluster, {origin.basis} on another: masks "
                "would depend on where they are made. Give --device and --runtime, or install the "
                "same everywhere."
            )
        assert settings.isolate_s is not None
        decode = IsolatedDecoder(settings.isolate_s, settings.max_pixels)
        timely = within(read, settings.isolate_s)
        self._making = Making(folder, self._segmenter, settings.save, decode, timely)
        self._batch = batch_size(settings, self._segmenter.info.batch)
        self._workers = _hands(cpus).workers

    def __call__(self, rows: "pa.Table") -> "pa.Table":
        """One answer for many tasks: what was made, and the seconds that the backend worked."""
        import pyarrow as pa

        tasks = [pickle.loads(row) for row in rows.column("task").to_pylist()]
        pipeline: Pipeline[Made] = Pipeline(self._segmenter.streams, self._batch, self._workers)
        steps = (partial(make, self._making, photo, known) for photo, known in tasks)
        answer = pickle.dumps((list(pipeline.run(steps)), pipeline.backend_s))
        return pa.table({"made": pa.array([answer], pa.large_binary())})


def _hands(cpus: int) -> Hands:
    """Who decodes and encodes in an actor."""
    return Hands(max(2, cpus), 1)


def _look(files: Any, opening: Opening, settings: PredictSettings, cpus: int) -> tuple[Origin, int]:
    """What the model is on a machine of the cluster, and the batch that it takes there."""
    with _opened(files, opening, cpus) as segmenter:
        return origin_of(segmenter), batch_size(settings, segmenter.info.batch)


def _opened(files: Any, opening: Opening, cpus: int) -> Segmenter:
    """The model, from the files that were sent."""
    import ray

    with TemporaryDirectory() as folder:
        for name, content in ray.get(files[0]):
            (Path(folder) / name).write_bytes(content)
        model = Path(folder) / opening.model.name
        # Several actors of a machine, each with all cores of it, would wait in line.
        return replace(opening, model=model, cores=cpus).segmenter()


def _share(ray: Any, device: str, workers: int) -> Share:
    """One GPU an actor where there are any, else at most `workers` CPUs, on every machine.

    Raises:
        BackendUnavailable: GPUs are asked for, and there is none.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [machine for machine in machines if machine.get("GPU", 0) >= 1]
    if device != "cpu" and with_gpus:
        cpus = min(machine.get("CPU", 1) // machine["GPU"] for machine in with_gpus)
        actors = sum(int(machine["GPU"]) for machine in with_gpus)
        return Share(actors, max(1, min(workers, int(cpus))), 1)
    if device not in ("auto", "cpu"):
        raise BackendUnavailable(
            f"--device {device}: no machine of the Ray cluster has a GPU. Add one, or give "
            "--device cpu."
        )
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    if not cores:
        raise BackendUnavailable("The Ray cluster has neither CPUs nor GPUs. Add a machine to it.")
    cpus = min(workers, *cores)
    return Share(sum(core // cpus for core in cores), cpus, 0)


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS, or to one on this machine until the end.

    Raises:
        BackendUnavailable: Ray is not installed, or there is no cluster at that address.
    """
    is_ours = "RAY_ADDRESS" not in os.environ
    # What Ray's C++ says goes past its logging. All that matters is raised as well.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if is_ours:
        # Ray 2.60 listens on all networks to whoever comes, unless it takes this for a desktop; and
        # it tells its makers what it is used for. Both are read as it is imported.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendUnavailable(
            f"Ray is not installed ({error}): pip install 'flowerseg[ray]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs is raised as well
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():  # by the caller, who also ends it
        yield ray
        return
    try:
        ray.init(
            "local" if is_ours else None,
            include_dashboard=False if is_ours else None,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except ConnectionError as error:
        raise BackendUnavailable(
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: no Ray cluster answers: {error}. Start one "
            "(ray start --head), give all machines one RAY_AUTH_TOKEN, or unset RAY_ADDRESS to run "
            "on this machine."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _plainly(ray: Any) -> Iterator[None]:
    """Raise what an actor found wrong as if it had been found here."""
    try:
        yield
    except ray.exceptions.RayError as error:
        for cause in _causes(error):
            if isinstance(cause, FlowersegError) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from None
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise FlowersegError(
            f"The Ray cluster failed: {said[-1]} What is done is written: run the same again to go "
            "on."
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__
