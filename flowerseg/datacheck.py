"""Look at every labelled photo once, before anything learns from it: what there is, what is wrong.

What cannot be used ends it all in one error; what is only odd is noted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from flowerseg.arrays import BACKGROUND, FLOWER, VOID, SizeHW, size_of
from flowerseg.colours import Colour, most_common
from flowerseg.data import LabelledPhoto, PhotoSet
from flowerseg.errors import DataError, ImageError, some_of
from flowerseg.evaluate import read_pair
from flowerseg.palette import UnknownColours, remedy

NAMED = 5  # names of each kind in an error or a note
_MOST_COLOURS = 1000  # counted of each mask with unknown ones
_THREADS = 4  # decoders let others run meanwhile; more threads would only hold more photos


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
        notes = ((self.without_flower, "no flower"), (self.only_void, "nothing but void"))
        lines += [
            f"  {noted.to_text(f'masks with {what}')}" for noted, what in notes if noted.count
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class DataCheck:
    """What the photos hold that a model learns from, and those that it is chosen by."""

    train: SplitCheck
    val: SplitCheck

    def to_text(self) -> str:
        """A few lines for the terminal."""
        return f"{self.train.to_text()}\n{self.val.to_text()}"


def check_photos(train: PhotoSet, val: PhotoSet) -> DataCheck:
    """Decode every photo and annotation of two sets once.

    Raises:
        DataError: some cannot be decoded, have unknown colours, or an annotation is not as large
            as its upright photo; all of them are counted, and the first of each kind are named.
    """
    faults = _Faults()
    with ThreadPoolExecutor(_THREADS) as pool:
        sound = [faults.without(pool.map(_look, photos.photos)) for photos in (train, val)]
    if faults.names:
        raise DataError(faults.to_text(f"{train.name} and {val.name}", len(train) + len(val)))
    return DataCheck(_split_check(train.name, sound[0]), _split_check(val.name, sound[1]))


@dataclass(frozen=True)
class _Look:
    """What a sound photo and its annotation showed."""

    item: LabelledPhoto
    size_hw: SizeHW
    flower: int  # pixels
    background: int
    void: int


class _Kind(StrEnum):
    """The ways in which a labelled photo cannot be used."""

    UNREADABLE = "cannot be read"
    ANOTHER_SIZE = "annotation of another size"
    UNKNOWN_COLOURS = "unknown colours"


@dataclass(frozen=True)
class _Fault:
    """Why a photo cannot be used. Not the exception: that would keep the pixels in memory."""

    item: LabelledPhoto
    kind: _Kind
    message: str
    unknown: Mapping[Colour, int] = field(default_factory=dict)  # pixels of each colour


def _look(item: LabelledPhoto) -> _Look | _Fault:
    try:
        rgb, labels = read_pair(item)
    except ImageError as error:
        return _Fault(item, _Kind.UNREADABLE, str(error))
    except UnknownColours as error:
        return _Fault(item, _Kind.UNKNOWN_COLOURS, str(error), error.pixels)
    except DataError as error:
        return _Fault(item, _Kind.ANOTHER_SIZE, str(error))
    pixels = np.bincount(labels.ravel(), minlength=256).tolist()
    return _Look(item, size_of(rgb), pixels[FLOWER], pixels[BACKGROUND], pixels[VOID])


class _Faults:
    """All faults of a data set, summed while they come in."""

    def __init__(self) -> None:
        self.names: dict[_Kind, list[str]] = {}
        self._first: dict[_Kind, _Fault] = {}
        self._pixels: Counter[Colour] = Counter()
        self._files: Counter[Colour] = Counter()

    def without(self, looks: Iterable[_Look | _Fault]) -> list[_Look]:
        """Take in the faults among some looks; what remains is sound."""
        sound = []
        for look in looks:
            if isinstance(look, _Look):
                sound.append(look)
            else:
                self._add(look)
        return sound

    def to_text(self, where: str, photos: int) -> str:
        """One message: a line for each kind of fault, with its count and first names."""
        count = sum(map(len, self.names.values()))
        lines = [f"{where}: {count} of {photos} labelled photos cannot be used."]
        for kind, names in sorted(self.names.items()):
            is_colours = kind is _Kind.UNKNOWN_COLOURS
            detail = (
                self._colours_text() if is_colours else f"The first: {self._first[kind].message}"
            )
            lines.append(f"  {kind}: {len(names)} ({some_of(names, NAMED)}). {detail}")
        return "\n".join(lines)

    def _add(self, fault: _Fault) -> None:
        self._first.setdefault(fault.kind, fault)
        self.names.setdefault(fault.kind, []).append(fault.item.name)
        # A photo in place of a mask has more colours than a few thousand masks may keep in memory.
        colours = most_common(fault.unknown)[:_MOST_COLOURS]
        self._pixels.update({colour: fault.unknown[colour] for colour in colours})
        self._files.update(colours)

    def _colours_text(self) -> str:
        """How many pixels of which colours in how many files, and what to do about them."""
        palette = self._first[_Kind.UNKNOWN_COLOURS].item.palette
        each = (
            f"{colour} {self._pixels[colour]} pixels in {self._files[colour]} files"
            for colour in most_common(self._pixels)
        )
        mend = remedy(self._pixels, palette)
        return f"{some_of(each, NAMED)}. Known are {palette}. {mend}"


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
    )


def _noted(items: Iterable[LabelledPhoto]) -> Noted:
    names = [item.name for item in items]
    return Noted(len(names), tuple(names[:NAMED]))
