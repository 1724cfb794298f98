"""The values that a source yields, and how it ends. Pure."""

import re
from collections.abc import Awaitable, Coroutine
from typing import Any, Final

import msgspec

from commitcast.persistence.records import AgentStatus

MAX_ERROR_CHARACTERS: Final = 1_000_000
"""Of an error's text; the rest is cut off. It is kept in the agent's row, which every reader of the agent reads."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Draft(msgspec.Struct, frozen=True):
    """A message as a source yields it; it is checked and numbered later.

    Unlike `handle.emit`, a source does not fail for bad text: lone surrogates become U+FFFD and the original is kept in
    `raw`. A `key`, unique within the agent, makes a message that is yielded again harmless, by the next run of the
    source for example: it is stored once.
    """

    content: str | dict[str, Any] | list[Any]
    type: str = "assistant"
    role: str | None = None
    metadata: dict[str, Any] | None = None
    raw: bytes | str | None = None
    key: str | None = None

    @classmethod
    def of(cls, value: Any) -> "Draft":
        """Convert what a source has yielded to a draft. Raises `TypeError` if it is neither a `Draft` nor text."""
        if isinstance(value, Draft):
            return value
        if isinstance(value, str):
            return cls(value)
        advice = ""
        if isinstance(value, (dict, list)):
            advice = ": wrap it as Draft(value)"
        elif isinstance(value, Awaitable):
            advice = ": in an async source write `await context.receive()`, and await any other call like it"
        if isinstance(value, Coroutine):
            value.close()  # it will never be awaited, of which Python would warn
        raise TypeError(f"a source must yield str or Draft, not {type(value).__name__}{advice}")

    def repaired(self) -> "Draft":
        """Return the draft without lone surrogates, and with a text's original in `raw` if that is empty."""
        raw = self.raw
        if raw is None and isinstance(self.content, str):
            raw = self.content.encode("utf-8", "surrogatepass")
        return msgspec.structs.replace(self, content=_clean(self.content), metadata=_clean(self.metadata), raw=raw)


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a source ended: the status that its agent gets, and why."""

    status: AgentStatus = AgentStatus.COMPLETED
    error_name: str | None = None
    error_message: str | None = None
    result: Any = None
    """A JSON value; kept for every status."""

    @classmethod
    def of(cls, error: BaseException) -> "Ending":
        """Return the failure that an error is."""
        name, message = error_text(error)
        return cls(status=AgentStatus.FAILED, error_name=name, error_message=message)

    @property
    def error(self) -> dict[str, str | None]:
        """Name and message of the error, under the names that they have in a record."""
        return {"error_name": self.error_name, "error_message": self.error_message}


def error_text(error: BaseException) -> tuple[str, str]:
    """Return the name of an error's class and a message that can be stored: its text, or the name if it has none."""
    name = type(error).__name__
    try:
        return name, clean_error(str(error)) or name
    except Exception:  # a defect in the error's own text must not hide the error
        return name, name


def clean_error(text: str) -> str:
    """Return an error's text as it can be stored: see `clean_text`. A very long one is cut off, and ends with `…`."""
    return clean_text(text if len(text) <= MAX_ERROR_CHARACTERS else f"{text[:MAX_ERROR_CHARACTERS]}…")


def clean_text(text: str) -> str:
    """Return the text with U+FFFD for each lone surrogate, which UTF-8 cannot carry; pairs become one character."""
    if text.isascii() or _SURROGATE.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_clean(name): _clean(inner) for name, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list) else value
