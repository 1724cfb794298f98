"""Kimi: `kimi --print --output-format stream-json`. Pure.

Each object is a chat message with a role. There is no verdict: the exit code is the outcome, and plain text the reason.
A run that ends with a tool's call or result was cut off, with any exit code.
"""

from typing import Any

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, as_object, as_text, shown
from commitcast.actors.sources.parsers.event_parser import ObjectParser
from commitcast.actors.sources.parsers.events import blocks_of, texts_in

_TYPES = {"assistant": "assistant", "user": "user", "system": "system", "tool": "tool", "meta": "system"}


class KimiParser(ObjectParser):
    """For `kimi`."""

    json_option = "--print --output-format stream-json"
    exit_codes = {75: "a temporary error of its provider; try again"}

    def _understand(self, value: dict[str, Any]) -> list[Draft] | None:
        role = value.get("role")
        if not isinstance(role, str) or role not in _TYPES or not ("content" in value or "tool_calls" in value):
            return None
        text = "".join(texts_in(value.get("content")))
        blocks = map(as_object, blocks_of(value.get("content")))
        thoughts = "".join(filter(None, (as_text(block.get("think")) for block in blocks)))
        calls = [_read_call(as_object(call)) for call in as_list(value.get("tool_calls"))]
        if role != "system":
            self.needs_verdict = bool(calls) or role == "tool"  # an answer follows
        drafts = [Draft(thoughts, "assistant", metadata={"thinking": True})] if thoughts else []
        if text or not (thoughts or calls):
            result = {"tool_use_id": as_text(value.get("tool_call_id"))}
            drafts.append(Draft(text, _TYPES[role], metadata={"tool_result": result} if role == "tool" else None))
        return drafts + calls


def _read_call(call: dict[str, Any]) -> Draft:
    function = as_object(call.get("function"))
    name, arguments = as_text(function.get("name")) or "tool", function.get("arguments")
    used = {"id": as_text(call.get("id")), "name": name, "input": arguments}
    return Draft(f"{name} {shown(arguments)}" if arguments else name, "tool", metadata={"tool_use": used})
