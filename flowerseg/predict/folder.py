"""A folder of photos in, a folder of masks out: what an earlier run did is kept, and noted."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Protocol

from flowerseg.artifact import versions_here
from flowerseg.errors import ImageError, OutputError, Stopped
from flowerseg.files import as_path, explained, remove_temporaries, write_text
from flowerseg.isolate import opened_decoder
from flowerseg.listing import Listing, list_photos
from flowerseg.photofile import photo_bytes, within
from flowerseg.predict.engine import Engine, Here
from flowerseg.predict.journal import Journal
from flowerseg.predict.lock import HeldFolder, locked
from flowerseg.predict.outputs import OutputFolders, require_distinct_outputs
from flowerseg.predict.photo import Job, Making, Outcome, Task, failed
from flowerseg.predict.processes import InProcesses
from flowerseg.predict.results import (
    RESULTS,
    RUN,
    Counts,
    Effort,
    PhotoResult,
    RunRecord,
    utf8,
    write_results,
)
from flowerseg.predict.settings import PredictSettings, Save, hands_of
from flowerseg.segmenter import Segmenter, require_segmenter

MOST_FAILURES = 1000  # in a report; results.csv has all
_LOOK_EVERY_S = 1.0  # whether the output folder is still there


class Watcher(Protocol):
    """Who is told how the run goes, in the calling thread."""

    def note(self, text: str) -> None:
        """Something that the user should read."""

    def photo(self, result: PhotoResult, *, is_kept: bool) -> None:
        """A photo is done, in any order; `is_kept` if an earlier run had done it."""


class Silent:
    """Tells nobody."""

    def note(self, text: str) -> None:
        """Nothing."""

    def photo(self, result: PhotoResult, *, is_kept: bool) -> None:
        """Nothing."""


@dataclass(frozen=True)
class FolderReport:
    """A folder that was segmented. Its results.csv tells of each photo."""

    run: RunRecord
    failed: tuple[PhotoResult, ...]  # the first MOST_FAILURES by path, each with its reason


def segment_folder(
    folder: str | Path,
    segmenter: Segmenter,
    out: str | Path,
    settings: PredictSettings | None = None,
    watcher: Watcher | None = None,
    stop: Event | None = None,
) -> FolderReport:
    """Segment every photo in a folder and below it.

    A photo that cannot be decoded is reported and the rest go on. What an earlier run into `out`
    made of the same photo with the same model and settings is kept. Prints nothing.

    Args:
        folder: where the photos are; see `list_photos`.
        segmenter: used from a thread for each of its streams until this returns. Without a model
            file nothing tells it from another one, so what it makes is never kept.
        out: where masks, results.csv and run.json go.
        settings: None takes the defaults.
        watcher: is told how it goes.
        stop: once it is set, photos under way are finished and no other is begun.

    Raises:
        DataError: the folder is missing or holds no photo, or two outputs would have one name;
            no file was written.
        OutputError: an output cannot be written, another run is writing there, or the output
            folder or what lies in it was removed or replaced meanwhile; the outputs already
            written are whole.
        ImageError: the first bad photo, where the settings ask for it.
        Stopped: `stop` was set before the last photo had begun.
        ValueError: the batch is larger than the model takes, a path is empty, or the segmenter is
            closed.
        TypeError: a path is none, or `segmenter` is no Segmenter.
        BackendUnavailable: this process was forked from the one that opened the model.
    """
    require_segmenter(segmenter)
    folder, out = as_path(folder, "folder"), as_path(out, "out")
    listing = list_photos(folder, out)
    return segment_listing(listing, segmenter, out, settings, watcher, stop)


def segment_listing(
    listing: Listing,
    segmenter: Segmenter,
    out: Path,
    settings: PredictSettings | None = None,
    watcher: Watcher | None = None,
    stop: Event | None = None,
    read: Callable[[Path], bytes] = photo_bytes,
) -> FolderReport:
    """Segment the photos of a listing, then write results.csv and run.json.

    See `segment_folder`; `read` gives the bytes of the photo at a path, or raises ImageError. With
    several processes it is called in those, so it has to be one that can be pickled.
    """
    settings = settings or PredictSettings()
    hands = hands_of(settings, segmenter.info.device, len(listing.photos))
    files = photo_files_of(listing, read)
    if hands.processes > 1:
        apart = InProcesses(listing.folder, segmenter, settings, hands, read)
        return run_listing(listing, apart, out, settings, watcher, stop, files)
    with opened_decoder(settings.max_pixels, settings.isolate_s) as decode:
        timely = within(read, settings.isolate_s)
        making = Making(listing.folder, segmenter, settings.save, decode, timely)
        engine = Here(making, settings, hands)
        return run_listing(listing, engine, out, settings, watcher, stop, files)


def run_listing(
    listing: Listing,
    engine: Engine,
    out: Path,
    settings: PredictSettings,
    watcher: Watcher | None = None,
    stop: Event | None = None,
    photo_files: Path | None = None,
) -> FolderReport:
    """Bring the photos of a listing through an engine, then write results.csv and run.json.

    See `segment_folder`; `photo_files` is the folder in which a later check finds the photos, from
    the root, and None where they are not files here.
    """
    require_distinct_outputs(listing.photos)
    origin = engine.origin
    with locked(out) as held, Journal(held.path, origin.basis, photo_files) as journal:
        held.watch(journal.path)
        _clear(held.path, journal)
        job = Job(held.path, settings.save, _made_folders(held, settings.save))
        run = _Run(out, job, journal, held, settings, watcher or Silent(), stop or Event())
        run.say_first()
        run.segment(listing, engine)
        held.require_unchanged()
        record = RunRecord(
            folder=utf8(str(listing.folder)),
            model=origin.model,
            backend=origin.backend,
            preprocess=origin.preprocess,
            threshold=origin.threshold,
            batch=engine.batch,
            workers=engine.hands.workers,
            processes=engine.hands.processes,
            save=settings.save,
            counts=run.counts(listing.skipped),
            effort=run.effort(engine),
            left_behind=journal.left_behind,
            versions=versions_here(),
        )
        write_results(held.path / RESULTS, run.results())
        content = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
        write_text(held.path / RUN, content)
        journal.finish(content)
        run.say_last()
        held.require_unchanged()
        return FolderReport(record, tuple(journal.failures(MOST_FAILURES)))


def photo_files_of(listing: Listing, read: Callable[[Path], bytes]) -> Path | None:
    """The folder that the photos of a listing are files of, from the root; None of remote ones."""
    return listing.folder.absolute() if read is photo_bytes else None


def _made_folders(held: HeldFolder, save: tuple[Save, ...]) -> OutputFolders:
    """The folders that outputs go to, which have to stay while the run holds the output folder."""
    folders = OutputFolders(held.path)
    for kind in save:
        folders.make(held.path / kind.folder)
        held.watch(held.path / kind.folder)
    return folders


def _clear(out: Path, journal: Journal) -> None:
    """Remove what tells of a finished run, before that becomes untrue, and what a killed run left.

    Raises:
        OutputError: the system refuses.
    """
    for path in (out / RESULTS, out / RUN):
        with explained(path):
            path.unlink(missing_ok=True)
    if journal.was_interrupted:
        remove_temporaries(out, [kind.folder for kind in Save])


class _Run:
    """Brings photos, pipeline and journal together, and counts."""

    def __init__(
        self,
        name: Path,
        job: Job,
        journal: Journal,
        held: HeldFolder,
        settings: PredictSettings,
        watcher: Watcher,
        stop: Event,
    ) -> None:
        self._name = name  # of the output folder, for the user
        self._job = job
        self._journal = journal
        self._held = held
        self._settings = settings
        self._watcher = watcher
        self._stop = stop
        self._photos = self._failed = self._kept = 0
        self._first_bad: PhotoResult | None = None
        self._looked = monotonic()  # when the output folder was last looked at

    def say_first(self) -> None:
        """Tell what an earlier run made, and whether that is done again."""
        out, journal = self._name, self._journal
        if kept := journal.current:
            how = "an interrupted run" if journal.was_interrupted else "an earlier run"
            self._watcher.note(
                f"{out}: {how} segmented {kept} photos; those that have not changed are kept."
            )
        if others := journal.outdated:
            self._watcher.note(
                f"{out}: {others} photos were segmented before this changed: "
                f"{', '.join(journal.changes)}. They are done again."
            )

    def say_last(self) -> None:
        """Tell what was done again because the journal was damaged."""
        if damaged := self._journal.damaged:
            self._watcher.note(
                f"{self._journal.path}: {damaged} rows were damaged; their photos were done again. "
                "Check the disk."
            )

    def results(self) -> Iterator[PhotoResult]:
        """Of all photos, sorted by path, with a look at whether their files are still there.

        Raises:
            OutputError: files are missing, or rows of the journal.
        """
        job = self._job
        rows, missing, first = 0, 0, None
        for photo, entry in self._journal.entries():
            rows += 1
            for kind in entry.outputs:
                if not job.folders.has(path := job.output(photo, kind)):
                    missing += 1
                    first = first or path
            yield entry.result
        if missing:
            raise OutputError(
                f"{self._name}: {missing} files that were written are missing, such as {first}. "
                "Something removes them; run the same again to make them anew."
            )
        if rows != self._photos:
            raise OutputError(
                f"{self._journal.path}: {self._photos} photos were done, and the journal has "
                f"{rows} whole rows of them. Check the disk, and run the same again."
            )

    def segment(self, listing: Listing, engine: Engine) -> None:
        """Segment what is not done, and write it down.

        Raises:
            Stopped: the run was told to stop before the last photo had begun.
            ImageError: the first bad photo, where the settings ask for it.
        """
        for path, error in listing.unreadable:
            self._take(failed(self._job, Task(path), error), milliseconds=None)
        tasks = (Task(photo, self._journal.find(photo)) for photo in listing.photos)
        with closing(engine.run(self._job, tasks, self._is_over)) as stream:
            for finished in stream:
                self._take(finished.result, round(1e3 * finished.worked_s, 1))
        photos = len(listing.photos) + len(listing.unreadable)
        if self._photos == photos:
            return
        done = f"{self._photos} of {photos} photos are done"
        if self._settings.fail_fast and self._first_bad:
            raise ImageError(f"{self._first_bad.error} Stopped there, as asked; {done}.")
        raise Stopped(f"{self._name}: stopped; {done}. Run the same again to go on.")

    def counts(self, skipped: int) -> Counts:
        """What became of the photos."""
        return Counts(self._photos, self._photos - self._failed, self._failed, skipped)

    def effort(self, engine: Engine) -> Effort:
        """What this run did itself."""
        return Effort(
            self._photos - self._failed - self._kept,
            self._kept,
            round(engine.wall_s, 3),
            round(engine.waited_share, 4),
        )

    def _is_over(self) -> bool:
        return self._stop.is_set() or (self._settings.fail_fast and self._first_bad is not None)

    def _take(self, outcome: Outcome, milliseconds: float | None) -> None:
        entry = outcome.entry
        if not outcome.is_kept:
            result = dataclasses.replace(entry.result, milliseconds=milliseconds)
            entry = dataclasses.replace(entry, result=result)
        self._journal.record(outcome.photo, entry)
        self._photos += 1
        self._kept += outcome.is_kept
        if not entry.result.ok:
            self._failed += 1
            self._first_bad = self._first_bad or entry.result
        self._watcher.photo(entry.result, is_kept=outcome.is_kept)
        if (now := monotonic()) - self._looked >= _LOOK_EVERY_S:
            self._looked = now
            self._held.require_unchanged()
