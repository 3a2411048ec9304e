"""Which rows there are: every model in every runtime asked for, opened and timed while opening."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from flowerseg.arrays import Rgb
from flowerseg.artifact import Artifact, Kind, Manifest, open_artifact, require_proof
from flowerseg.backends import RUNTIMES, Backend, open_backend, run
from flowerseg.backends.null import NullBackend
from flowerseg.errors import BackendUnavailable, FlowersegError
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg_bench.macs import multiply_adds_of
from flowerseg_bench.results import Quality, Row
from flowerseg_bench.timing import Clock, timed


@dataclass(frozen=True)
class Wanted:
    """A model file to be opened in one runtime."""

    artifact: Artifact
    runtime: str
    is_optional: bool  # asked for by `auto`: left out with a note if it cannot run


@dataclass(frozen=True)
class OpenRow:
    """A row with its session."""

    row: Row
    segmenter: Segmenter

    @property
    def backend(self) -> Backend:
        """What is timed."""
        return self.segmenter.backend

    def with_quality(self, quality: Quality) -> "OpenRow":
        """The same row, judged."""
        return replace(self, row=replace(self.row, quality=quality))


def wanted_rows(
    models: Sequence[Path], runtimes: Sequence[str], *, allow_unproven: bool
) -> list[Wanted]:
    """Check every file before any time is spent, and pair it with its runtimes.

    Raises:
        ArtifactError: a file is missing, changed or unproven.
        BackendUnavailable: `auto`, and no runtime for an ONNX file is installed.
    """
    wanted: list[Wanted] = []
    for model in models:
        artifact = open_artifact(model)
        require_proof(artifact, allow_unproven=allow_unproven)
        kinds = RUNTIMES[artifact.manifest.kind]
        if artifact.manifest.kind is not Kind.ONNX:
            wanted.append(Wanted(artifact, kinds[0], is_optional=False))
            continue
        named = [r for r in runtimes if r != "auto"]
        wanted += [Wanted(artifact, r, is_optional=False) for r in dict.fromkeys(named)]
        if "auto" in runtimes:
            here = [r for r in kinds if find_spec(r) and r not in named]
            if not here and not named:
                raise BackendUnavailable(f"{model}: none of {', '.join(kinds)} is installed.")
            wanted += [Wanted(artifact, r, is_optional=len(here) > 1) for r in here]
    return wanted


def open_row(wanted: Wanted, device: str, clock: Clock, seen: set[str]) -> OpenRow:
    """Open a model in its runtime; the first one of a runtime also pays for importing it.

    Raises:
        BackendUnavailable: the runtime or the device is not here.
        ArtifactError: the runtime refuses the file.
    """
    opened: list[Backend] = []
    (open_s,) = timed(
        clock, lambda: opened.append(open_backend(wanted.artifact, device, wanted.runtime))
    )
    (backend,) = opened
    manifest = wanted.artifact.manifest
    segmenter = Segmenter(backend, manifest.preprocess, manifest.threshold)
    note = "" if wanted.runtime in seen else "includes loading the runtime"
    seen.add(wanted.runtime)
    return OpenRow(_row(wanted.artifact, backend, round(1e3 * open_s, 4), note), segmenter)


def open_rows(
    wanted: Sequence[Wanted], device: str, clock: Clock
) -> tuple[list[OpenRow], list[str]]:
    """Open all rows; notes name those that `auto` proposed and that cannot run.

    Raises:
        FlowersegError: a row that was asked for by name, or the last one left, cannot run.
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


def with_multiply_adds(opened: OpenRow, frame: Rgb) -> OpenRow:
    """Count what one photo takes, with no clock running."""
    counted = multiply_adds_of(opened.row, opened.backend, frame)
    return replace(opened, row=replace(opened.row, multiply_adds=counted))


def proof_state(manifest: Manifest) -> str:
    """In a word what the manifest says about its proof."""
    if manifest.kind is Kind.CHECKPOINT:
        return "reference"
    return manifest.proof.status if manifest.proof else "not run"


def _row(artifact: Artifact, backend: Backend, opened_ms: float, note: str) -> Row:
    manifest, info = artifact.manifest, backend.info
    proof = proof_state(manifest)
    return Row(
        name=f"{artifact.path.name} · {info.runtime} {info.precision}",
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
