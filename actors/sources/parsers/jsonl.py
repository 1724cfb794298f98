"""JSON lines of the simplest kind: objects with "content" or "text", perhaps type, role, metadata. Pure."""

from typing import Any

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_text
from commitcast.actors.sources.parsers.event_parser import ObjectParser
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import MESSAGE_TYPES
from commitcast.persistence.writes import check_name


class JsonlParser(ObjectParser):
    """For programs written with commitcast in mind."""

    def _understand(self, value: dict[str, Any]) -> list[Draft] | None:
        content = as_text(value.get("content"))
        if content is None:
            content = as_text(value.get("text"))
        if content is None:
            return None
        kind = as_text(value.get("type"))
        metadata = value.get("metadata")
        return [
            Draft(
                content,
                kind if kind in MESSAGE_TYPES and kind is not None else "assistant",
                _role(value.get("role")),
                metadata if isinstance(metadata, dict) else None,
            )
        ]


def _role(value: Any) -> str | None:
    """Return what can be stored as a role: a bad one is left to `raw`, it must not cost the message."""
    try:
        return check_name(value, "role")
    except InvalidValueError:
        return None
