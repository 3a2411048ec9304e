"""What travels: the photos to the machine with the GPU, the results back from it."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flowerseg.data import open_photos
from flowerseg.errors import DataError
from flowerseg.listing import list_photos

FOLDER = Path(".gpu")
"""Where the photos lie in the source tree; git ignores it."""

DATA, PHOTOS = "data", "photos"
"""In FOLDER: labelled photos, and the folder to segment."""

SPLITS = "train+val"

ARCHIVE = "results.tar.gz"

KEPT = (".csv", ".html", ".json", ".log", ".md", ".txt")
"""Suffixes of what comes back; models are too large, and masks mean nothing without the photos."""


def pack_photos(data: Path, photos: Path, out: Path) -> int:
    """Copy the labelled photos of the train and val splits, and a folder of photos.

    Args:
        data: labelled photos, as for flowerseg-train.
        photos: a folder of photos.
        out: gets `data` in the same layout, and `photos`. What was in them before is removed.

    Returns:
        Bytes that were copied.

    Raises:
        DataError: the labelled photos or the photos are missing.
    """
    labelled = [item for split in SPLITS.split("+") for item in open_photos(data, split).photos]
    listed = list_photos(photos, photos / "none").photos
    if not listed:
        raise DataError(f"{photos}: no photos in it.")
    for name in (DATA, PHOTOS):
        shutil.rmtree(out / name, ignore_errors=True)
    files = [path for item in labelled for path in (item.photo, item.annotation)]
    splits = data / "datasplits.mat"
    files += [splits] if splits.exists() else []
    copied = _copy({path: out / DATA / path.relative_to(data) for path in files})
    return copied + _copy({photos / path: out / PHOTOS / path for path in listed})


def pack_results(work: Path, archive: Path) -> None:
    """Write the results and the models' manifests and reports to a .tar.gz, replacing it.

    It may be called while steps still write: a file that vanishes meanwhile is left out.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}")
    with tarfile.open(temporary, "w:gz") as tar:
        for path in _kept_files(work):
            with suppress(OSError):
                tar.add(path, path.relative_to(work))
    temporary.replace(archive)


def _copy(targets: dict[Path, Path]) -> int:
    for source, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return sum(source.stat().st_size for source in targets)


def _kept_files(work: Path) -> Iterator[Path]:
    for folder, below, names in os.walk(work):
        # Hidden folders are temporary ones of steps that run or were killed; caches are large.
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "cache")
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(KEPT))
