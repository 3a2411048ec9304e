"""Which photos of a folder train and which validate: by lists beside them, or by a seeded draw."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from unicodedata import normalize

from flowerseg.errors import DataError, some_of
from flowerseg.labelled import LabelledPhoto
from flowerseg.smallfiles import read_small_text, reason_of

_DRAWN = {"train", "val"}
_MOST_SHOWN = 100  # characters of a name in a message


def names_in_split(
    root: Path, split: str, photos: Sequence[LabelledPhoto], val_share: float, seed: int
) -> set[str]:
    """Names of the photos of one split.

    `<split>.txt` in the folder lists them, if there is one. Else `train` and `val` are drawn from
    all photos, but for those of `test.txt`; see `draw_val`.

    Raises:
        DataError: no such split, too few photos to draw it, a list of `train` without one of
            `val` or the reverse, or a list that cannot be read or names a photo that is not there,
            or one twice.
    """
    lists = {path.stem: path for path in sorted(root.glob("*.txt"))}
    if split in lists:
        return _listed_names(lists[split], photos)
    parted = sorted(lists.keys() & _DRAWN)
    if split not in _DRAWN:
        there = ", ".join(sorted(lists.keys() | (set() if parted else _DRAWN)))
        raise DataError(
            f"{root}: no split {split!r}. There are {there}; any NAME.txt beside photos/, with one "
            "name a line, is a split NAME."
        )
    if parted:
        raise DataError(
            f"{root}: {parted[0]}.txt is there, but {split}.txt is not. Write it too, or remove "
            "both and let them be drawn."
        )
    held_out = _listed_names(lists["test"], photos) if "test" in lists else set()
    groups = {item.name: item.group for item in photos if item.name not in held_out}
    val = draw_val(groups, val_share, seed)
    names = val if split == "val" else groups.keys() - val
    if not names:
        raise DataError(
            f"{root}: split {split!r} has no photo: {len(groups)} in photos/ are too few. It takes "
            "two at least, one to train and one to validate."
        )
    return names


def draw_val(groups: Mapping[str, str], share: float, seed: int) -> set[str]:
    """Draw the names that validate: of each group its share, rounded, but never all of it.

    Names are drawn in the order of a hash of seed and name, so that most stay on their side when
    others are added. Where every group is too small to give one, one is drawn from all that have
    more than one name, or from all.

    Args:
        groups: the group of each name.
        share: between 0 and 1.
        seed: another seed draws others.
    """
    members: dict[str, list[str]] = {}
    for name in sorted(groups, key=lambda name: _place(name, seed)):
        members.setdefault(groups[name], []).append(name)
    val = {
        name
        for names in members.values()
        for name in names[: min(round(share * len(names)), len(names) - 1)]
    }
    if val or len(groups) < 2:
        return val
    can_spare = [name for name in groups if len(members[groups[name]]) > 1]
    return {min(can_spare or groups, key=lambda name: _place(name, seed))}


def _place(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def _listed_names(path: Path, photos: Sequence[LabelledPhoto]) -> set[str]:
    """Names in a list: one a line, with or without suffix; lines that begin with # do not count."""
    known = {item.name + item.photo.suffix: item.name for item in photos}
    known |= {item.name: item.name for item in photos}
    lines = _lines(path)
    if unknown := [line for line in lines if line not in known]:
        raise DataError(
            f"{path}: {len(unknown)} of {len(lines)} names are no photo with a mask "
            f"({some_of(map(_shown, unknown))}). Names are paths under photos/, one a line."
        )
    counts = Counter(known[line] for line in lines)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise DataError(
            f"{path}: {len(repeated)} names stand in it more than once ({some_of(repeated)}). "
            "Leave one of each."
        )
    return set(counts)


def _shown(line: str) -> str:
    """A line of a list for a message: a binary file's are long, and would control the terminal."""
    shown = line if line.isprintable() else repr(line)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"


def _lines(path: Path) -> list[str]:
    try:
        text = read_small_text(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as a list: {reason_of(error)}. Save it as a text file in "
            "UTF-8."
        ) from error
    if "\0" in text:  # every other byte of UTF-16 without a byte order mark
        raise DataError(f"{path}: has zero bytes, which no text in UTF-8 has. Save it as UTF-8.")
    lines = (normalize("NFC", line.strip()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
