"""Ranges of numbers that come from files: refused where a value is outside, or not a number."""

from numbers import Integral, Real


def require_between(least: float, most: float | None, /, **values: float | None) -> None:
    """Refuse values below `least` or above `most` (None: no bound), and NaN; None is no value.

    Raises:
        ValueError: naming the value.
    """
    for name, value in values.items():
        if value is None or (least <= value and (most is None or value <= most)):
            continue
        bound = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} must be {bound}, not {value}")


def require_shares(**values: float | None) -> None:
    """Refuse values that are not between 0 and 1. Raises as `require_between` does."""
    require_between(0, 1, **values)


def require_open_share(**values: object) -> None:
    """Refuse values that are not between 0 and 1, or are 0 or 1 themselves.

    Raises:
        TypeError, ValueError: naming the value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number between 0 and 1, not {value!r}")
        if not 0 < float(value) < 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {value}")


def require_count(**values: object) -> None:
    """Refuse what is no number of things, from 1 on; None is no value.

    Raises:
        TypeError, ValueError: naming the value.
    """
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, not {value!r}")
        if value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")
