"""What the tests of folder runs share: segmenters that count, and what a run leaves."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowerseg.arrays import Images
from flowerseg.artifact import Artifact, Kind, Manifest, Precision
from flowerseg.backends.null import NullBackend
from flowerseg.images import write_png
from flowerseg.predict import PhotoResult
from flowerseg.preprocess import Preprocess
from flowerseg.segmenter import Segmenter

FRAME_HW = (64, 64)


class CountingBackend(NullBackend):
    """Answers with the green sample, and counts the frames it was given."""

    def __init__(self) -> None:
        super().__init__(FRAME_HW)
        self.frames = 0

    def upload(self, images: Images) -> None:
        super().upload(images)
        self.frames += len(images)


class Seen:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.kept: set[str] = set()
        self.done: set[str] = set()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def photo(self, result: PhotoResult, *, is_kept: bool) -> None:
        (self.kept if is_kept else self.done).add(result.path)


@pytest.fixture
def watcher() -> Seen:
    """One for a run."""
    return Seen()


@pytest.fixture
def opened() -> Callable[..., Segmenter]:
    """Segmenters as if they were opened from a model file with this hash."""

    def open_model(sha256: str = "a" * 64, threshold: float = 0.5) -> Segmenter:
        preprocess = Preprocess(FRAME_HW)
        manifest = Manifest(Kind.ONNX, "green", Precision.FP32, preprocess, sha256=sha256)
        artifact = Artifact(Path("green.onnx"), manifest)
        return Segmenter(CountingBackend(), preprocess, threshold, artifact)

    return open_model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixteen photos (two batches), some in a subfolder, of which every pixel has its own green."""
    rng = np.random.default_rng(0)
    for i in range(16):
        place = tmp_path / "photos" / ("sub" if i % 3 == 0 else "")
        write_png(place / f"{i:02}.png", rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def left_in() -> Callable[[Path], dict[str, object]]:
    """What a run left in its folder: the bytes of each picture, and the rows without their time."""

    def look(out: Path) -> dict[str, object]:
        pictures = (path for path in out.rglob("*") if path.suffix == ".png")
        found: dict[str, object] = {
            path.relative_to(out).as_posix(): path.read_bytes() for path in pictures
        }
        with (out / "results.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            del row["milliseconds"]
        return {**found, "results.csv": rows}

    return look
