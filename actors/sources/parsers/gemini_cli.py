"""Gemini CLI: `gemini -p … --output-format stream-json`. Pure.

Events: init, message, tool_use, tool_result, error, result (geminicli.com/docs/cli/headless). It prints
warnings as plain lines between them, and the prompt as its first message.
"""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_object, as_text, compact_json
from commitcast.actors.sources.parsers.parser import EventParser, Verdict

_EXIT_CODES: Final = {42: "the input was refused", 53: "the turn limit was exceeded"}


class GeminiCliParser(EventParser):
    """For `gemini`."""

    echoes_prompt = True
    exit_codes = _EXIT_CODES

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        match name:
            case "init":
                return [self._read_init(event)]
            case "message":
                return _read_message(event)
            case "tool_use":
                return [_read_tool_use(event)]
            case "tool_result":
                return [_read_tool_result(event)]
            case "error":
                return [self._read_error(event)]
            case "result":
                return [self._read_result(event)]
        return []

    def _read_init(self, event: dict[str, Any]) -> Draft:
        self.session_id = as_text(event.get("session_id")) or self.session_id
        return Draft("", "system", metadata=_rest(event, "type"))

    def _read_error(self, event: dict[str, Any]) -> Draft:
        self.last_error = as_text(event.get("message")) or compact_json(event)
        return Draft(self.last_error, "error", metadata=_rest(event, "type", "message"))

    def _read_result(self, event: dict[str, Any]) -> Draft:
        ok = event.get("status") == "success"
        message = None if ok else _error_text(event) or f"its status was {compact_json(event.get('status'))}"
        self.verdict = Verdict(ok, message, {key: event[key] for key in ("status", "stats") if key in event})
        return Draft(message or "", "response", metadata=_rest(event, "type"))


def _read_message(event: dict[str, Any]) -> list[Draft]:
    content, role = as_text(event.get("content")), as_text(event.get("role"))
    if content is None or role not in ("assistant", "user"):
        return []
    return [Draft(content, role, metadata={"delta": True} if event.get("delta") is True else None)]


def _read_tool_use(event: dict[str, Any]) -> Draft:
    name = as_text(event.get("tool_name")) or "tool"
    content = f"{name} {compact_json(event['parameters'])}" if "parameters" in event else name
    return Draft(content, "tool", metadata={"tool_use": _rest(event, "type", "timestamp")})


def _read_tool_result(event: dict[str, Any]) -> Draft:
    output = event.get("output")
    content = output if isinstance(output, str) else _error_text(event)
    if not content and output is not None:
        content = compact_json(output)
    return Draft(content or "", "tool", metadata={"tool_result": _rest(event, "type", "timestamp", "output")})


def _error_text(event: dict[str, Any]) -> str | None:
    error = event.get("error")
    return as_text(error) or as_text(as_object(error).get("message"))


def _rest(event: dict[str, Any], *without: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in without}
