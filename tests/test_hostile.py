"""Good photos among the hostile files of the bench, through a backend that needs no model."""

import resource
from pathlib import Path

import numpy as np
import pytest

from flowerseg.backends.null import NullBackend
from flowerseg.images import write_jpeg
from flowerseg.predict import PredictSettings, segment_folder
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg_bench.folders.hostile import (
    Trial,
    finding_of,
    hostile_files,
    write_hostile_files,
)

FRAME_HW = (32, 32)
GOOD = 40


def _photo(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 90, 2).tolist()
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _masks(photos: Path, out: Path, isolate_s: float | None) -> dict[str, bytes]:
    segmenter = Segmenter(NullBackend(FRAME_HW), Preprocess(FRAME_HW))
    segment_folder(photos, segmenter, out, PredictSettings(isolate_s=isolate_s, workers=2))
    return {path.name: path.read_bytes() for path in (out / "masks").iterdir()}


def test_hostile_files_are_308_and_the_same_for_the_same_seed() -> None:
    files = list(hostile_files(_photo(0), seed=3))
    assert len(dict(files)) == len(files) == 308
    assert files == list(hostile_files(_photo(0), seed=3))
    assert files != list(hostile_files(_photo(0), seed=4))


@pytest.mark.parametrize("isolate_s", [None, 60.0])
def test_good_photos_come_out_among_hostile_files_as_they_do_alone(
    tmp_path: Path, isolate_s: float | None
) -> None:
    photos = tmp_path / "photos"
    for i in range(GOOD):
        write_jpeg(photos / f"good {i}.jpg", _photo(i))
    alone = _masks(photos, tmp_path / "alone", None)
    assert len(alone) == GOOD
    hostile = write_hostile_files(photos, _photo(0), seed=0)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = _masks(photos, tmp_path / "out", isolate_s)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

    assert {name: found.get(name) for name in alone} == alone
    # Only what was flipped can have become another picture.
    assert all(name.startswith(("good", "flipped")) for name in found)
    assert (tmp_path / "out/results.csv").read_text().count(",error,") >= hostile - 5 * 18
    assert grown_mib < 300  # the bombs would be 400 and more, the smallest of them


def test_finding_counts_masks_and_crashes_of_all_runs() -> None:
    trials = [
        Trial((), 1, good_wrong=0, good_missing=0, hostile=301, refused=245),
        Trial(("--isolate", "30"), -11, good_wrong=1, good_missing=2, hostile=301, refused=245),
    ]
    finding = finding_of(Path(__file__), 0, trials)
    assert finding.headline == (
        "Among 301 hostile files, 3 masks of 300 good photos are wrong or missing, and 1 of 2 runs "
        "crash"
    )
