"""Dataclasses back from the JSON that `dataclasses.asdict` makes of them."""

import dataclasses
import types
import typing
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def from_json(kind: type[T], value: Any) -> T:
    """Rebuild a dataclass with what is in it, refusing what does not fit the types.

    Raises:
        ValueError: an unknown field or choice.
        TypeError: a value of another type, or a missing field.
    """
    return typing.cast(T, _rebuilt(kind, value))


def _rebuilt(kind: Any, value: Any) -> Any:
    """Rebuild dataclasses, enums and tuples from JSON, refusing what does not fit the types."""
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        options = [option for option in typing.get_args(kind) if option is not types.NoneType]
        return None if value is None else _first_that_fits(options, value)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ValueError(f"{value!r} is none of {typing.get_args(kind)}")
        return value
    if origin is tuple:
        args = typing.get_args(kind)
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_rebuilt(k, v) for k, v in zip(kinds, value, strict=True))
    if origin is list:
        return [_rebuilt(typing.get_args(kind)[0], v) for v in value]
    if origin is dict:
        return dict(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if unknown := set(value) - set(hints):
            raise ValueError(f"unknown {', '.join(sorted(unknown))}")
        return kind(**{k: _rebuilt(hints[k], v) for k, v in value.items()})  # type: ignore[operator]  # a class, not an instance
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if issubclass(kind, StrEnum):
        return kind(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _first_that_fits(options: list[Any], value: Any) -> Any:
    *others, last = options
    for option in others:
        with suppress(TypeError, ValueError):
            return _rebuilt(option, value)
    return _rebuilt(last, value)
