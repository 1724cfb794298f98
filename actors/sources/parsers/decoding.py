"""From a line's bytes to values that a store can keep: never raises, for any bytes.

Owns the rule of what a source does with bad text: it is shown with U+FFFD where it is bad, and the line
itself is kept in `raw`. Numbers that JSON cannot carry become text, and nesting is cut, so that metadata made
from a decoded value is never refused. Pure.
"""

import json
import math
from typing import Any, Final

import msgspec

from commitcast.actors.sources.draft import clean_text

MAX_DEPTH: Final = 64
"""Levels of a decoded value. A store takes 200, metadata adds a few, and no CLI comes near."""

_MAX_INTEGER_DIGITS: Final = 20
"""A longer number is not even tried (Python refuses more than 4,300)."""
MAX_INTEGER: Final = 2**53 - 1
"""JavaScript makes another number of a larger one; so such a number is kept as text, exact in its digits."""
_decode_strict: Final = msgspec.json.Decoder().decode


def text_of(line: bytes) -> str:
    """Return a line as text, without the "\\r" that a Windows line ends in; bad bytes become U+FFFD."""
    return line.decode(errors="replace").removesuffix("\r")


def decode_json(line: bytes) -> Any:
    """Return the JSON value of a line, cleaned; None if it holds none.

    A line that is JSON but for bad UTF-8, lone surrogates (a CLI that cut an emoji in two), control characters, NaN
    or a huge number is decoded too: one bad character must not cost the whole event.
    """
    try:
        try:
            value = _decode_strict(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            value = _decode_leniently.decode(text_of(line).strip())
    except (ValueError, RecursionError):
        return None
    return value if _is_clean(value) else _cleaned(value, 0)


def as_text(value: Any) -> str | None:
    """Return the value if it is text."""
    return value if isinstance(value, str) else None


def as_object(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def compact_json(value: Any) -> str:
    """Return a decoded value as JSON text without spaces."""
    return msgspec.json.encode(value).decode()


def shown(value: Any) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else compact_json(value)


def without(event: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return an event without some of its fields."""
    return {name: value for name, value in event.items() if name not in names}


def _is_clean(value: Any, depth: int = 0) -> bool:
    """Tell whether nothing in a value needs cleaning, as in nearly all: looking is quicker than making it anew."""
    kind = type(value)
    if isinstance(value, str):
        return clean_text(value) is value
    if kind is int:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    if kind is not dict and kind is not list:
        return True
    if depth >= MAX_DEPTH:
        return False
    for inner in value if kind is list else value.values():
        if not (type(inner) is str and inner.isascii()) and not _is_clean(inner, depth + 1):
            return False
    return kind is list or all(map(str.isascii, value))


def _cleaned(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, (dict, list)) and depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        return {clean_text(name): _cleaned(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner, depth + 1) for inner in value]
    if isinstance(value, int) and not -MAX_INTEGER <= value <= MAX_INTEGER:
        return str(value)
    return value


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_INTEGER_DIGITS else digits


def _number(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


_decode_leniently: Final = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=str, strict=False)
