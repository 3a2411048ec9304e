"""`flowerseg-predict`: segment a folder of photos."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Self

import click

from flowerseg.cli.check import check_and_print
from flowerseg.cli.inputs import photos_of
from flowerseg.cli.options import (
    Command,
    FiniteRange,
    device_option,
    json_option,
    print_result,
    runtime_option,
    stderr_console,
    trust_option,
    unproven_option,
)
from flowerseg.cli.streams import library_messages_dropped
from flowerseg.cli.terminal import echo
from flowerseg.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from flowerseg.artifact import Batch
    from flowerseg.listing import Listing
    from flowerseg.predict import FolderReport, PhotoResult, PredictSettings, Save
    from flowerseg.predict.ray_ import Opening
    from flowerseg.segmenter import Segmenter
    from flowerseg.tuned import Tuned

    Read = Callable[[Path], bytes]

INTERRUPTED = 130  # the exit code of shells for Ctrl-C

_SHOWN_FAILURES = 20
_LINE_EVERY_S = 5.0


def _saved(ctx: click.Context, parameter: click.Parameter, value: str) -> "tuple[Save, ...]":
    from flowerseg.predict import Save

    known = [str(kind) for kind in Save]
    names = list(dict.fromkeys(name.strip() for name in value.split(",")))
    if strange := [name for name in names if name not in known]:
        raise click.BadParameter(f"{strange[0]!r} is not one of {', '.join(known)}")
    return tuple(Save(name) for name in names)


def _parted(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    if value is None:
        return None
    numbers = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", value, re.ASCII)
    if not numbers or int(numbers[1]) > int(numbers[2]):
        raise click.BadParameter(f"{value!r} is not one of 1/N, 2/N … N/N")
    return int(numbers[1]), int(numbers[2])


@click.command(cls=Command)
@click.argument("folder", required=False, metavar="FOLDER")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    show_default="the model that comes with flowerseg",
    help="Model file (.pt, .onnx, .engine, .pt2) with its manifest beside it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for masks/, overlays/ and so on, results.csv and run.json; required. What an "
    "earlier run made there of the same photo with the same model and settings is kept.",
)
@click.option(
    "--check",
    "checked_folder",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Compare all that an earlier run left in OUT with its journal, and the photos with what "
    "they were, without a model. Takes no FOLDER and no option but --json.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    show_default="8, or what the model takes if that is less",
    help="Photos a batch.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    show_default="one a core, at least 2, at most 8 on the CPU and 32 on a GPU",
    help="Threads that decode photos and encode masks.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    show_default="1 on the CPU; on a GPU one for every 4 workers, and 500 photos",
    help="Processes that the workers are divided among, around one model.",
)
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    show_default="2 on a GPU, one a core and 8 at most on the CPU, where the runtime can",
    help="Batches that the model computes at a time.",
)
@click.option(
    "--cuda-graph/--no-cuda-graph",
    default=None,
    show_default="on a GPU, where the runtime can; not in onnxruntime",
    help="Record what a batch takes on the GPU once and replay it.",
)
@click.option(
    "--save",
    default="mask",
    show_default=True,
    callback=_saved,
    metavar="mask,overlay,cutout,probability",
    help="What to write of each photo; probability is a grey PNG of it, 256 levels.",
)
@click.option(
    "--threshold",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    show_default="the model's, as a rule 0.5",
    help="Probability from which a pixel is flower.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first photo that cannot be segmented.")
@click.option(
    "-0",
    "--null",
    is_flag=True,
    help="The paths on the list end with NUL, as find -print0 ends them.",
)
@click.option(
    "--shard",
    callback=_parted,
    metavar="I/N",
    help="Do part I of N only, into OUT/I-of-N. The parts together are all photos, each once; a "
    "photo's path alone decides which part it is in.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1, 1 << 30),
    show_default="268435456: 0.8 GB decoded",
    help="Refuse photos of more pixels as decompression bombs, before they are decoded.",
)
@click.option(
    "--isolate",
    type=FiniteRange(0, 86400, min_open=True),
    metavar="SECONDS",
    help="Decode in processes of their own: a photo that crashes the decoder, or takes longer than "
    "SECONDS to be read or to be decoded, fails alone.",
)
@click.option(
    "--tuned",
    "tuned_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="tuned.json of flowerseg-bench: all that it says about how to open the model. "
    "Refused for another model and on another machine.",
)
@click.option(
    "--engine",
    type=click.Choice(["here", "ray"]),
    default="here",
    show_default=True,
    help="ray: on all machines of the Ray cluster that RAY_ADDRESS names, or on this one.",
)
@device_option
@runtime_option
@unproven_option
@trust_option
@json_option
def predict(
    folder: str | None,
    model: Path | None,
    out: Path | None,
    checked_folder: Path | None,
    batch: int | None,
    workers: int | None,
    processes: int | None,
    streams: int | None,
    cuda_graph: bool | None,
    save: "tuple[Save, ...]",
    threshold: float | None,
    fail_fast: bool,
    null: bool,
    shard: tuple[int, int] | None,
    max_pixels: int | None,
    isolate: float | None,
    tuned_file: Path | None,
    engine: str,
    device: str,
    runtime: str,
    unproven: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Segment every photo in FOLDER and below it.

    The mask of FOLDER/sub/b.jpg is OUT/masks/sub/b.jpg.png: 0 and 255, as large as the photo.
    OUT/results.csv has a row for each photo, OUT/run.json says what ran. Hidden files, other files
    and links to folders are skipped. Photos that cannot be read are listed, the others are
    segmented, and the exit code is 1.

    FOLDER may also be a file with a list of photos, one path a line, or - for such a list on
    standard input, in UTF-8 or as the file system spells names; OUT/masks then repeats the paths
    as they are listed. Or a URI that fsspec opens, such as s3://bucket/photos.

    A run that was stopped, killed or out of disk goes on where it was: give the same command again.
    Ctrl-C finishes the photos under way (exit code 130), a second one ends at once. Whether
    everything is still there later, --check OUT finds out.
    """
    if checked_folder is not None:
        _refuse_beside_check()
        if not check_and_print(checked_folder, as_json=as_json):
            raise click.exceptions.Exit(1)
        return
    if folder is None or out is None:
        raise _missing("folder" if folder is None else "out")
    from flowerseg.artifact import Batch, manifest_path, read_manifest
    from flowerseg.images import MAX_PIXELS
    from flowerseg.predict import PredictSettings
    from flowerseg.predict.ray_ import Opening
    from flowerseg.shipped import shipped_model

    listing, read = photos_of(folder, out, null=null)
    listing, out = _divided(listing, out, shard)
    path = model or shipped_model()
    opening = Opening(
        path,
        device,
        runtime,
        threshold,
        unproven,
        streams=streams,
        cuda_graph=cuda_graph,
        trust=trust,
    )
    if tuned_file:
        if batch or runtime != "auto" or streams or cuda_graph is not None or engine != "here":
            raise click.UsageError(
                "--tuned brings its own --batch, --runtime, --streams and --cuda-graph, for this "
                "machine alone: leave those and --engine ray out."
            )
        tuned = _tuned(tuned_file, path, device)
        batch = tuned.batch
        opening = _as_tuned(opening, tuned)
    if processes and engine == "ray":
        raise click.UsageError("--processes is for one machine: leave it or --engine ray out.")
    settings = PredictSettings(
        batch,
        workers,
        processes,
        save,
        fail_fast,
        max_pixels or MAX_PIXELS,
        isolate,
    )
    manifest = read_manifest(manifest_path(path))
    largest = None if unproven else manifest.largest_proved()
    # Before an engine is deserialised, which takes seconds.
    _refuse_batch(settings, manifest.batch or (Batch(1, 1, largest) if largest else None))
    segment = _segment_on_ray if engine == "ray" else _segment_here
    report = segment(listing, opening, out, settings, read)
    print_result(report.run, _summary(report, out), as_json=as_json)
    if report.failed:
        _list_failures(report, out)
        raise click.exceptions.Exit(1)


def _refuse_beside_check() -> None:
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        name = parameter.name or ""
        is_given = ctx.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)
        if is_given and name not in ("checked_folder", "as_json"):
            named = parameter.opts[0] if parameter.opts[0].startswith("-") else "FOLDER"
            raise click.UsageError(f"--check looks at what is there: leave {named} out.")


def _missing(name: str) -> click.UsageError:
    """The error that click has for a parameter that is required."""
    ctx = click.get_current_context()
    (parameter,) = (found for found in ctx.command.params if found.name == name)
    return click.MissingParameter(ctx=ctx, param=parameter)


def _tuned(file: Path, model: Path, device: str) -> "Tuned":
    """The setting in a file, which must have been measured with this model on this machine."""
    from flowerseg.artifact import manifest_path, read_manifest
    from flowerseg.tuned import read_tuned, require_fit

    tuned = read_tuned(file)
    if device not in ("auto", tuned.machine.device):
        raise click.UsageError(f"{file} was measured on {tuned.machine.device}, not on {device}.")
    require_fit(tuned, model, read_manifest(manifest_path(model)).sha256)
    return tuned


def _as_tuned(opening: "Opening", tuned: "Tuned") -> "Opening":
    return replace(
        opening,
        device=tuned.machine.device,
        runtime=tuned.runtime,
        threads=tuned.threads,
        streams=tuned.streams,
        cuda_graph=tuned.cuda_graph,
        cudnn_benchmark=tuned.cudnn_benchmark,
        layout=tuned.layout,
    )


def _segment_here(
    listing: "Listing",
    opening: "Opening",
    out: Path,
    settings: "PredictSettings",
    read: "Read",
) -> "FolderReport":
    from flowerseg.predict import segment_listing

    with opening.segmenter() as segmenter:
        _refuse_batch(settings, segmenter.info.batch)
        _announce(settings, segmenter, len(listing.photos))
        with library_messages_dropped(), _watched(len(listing.photos)) as (shown, stop):
            return segment_listing(listing, segmenter, out, settings, shown, stop, read)


def _segment_on_ray(
    listing: "Listing", opening: "Opening", out: Path, settings: "PredictSettings", read: "Read"
) -> "FolderReport":
    from flowerseg.predict.ray_ import segment_listing_on_ray

    with _watched(len(listing.photos)) as (shown, stop):
        return segment_listing_on_ray(listing, opening, out, settings, shown, stop, read)


def _divided(
    listing: "Listing", out: Path, part_of: tuple[int, int] | None
) -> "tuple[Listing, Path]":
    """The part of the photos that is asked for, and where it goes: each has its own journal."""
    from flowerseg.listing import shard

    if part_of is None:
        return listing, out
    part, parts = part_of
    return shard(listing, part, parts), out / f"{part}-of-{parts}"


def _refuse_batch(settings: "PredictSettings", takes: "Batch | None") -> None:
    """Refuse a batch that the model does not take, in words of the command."""
    from flowerseg.predict import batch_size

    try:
        batch_size(settings, takes)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--batch") from error


def _announce(settings: "PredictSettings", segmenter: "Segmenter", photos: int) -> None:
    from flowerseg.predict import batch_size, hands_of

    info, artifact = segmenter.info, segmenter.artifact
    height, width = info.size_hw
    batch = batch_size(settings, info.batch)
    largest = artifact.manifest.largest_proved(info.runtime, info.device) if artifact else None
    is_proved = not segmenter.why_not_proved and batch <= (largest or batch)
    echo(
        f"{info}, {'proved' if is_proved else 'NOT PROVED'}, {info.precision}, "
        f"{height} x {width}: {photos} photos, batch {batch}, {_streams(segmenter)}"
        f"{hands_of(settings, info.device, photos)}",
        err=True,
    )


def _streams(segmenter: "Segmenter") -> str:
    count = len(segmenter.backends)
    return f"{count} streams, " if count > 1 else ""


class _Shown:
    """A bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, total: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._total = total
        self.console = stderr_console()
        self._bar = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}, ETA"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, state="")
        self._done = self._failed = self._kept = 0
        self._began = self._last_line = monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        self.console.print(printable(text))

    def photo(self, result: "PhotoResult", *, is_kept: bool) -> None:
        self._done += 1
        self._failed += not result.ok
        self._kept += is_kept
        now = monotonic()
        if self.console.is_terminal:
            self._bar.update(self._task, completed=self._done, state=self._state(now))
        elif now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self.note(f"{self._done} of {self._total} photos, {self._state(now)}")

    def _state(self, now: float) -> str:
        """What an earlier run had done tells nothing of this one's speed."""
        speed = (self._done - self._kept) / max(now - self._began, 1e-9)
        kept = f", {self._kept} kept" if self._kept else ""
        return f"{speed:.1f} photos/s, {self._failed} failed{kept}"


@contextmanager
def _watched(photos: int) -> "Iterator[tuple[_Shown, Event]]":
    """A run that is shown, and that Ctrl-C stops."""
    from flowerseg.errors import Stopped

    try:
        with _Shown(photos) as shown, _draining(shown.console) as stop:
            yield shown, stop
    except Stopped as stopped:
        echo(str(stopped), err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


@contextmanager
def _draining(console: "Console") -> Iterator[Event]:
    """An event that Ctrl-C sets; a second one ends the process at once.

    That is as safe as a power cut: what is half done has no name yet that anybody looks at.
    """
    stop = Event()

    def interrupt(*_: object) -> None:
        if stop.is_set():
            console.show_cursor()
            os._exit(INTERRUPTED)
        stop.set()
        console.print("Finishing the photos under way. Ctrl-C again ends at once.")

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as of what a script runs in the background
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _summary(report: "FolderReport", out: Path) -> str:
    run = report.run
    counts, effort = run.counts, run.effort
    kept = f" {effort.kept} of them an earlier run had done." if effort.kept else ""
    left = (
        f"\n{run.left_behind} photos of earlier runs were not among these; what was made of them "
        "stays."
        if run.left_behind
        else ""
    )
    waited = (
        f"\n{effort.segmented / effort.seconds:.1f} photos/s; the model waited "
        f"{100 * effort.waited_share:.0f} % of the time."
        if effort.segmented
        else ""
    )
    return (
        f"{counts.ok} of {counts.photos} photos segmented, {counts.failed} failed; "
        f"{counts.skipped} other files and folders skipped.{kept}\n"
        f"{', '.join(str(out / kind.folder) for kind in run.save)}; {out / 'results.csv'}"
        f"{left}{waited}"
    )


def _list_failures(report: "FolderReport", out: Path) -> None:
    failed = report.run.counts.failed
    echo(f"Failed photos ({failed}):", err=True)
    for result in report.failed[:_SHOWN_FAILURES]:
        echo(f"  {printable(result.error)}", err=True)
    if failed > _SHOWN_FAILURES:
        echo(f"  and {failed - _SHOWN_FAILURES} more, in {out / 'results.csv'}", err=True)
