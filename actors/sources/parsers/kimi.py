"""Kimi: `kimi --print --output-format stream-json`. Pure.

One chat message an object, told apart by its role. There is no last word: it says how it went by its exit code, and
why as plain text. A run that ends with a tool's call or answer was cut off, with any exit code.
"""

from typing import Any

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, as_object, as_text, compact_json
from commitcast.actors.sources.parsers.event_parser import ObjectParser

_TYPES = {"assistant": "assistant", "user": "user", "system": "system", "tool": "tool", "meta": "system"}


class KimiParser(ObjectParser):
    """For `kimi`."""

    json_option = "--print --output-format stream-json"
    exit_codes = {75: "a passing error of its provider; it may be tried again"}

    def _understand(self, value: dict[str, Any]) -> list[Draft] | None:
        role = value.get("role")
        if not isinstance(role, str) or role not in _TYPES or not ("content" in value or "tool_calls" in value):
            return None
        text, thoughts = _texts(value.get("content"))
        calls = [_read_call(as_object(call)) for call in as_list(value.get("tool_calls"))]
        if role != "system":
            self.needs_verdict = bool(calls) or role == "tool"  # an answer follows
        drafts = [Draft(thoughts, "assistant", metadata={"thinking": True})] if thoughts else []
        if text or not (thoughts or calls):
            answered = {"tool_use_id": as_text(value.get("tool_call_id"))}
            drafts.append(Draft(text, _TYPES[role], metadata={"tool_result": answered} if role == "tool" else None))
        return drafts + calls


def _texts(content: Any) -> tuple[str, str]:
    """Return what a message says and what was thought before it."""
    if isinstance(content, str):
        return content, ""
    parts = [as_object(part) for part in as_list(content)]
    texts = [as_text(part.get("text")) for part in parts]
    thought = [as_text(part.get("think")) for part in parts]
    return "".join(filter(None, texts)), "".join(filter(None, thought))


def _read_call(call: dict[str, Any]) -> Draft:
    function = as_object(call.get("function"))
    name, arguments = as_text(function.get("name")) or "tool", function.get("arguments")
    shown = arguments if isinstance(arguments, str) else compact_json(arguments)
    used = {"id": as_text(call.get("id")), "name": name, "input": arguments}
    return Draft(f"{name} {shown}" if arguments else name, "tool", metadata={"tool_use": used})
