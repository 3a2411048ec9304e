"""Ranges of numbers that come from files: refused where a value is outside, or not a number."""


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


def require_open_share(**values: float) -> None:
    """Refuse values that are not between 0 and 1, or are 0 or 1 themselves.

    Raises:
        ValueError: naming the value.
    """
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {value}")
