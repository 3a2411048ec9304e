"""The speed of a folder run against what the machine's cores allow at most.

Each photo costs the engine a share of its batch, for which it takes all cores, and some work that
one core does: decoding, resizing to the frame, resizing back, thresholding, encoding. If no core
ever stood still, a photo would take

    engine_s + photo_s / cores

Both terms are measured apart, each with the machine to itself, before the folder run and after it,
and the faster time counts: `engine_s` by running full batches of real frames through the four
verbs, upload and download included; `photo_s` by doing the rest for one photo after the other on
one thread. Reading, hashing, flushing and the journal are not in
the limit: they count against the folder run.

On a GPU the cores have nothing else to do, and the limit is the GPU's: `engine_s` alone, transfers
included, in the streams that a folder run opens.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

from flowerseg.arrays import Images, size_of
from flowerseg.artifact import manifest_path, read_manifest
from flowerseg.backends import SessionOptions, for_folders, run
from flowerseg.backends.device import allowed_cores
from flowerseg.files import sha256_of
from flowerseg.images import encode_mask, read_rgb, use_one_thread_per_call
from flowerseg.listing import list_photos
from flowerseg.predict import Hands, PredictSettings, batch_size, hands_of, segment_folder
from flowerseg.preprocess import frame_from_photo
from flowerseg.segmenter import Segmenter
from flowerseg_bench.jobs import in_threads
from flowerseg_bench.photos import batches_of, frames_from_files, link_photos
from flowerseg_bench.record import Finding, table_of
from flowerseg_bench.timing import Clock, timed, wall_clock


@dataclass(frozen=True)
class Round:
    """One measurement of each of the three."""

    engine_s: float  # a photo, in a batch that fills the machine
    photo_s: float  # a photo, all that is done before and after the engine, on one core
    folder_s: float  # a photo, of the whole run
    waited_share: float  # of the run's time the backend had nothing to do


@dataclass(frozen=True)
class Speed:
    """What was measured of one runtime."""

    runtime: str
    batch: int
    hands: Hands
    cores: int
    rounds: tuple[Round, ...]
    device: str = "cpu"

    @property
    def engine_s(self) -> float:
        """Median over the rounds; so with the others."""
        return median(one.engine_s for one in self.rounds)

    @property
    def photo_s(self) -> float:
        return median(one.photo_s for one in self.rounds)

    @property
    def folder_s(self) -> float:
        return median(one.folder_s for one in self.rounds)

    @property
    def limit_s(self) -> float:
        """A photo, if no core ever stood still; on a GPU, if that never did."""
        return self.engine_s + (self.photo_s / self.cores if self.device == "cpu" else 0.0)

    @property
    def share(self) -> float:
        """Of the photos that the limit allows, those that were done."""
        return self.limit_s / self.folder_s


@dataclass(frozen=True)
class Opened:
    """A model file, and how it is run."""

    model: Path
    runtimes: tuple[str, ...]
    device: str = "cpu"
    batch: int | None = None  # None: that of a folder run
    allow_unproven: bool = False
    trust: bool = False


def measure_throughput(
    photos: Path,
    how: Opened,
    count: int,
    rounds: int,
    work: Path,
    clock: Clock = wall_clock,
) -> Finding:
    """Segment a folder of `count` links to the photos in each runtime, one after the other."""
    listing = list_photos(photos, work)
    files = [listing.folder / path for path in listing.photos]
    folder = work / "photos"
    link_photos(files, 0, count, folder)
    speeds = [_measured(folder, files, how, runtime, rounds, clock) for runtime in how.runtimes]
    return finding_of(how.model, len(files), count, speeds)


def _measured(
    folder: Path, files: Sequence[Path], how: Opened, runtime: str, rounds: int, clock: Clock
) -> Speed:
    settings = PredictSettings(batch=how.batch)
    manifest = read_manifest(manifest_path(how.model))
    opened = partial(
        Segmenter.open,
        how.model,
        device=how.device,
        runtime=runtime,
        allow_unproven=how.allow_unproven,
        trust=how.trust,
    )
    with (
        opened(options=for_folders(manifest, runtime, how.device)) as segmenter,
        opened(options=SessionOptions(shares_cores=True)) as alone,
    ):
        batch = batch_size(settings, segmenter.info.batch)
        batches = batches_of(frames_from_files(files, segmenter.preprocess), batch)
        measured = tuple(
            _round(folder, files, segmenter, alone, batches, settings, clock) for _ in range(rounds)
        )
        info, cores = segmenter.info, len(allowed_cores())
        hands = hands_of(settings, info.device, len(list(folder.iterdir())))
        return Speed(str(info), batch, hands, cores, measured, info.device.partition(":")[0])


def _round(
    folder: Path,
    files: Sequence[Path],
    segmenter: Segmenter,
    alone: Segmenter,
    batches: Sequence[Images],
    settings: PredictSettings,
    clock: Clock,
) -> Round:
    out = Path(mkdtemp(prefix="out-", dir=folder.parent))  # it stays: see `jobs.FolderJob`
    use_one_thread_per_call()
    foreground = run(segmenter.backend, batches[0])[0]

    def rest() -> None:
        for file in files:
            rgb = read_rgb(file)
            frame_from_photo(rgb, segmenter.preprocess)
            encode_mask(segmenter.mask(foreground, size_of(rgb)))

    def apart() -> tuple[float, float]:
        # The faster one is the engine's: batches by turns with all cores, or in streams.
        engine_s = min(_engine_s(opened, batches, clock) for opened in (segmenter, alone))
        (photos_s,) = timed(clock, rest)
        return engine_s, photos_s / len(files)

    shares: list[float] = []

    def segment() -> None:
        report = segment_folder(folder, segmenter, out, settings)
        shares.append(report.run.effort.waited_share)

    before = apart()
    (folder_s,) = timed(clock, segment)
    after = apart()
    engine_s, photo_s = map(min, zip(before, after, strict=True))
    count = len(list(folder.iterdir()))
    return Round(engine_s, photo_s, folder_s / count, shares[0])


def _engine_s(segmenter: Segmenter, batches: Sequence[Images], clock: Clock) -> float:
    """Seconds a photo, transfers included, of batches that its streams share out."""
    backends = segmenter.backends

    def infer(first: int) -> None:
        for images in batches[first :: len(backends)]:
            run(backends[first], images)

    parts = [partial(infer, first) for first in range(len(backends))]
    for backend in backends:
        run(backend, batches[0])
    (engine_s,) = timed(clock, partial(in_threads, parts))
    return engine_s / sum(len(batch) for batch in batches)


def finding_of(model: Path, photos: int, count: int, speeds: Sequence[Speed]) -> Finding:
    """The share of the limit that each runtime's run reached."""
    per_s: Callable[[float], str] = lambda seconds: f"{1 / seconds:.1f}"  # noqa: E731
    rows = [
        (
            speed.runtime,
            f"{1e3 * speed.engine_s:.2f}",
            f"{1e3 * speed.photo_s:.2f}",
            per_s(speed.limit_s),
            per_s(speed.folder_s),
            f"{speed.share:.3f}",
            f"{100 * median(one.waited_share for one in speed.rounds):.0f} %",
        )
        for speed in speeds
    ]
    first = speeds[0]
    shares = ", ".join(f"{s.share:.3f} ({s.runtime.partition(' ')[0]})" for s in speeds)
    whose, limit = _limit_in_words(first)
    return Finding(
        headline=f"A folder of {count} photos is segmented at {shares} of the speed that {whose}",
        table=table_of(
            "Speed of a folder run",
            (
                "runtime",
                "engine, ms a photo",
                "rest, ms a photo on one core",
                "limit, photos/s",
                "folder, photos/s",
                "share of the limit",
                "backend waited",
            ),
            rows,
        ),
        notes=(
            f"The limit is one photo every {limit}, transfers included, for one batch or for one "
            "in each stream, whichever is faster. The rest is decoding, resizing to the frame and "
            "back, thresholding and encoding, measured on one thread with the machine to itself. "
            "Both are measured before and after the folder, and the faster time counts",
            "Reading, hashing, flushing each mask to disk and the journal are not in the limit",
            f"{photos} different photos, linked around and around; batch {first.batch}, "
            f"{first.hands}; medians of {len(first.rounds)} rounds",
        ),
        raw={
            "model": model.name,
            "sha256": sha256_of(model),
            "count": count,
            "photos": photos,
            "speeds": [dataclasses.asdict(speed) for speed in speeds],
            "shares": [round(speed.share, 4) for speed in speeds],
        },
    )


def _limit_in_words(speed: Speed) -> tuple[str, str]:
    """Whose speed the limit is, and its seconds, to go on with a comma."""
    cores = speed.cores
    if speed.device == "cpu":
        return (
            f"{cores} cores allow once decoding and encoding are paid",
            f"engine + rest / {cores} seconds: the engine takes all cores",
        )
    return (
        f"the engine alone has with its transfers, beside {cores} cores",
        "engine seconds: the engine has the GPU to itself",
    )
