"""What a decoded event says, wherever its program has put it: texts, reasons, usage, calls of tools. Pure."""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, as_object, as_text, compact_json, is_number

_PLACES: Final = ("message", "errors", "error", "errorMessage", "data", "detail", "details", "reason", "description")
"""Where a reason stands in an object, the most telling first."""
_NAMES: Final = ("name", "code", "type")
"""What is left when an error says no more than which it is."""
_MAX_DEPTH: Final = 8


def blocks_of(content: Any) -> list[Any]:
    """Return the blocks of a message's content, which may be text alone."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content)


def texts_in(content: Any) -> list[str]:
    """Return what a message's content shows as text, block by block."""
    return [text for block in blocks_of(content) if (text := as_text(as_object(block).get("text")))]


def call_text(name: str, call: dict[str, Any], arguments: str) -> str:
    """Return how the call of a tool is shown: its name, and its arguments if it has that field."""
    return f"{name} {compact_json(call[arguments])}" if arguments in call else name


def tool_result(content: str, call_id: Any, *, is_error: bool, **metadata: Any) -> Draft:
    """Return the message for what a tool has returned."""
    result = {"tool_use_id": as_text(call_id), "is_error": is_error}
    return Draft(content, "tool", metadata={"tool_result": result, **metadata})


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


def add_up(total: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return what a program used in several turns: numbers summed, also those inside; of anything else, the latest."""
    return {**total, **{name: _sum(total.get(name), value) for name, value in more.items()}}


def _sum(total: Any, value: Any) -> Any:
    if isinstance(value, dict) and isinstance(total, dict):
        return add_up(total, value)
    return total + value if is_number(value) and is_number(total) else value
