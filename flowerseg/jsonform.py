"""Dataclasses back from the JSON that `dataclasses.asdict` makes of them.

`parse_json` takes less than JSON allows: what two readers may understand differently, such as a
name that occurs twice, and numbers that no field of a dataclass can hold, are refused.
"""

import dataclasses
import json
import math
import reprlib
import types
import typing
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from flowerseg.errors import some_of
from flowerseg.smallfiles import read_small_text

T = TypeVar("T")

_LARGEST = 2**63


def read_json(path: Path) -> Any:
    """The content of a small JSON file. Raises as `read_small_text` and `parse_json` do."""
    return parse_json(read_small_text(path))


def parse_json(text: str) -> Any:
    """The values in a JSON text, as `json.loads` gives them.

    Raises:
        ValueError: it is no JSON, or is nested too deep, or it holds a name twice in one object, a
            number that is not finite or has more than 64 bits, or half a surrogate pair.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1}, key=ascii)
        raise ValueError(f"{some_of(map(reprlib.repr, twice))} occurs more than once")
    for text in (*fields, *(value for value in fields.values() if isinstance(value, str))):
        _require_encodable(text)
    return fields


def _require_encodable(text: str) -> None:
    """Refuse surrogates, but for those that stand for bytes of a file name (`os.fsencode`)."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ValueError(f"{reprlib.repr(text)} holds half a surrogate pair") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON has")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{reprlib.repr(digits)} is too large a number")
    return value


def _bounded_int(digits: str) -> int:
    if len(digits) > 20 or not -_LARGEST <= int(digits) < _LARGEST:
        raise ValueError(f"{reprlib.repr(digits)} is too large a number")
    return int(digits)


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
            raise ValueError(f"{reprlib.repr(value)} is none of {args}")
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
        return _path(_expected(value, str))
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = _expected(value, dict)
        if unknown := set(fields) - set(hints):
            raise ValueError(f"unknown {some_of(sorted(unknown, key=ascii))}")
        return kind(**{k: _rebuilt(hints[k], v) for k, v in fields.items()})  # type: ignore[operator]  # a class, not an instance
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if issubclass(kind, StrEnum):
        return _member(kind, value)
    if kind is int and isinstance(value, bool):
        raise TypeError(f"{value} is not int")
    return _expected(value, kind)


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError(f"{reprlib.repr(text)} is no path")
    return Path(text)


def _member(kind: type[StrEnum], value: Any) -> StrEnum:
    if isinstance(value, str) and value in list(kind):
        return kind(value)
    raise ValueError(f"{reprlib.repr(value)} is none of {', '.join(kind)}")


def _expected(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{reprlib.repr(value)} is not {kinds[0].__name__}")
    return value


def _first_that_fits(options: list[Any], value: Any) -> Any:
    *others, last = options
    for option in others:
        with suppress(TypeError, ValueError):
            return _rebuilt(option, value)
    return _rebuilt(last, value)
