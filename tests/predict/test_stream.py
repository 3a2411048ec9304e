"""Photos from anywhere through the folder's pipeline."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from flowerseg.artifact import Batch
from flowerseg.backends.null import NullBackend
from flowerseg.images import read_rgb
from flowerseg.predict import PredictSettings, stream
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

Opened = Callable[..., Segmenter]


def test_paths_and_pixels_get_the_masks_they_get_alone(photos: Path, opened: Opened) -> None:
    paths = sorted(photos.rglob("*.png"))
    given = [paths[0], str(paths[1]), read_rgb(paths[2]), *paths[3:]]
    segmenter = opened()
    results = sorted(stream(given, segmenter, PredictSettings(batch=5)), key=lambda r: r.index)
    assert [result.index for result in results] == list(range(16))
    assert [result.photo for result in results] == [*paths[:2], None, *paths[3:]]
    for result, path in zip(results, paths, strict=True):
        assert result.mask is not None
        np.testing.assert_array_equal(result.mask, segmenter.segment(read_rgb(path)))


def test_bad_photo_has_an_error_instead_of_a_mask(photos: Path, opened: Opened) -> None:
    results = {r.index: r for r in stream([photos / "none.png", photos / "01.png"], opened())}
    assert results[0].mask is None
    assert "No such file" in results[0].error
    assert results[1].mask is not None
    assert not results[1].error


def test_endless_photos_are_taken_as_they_are_needed(opened: Opened) -> None:
    taken = count()

    def endless() -> Iterator[np.ndarray]:
        while True:
            next(taken)
            yield np.zeros((8, 8, 3), np.uint8)

    results = stream(endless(), opened(), PredictSettings(batch=2, workers=1))
    assert len(list(islice(results, 30))) == 30
    results.close()
    assert next(taken) < 60


def test_batch_above_the_models_is_refused() -> None:
    segmenter = Segmenter(NullBackend((64, 64), Batch(1, 2, 4)), Preprocess((64, 64)))
    with pytest.raises(ValueError, match=r"batch of 5.*at most 4"):
        next(stream([], segmenter, PredictSettings(batch=5)))
