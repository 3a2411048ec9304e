"""`flowerseg-predict`: segment a folder of photos."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowerseg.cli.options import (
    Command,
    device_option,
    json_option,
    print_result,
    runtime_option,
    stderr_console,
    unproven_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from flowerseg.artifact import Manifest
    from flowerseg.backends import BackendInfo
    from flowerseg.predict import FolderReport, PhotoResult, PredictSettings, Save

_SHOWN_FAILURES = 20


def _saved(ctx: click.Context, parameter: click.Parameter, value: str) -> "tuple[Save, ...]":
    from flowerseg.predict import Save

    known = [str(kind) for kind in Save]
    names = list(dict.fromkeys(name.strip() for name in value.split(",")))
    if strange := [name for name in names if name not in known]:
        raise click.BadParameter(f"{strange[0]!r} is not one of {', '.join(known)}")
    return tuple(Save(name) for name in names)


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    show_default="the model that comes with flowerseg",
    help="Model file (.pt, .onnx, .engine, .pt2) with its manifest beside it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for masks/, overlays/, cutouts/, results.csv and run.json.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    show_default="8, or what the model takes if that is less",
    help="Photos a batch.",
)
@click.option(
    "--save",
    default="mask",
    show_default=True,
    callback=_saved,
    metavar="mask,overlay,cutout",
    help="What to write of each photo.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    show_default="the model's, as a rule 0.5",
    help="Probability from which a pixel is flower.",
)
@device_option
@runtime_option
@unproven_option
@json_option
def predict(
    folder: Path,
    model: Path | None,
    out: Path,
    batch: int | None,
    save: "tuple[Save, ...]",
    threshold: float | None,
    device: str,
    runtime: str,
    unproven: bool,
    as_json: bool,
) -> None:
    """Segment every photo in FOLDER and below it.

    The mask of FOLDER/sub/b.jpg is OUT/masks/sub/b.jpg.png: 0 and 255, as large as the photo.
    OUT/results.csv has a row for each photo, OUT/run.json says what ran. Hidden files, other files
    and links to folders are skipped. Photos that cannot be read are listed, the others are
    segmented, and the exit code is 1.
    """
    from flowerseg.artifact import manifest_path, read_manifest
    from flowerseg.listing import list_photos
    from flowerseg.predict import PredictSettings, segment_listing
    from flowerseg.segmenter import Segmenter
    from flowerseg.shipped import shipped_model

    listing = list_photos(folder, out)
    path = model or shipped_model()
    settings = PredictSettings(batch=batch, save=save)
    _refuse_batch(settings, read_manifest(manifest_path(path)))
    with Segmenter.open(
        path,
        device=device,
        runtime=runtime,
        threshold=threshold,
        allow_unproven=unproven,
    ) as segmenter:
        _announce(settings, segmenter.info, len(listing.photos))
        with _progress(len(listing.photos), stderr_console()) as on_progress:
            report = segment_listing(listing, segmenter, out, settings, on_progress)
    print_result(report.run, _summary(report, out), as_json=as_json)
    if report.failed:
        _list_failures(report.failed, out)
        raise click.exceptions.Exit(1)


def _refuse_batch(settings: "PredictSettings", manifest: "Manifest") -> None:
    """Before an engine is deserialised, which takes seconds."""
    from flowerseg.predict import batch_size

    try:
        batch_size(settings, manifest.batch)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--batch") from error


def _announce(settings: "PredictSettings", info: "BackendInfo", photos: int) -> None:
    from flowerseg.predict import batch_size

    height, width = info.size_hw
    click.echo(
        f"{info}, {info.precision}, {height} x {width}: {photos} photos, "
        f"batch {batch_size(settings, info.batch)}, {settings.workers} workers",
        err=True,
    )


@contextmanager
def _progress(total: int, console: "Console") -> Iterator[Callable[["PhotoResult"], None]]:
    """A bar on a terminal, a plain line every tenth elsewhere."""
    if not console.is_terminal:
        yield _plain_progress(total)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.1f} photos/s, {task.fields[failed]} failed, left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total, speed=0.0, failed=0)

        def show(result: "PhotoResult") -> None:
            task = progress.tasks[bar]
            failed = task.fields["failed"] + (not result.ok)
            progress.update(bar, advance=1, speed=task.speed or 0.0, failed=failed)

        yield show


def _plain_progress(total: int) -> Callable[["PhotoResult"], None]:
    done = failed = 0

    def show(result: "PhotoResult") -> None:
        nonlocal done, failed
        done += 1
        failed += not result.ok
        if done * 10 // total > (done - 1) * 10 // total:
            click.echo(f"{done} of {total} photos, {failed} failed", err=True)

    return show


def _summary(report: "FolderReport", out: Path) -> str:
    counts = report.run.counts
    return (
        f"{counts.ok} of {counts.photos} photos segmented, {counts.failed} failed; "
        f"{counts.skipped} other files and folders skipped.\n"
        f"{', '.join(f'{out / kind}s' for kind in report.run.save)}; {out / 'results.csv'}"
    )


def _list_failures(failed: "list[PhotoResult]", out: Path) -> None:
    click.echo(f"Failed photos ({len(failed)}):", err=True)
    for result in failed[:_SHOWN_FAILURES]:
        click.echo(f"  {result.error}", err=True)
    if len(failed) > _SHOWN_FAILURES:
        hidden = len(failed) - _SHOWN_FAILURES
        click.echo(f"  and {hidden} more, in {out / 'results.csv'}", err=True)
