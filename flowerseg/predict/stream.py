"""Photos from anywhere, their masks as they come: the folder's pipeline without a folder."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowerseg.arrays import Foreground, Mask, Rgb, SizeHW, size_of
from flowerseg.errors import ImageError
from flowerseg.isolate import Decode, opened_decoder
from flowerseg.photoarray import as_rgb_of_several, require_several
from flowerseg.photofile import Read, photo_bytes, within
from flowerseg.predict.pipeline import ForBackend, Pipeline, Step
from flowerseg.predict.settings import PredictSettings, batch_size, hands_of
from flowerseg.preprocess import frame_from_photo
from flowerseg.segmenter import Segmenter, require_segmenter

if TYPE_CHECKING:
    from flowerseg.segmenter import Photo


@dataclass(frozen=True)
class Segmented:
    """A photo's mask, or why there is none."""

    index: int  # place of the photo among those that were given
    photo: Path | None  # None where pixels were given
    mask: Mask | None = None  # (h, w), True is flower
    error: str = ""


def stream(
    photos: "Iterable[str | Path | Photo]",
    segmenter: Segmenter,
    settings: PredictSettings | None = None,
) -> Generator[Segmented, None, None]:
    """Segment photos as fast as a folder would be, without writing a file.

    Photos are taken from the iterable only as others are finished, so it may be endless. Results
    come in any order; `index` says which photo they belong to. A photo that cannot be read or
    decoded has an error instead of a mask. Pixels of a wrong type or shape are the caller's
    mistake: they end the stream.

    Args:
        photos: paths, or pixels as `Segmenter.segment` takes them.
        segmenter: used from threads of the pipeline, one for each of its streams.
        settings: batch, workers and how to decode; the others are of folders, processes too.

    Raises:
        ValueError: the batch is larger than the model takes, pixels have another type or shape, or
            the segmenter is closed.
        TypeError: `photos` is one photo or none, an item is neither a path nor pixels, or
            `segmenter` is no Segmenter.
        BackendUnavailable: this process was forked from the one that opened the model.
    """
    require_segmenter(segmenter)
    require_several(photos)
    return _stream(photos, segmenter, settings or PredictSettings())


def _stream(
    photos: "Iterable[str | Path | Photo]", segmenter: Segmenter, settings: PredictSettings
) -> Generator[Segmented, None, None]:
    batch = batch_size(settings, segmenter.info.batch)
    workers = hands_of(settings, segmenter.info.device).workers
    pipeline: Pipeline[Segmented] = Pipeline(segmenter.streams, batch, workers)
    read = within(photo_bytes, settings.isolate_s)
    with (
        opened_decoder(settings.max_pixels, settings.isolate_s) as decode,
        closing(pipeline.run(_steps(photos, segmenter, decode, read))) as finished,
    ):
        for item in finished:
            yield item.result


def _steps(
    photos: "Iterable[str | Path | Photo]", segmenter: Segmenter, decode: Decode, read: Read
) -> Iterator[Step[Segmented]]:
    for index, photo in enumerate(photos):
        if isinstance(photo, str | Path):
            yield partial(_begin, segmenter, decode, read, index, Path(photo))
        else:
            yield partial(_frame_of, segmenter, index, None, as_rgb_of_several(photo, index))


def _begin(
    segmenter: Segmenter, decode: Decode, read: Read, index: int, path: Path
) -> ForBackend[Segmented] | Segmented:
    try:
        rgb = decode(read(path), str(path))
    except ImageError as error:
        return Segmented(index, path, error=str(error))
    return _frame_of(segmenter, index, path, rgb)


def _frame_of(
    segmenter: Segmenter, index: int, path: Path | None, rgb: Rgb
) -> ForBackend[Segmented]:
    frame = frame_from_photo(rgb, segmenter.preprocess)
    return ForBackend(frame, partial(_finish, segmenter, index, path, size_of(rgb)))


def _finish(
    segmenter: Segmenter, index: int, path: Path | None, size_hw: SizeHW, foreground: Foreground
) -> Segmented:
    return Segmented(index, path, segmenter.mask(foreground, size_hw))
