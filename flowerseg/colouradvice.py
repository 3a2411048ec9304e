"""What to do about colours of a mask that have no meaning: one or two sentences for an error."""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from flowerseg.colours import Colour, distances
from flowerseg.errors import some_of

NEAR = 32  # levels; JPEG and smooth resizing leave colours that are nearer to those painted
MOST_CLASSES = 32  # more colours in one set than this are an accident, not classes
_LAST_CLASS = 63  # a higher grey level is more probably a shade than the number of a class
_CLEARLY_NEAR = 16  # levels; a change that goes further may go beyond NEAR too
_WHITE: Colour = (255, 255, 255)
_MOST_TOLERANCE = 48  # advised: farther colours come from resizing, which no tolerance undoes

_ANY = (
    "Say what they mean with --flower-colour and --void-colour, or take all others for background "
    "with --background-colour any. A colour is R,G,B, or one number: a grey level or a class. "
    "(A PNG with a palette has the colours that it shows, not its class numbers.)"
)
_VOID_255 = "Often 255 marks what is not labelled in masks of class numbers: --void-colour 255."
_PAINT_AGAIN = "Make the masks again: as PNG, and resized by nearest neighbour only."


def colour_advice(
    unknown: Collection[Colour],
    meant: Sequence[Colour],
    background: Sequence[Colour] | None,
    *,
    lossy_format: str = "",
    tolerance: int = 0,
) -> str:
    """What to do about these unknown colours.

    Args:
        unknown: the colours.
        meant: the colours of flower and void: what is close to one may not become background.
        background: those of background; None where it is "any", in which case the unknown ones
            are known to be some of `meant` that were changed.
        lossy_format: of the files, if it changes colours: "JPEG", for example.
        tolerance: the one in use.
    """
    is_noise = lossy_format or background is None or tolerance or len(unknown) > MOST_CLASSES
    if not is_noise:
        levels = sorted(red for red, green, blue in unknown if red == green == blue)
        if len(levels) == len(unknown) and levels[-1] <= _LAST_CLASS:
            return _class_advice(levels)
        if _farthest(unknown, meant, min) > NEAR:
            return f"{_ANY} {_VOID_255}" if _WHITE in unknown else _ANY
    cause = (
        f"The masks are {lossy_format}, which changes colours."
        if lossy_format
        else "Colours close to a known one, or many, come from JPEG or from smooth resizing."
    )
    if background is None:
        return f"{cause} {_changed_advice(_farthest(unknown, meant, max))}"
    farthest = _farthest(unknown, [*meant, *background], max)
    return f"{cause} {_tolerance_advice(farthest, tolerance)}"


def _farthest(
    colours: Collection[Colour], known: Sequence[Colour], of: Callable[[list[int]], int]
) -> int:
    """The largest (or smallest) of the colours' distances, each to the nearest known colour."""
    table = np.array(list(colours), np.uint8)
    nearest = np.min([distances(table, colour) for colour in known], axis=0)
    return of(nearest.tolist())


def _class_advice(levels: Sequence[int]) -> str:
    numbers = some_of(map(str, levels), 10)
    return (
        f"If these are numbers of classes ({numbers}), name that of the flower: --flower-colour "
        f"{levels[0]}, for example, along with --background-colour any if all other classes are "
        f"background. {_VOID_255}"
    )


def _tolerance_advice(farthest: int, tolerance: int) -> str:
    if tolerance >= farthest:
        return f"Some are as close to one known colour as to another. {_PAINT_AGAIN}"
    if farthest > _MOST_TOLERANCE:
        return (
            f"{_PAINT_AGAIN} (--mask-tolerance N takes each colour for the known one within N "
            f"levels; some are {farthest} levels away.)"
        )
    return _advice_of_tolerance(farthest)


def _changed_advice(farthest: int) -> str:
    """What to do where all that is far from flower and void would be background."""
    if farthest > _CLEARLY_NEAR:
        return (
            f"{_PAINT_AGAIN} (Or name the colours of background instead of any, and give "
            "--mask-tolerance N, which takes each colour for the known one within N levels.)"
        )
    return _advice_of_tolerance(farthest)


def _advice_of_tolerance(levels: int) -> str:
    return (
        "Save them as PNG, before any change of their colours, or give --mask-tolerance "
        f"{levels}, which takes each colour for the known one within {levels} levels."
    )
