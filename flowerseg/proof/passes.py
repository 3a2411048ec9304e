"""The ways in which a proof runs a file: photo by photo, at every batch size, and as a folder run.

What the file makes of a photo alone is compared with the reference. What it makes of the same photo
in a batch, or while other streams compute, is compared with what it made of it alone: rounding
apart, that is the same in every precision.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice

import numpy as np

from flowerseg.arrays import Foreground, Mask, Rgb, size_of
from flowerseg.artifact import UNTUNED_BATCH, Batch
from flowerseg.metrics import agreement_iou, total
from flowerseg.predict.pipeline import ForBackend, Pipeline
from flowerseg.proof.compare import Compared, Expected, compare, distance_from_half
from flowerseg.segmenter import Segmenter

ALL_SIZES = 8
"""Every batch size up to this one is run."""

UNTUNED_LARGEST = 16
"""The largest batch that is run of a file that takes any, unless the user names a larger one."""

LEAST_CALLS = 64
"""Calls with single photos: of what goes wrong once in so many, fewer would show little."""

WORST_KEPT = 8  # photos whose masks are kept for the report
_WORKERS = 2  # threads of the pipeline, which have little to do

OnBatch = Callable[[int, int], None]
"""Called with photos done and photos in all."""


@dataclass(frozen=True)
class Worst:
    """The mask of a photo where the model is far from the reference."""

    compared: Compared
    batch: int
    mask: Mask  # (h, w), the model's


@dataclass(frozen=True)
class Departure:
    """How far a result of a batch is from that of the same photo alone."""

    name: str
    batch: int
    place: int  # in the batch, from 1
    flipped_share: float  # of the photo's pixels
    largest_difference: float  # of probabilities, at the frame's size


@dataclass(frozen=True)
class Stressed:
    """How far the result of a stress frame is from the reference's; see `proof.stress`."""

    name: str
    mean_difference: float  # of probabilities, over the frame


@dataclass
class Parity:
    """What was measured between a model and its reference, photo by photo."""

    alone: list[Compared] = field(default_factory=list)  # each photo by itself
    emulated: list[Compared] = field(default_factory=list)  # the same, beside the file's emulation
    alone_batch: int = 1  # the least that the model takes, filled with the one photo
    folder: list[Compared] = field(default_factory=list)  # as a folder is run
    folder_batch: int = 1
    streams: int = 1
    batched: list[Departure] = field(default_factory=list)  # at each batch size, in one stream
    streamed: list[Departure] = field(default_factory=list)  # as a folder is run
    stressed: list[Stressed] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)  # the worst first

    @property
    def passes(self) -> dict[int, list[Compared]]:
        """What was compared with the reference, by batch size."""
        if self.folder_batch == self.alone_batch:
            return {self.alone_batch: self.all}
        return {self.alone_batch: self.alone, self.folder_batch: self.folder}

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """All that were run."""
        return tuple(sorted({*self.passes, *(found.batch for found in self.batched)}))

    @property
    def all(self) -> list[Compared]:
        """Every comparison with the reference."""
        return [*self.alone, *self.folder]

    @property
    def departures(self) -> list[Departure]:
        """Every comparison of the model with itself."""
        return [*self.batched, *self.streamed]


@dataclass(frozen=True)
class _Alone:
    """What the model makes of a photo by itself."""

    expected: Expected
    foreground: Foreground
    mask: Mask


def batch_sizes(ranges: Sequence[Batch], largest: int | None = None) -> list[int]:
    """The batch sizes to run: all small ones, and of the others each kind.

    Engines pick other kernels at other sizes; FP16 results that were right below 8 and wrong above
    have shipped (NVIDIA/TensorRT issue 1697). So beyond `ALL_SIZES` there are the size at which
    each power of two ends, one in the upper half below it, and of each optimisation profile, which
    has kernels of its own, its ends and the size that it is tuned for.

    Args:
        ranges: batch sizes that the file takes, one range for each profile; none: any size.
        largest: of a file that takes any size; None: `UNTUNED_LARGEST`.
    """
    untuned = Batch(1, min(UNTUNED_BATCH, largest or UNTUNED_LARGEST), largest or UNTUNED_LARGEST)
    profiles = ranges or [untuned]
    least, most = profiles[0].min, profiles[-1].max
    sizes = {*range(1, ALL_SIZES + 1)}
    sizes.update(size for each in profiles for size in (each.min, each.opt, each.max))
    end = 2 * ALL_SIZES
    while end // 2 < most:
        sizes.update((13 * end // 16 | 1, end))
        end *= 2
    return sorted(size for size in sizes if least <= size <= most)


def measure_alone(
    model: Segmenter, expected: Sequence[Expected], batch: int, stress: Sequence[Expected] = ()
) -> Parity:
    """Compare a model with the reference in batches of one size, where those cannot go wrong."""
    parity = Parity(alone_batch=batch, folder_batch=batch)
    for start in range(0, len(expected), batch):
        items = expected[start : start + batch]
        foregrounds = model.infer([item.frame for item in items])
        for item, foreground in zip(items, foregrounds, strict=True):
            mask = model.mask(foreground, size_of(item.labels))
            parity.alone.append(_compared(parity, item, foreground, mask, batch))
    parity.stressed += [stressed_of(item, model.infer([item.frame])[0]) for item in stress]
    return parity


def measure_parity(
    model: Segmenter,
    expected: Sequence[Expected],
    sizes: Sequence[int],
    on_batch: OnBatch = lambda *_: None,
    stress: Sequence[Expected] = (),
    emulated: Sequence[Expected] = (),
) -> Parity:
    """Run a model in all ways: each photo alone, at each batch size, and as a folder is run.

    Args:
        model: opened as for a folder run; its streams are used one at a time at first, then all
            together.
        expected: the photos, with the reference's results.
        sizes: of batches; the smallest is the least that the model takes.
        on_batch: progress.
        stress: frames that are run alone too, with the reference's results.
        emulated: the photos again, with the results of the emulation of a quantised file.
    """
    takes = model.info.batch
    parity = Parity(
        alone_batch=sizes[0],
        folder_batch=min(takes.opt if takes else UNTUNED_BATCH, sizes[-1]),
        streams=len(model.streams),
    )
    batched = [size for size in sizes if size > 1 for _ in range(_times(size))]
    # Two batches for each stream at least, or the streams would not compute at the same time.
    as_folder = max(len(expected), 2 * parity.streams * parity.folder_batch)
    again = max(0, LEAST_CALLS - len(expected) - len(stress))
    done, in_all = 0, len(expected) + len(stress) + again + sum(batched) + as_folder

    def count(photos: int = 1) -> None:
        nonlocal done
        done += photos
        on_batch(done, in_all)

    streams = cycle(model.streams)
    alone: list[_Alone] = []
    for item in expected:
        # Where a model takes no single photo, the same one fills the smallest batch.
        foreground = next(streams)([item.frame] * sizes[0])[0]
        mask = model.mask(foreground, size_of(item.labels))
        alone.append(_Alone(item, foreground, mask))
        parity.alone.append(_compared(parity, item, foreground, mask, sizes[0]))
        count()
    for each, own in zip(alone, emulated, strict=bool(emulated)):
        parity.emulated.append(compare(own, each.foreground, each.mask))
    for item in stress:
        parity.stressed.append(stressed_of(item, next(streams)([item.frame] * sizes[0])[0]))
        count()
    for each in islice(cycle(alone), again):
        foreground = next(streams)([each.expected.frame] * sizes[0])[0]
        parity.batched.append(_departure(model, each, foreground, sizes[0], 1))
        count()
    # Different photos in a batch, the most telling first, so that none passes for another.
    photos = cycle(sorted(alone, key=lambda each: distance_from_half(each.expected)))
    for size in batched:
        batch = list(islice(photos, size))
        foregrounds = next(streams)([each.expected.frame for each in batch])
        for place, (each, foreground) in enumerate(zip(batch, foregrounds, strict=True), 1):
            parity.batched.append(_departure(model, each, foreground, size, place))
        count(size)
    _run_as_folder(model, list(islice(cycle(alone), as_folder)), parity, count)
    return parity


def _times(size: int) -> int:
    """How often a batch size is run, each time with other photos."""
    return 2 if size <= UNTUNED_LARGEST else 1


def _run_as_folder(
    model: Segmenter, photos: Sequence[_Alone], parity: Parity, count: Callable[[], None]
) -> None:
    """Run photos through the pipeline of folder runs, all streams at a time.

    Photos may repeat; each is compared with the reference once, and with itself alone every time.
    """
    pipeline: Pipeline[tuple[int, Foreground]] = Pipeline(
        model.streams, parity.folder_batch, _WORKERS
    )
    frames = enumerate(each.expected.frame for each in photos)
    found: dict[int, Foreground] = {}
    for finished in pipeline.run(partial(_step, index, frame) for index, frame in frames):
        index, foreground = finished.result
        found[index] = foreground
        count()
    for index, each in enumerate(photos):  # they finish in any order
        foreground, expected = found[index], each.expected
        parity.streamed.append(_departure(model, each, foreground, parity.folder_batch, 0))
        if index < len(parity.alone):
            mask = model.mask(foreground, size_of(expected.labels))
            parity.folder.append(_compared(parity, expected, foreground, mask, parity.folder_batch))


def _step(index: int, frame: Rgb) -> ForBackend[tuple[int, Foreground]]:
    return ForBackend(frame, lambda foreground: (index, foreground))


def _compared(
    parity: Parity, item: Expected, foreground: Foreground, mask: Mask, batch: int
) -> Compared:
    compared = compare(item, foreground, mask)
    _keep_if_bad(parity.worst, Worst(compared, batch, mask))
    return compared


def stressed_of(item: Expected, foreground: Foreground) -> Stressed:
    """Compare a model's probability map (H, W) of a stress frame with the reference's."""
    apart = np.abs(foreground.astype(np.int16) - item.foreground)
    return Stressed(item.name, float(apart.mean()) / 256)


def _departure(
    model: Segmenter, alone: _Alone, foreground: Foreground, batch: int, place: int
) -> Departure:
    name = alone.expected.name
    if np.array_equal(foreground, alone.foreground):
        return Departure(name, batch, place, 0.0, 0.0)
    mask = model.mask(foreground, size_of(alone.mask))
    apart = np.abs(foreground.astype(np.int16) - alone.foreground)
    flipped = float(np.mean(mask != alone.mask))
    return Departure(name, batch, place, flipped, int(apart.max()) / 256)


def _keep_if_bad(worst: list[Worst], found: Worst) -> None:
    """Keep the worst photos, each once, the worst first."""
    if not found.compared.flipped:
        return
    same = [w for w in worst if w.compared.name == found.compared.name]
    if same and same[0].compared.flipped_share >= found.compared.flipped_share:
        return
    rest = [w for w in worst if w.compared.name != found.compared.name]
    worst[:] = heapq.nlargest(WORST_KEPT, [*rest, found], key=lambda w: w.compared.flipped_share)


def agreement_of(found: Sequence[Compared]) -> float:
    """Agreement IoU over all photos."""
    return agreement_iou(total(compared.agreement for compared in found))
