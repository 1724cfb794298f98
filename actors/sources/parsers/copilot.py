"""GitHub Copilot CLI: `copilot -p … --output-format json`. Pure.

The events of a session, each with its facts under `data`, and behind them a `result` with the exit code. Its result
says nothing of an error: `session.error` does, before it. A sub-agent's events name the tool call that started it.
"""

from typing import Any

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, as_object, as_text, compact_json, is_number, without
from commitcast.actors.sources.parsers.event_parser import EventParser
from commitcast.actors.sources.parsers.events import add_up, call_text, reason_in, tool_result


class CopilotParser(EventParser):
    """For `copilot`."""

    echoes_prompt = True
    json_option = "--output-format json"
    session_field = "sessionId"

    def __init__(self) -> None:
        super().__init__()
        self._fatal: str | None = None  # an error that nothing has followed yet
        self._has_deltas = False

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        data = as_object(event.get("data"))
        parent = _parent(event)
        match name:
            case "session.start" | "session.resume":
                self.session_id = as_text(data.get("sessionId")) or as_text(event.get("sessionId"))
            case "assistant.turn_start":
                self.verdict = self._fatal = None
            case "user.message":
                return [Draft(as_text(data.get("content")) or "", "user", metadata=parent or None)]
            case "assistant.message_delta" | "assistant.reasoning_delta":
                self._has_deltas = True
                marks = {"delta": True, **({"thinking": True} if "reasoning" in name else {}), **parent}
                return [Draft(as_text(data.get("deltaContent")) or "", "assistant", metadata=marks)]
            case "assistant.message":
                return [self._read_message(data, parent)]
            case "assistant.reasoning":
                return [Draft(as_text(data.get("content")) or "", "assistant", metadata={"thinking": True, **parent})]
            case "tool.execution_start":
                return [_read_call(data, parent)]
            case "tool.execution_complete":
                return [_read_answer(data, parent)]
            case "session.error":
                return [self._read_error(name, data, parent)]
            case "result":
                return [self._read_result(event)]
            case _ if "." in name and isinstance(event.get("data"), dict):
                pass
            case _:
                return []
        return [Draft("", "system", metadata={"event": name, **parent, **({"data": data} if data else {})})]

    def _is_nested(self, event: dict[str, Any]) -> bool:
        return bool(_parent(event)) or super()._is_nested({**as_object(event.get("data")), **event})

    def _read_message(self, data: dict[str, Any], parent: dict[str, Any]) -> Draft:
        if is_number(data.get("outputTokens")):
            self.result = add_up(self.result, {"usage": {"output_tokens": data["outputTokens"]}})
        text = as_text(data.get("content")) or ""
        if text.strip():
            self._fatal = self.verdict = None
        marks = {**({"repeats_deltas": True} if self._has_deltas else {}), **parent}
        self._has_deltas = False
        if text or not as_list(data.get("toolRequests")):
            return Draft(text, "assistant", metadata=marks or None)
        return Draft("", "system", metadata={"event": "assistant.message", **parent})

    def _read_error(self, name: str, data: dict[str, Any], parent: dict[str, Any]) -> Draft:
        self.last_error = self._fatal = reason_in(data.get("message"), data.get("error"), data) or "it gave no reason"
        if self.verdict is not None:  # it came before the error
            self._conclude(self.last_error)
        return Draft(self.last_error, "error", metadata={"event": name, **parent, "data": data})

    def _read_result(self, event: dict[str, Any]) -> Draft:
        self.session_id = as_text(event.get("sessionId")) or self.session_id
        code = event.get("exitCode")
        usage = as_object(event.get("usage"))
        self.result = add_up(self.result, {"usage": usage} if usage else {})
        message = self._fatal or reason_in(event.get("error"))
        if message is None and code not in (0, None):
            message = self.last_error or f"its result is exit code {compact_json(code)}"
        self._conclude(message)
        return Draft(message or "", "response", metadata=without(event, "type"))


def _parent(event: dict[str, Any]) -> dict[str, Any]:
    parent = as_text(as_object(event.get("data")).get("parentToolCallId")) or as_text(event.get("parentToolCallId"))
    return {"parent_tool_use_id": parent} if parent else {}


def _read_call(data: dict[str, Any], parent: dict[str, Any]) -> Draft:
    name = as_text(data.get("toolName")) or "tool"
    used = {"id": as_text(data.get("toolCallId")), "name": name, "input": data.get("arguments")}
    return Draft(call_text(name, data, "arguments"), "tool", metadata={"tool_use": used, **parent})


def _read_answer(data: dict[str, Any], parent: dict[str, Any]) -> Draft:
    is_error = data.get("success") is False
    result = data.get("result")
    text = reason_in(data.get("error")) if is_error else as_text(as_object(result).get("content")) or as_text(result)
    return tool_result(text or "", data.get("toolCallId"), is_error=is_error, **parent)
