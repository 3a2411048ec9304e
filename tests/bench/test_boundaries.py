from pathlib import Path

import numpy as np
import pytest

from flowerseg.arrays import Foreground, Images
from flowerseg.backends.null import NullBackend
from flowerseg.images import read_mask_colours, read_rgb
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter
from flowerseg_bench.boundaries import STAGES, Boundary, engine_step, file_step, transfers_step

SIZE_HW = (32, 32)
BATCHES = [np.zeros((2, *SIZE_HW, 3), np.uint8), np.ones((2, *SIZE_HW, 3), np.uint8)]


class SlowBackend:
    """Every verb takes the seconds that it is told to, on a clock that only it winds."""

    def __init__(self, **seconds: float) -> None:
        self.info = NullBackend(SIZE_HW).info
        self.now_s = 0.0
        self.seconds = seconds
        self.uploaded: list[int] = []

    def clock(self) -> float:
        return self.now_s

    def upload(self, images: Images) -> None:
        self.now_s += self.seconds.get("upload", 0.0)
        self._images = images
        self.uploaded.append(int(images[0, 0, 0, 0]))

    def execute(self) -> None:
        self.now_s += self.seconds.get("execute", 0.0)

    def synchronize(self) -> None:
        self.now_s += self.seconds.get("synchronize", 0.0)

    def download(self) -> Foreground:
        self.now_s += self.seconds.get("download", 0.0)
        return self._images[..., 1]

    def close(self) -> None:
        """Nothing."""


def test_engine_leaves_transfers_out_and_the_next_boundary_takes_them_in() -> None:
    backend = SlowBackend(upload=1.0, execute=4.0, download=2.0)

    assert sum(engine_step(backend, BATCHES, backend.clock)(0)) == 4.0
    assert sum(transfers_step(backend, BATCHES, backend.clock)(0)) == 7.0


def test_work_that_execute_only_starts_is_timed_because_synchronize_is_inside() -> None:
    backend = SlowBackend(execute=0.001, synchronize=5.0)

    assert sum(engine_step(backend, BATCHES, backend.clock)(0)) == pytest.approx(5.001)
    assert sum(transfers_step(backend, BATCHES, backend.clock)(0)) == pytest.approx(5.001)


@pytest.mark.parametrize("slow", STAGES[Boundary.TRANSFERS])
def test_a_planted_slow_stage_shows_up_under_its_own_name(slow: str) -> None:
    backend = SlowBackend(**{slow: 3.0})

    stages_s = transfers_step(backend, BATCHES, backend.clock)(0)

    assert dict(zip(STAGES[Boundary.TRANSFERS], stages_s, strict=True))[slow] == 3.0
    assert sum(stages_s) == 3.0


def test_every_run_gets_the_next_batch() -> None:
    backend = SlowBackend()
    step = engine_step(backend, BATCHES, backend.clock)

    for index in range(4):
        step(index)

    assert backend.uploaded == [0, 1, 0, 1]


def test_file_to_mask_writes_the_mask_that_the_segmenter_makes(
    photo_folder: Path, tmp_path: Path
) -> None:
    segmenter = Segmenter(NullBackend(SIZE_HW), Preprocess(size_hw=SIZE_HW))
    photo = photo_folder / "1.jpg"

    step = file_step(segmenter, [photo], tmp_path, lambda: 0.0)
    step(0)
    step(0)  # into a new file, for replacing one would be dearer

    written = [read_mask_colours(path)[..., 0] == 255 for path in tmp_path.rglob("*.png")]
    expected = segmenter.segment(read_rgb(photo))
    assert len(written) == 2
    assert all(np.array_equal(mask, expected) for mask in written)
    assert 0 < expected.mean() < 1


def test_a_slow_network_shows_up_as_infer_between_file_and_mask(
    photo_folder: Path, tmp_path: Path
) -> None:
    backend = SlowBackend(execute=2.0, download=1.0)
    segmenter = Segmenter(backend, Preprocess(size_hw=SIZE_HW))

    step = file_step(segmenter, [photo_folder / "0.jpg"], tmp_path, backend.clock)

    assert dict(zip(STAGES[Boundary.FILE], step(0), strict=True)) == {
        "read": 0.0,
        "prepare": 0.0,
        "infer": 3.0,
        "mask": 0.0,
        "write": 0.0,
    }
