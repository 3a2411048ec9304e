"""Photos from anywhere, their masks as they come: the folder's pipeline without a folder."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flowerseg.arrays import Foreground, Mask, Rgb, SizeHW, size_of
from flowerseg.errors import ImageError
from flowerseg.isolate import Decode, opened_decoder
from flowerseg.photofile import Read, photo_bytes, within
from flowerseg.predict.pipeline import ForBackend, Pipeline, Step
from flowerseg.predict.settings import PredictSettings, batch_size, hands_of
from flowerseg.preprocess import frame_from_photo
from flowerseg.segmenter import Segmenter


@dataclass(frozen=True)
class Segmented:
    """A photo's mask, or why there is none."""

    index: int  # place of the photo among those that were given
    photo: Path | None  # None where pixels were given
    mask: Mask | None = None  # (h, w), True is flower
    error: str = ""


def stream(
    photos: Iterable[str | Path | Rgb],
    segmenter: Segmenter,
    settings: PredictSettings | None = None,
) -> Generator[Segmented, None, None]:
    """Segment photos as fast as a folder would be, without writing anything.

    Photos are taken from the iterable only as others are finished, so it may be endless. Results
    come in any order; `index` says whose they are. A photo that cannot be read has an error instead
    of a mask.

    Args:
        photos: paths, or pixels (h, w, 3) in RGB.
        segmenter: used from threads of the pipeline, one for each of its streams.
        settings: batch, workers and how to decode; the others are of folders, processes too.

    Raises:
        ValueError: the batch is larger than the model takes.
    """
    settings = settings or PredictSettings()
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
    photos: Iterable[str | Path | Rgb], segmenter: Segmenter, decode: Decode, read: Read
) -> Iterator[Step[Segmented]]:
    for index, photo in enumerate(photos):
        yield partial(_begin, segmenter, decode, read, index, photo)


def _begin(
    segmenter: Segmenter, decode: Decode, read: Read, index: int, photo: str | Path | Rgb
) -> ForBackend[Segmented] | Segmented:
    if isinstance(photo, np.ndarray):
        path, rgb = None, photo
    else:
        path = Path(photo)
        try:
            rgb = decode(read(path), str(path))
        except ImageError as error:
            return Segmented(index, path, error=str(error))
    frame = frame_from_photo(rgb, segmenter.preprocess)
    return ForBackend(frame, partial(_finish, segmenter, index, path, size_of(rgb)))


def _finish(
    segmenter: Segmenter, index: int, path: Path | None, size_hw: SizeHW, foreground: Foreground
) -> Segmented:
    return Segmented(index, path, segmenter.mask(foreground, size_hw))
