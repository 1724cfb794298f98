"""Gemini CLI: `gemini -p … --output-format stream-json`. Pure.

Events: init, message, tool_use, tool_result, error, result (geminicli.com/docs/cli/headless). It prints
warnings as plain lines between them, and the prompt as its first message. Its result says "success" also when an
error has just ended the work: so an error that no text and no tool call follows is the verdict. With
`--output-format json` it prints one object, whose fields are the answer, the statistics and the error.
"""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_object, as_text, compact_json, without
from commitcast.actors.sources.parsers.event_parser import EventParser
from commitcast.actors.sources.parsers.events import add_up, call_text, reason_in

_HARMLESS: Final = ("warning", "info")
"""Severities of errors that do not end the work."""


class GeminiCliParser(EventParser):
    """For `gemini`."""

    echoes_prompt = True
    json_option = "--output-format stream-json"
    session_field = "session_id"
    exit_codes = {42: "the input was refused", 53: "the turn limit was exceeded"}

    def __init__(self) -> None:
        super().__init__()
        self._fatal: str | None = None  # an error that nothing has followed yet
        self._has_worked = False  # in this turn: a text or a call of a tool came

    def _understand(self, value: dict[str, Any]) -> list[Draft] | None:
        says_how = "response" in value or "error" in value
        if "type" not in value and says_how and ("stats" in value or "session_id" in value):
            return [self._read_whole_run(value)]
        return super()._understand(value)

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        match name:
            case "init":
                return [self._read_init(event)]
            case "message":
                drafts = _read_message(event)
                if event.get("role") == "assistant" and any(str(draft.content).strip() for draft in drafts):
                    self._note_work()
                return drafts
            case "tool_use":
                self._note_work()
                return [_read_tool_use(event)]
            case "tool_result":  # of a call that may have begun before an error
                return [_read_tool_result(event)]
            case "error":
                return [self._read_error(event)]
            case "result":
                return [self._read_result(event)]
        return []

    def _note_work(self) -> None:
        self._has_worked = True
        self._fatal = self.verdict = None

    def _read_init(self, event: dict[str, Any]) -> Draft:
        self.session_id = as_text(event.get("session_id")) or self.session_id
        self._has_worked = False
        self._fatal = self.verdict = None
        return Draft("", "system", metadata=without(event, "type"))

    def _read_error(self, event: dict[str, Any]) -> Draft:
        message = reason_in(event.get("message"), event.get("error")) or compact_json(event)
        self.last_error = message
        if event.get("severity") not in _HARMLESS:
            self._fatal = message
            self._conclude(message)
        return Draft(message, "error", metadata=without(event, "type", "message"))

    def _read_result(self, event: dict[str, Any]) -> Draft:
        message = self._why_failed(event)
        self._account(event)
        self._conclude(message, {"status": event["status"]} if "status" in event else None)
        return Draft(message or "", "response", metadata=without(event, "type"))

    def _why_failed(self, event: dict[str, Any]) -> str | None:
        if event.get("status") != "success":
            reason = reason_in(event.get("error"), event.get("message")) or self._fatal
            return reason or f"its status was {compact_json(event.get('status'))}"
        if self._fatal is not None:
            return self._fatal
        if not self._has_worked and as_object(event.get("stats")).get("output_tokens") == 0:
            return "it reported success, but had no output"
        return None

    def _read_whole_run(self, run: dict[str, Any]) -> Draft:
        """Read the one object that stands for a whole run."""
        self.session_id = as_text(run.get("session_id")) or self.session_id
        error = reason_in(run.get("error"))
        self._account(run)
        self._conclude(error)
        return Draft(error or as_text(run.get("response")) or "", "response", metadata=without(run, "response"))

    def _account(self, event: dict[str, Any]) -> None:
        if isinstance(event.get("stats"), dict):
            self.result = add_up(self.result, {"stats": event["stats"]})


def _read_message(event: dict[str, Any]) -> list[Draft]:
    content, role = as_text(event.get("content")), as_text(event.get("role"))
    if content is None or role not in ("assistant", "user"):
        return []
    return [Draft(content, role, metadata={"delta": True} if event.get("delta") is True else None)]


def _read_tool_use(event: dict[str, Any]) -> Draft:
    name = as_text(event.get("tool_name")) or "tool"
    return Draft(
        call_text(name, event, "parameters"), "tool", metadata={"tool_use": without(event, "type", "timestamp")}
    )


def _read_tool_result(event: dict[str, Any]) -> Draft:
    output = event.get("output")
    content = output if isinstance(output, str) else reason_in(event.get("error"))
    if not content and output is not None:
        content = compact_json(output)
    return Draft(content or "", "tool", metadata={"tool_result": without(event, "type", "timestamp", "output")})
