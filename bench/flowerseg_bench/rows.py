"""Which rows there are: every model in every runtime asked for, opened and timed while opening."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import numpy as np

from flowerseg.arrays import Rgb
from flowerseg.artifact import (
    Artifact,
    Data,
    Manifest,
    computed_in,
    open_artifact,
    require_proof,
)
from flowerseg.backends import (
    CUDNN_BENCHMARKED,
    GRAPHED,
    LAID_OUT,
    ONE_BATCH,
    RUNTIMES,
    STREAMED,
    THREADED,
    Backend,
    BackendInfo,
    SessionOptions,
    kind_of_device,
    open_backends,
    run,
    runtimes_here,
)
from flowerseg.backends.base import Layout
from flowerseg.backends.null import NullBackend
from flowerseg.errors import FlowersegError
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg_bench.macs import multiply_adds_of
from flowerseg_bench.results import Quality, Row
from flowerseg_bench.timing import Clock, timed


@dataclass(frozen=True)
class Variants:
    """Ways to open a model that get rows of their own, where the runtime has such an option."""

    threads: tuple[int, ...] = ()  # none: the runtime's own choice
    streams: tuple[int, ...] = (1,)
    cuda_graph: tuple[bool, ...] = (False,)
    cudnn_benchmark: tuple[bool, ...] = (False,)
    layout: tuple[Layout, ...] = ()  # none: channels-first, and no word of it in the name

    def of(self, runtime: str, device: str) -> list[SessionOptions]:
        """All of them that a runtime has on a device by its kind, `cpu` or `cuda`."""
        on_cpu = device == "cpu"
        threads = self.threads if on_cpu and runtime in THREADED else ()
        streams = self.streams if runtime in STREAMED[device] else (1,)
        graphs = self.cuda_graph if not on_cpu and runtime in GRAPHED else (False,)
        has_cudnn = not on_cpu and runtime in CUDNN_BENCHMARKED
        benchmarks = self.cudnn_benchmark if has_cudnn else (False,)
        layouts = self.layout if not on_cpu and runtime in LAID_OUT else ()
        return [
            SessionOptions(
                threads=count,
                streams=stream_count,
                cuda_graph=has_graph,
                cudnn_benchmark=is_timed_first,
                layout=layout,
            )
            for count, stream_count, layout, is_timed_first, has_graph in product(
                threads or (None,), streams, layouts or (None,), benchmarks, graphs
            )
        ]


ONE_ROW_EACH = Variants()


@dataclass(frozen=True)
class Wanted:
    """A model file to be opened in one runtime."""

    artifact: Artifact
    runtime: str
    is_optional: bool  # asked for by `auto`: left out with a note if it cannot run
    is_refused: bool = False  # not proved in this runtime
    options: SessionOptions = ONE_BATCH

    @property
    def name(self) -> str:
        """`flower.pt · pytorch fp32, CUDA graph`: the name that the row will have."""
        precision = computed_in(self.runtime, self.artifact.manifest.precision)
        return _name(self.artifact, self.runtime, precision, self.options)


@dataclass(frozen=True)
class OpenRow:
    """A row with its session."""

    row: Row
    segmenter: Segmenter
    data: Data | None = None  # that its model was trained on, as the manifest says

    @property
    def backend(self) -> Backend:
        """What is timed."""
        return self.segmenter.backend

    def with_quality(self, quality: Quality) -> "OpenRow":
        """The same row, judged."""
        return replace(self, row=replace(self.row, quality=quality))


def wanted_rows(
    models: Sequence[Path],
    runtimes: Sequence[str],
    *,
    device: str = "auto",
    variants: Variants = ONE_ROW_EACH,
    leave_out: Sequence[str] = (),
    allow_unproven: bool,
    trust: bool = False,
) -> list[Wanted]:
    """Check every file before any time is spent, and pair it with its runtimes.

    A runtime that was named but opens none of a file's kind does not concern that file.

    Args:
        models: files.
        runtimes: by name, or `auto`.
        device: as of `open_backends`.
        variants: ways to open each.
        leave_out: globs of names of rows that are not wanted.
        allow_unproven: take files that were not proved in a runtime.
        trust: take compiled files that another user can change.

    Raises:
        ArtifactError: a file is missing, changed, or unproven in the runtimes asked for.
        FlowersegError: no row is left.
    """
    wanted: list[Wanted] = []
    for model in models:
        artifact = open_artifact(model, trust=trust)
        kinds = RUNTIMES[artifact.manifest.kind]
        named = list(dict.fromkeys(r for r in runtimes if r in kinds))
        for runtime in named:
            kind = kind_of_device(artifact.manifest, runtime, device)
            require_proof(artifact, allow_unproven=allow_unproven, runtime=runtime, device=kind)
            wanted += _varied(Wanted(artifact, runtime, is_optional=False), variants, device)
        if "auto" in runtimes or not named:
            for item in _automatic(artifact, named, device, allow_unproven=allow_unproven):
                wanted += _varied(item, variants, device)
    kept = [item for item in wanted if not any(fnmatchcase(item.name, g) for g in leave_out)]
    if not kept:
        raise FlowersegError(f"--leave-out {' --leave-out '.join(leave_out)} leaves no row.")
    return kept


def _automatic(
    artifact: Artifact, named: Sequence[str], device: str, *, allow_unproven: bool
) -> list[Wanted]:
    """The rows that `auto` proposes: the runtimes of this machine that the user did not name.

    Where no runtime of the file's kind is installed, the first one is proposed all the same: its
    own error then says in the notes what is missing.
    """
    manifest = artifact.manifest
    proposed = runtimes_here(manifest, device) or [RUNTIMES[manifest.kind][0]]
    runtimes = [runtime for runtime in proposed if runtime not in named]
    kinds = {runtime: kind_of_device(manifest, runtime, device) for runtime in runtimes}
    is_proved = {runtime: manifest.is_proved_in(runtime, kinds[runtime]) for runtime in runtimes}
    if not named and not any(is_proved.values()):
        first = RUNTIMES[manifest.kind][0]
        kind = kind_of_device(manifest, first, device)
        require_proof(artifact, allow_unproven=allow_unproven, device=kind)
    return [
        Wanted(
            artifact,
            runtime,
            is_optional=True,
            is_refused=not allow_unproven and not is_proved[runtime],
        )
        for runtime in runtimes
    ]


def _varied(wanted: Wanted, variants: Variants, device: str) -> list[Wanted]:
    """A row for each way to open the model in its runtime."""
    kind = kind_of_device(wanted.artifact.manifest, wanted.runtime, device)
    return [replace(wanted, options=options) for options in variants.of(wanted.runtime, kind)]


def open_row(wanted: Wanted, device: str, clock: Clock, seen: set[str]) -> OpenRow:
    """Open a model in its runtime; the first one of a runtime also pays for importing it.

    Raises:
        BackendUnavailable: the runtime or the device is not here.
        ArtifactError: the runtime refuses the file.
    """
    if wanted.is_refused:
        kind = kind_of_device(wanted.artifact.manifest, wanted.runtime, device)
        require_proof(wanted.artifact, allow_unproven=False, runtime=wanted.runtime, device=kind)
    opened: list[tuple[Backend, ...]] = []

    def open_it() -> None:
        artifact, runtime = wanted.artifact, wanted.runtime
        opened.append(open_backends(artifact, device, runtime, wanted.options))

    (open_s,) = timed(clock, open_it)
    ((backend, *others),) = opened
    manifest = wanted.artifact.manifest
    segmenter = Segmenter(backend, manifest.preprocess, manifest.threshold, others=others)
    note = "" if wanted.runtime in seen else "includes loading the runtime"
    seen.add(wanted.runtime)
    row = _row(wanted, backend, round(1e3 * open_s, 4), note)
    return OpenRow(row, segmenter, manifest.data)


def open_rows(
    wanted: Sequence[Wanted], device: str, clock: Clock
) -> tuple[list[OpenRow], list[str]]:
    """Open all rows; a note gives the reason for each that `auto` proposed and that cannot run.

    Raises:
        FlowersegError: a row that the user named cannot run, or no row can.
    """
    rows: list[OpenRow] = []
    notes: list[str] = []
    seen: set[str] = set()
    failed: FlowersegError | None = None
    for item in wanted:
        try:
            rows.append(open_row(item, device, clock, seen))
        except FlowersegError as error:
            if not item.is_optional:
                raise
            failed = error
            notes.append(f"{item.artifact.path.name} in {item.runtime} is left out: {error}")
    if failed is not None and not rows:
        raise failed
    return _with_distinct_names(rows), notes


def null_row(preprocess: Preprocess) -> OpenRow:
    """The row that does nothing: what the harness itself costs."""
    backend = NullBackend(preprocess.size_hw)
    row = Row(
        name="null",
        file="",
        sha256="",
        kind="null",
        architecture="",
        runtime=backend.info.runtime,
        version="",
        device=backend.info.device,
        device_name="",
        precision="",
        preprocess=preprocess,
        min_batch=1,
        max_batch=None,
        proof="-",
        is_unproven=False,
        opened_ms=0.0,
        opened_note="",
        first_run_ms=0.0,
        quality=Quality(note="it does nothing, and its masks mean nothing"),
    )
    return OpenRow(row, Segmenter(backend, preprocess))


def with_first_run(opened: OpenRow, frame: Rgb, clock: Clock) -> OpenRow:
    """Time the very first run: what lazy runtimes put off until then."""
    images = np.stack([frame])
    (first_s,) = timed(clock, lambda: run(opened.backend, images))
    return replace(opened, row=replace(opened.row, first_run_ms=round(1e3 * first_s, 4)))


def proof_state(
    manifest: Manifest, runtime: str, info: BackendInfo, options: SessionOptions
) -> str:
    """In a word or two what the manifest says about a file's proof as it was opened."""
    if manifest.is_reference_in(runtime):
        return "reference"
    proof = manifest.proof_in(runtime, info.device)
    if proof is None or proof.status != "proved":
        return proof.status if proof else "not run"
    is_here = manifest.is_proved_in(runtime, info.device) and not proof.why_not_as(
        info.version, info.device_name, options.streams, graph=options.cuda_graph
    )
    return "proved" if is_here else "not proved here"


def _row(wanted: Wanted, backend: Backend, opened_ms: float, note: str) -> Row:
    artifact, manifest, info = wanted.artifact, wanted.artifact.manifest, backend.info
    proof = proof_state(manifest, wanted.runtime, info, wanted.options)
    return Row(
        name=_name(artifact, info.runtime, info.precision, wanted.options),
        file=str(artifact.path),
        sha256=manifest.sha256,
        kind=manifest.kind,
        architecture=manifest.architecture,
        runtime=info.runtime,
        version=info.version,
        device=info.device,
        device_name=info.device_name,
        precision=info.precision,
        preprocess=manifest.preprocess,
        min_batch=manifest.batch.min if manifest.batch else 1,
        max_batch=info.batch.max if info.batch else None,
        proof=proof,
        is_unproven=proof not in ("proved", "reference"),
        opened_ms=opened_ms,
        opened_note=note,
        first_run_ms=0.0,
        quality=Quality(),
        threads=wanted.options.threads,
        streams=wanted.options.streams,
        multiply_adds=multiply_adds_of(manifest.architecture, manifest.preprocess.size_hw),
        cuda_graph=wanted.options.cuda_graph,
        cudnn_benchmark=wanted.options.cudnn_benchmark,
        layout=wanted.options.layout,
        proved_batch=manifest.largest_proved(wanted.runtime, info.device)
        if proof == "proved"
        else None,
    )


def _name(artifact: Artifact, runtime: str, precision: str, options: SessionOptions) -> str:
    return f"{artifact.path.name} · {runtime} {precision}{_in_words(options)}"


def _in_words(options: SessionOptions) -> str:
    threads, streams = options.threads, options.streams
    return (
        ("" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}")
        + (f", {streams} streams" if streams > 1 else "")
        + (f", {options.layout.replace('-', ' ')}" if options.layout else "")
        + (", cuDNN benchmark" if options.cudnn_benchmark else "")
        + (", CUDA graph" if options.cuda_graph else "")
    )


def _with_distinct_names(rows: list[OpenRow]) -> list[OpenRow]:
    """Files of one name in two folders are told apart by their hashes."""
    names = [opened.row.name for opened in rows]
    return [
        replace(opened, row=replace(opened.row, name=f"{name} [{opened.row.sha256[:6]}]"))
        if names.count(name) > 1
        else opened
        for opened, name in zip(rows, names, strict=True)
    ]
