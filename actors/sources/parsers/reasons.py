"""Why something failed: found in an event wherever a program has put it. Pure."""

from typing import Any, Final

from commitcast.actors.sources.parsers.decoding import compact_json

_PLACES: Final = ("message", "errors", "error", "errorMessage", "data", "detail", "details", "reason", "description")
"""Where a reason stands in an object, the most telling first."""
_NAMES: Final = ("name", "code", "type")
"""What is left when an error says no more than which it is."""
_MAX_DEPTH: Final = 8


def reason_in(*values: Any) -> str | None:
    """Return the first reason that the values hold; None if they hold none.

    Args:
        values: texts, errors as objects, lists of them, or anything else that an event may hold in their places.
    """
    return next(filter(None, (_reason(value, 0) for value in values)), None)


def _reason(value: Any, depth: int) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, list):
        return "; ".join(filter(None, (_reason(inner, depth + 1) for inner in value))) or None
    if not isinstance(value, dict) or not value:
        return None
    if depth > _MAX_DEPTH:
        return compact_json(value)
    places = (_reason(value[place], depth + 1) for place in _PLACES if place in value)
    names = (value[name] for name in _NAMES if isinstance(value.get(name), str))
    return next(filter(None, [*places, *names]), None) or compact_json(value)
