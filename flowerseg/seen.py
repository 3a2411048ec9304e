"""Which photos a network learned from, in a form that recognises their copies.

A photo's signature is the mean of red, green and blue in each field of a grid of 3 x 3. Resizing,
squashing to a square and encoding again hardly move it: 168 photos of Oxford 17 Flowers at their
own size and their copies of 256 x 256 differed by at most 2 of 255 levels. Of the 746 photos some
are there twice, in other files, and differ by at most 3; the nearest different ones by 10. Photos
that were cropped, turned or mirrored are not recognised.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowerseg.arrays import Rgb
from flowerseg.images import resize_area

GRID = 3
TOLERANCE = 6  # levels of 255 by which every mean of a copy may differ
_LEAST_SIDE = 256  # pixels of the shorter side that are looked at, at least
_BYTES = GRID * GRID * 3


@dataclass(frozen=True)
class TrainingPhotos:
    """The photos that a network learned from, those of the weights that it started from too.

    Raises:
        ValueError: `signatures` is not base64, or not of whole signatures.
    """

    signatures: str = ""  # in base64, one after the other, sorted
    is_complete: bool = True  # False: what the starting weights had learned from is not known

    def __post_init__(self) -> None:
        # Raises ValueError where it is no base64.
        if len(base64.b64decode(self.signatures, validate=True)) % _BYTES:
            raise ValueError(f"signatures must be {_BYTES} bytes for each photo")

    @property
    def as_bytes(self) -> list[bytes]:
        """The signature of each photo."""
        joined = base64.b64decode(self.signatures, validate=True)
        return [joined[i : i + _BYTES] for i in range(0, len(joined), _BYTES)]


NO_PHOTOS = TrainingPhotos()


def signature_of(rgb: Rgb) -> bytes:
    """The signature of a photo (h, w, 3), upright, or of a frame that was made of it."""
    # Some 7,000 pixels of a field give its mean to less than a level; 12 megapixels take 36 ms.
    step = max(1, min(rgb.shape[:2]) // _LEAST_SIDE)
    return resize_area(np.ascontiguousarray(rgb[::step, ::step]), (GRID, GRID)).tobytes()


def training_photos(signatures: Iterable[bytes], start: TrainingPhotos | None) -> TrainingPhotos:
    """What a network has learned from after training.

    Args:
        signatures: of the photos that it trained on.
        start: what its starting weights had learned from; None where that is not known.
    """
    known = {*signatures, *(start.as_bytes if start else ())}
    joined = base64.b64encode(b"".join(sorted(known))).decode("ascii")
    return TrainingPhotos(joined, is_complete=start is not None and start.is_complete)


def count_seen(known: TrainingPhotos, signatures: Sequence[bytes]) -> int:
    """How many of some photos are among those that a network learned from."""
    from scipy.spatial import KDTree

    learned = known.as_bytes
    if not learned or not signatures:
        return 0
    # The norm is the largest difference of any mean.
    distances, _ = KDTree(_levels(learned)).query(_levels(signatures), p=np.inf)
    return int(np.count_nonzero(distances <= TOLERANCE))


def _levels(signatures: Sequence[bytes]) -> NDArray[np.float64]:
    flat = np.frombuffer(b"".join(signatures), np.uint8).astype(np.float64)
    return flat.reshape(len(signatures), _BYTES)
