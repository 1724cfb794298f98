"""Patterns for the frames that a case expects, and the values of the frames that it sends. Pure.

An object matches if its fields do; it may have more. A list matches item by item. Keys that begin with `$` are not
fields but operators on the whole value; docs/conformance.md lists them.
"""

import re
from collections.abc import Callable
from typing import Any, Final

Captures = dict[str, Any]

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|\+00:00)")
"""In UTC, with microseconds."""
_KINDS: Final[dict[str, Any]] = {
    "anything": lambda value: True,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "text": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
    "time": lambda value: is_time(value),
}
_SHOWN: Final = 400
"""Characters of a value that a mismatch shows: some contents have a million."""


def is_time(value: Any) -> bool:
    """Whether a value is a time as the protocol writes it."""
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


class Mismatch(AssertionError):
    """A frame or event differs from the one that the case expects."""


def match(pattern: Any, value: Any, captures: Captures) -> None:
    """Compare a value with a pattern, and remember what it captures.

    Raises:
        Mismatch: they differ; nothing is remembered.
    """
    found = dict(captures)
    _match(pattern, value, found, "")
    captures.update(found)


def matches(pattern: Any, value: Any, captures: Captures) -> bool:
    """Whether a value matches; remembers what it captures if it does."""
    try:
        match(pattern, value, captures)
    except Mismatch:
        return False
    return True


def fill(value: Any, captures: Captures) -> Any:
    """Return a value that is to be sent, with what was captured, and long texts written out."""
    if isinstance(value, list):
        return [fill(each, captures) for each in value]
    if not isinstance(value, dict):
        return value
    if "$is" in value:
        return _captured(value["$is"], captures)
    if "$repeat" in value:
        return value["$repeat"] * value["$times"]
    if "$items" in value:
        return [item(sequence) for sequence in range(value["$items"]["from"], value["$items"]["to"] + 1)]
    return {name: fill(each, captures) for name, each in value.items()}


def item(sequence: int) -> dict[str, Any]:
    """Return a message as `$items` writes it."""
    of_text = {"content": str(sequence), "content_type": "text", "metadata": None}
    return (
        {"sequence": sequence, "type": "assistant", "role": None}
        | of_text
        | {"created_at": "2026-01-02T03:04:05.000006Z"}
    )


def _match(pattern: Any, value: Any, captures: Captures, where: str) -> None:
    if isinstance(pattern, dict):
        _match_object(pattern, value, captures, where)
    elif isinstance(pattern, list):
        _check(isinstance(value, list) and len(value) == len(pattern), where, pattern, value)
        for index, inner in enumerate(pattern):
            _match(inner, value[index], captures, f"{where}[{index}]")
    else:
        _check(are_equal(value, pattern), where, pattern, value)


def _match_object(pattern: dict[str, Any], value: Any, captures: Captures, where: str) -> None:
    """Match the fields first, so that what is captured of the whole is of one that matches."""
    signs = {name: inner for name, inner in pattern.items() if name.startswith("$")}
    fields = {name: inner for name, inner in pattern.items() if name not in signs}
    if fields or not signs:
        _check(isinstance(value, dict), where, "an object", value)
    for name, inner in fields.items():
        _match_field(inner, value, name, captures, f"{where}.{name}")
    _match_signs(signs, value, captures, where)


def are_equal(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same: `1` is neither `1.0` nor `true`."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(are_equal(inner, other[name]) for name, inner in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(are_equal, one, other))
    return bool(one == other)


def written_out(entries: list[Any], make: Callable[[int], Any]) -> list[Any]:
    """Return a list of patterns with each `items` in it written out: messages of which only the sequence counts."""
    written: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict) and "items" in entry:
            written += [make(sequence) for sequence in range(entry["items"]["from"], entry["items"]["to"] + 1)]
        else:
            written.append(entry)
    return written


def _match_field(pattern: Any, fields: dict[str, Any], name: str, captures: Captures, where: str) -> None:
    if pattern == {"$absent": True}:
        _check(name not in fields, where, "nothing", fields.get(name))
    elif isinstance(pattern, dict) and "$maybe" in pattern:
        if name in fields:
            _match(pattern["$maybe"], fields[name], captures, where)
    else:
        _check(name in fields, where, pattern, "nothing")
        _match(pattern, fields[name], captures, where)


def _match_signs(signs: dict[str, Any], value: Any, captures: Captures, where: str) -> None:
    for name, wanted in signs.items():
        match name:
            case "$any":
                kinds = wanted if isinstance(wanted, list) else [wanted]
                _check(any(_KINDS[kind](value) for kind in kinds), where, f"any {wanted}", value)
            case "$capture":
                captures[wanted] = value
            case "$is":
                _check(are_equal(value, _captured(wanted, captures)), where, _captured(wanted, captures), value)
            case "$not":
                _check(not matches(wanted, value, dict(captures)), where, f"not {wanted}", value)
            case "$equals":
                _check(are_equal(value, wanted), where, wanted, value)
            case "$begins":
                begins = isinstance(value, str) and value.startswith(wanted)
                _check(begins, where, f"a text that begins {wanted!r}", value)
            case "$min":
                _check(type(value) in (int, float) and value >= wanted, where, f"{wanted} or more", value)
            case "$max":
                _check(type(value) in (int, float) and value <= wanted, where, f"{wanted} or less", value)
            case "$repeat":
                _check(value == wanted * signs["$times"], where, f"{wanted!r} {signs['$times']} times", value)
            case "$times":
                pass
            case _:
                raise ValueError(f"a pattern says {name}, and nobody knows what that is")


def _captured(name: str, captures: Captures) -> Any:
    if name not in captures:
        raise Mismatch(f"nothing was captured as {name}")
    return captures[name]


def _check(is_right: bool, where: str, wanted: Any, found: Any) -> None:
    if not is_right:
        raise Mismatch(f"{where.lstrip('.') or 'it'} is {shown(found)}, and was to be {shown(wanted)}")


def shown(value: Any) -> str:
    """Return a value as an error shows it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"
