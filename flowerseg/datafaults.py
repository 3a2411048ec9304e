"""Labelled photos that cannot be used: why, how many, and the first names."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from flowerseg.colours import Colour, most_common
from flowerseg.data import LabelledPhoto
from flowerseg.errors import some_of
from flowerseg.palette import remedy

NAMED = 5  # names of each kind in an error or a note
_MOST_COLOURS = 1000  # counted of each mask with unknown ones


class FaultKind(StrEnum):
    """The ways in which a labelled photo cannot be used."""

    UNREADABLE = "cannot be read"
    ANOTHER_SIZE = "annotation of another size"
    AMBIGUOUS = "colours and alpha channel disagree"
    UNKNOWN_COLOURS = "unknown colours"


@dataclass(frozen=True)
class Fault:
    """Why a photo cannot be used. Not the exception: that would keep the pixels in memory."""

    item: LabelledPhoto
    kind: FaultKind
    message: str
    unknown: Mapping[Colour, int] = field(default_factory=dict)  # pixels of each colour
    lossy_format: str = ""  # of the annotation, where it changes colours
    are_opacities: bool = False  # the unknown colours are levels of its alpha channel


class Faults:
    """All faults of a data set, summed while they come in."""

    def __init__(self) -> None:
        self._names: dict[FaultKind, list[str]] = {}
        self._first: dict[FaultKind, Fault] = {}
        self._pixels: Counter[Colour] = Counter()
        self._files: Counter[Colour] = Counter()
        self._lossy_format = ""

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, fault: Fault) -> None:
        """Count one more."""
        self._first.setdefault(fault.kind, fault)
        self._names.setdefault(fault.kind, []).append(fault.item.name)
        # A photo in place of a mask has more colours than a few thousand masks may keep in memory.
        colours = most_common(fault.unknown)[:_MOST_COLOURS]
        self._pixels.update({colour: fault.unknown[colour] for colour in colours})
        self._files.update(colours)
        self._lossy_format = self._lossy_format or fault.lossy_format

    def lines(self, where: str, photos: int) -> list[str]:
        """The lines of a message: one for each kind of fault, with its count and first names."""
        count = sum(map(len, self._names.values()))
        lines = [f"{where}: {count} of {photos} labelled photos cannot be used."]
        for kind, names in sorted(self._names.items()):
            is_colours = kind is FaultKind.UNKNOWN_COLOURS
            detail = (
                self._colours_text() if is_colours else f"The first: {self._first[kind].message}"
            )
            lines.append(f"  {kind}: {len(names)} ({some_of(names, NAMED)}). {detail}")
        return lines

    def _colours_text(self) -> str:
        """How many pixels of which colours in how many files, and what to do about them."""
        palette = self._first[FaultKind.UNKNOWN_COLOURS].item.palette
        each = (
            f"{colour} {self._pixels[colour]} pixels in {self._files[colour]} files"
            for colour in most_common(self._pixels)
        )
        mend = remedy(self._pixels, palette, self._lossy_format)
        which = "Close to flower or void but not equal: " if palette.background == "any" else ""
        if self._first[FaultKind.UNKNOWN_COLOURS].are_opacities:
            which = f"Levels of the alpha channel, since the masks have one colour. {which}"
        return f"{which}{some_of(each, NAMED)}. Known are {palette}. {mend}"
