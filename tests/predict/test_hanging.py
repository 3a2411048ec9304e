"""Folder runs on a disk or network mount that hangs: one photo is lost, and not the run."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flowerseg.listing import list_photos
from flowerseg.photofile import photo_bytes
from flowerseg.predict import PredictSettings
from flowerseg.predict.folder import segment_listing
from flowerseg.segmenter import Segmenter


def _hanging_read(path: Path) -> bytes:
    """As a mount whose server is gone: it never returns. In a helper process too."""
    if path.name in ("00.png", "07.png"):
        threading.Event().wait()
    return photo_bytes(path)


@pytest.mark.parametrize("processes", [1, 2])
def test_photos_whose_reading_hangs_are_reported_and_the_others_segmented(
    photos: Path, tmp_path: Path, opened: Callable[[], Segmenter], processes: int
) -> None:
    out = tmp_path / "out"
    settings = PredictSettings(workers=2, processes=processes, isolate_s=1.0)
    listing = list_photos(photos, out)
    report = segment_listing(listing, opened(), out, settings, read=_hanging_read)
    assert [result.path for result in report.failed] == ["07.png", "sub/00.png"]
    assert all("reading took longer than 1 s" in result.error for result in report.failed)
    assert report.run.counts.ok == 14
