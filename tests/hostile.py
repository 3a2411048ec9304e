"""Damaged and hostile versions of files that were whole: bytes, JSON texts and nested values."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

# Pieces of JSON text, since json.dumps would not write most of them.
HOSTILE_JSON = (
    "null", "true", "-1", "0", "0.5", "7", "1e308", "1e999", "-1e999", "NaN", "Infinity",
    "18446744073709551616", "9" * 5000, '""', '"\\ud800"', '"\\u0000"', '"../x"', '"/"', '"é"',
    '"fp16"', "[]", "[null]", "[[[[]]]]", "{}", '{"a": 1}', '{"a": 1, "a": 2}',
    "[" * 100_000 + "]" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '"' + "x" * 100_000 + '"',
)  # fmt: skip
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 7, 1e308, float("nan"), float("inf"), 2**70, "", "\0", "../x", "é",
    (), [], [None], {}, {"a": 1}, {0: 1}, b"x",
)  # fmt: skip
_PLACE = "@here@"


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with bytes flipped, cut off, taken out, put in or repeated."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(damaged)))
        end = min(len(damaged), start + draw(st.integers(0, 64)))
        match draw(st.sampled_from(["flip", "cut", "take", "put", "repeat"])):
            case "flip" if start < len(damaged):
                damaged[start] ^= draw(st.integers(1, 255))
            case "cut":
                del damaged[start:]
            case "take":
                del damaged[start:end]
            case "put":
                damaged[start:start] = draw(st.binary(max_size=16))
            case _:
                damaged[start:start] = damaged[start:end]
    return bytes(damaged)


@st.composite
def hostile_json(draw: st.DrawFn, document: Any) -> str:
    """The JSON text of a document in which one value is another, or a name is missing or twice."""
    place = draw(st.sampled_from(_places(document)))
    name = draw(st.sampled_from(["", "extra", "schema", "kind"]))
    if name:
        changed = replaced(document, (*place[:-1], name) if place else (), _PLACE)
    else:
        changed = replaced(document, place, _PLACE)
    text = json.dumps(changed)
    if draw(st.booleans()) and text.startswith("{"):
        text = text.replace("{", '{"name": 1, "name": 2, ', 1)
    return text.replace(f'"{_PLACE}"', draw(st.sampled_from(HOSTILE_JSON)), 1)


@st.composite
def hostile_values(draw: st.DrawFn, document: Any) -> Any:
    """A copy of nested dicts and lists in which one value is another, or is missing."""
    place = draw(st.sampled_from(_places(document)[1:]))
    if draw(st.booleans()):
        return replaced(document, place, draw(st.sampled_from(HOSTILE_VALUES)))
    changed = copy.deepcopy(document)
    parent = _at(changed, place[:-1])
    if isinstance(parent, dict | list):
        del parent[place[-1]]
    return changed


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place, which is a path of keys and indices."""
    if not place:
        return value
    changed = copy.deepcopy(document)
    parent = _at(changed, place[:-1])
    if isinstance(parent, dict) or (isinstance(parent, list) and isinstance(place[-1], int)):
        parent[place[-1]] = value
    return changed


def _at(document: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        document = document[key]
    return document


def _places(document: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(document, dict):
        items = list(document.items())
    elif isinstance(document, list):
        items = list(enumerate(document))
    return [before, *(place for k, v in items for place in _places(v, (*before, k)))]
