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
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        options = [option for option in args if option is not types.NoneType]
        is_none = value is None and len(options) < len(args)
        return None if is_none else _first_that_fits(options, value)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{value!r} is none of {args}")
        return value
    if origin is tuple:
        items = _expected(value, list, tuple)
        kinds = [args[0]] * len(items) if args[-1] is Ellipsis else args
        return tuple(_rebuilt(k, v) for k, v in zip(kinds, items, strict=True))
    if origin is list:
        return [_rebuilt(args[0], v) for v in _expected(value, list)]
    if origin is dict:
        return {
            _rebuilt(args[0], k): _rebuilt(args[1], v) for k, v in _expected(value, dict).items()
        }
    if kind is Path:
        return Path(_expected(value, str))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = _expected(value, dict)
        if unknown := set(fields) - set(hints):
            raise ValueError(f"unknown {', '.join(sorted(unknown))}")
        return kind(**{k: _rebuilt(hints[k], v) for k, v in fields.items()})  # type: ignore[operator]  # a class, not an instance
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if issubclass(kind, StrEnum):
        return kind(value)
    if kind is int and isinstance(value, bool):
        raise TypeError(f"{value!r} is not int")
    return _expected(value, kind)


def _expected(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{value!r} is not {kinds[0].__name__}")
    return value


def _first_that_fits(options: list[Any], value: Any) -> Any:
    *others, last = options
    for option in others:
        with suppress(TypeError, ValueError):
            return _rebuilt(option, value)
    return _rebuilt(last, value)
