"""Look at every labelled photo once, before anything learns from it: what there is, what is wrong.

What cannot be used ends it all in one error; what is only odd is noted.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from flowerseg.annotation import AmbiguousAnnotation
from flowerseg.arrays import BACKGROUND, FLOWER, VOID, Rgb, SizeHW, size_of
from flowerseg.data import LabelledPhoto, PhotoSet
from flowerseg.datafaults import NAMED, Fault, FaultKind, Faults
from flowerseg.errors import DataError, ImageError
from flowerseg.palette import UnknownColours

_THREADS = 4  # decoders let others run meanwhile; more threads would only hold more photos
_MOSTLY = 0.95  # of what is labelled: a photo with more flower is rarer than an inverted mask


@dataclass(frozen=True)
class Noted:
    """Photos to look at: how many, and the first names."""

    count: int
    names: tuple[str, ...]

    def to_text(self, what: str) -> str:
        """`7 masks with no flower: a, b, c, d, e, …`."""
        more = ", …" if self.count > len(self.names) else ""
        return f"{self.count} {what}: {', '.join(self.names)}{more}"


@dataclass(frozen=True)
class SplitCheck:
    """What one split holds."""

    name: str
    photos: int
    photos_by_class: dict[str, int]  # "" is the class that nobody knows
    flower_share: float  # of the pixels of all masks together; the three add up to 1
    background_share: float
    void_share: float
    smallest_hw: SizeHW  # the photos with the fewest and the most pixels
    largest_hw: SizeHW
    without_flower: Noted  # masks with background but no flower pixel
    only_void: Noted  # masks that say nothing about any pixel
    mostly_flower: Noted  # masks with more than 95 % flower in what is labelled
    turned_apart: Noted  # masks with another EXIF orientation, which their size cannot confirm
    from_alpha: int  # masks of one colour, whose alpha channel was read instead

    def to_text(self) -> str:
        """One line, and one more for each kind of note."""
        sizes = [f"{width} x {height}" for height, width in (self.smallest_hw, self.largest_hw)]
        classes = sum(bool(name) for name in self.photos_by_class)
        lines = [
            f"{self.name}: {self.photos} photos{f', {classes} classes' if classes else ''}; "
            f"flower {100 * self.flower_share:.1f} %, "
            f"background {100 * self.background_share:.1f} %, "
            f"void {100 * self.void_share:.1f} %; {' to '.join(dict.fromkeys(sizes))}"
        ]
        notes = (
            (self.without_flower, "masks with no flower"),
            (self.only_void, "masks with nothing but void"),
            (self.mostly_flower, "masks with more than 95 % flower (or is it the background?)"),
            (
                self.turned_apart,
                "masks with another EXIF orientation than their photo (do they fit when each is "
                "turned by its own?)",
            ),
        )
        lines += [f"  {noted.to_text(what)}" for noted, what in notes if noted.count]
        return "\n".join(lines)


@dataclass(frozen=True)
class DataCheck:
    """What the photos hold that a model learns from, that it is chosen by, and that test it."""

    train: SplitCheck
    val: SplitCheck
    shared: Noted  # photos that are in train too, in another file with the same pixels
    test: SplitCheck | None = None

    @property
    def splits(self) -> tuple[SplitCheck, ...]:
        """All splits that were looked at."""
        return (self.train, self.val, *([self.test] if self.test else []))

    def to_text(self) -> str:
        """A few lines for the terminal."""
        lines = [split.to_text() for split in self.splits]
        if from_alpha := sum(split.from_alpha for split in self.splits):
            lines.append(f"{from_alpha} masks have their shape in the alpha channel; it was used")
        if self.shared.count:
            lines.append(self.shared.to_text("photos are also in train, in other files"))
        return "\n".join(lines)


OnPhoto = Callable[[LabelledPhoto, Rgb], None]
"""Called with a photo that can be used and its pixels (h, w, 3), from several threads."""


def check_photos(
    train: PhotoSet,
    val: PhotoSet,
    test: PhotoSet | None = None,
    on_photo: OnPhoto = lambda *_: None,
) -> DataCheck:
    """Decode every photo and annotation of two or three sets once.

    Args:
        train, val, test: the sets.
        on_photo: for what else needs the pixels of every photo.

    Raises:
        DataError: some cannot be decoded, have unknown colours, or an annotation is not as large
            as its upright photo; all of them are counted, and the first of each kind are named.
            Or all are sound, and one of the sets has no flower, or no background.
    """
    sets = [train, val, *([test] if test else [])]
    faults, look = Faults(), partial(_look, on_photo)
    with ThreadPoolExecutor(_THREADS) as pool:
        looks = [list(_sound(pool.map(look, photos.photos), faults)) for photos in sets]
    if faults:
        names = " and ".join(photos.name for photos in sets)
        raise DataError(*faults.lines(names, sum(map(len, sets))))
    learnt = {look.content for look in looks[0]}
    shared = [look.item for split in looks[1:] for look in split if look.content in learnt]
    checks = [_split_check(photos.name, split) for photos, split in zip(sets, looks, strict=True)]
    check = DataCheck(checks[0], checks[1], _noted(shared), checks[2] if test else None)
    _require_both_classes(check)
    return check


@dataclass(frozen=True)
class _Look:
    """What a sound photo and its annotation showed."""

    item: LabelledPhoto
    size_hw: SizeHW
    content: bytes  # equal for equal photos
    flower: int  # pixels
    background: int
    void: int
    is_from_alpha: bool
    may_be_turned_apart: bool

    @property
    def is_mostly_flower(self) -> bool:
        return self.flower > _MOSTLY * (self.flower + self.background)


def _look(on_photo: OnPhoto, item: LabelledPhoto) -> _Look | Fault:
    try:
        found = item.read()
    except ImageError as error:
        return Fault(item, FaultKind.UNREADABLE, str(error))
    except UnknownColours as error:
        return Fault(
            item,
            FaultKind.UNKNOWN_COLOURS,
            str(error),
            error.pixels,
            error.lossy_format,
            error.are_opacities,
        )
    except AmbiguousAnnotation as error:
        return Fault(item, FaultKind.AMBIGUOUS, str(error))
    except DataError as error:
        return Fault(item, FaultKind.ANOTHER_SIZE, str(error))
    on_photo(item, found.rgb)
    pixels = np.bincount(found.labels.ravel(), minlength=256).tolist()
    return _Look(
        item,
        size_of(found.rgb),
        _content(found.rgb),
        pixels[FLOWER],
        pixels[BACKGROUND],
        pixels[VOID],
        found.is_from_alpha,
        found.may_be_turned_apart,
    )


def _content(rgb: Rgb) -> bytes:
    """A hash of one pixel in 64 and the size: no two photos that differ have all of these alike."""
    digest = hashlib.blake2b(repr(rgb.shape).encode(), digest_size=16)
    digest.update(rgb[::8, ::8].tobytes())
    return digest.digest()


def _sound(looks: Iterable[_Look | Fault], faults: Faults) -> Iterator[_Look]:
    """The looks at photos that can be used; the others are added to the faults."""
    for look in looks:
        if isinstance(look, Fault):
            faults.add(look)
        else:
            yield look


def _require_both_classes(check: DataCheck) -> None:
    """Refuse a split from which neither flower nor background can be learnt, or neither scored."""
    lines = [text for split in check.splits for text in _missing_classes(split)]
    if lines:
        raise DataError(*lines)


def _missing_classes(split: SplitCheck) -> Iterator[str]:
    if split.flower_share == 0:
        yield (
            f"{split.name}: none of its {split.photos} masks has a flower pixel "
            f"({100 * split.background_share:.1f} % background, {100 * split.void_share:.1f} % "
            "void). Check the masks and --flower-colour, or give the split photos with flowers "
            "(another --split-seed, or lists train.txt and val.txt)."
        )
    if split.background_share == 0:
        yield (
            f"{split.name}: none of its {split.photos} masks has a background pixel "
            f"({100 * split.flower_share:.1f} % flower, {100 * split.void_share:.1f} % void). "
            "Check the masks and --background-colour."
        )


def _split_check(name: str, looks: Sequence[_Look]) -> SplitCheck:
    flower = sum(look.flower for look in looks)
    background = sum(look.background for look in looks)
    void = sum(look.void for look in looks)
    pixels = flower + background + void
    sizes = sorted((look.size_hw for look in looks), key=lambda size_hw: size_hw[0] * size_hw[1])
    return SplitCheck(
        name=name,
        photos=len(looks),
        photos_by_class=dict(sorted(Counter(look.item.group for look in looks).items())),
        flower_share=flower / pixels,
        background_share=background / pixels,
        void_share=void / pixels,
        smallest_hw=sizes[0],
        largest_hw=sizes[-1],
        without_flower=_noted(x.item for x in looks if not x.flower and x.background),
        only_void=_noted(x.item for x in looks if not x.flower and not x.background),
        mostly_flower=_noted(x.item for x in looks if x.is_mostly_flower),
        turned_apart=_noted(x.item for x in looks if x.may_be_turned_apart),
        from_alpha=sum(x.is_from_alpha for x in looks),
    )


def _noted(items: Iterable[LabelledPhoto]) -> Noted:
    names = [item.name for item in items]
    return Noted(len(names), tuple(names[:NAMED]))
