"""What to do about colours of a mask that have no meaning: one or two sentences for an error."""

from collections.abc import Collection, Sequence

import numpy as np

from flowerseg.colours import Colour, distances
from flowerseg.errors import some_of

NEAR = 32  # levels; JPEG and smooth resizing leave colours that are nearer to those painted
MOST_CLASSES = 32  # more colours in one set than this are an accident, not classes
_LAST_CLASS = 63  # a higher grey level is more probably a shade than the number of a class
_MOST_TOLERANCE = 48  # advised: farther colours come from resizing, which no tolerance undoes

_ANY = (
    "Say what they mean with --flower-colour and --void-colour, or take all others for background "
    "with --background-colour any. A colour is R,G,B, or one number: a grey level or a class. "
    "(A PNG with a palette has the colours that it shows, not its class numbers.)"
)
_PAINT_AGAIN = "Make the masks again: as PNG, and resized by nearest neighbour only."


def colour_advice(
    unknown: Collection[Colour],
    meant: Sequence[Colour],
    known: Sequence[Colour],
    *,
    lossy_format: str = "",
    tolerance: int = 0,
    is_noise: bool = False,
) -> str:
    """What to do about these unknown colours.

    Args:
        unknown: the colours.
        meant: the colours of flower and void: what is close to one may not become background.
        known: those of background too.
        lossy_format: of the files, if it changes colours: "JPEG", for example.
        tolerance: the one in use.
        is_noise: they are known to be other colours that were changed.
    """
    if not lossy_format and not is_noise and len(unknown) <= MOST_CLASSES:
        levels = sorted(red for red, green, blue in unknown if red == green == blue)
        if len(levels) == len(unknown) and levels[-1] <= _LAST_CLASS:
            return _class_advice(levels)
        if not _near(unknown, meant):
            return _ANY
    return _noise_advice(unknown, known, lossy_format, tolerance)


def _near(unknown: Collection[Colour], meant: Sequence[Colour]) -> bool:
    colours = np.array(list(unknown), np.uint8)
    return any((distances(colours, colour) <= NEAR).any() for colour in meant)


def _noise_advice(
    unknown: Collection[Colour], known: Sequence[Colour], lossy_format: str, tolerance: int
) -> str:
    cause = (
        f"The masks are {lossy_format}, which changes colours."
        if lossy_format
        else "Colours close to a known one, or many, come from JPEG or from smooth resizing."
    )
    colours = np.array(list(unknown), np.uint8)
    farthest = int(np.min([distances(colours, colour) for colour in known], axis=0).max())
    if tolerance >= farthest:
        return f"{cause} Some are as close to one known colour as to another. {_PAINT_AGAIN}"
    if farthest > _MOST_TOLERANCE:
        return (
            f"{cause} {_PAINT_AGAIN} (--mask-tolerance N takes each colour for the known one "
            f"within N levels; some are {farthest} levels away.)"
        )
    return (
        f"{cause} Save them as PNG, before any change of their colours, or give --mask-tolerance "
        f"{farthest}, which takes each colour for the known one within {farthest} levels."
    )


def _class_advice(levels: Sequence[int]) -> str:
    numbers = some_of(map(str, levels), 10)
    return (
        f"If these are numbers of classes ({numbers}), name that of the flower: --flower-colour "
        f"{levels[0]}, for example, along with --background-colour any if all other classes are "
        "background. Often 255 then marks what is not labelled: --void-colour 255."
    )
