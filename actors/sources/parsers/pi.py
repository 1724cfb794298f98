"""Pi: `pi --print --mode json`. Pure.

A session has runs of the agent, a run has turns, a turn has messages; a message comes in updates and then as a whole.
The last message of the assistant says how a run ended, by `stopReason`: the exit code is 0 in this mode also after an
error. A run that failed may be tried again, which begins another one.
"""

from typing import Any

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, as_object, as_text, without
from commitcast.actors.sources.parsers.event_parser import EventParser
from commitcast.actors.sources.parsers.events import add_up, blocks_of, call_text, reason_in, texts_in, tool_result

_DELTAS = {"text_delta": {"delta": True}, "thinking_delta": {"delta": True, "thinking": True}}


class PiParser(EventParser):
    """For `pi`."""

    echoes_prompt = True
    json_option = "--print --mode json"

    def __init__(self) -> None:
        super().__init__()
        self._last_message: dict[str, Any] = {}  # of the assistant, in this run
        self._has_deltas = False  # of the message that is under way

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        match name:
            case "session":
                self.session_id = self.session_id or as_text(event.get("id"))
            case "agent_start" | "turn_start":
                self.verdict, self._last_message = None, {}
            case "message_start":
                self._has_deltas = False
                return [Draft("", "system", metadata={"event": name})]
            case "message_update":
                return [self._read_update(name, as_object(event.get("assistantMessageEvent")))]
            case "message_end":
                return self._read_message(name, as_object(event.get("message")))
            case "tool_execution_end":
                return [_read_tool_result(event)]
            case "tool_execution_start" | "tool_execution_update" | "turn_end":
                return [Draft("", "system", metadata={"event": name})]
            case "agent_end":
                self._end_run(as_list(event.get("messages")))
                return [Draft("", "response", metadata={"event": name})]
            case "auto_retry_end" if event.get("success") is False:
                self.last_error = reason_in(event.get("finalError")) or self.last_error or "its last attempt failed"
                self._conclude(self.last_error)
            case "auto_retry_start" | "auto_retry_end":
                self.last_error = reason_in(event.get("errorMessage")) or self.last_error
            case _:
                return []
        return [Draft("", "system", metadata={"event": name, **without(event, "type")})]

    def _read_update(self, name: str, update: dict[str, Any]) -> Draft:
        kind, delta = update.get("type"), as_text(update.get("delta"))
        if isinstance(kind, str) and kind in _DELTAS and delta is not None:
            self._has_deltas = True
            return Draft(delta, "assistant", metadata=dict(_DELTAS[kind]))
        return Draft("", "system", metadata={"event": name})

    def _read_message(self, name: str, message: dict[str, Any]) -> list[Draft]:
        role = message.get("role")
        if role == "assistant":
            self._last_message = message
            usage = as_object(message.get("usage"))
            self.result = add_up(self.result, {"usage": usage} if usage else {})
        elif role != "user":  # a tool's answer: the event of its end has said it
            return [Draft("", "system", metadata={"event": name})]
        drafts = [self._read_block(str(role), as_object(block)) for block in blocks_of(message.get("content"))]
        self._has_deltas = False
        if (why := _why_stopped(message)) is not None:
            self.last_error = why
            drafts.append(Draft(why, "error", metadata={"event": name}))
        return drafts or [Draft("", "system", metadata={"event": name})]

    def _read_block(self, role: str, block: dict[str, Any]) -> Draft:
        repeats = {"repeats_deltas": True} if self._has_deltas and role == "assistant" else {}
        match block:
            case {"type": "text", "text": str(text)}:
                return Draft(text, role, metadata=repeats or None)
            case {"type": "thinking", "thinking": str(text)}:
                return Draft(text, "assistant", metadata={"thinking": True, **repeats})
            case {"type": "toolCall", "name": str(tool)}:
                used = {"id": as_text(block.get("id")), "name": tool, "input": block.get("arguments")}
                return Draft(call_text(tool, used, "input"), "tool", metadata={"tool_use": used})
        return Draft(f"[{as_text(block.get('type'))}]", "system", metadata={"event": "message_end"})

    def _end_run(self, messages: list[Any]) -> None:
        answers = [as_object(message) for message in messages if as_object(message).get("role") == "assistant"]
        self._conclude(_why_stopped(answers[-1] if answers else self._last_message))


def _why_stopped(message: dict[str, Any]) -> str | None:
    """Return why a message is the last one, if that is an error."""
    reason = message.get("stopReason")
    if reason not in ("error", "aborted"):
        return None
    return reason_in(message.get("errorMessage"), message.get("error")) or f"its request ended with {reason!r}"


def _read_tool_result(event: dict[str, Any]) -> Draft:
    texts = texts_in(as_list(as_object(event.get("result")).get("content")))
    return tool_result("\n".join(texts), event.get("toolCallId"), is_error=event.get("isError") is True)
