"""Segment labelled photos and count: the one loop behind training, proof and benchmark scores."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flowerseg.arrays import Foreground, Labels, Mask, Rgb, size_of
from flowerseg.artifact import Data
from flowerseg.caveats import Caveat, CaveatKind
from flowerseg.data import LabelledPhoto, PhotoSet
from flowerseg.masks import mask_from_foreground
from flowerseg.metrics import Counts, count
from flowerseg.seen import count_seen, signature_of
from flowerseg.segmenter import Segmenter

_THREADS = 4  # decoders let others run meanwhile


@dataclass(frozen=True)
class Segmented:
    """One labelled photo with the mask that a model gave it, all at the photo's size."""

    item: LabelledPhoto
    rgb: Rgb
    labels: Labels
    mask: Mask

    @property
    def counts(self) -> Counts:
        """Mask against labels, void left out."""
        return count(self.mask, self.labels)


def segment_labelled(segmenter: Segmenter, photos: PhotoSet, batch: int) -> Iterator[Segmented]:
    """Segment a set in batches, in order: photo -> frame -> photo, as for any other photo.

    Raises:
        ImageError: a photo or annotation cannot be decoded.
        DataError: an annotation has another size than its photo, or unknown colours.
    """
    for start in range(0, len(photos), batch):
        items = photos.photos[start : start + batch]
        read = [read_pair(item) for item in items]
        masks = segmenter.segment_batch([rgb for rgb, _ in read])
        for item, (rgb, labels), mask in zip(items, read, masks, strict=True):
            yield Segmented(item, rgb, labels, mask)


def count_labelled(segmenter: Segmenter, photos: PhotoSet, batch: int) -> list[Counts]:
    """Counts of each photo of a set. See `segment_labelled`."""
    return [segmented.counts for segmented in segment_labelled(segmenter, photos, batch)]


def count_foregrounds(
    foregrounds: Iterable[Foreground], photos: PhotoSet, threshold: float = 0.5
) -> list[Counts]:
    """Counts of each photo of a set whose probability maps (H, W) are known, in its order."""
    counts = []
    for item, foreground in zip(photos.photos, foregrounds, strict=True):
        labels = item.read_labels()
        counts.append(count(mask_from_foreground(foreground, size_of(labels), threshold), labels))
    return counts


def signatures_of(photos: PhotoSet) -> list[bytes]:
    """The signature of each photo of a set, see `flowerseg.seen`. Decodes them all.

    Raises:
        ImageError: a photo cannot be decoded.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda item: signature_of(item.read_rgb()), photos.photos))


def seen_caveats(
    data: Data | None, photos: PhotoSet, signatures: Sequence[bytes]
) -> tuple[Caveat, ...]:
    """Whether a model is scored on photos that it has learned from, as far as that is known.

    Args:
        data: what the model's manifest says of its training.
        photos: those that it is scored on.
        signatures: of these photos.
    """
    known = data.seen if data else None
    seen = count_seen(known, signatures) if known else 0
    if known is None and data and data.fingerprint == photos.fingerprint:
        seen = len(photos)
    if seen:
        return (Caveat(CaveatKind.PHOTOS_SEEN, len(photos), seen=seen),)
    if known is None or not known.is_complete:
        return (Caveat(CaveatKind.TRAINING_PHOTOS_UNKNOWN, len(photos)),)
    return ()


def read_pair(item: LabelledPhoto) -> tuple[Rgb, Labels]:
    """A photo (h, w, 3) and its labels (h, w).

    Raises:
        ImageError, DataError: see `LabelledPhoto.read`.
    """
    pixels = item.read()
    return pixels.rgb, pixels.labels
