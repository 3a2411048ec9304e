"""Whether values from a file have the form that this program's own values have."""

import math
from typing import Any

from torch import Tensor


def require_form(own: Any, stored: Any, where: str = "state") -> None:
    """Refuse a value of another form: type, keys, length, shape; texts and switches must be equal.

    Args:
        own: a value as this program makes it.
        stored: the value from a file.
        where: what it is, for the message.

    Raises:
        ValueError: the forms differ, or a number is not finite.
    """
    if isinstance(own, Tensor):
        is_same = isinstance(stored, Tensor) and (own.shape, own.dtype) == (
            stored.shape,
            stored.dtype,
        )
    elif isinstance(own, dict):
        is_same = isinstance(stored, dict) and own.keys() == stored.keys()
    elif isinstance(own, list | tuple):
        is_same = isinstance(stored, list | tuple) and len(own) == len(stored)
    elif isinstance(own, bool | str | None):
        is_same = type(own) is type(stored) and own == stored
    elif isinstance(own, int | float):
        is_number = isinstance(stored, int | float) and not isinstance(stored, bool)
        is_same = is_number and math.isfinite(stored)
    else:
        is_same = False
    if not is_same:
        raise ValueError(f"{where} is not what this training keeps")
    if isinstance(own, dict):
        for key, value in own.items():
            require_form(value, stored[key], f"{where} {key}")
    elif isinstance(own, list | tuple):
        for index, value in enumerate(own):
            require_form(value, stored[index], f"{where} {index}")
