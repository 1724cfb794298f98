"""OpenCode: `opencode run --format json`. Pure.

Events carry the session and a part of a message. A step ends with a reason: "tool-calls" when another one follows.
Some versions exit before they have printed the end of the last step: then a text is taken for the answer if the exit
code is 0. An error ends the run, unless a text comes or another step begins; the exit code of earlier versions is 0
all the same.
"""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_object, as_text, compact_json
from commitcast.actors.sources.parsers.event_parser import EventParser
from commitcast.actors.sources.parsers.parser import Verdict
from commitcast.actors.sources.parsers.reasons import reason_in
from commitcast.actors.sources.parsers.usage import add_up, is_number

_GIVEN_UP: Final = ("length", "content-filter")
"""Reasons with which a step ends that was cut off: without a text, there is no answer."""


class OpenCodeParser(EventParser):
    """For `opencode`."""

    json_option = "run --format json"
    session_field = "sessionID"

    def __init__(self) -> None:
        super().__init__()
        self._has_spoken = False  # in this step
        self._has_failed = False  # in this step: what ends now began before the error

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        part = as_object(event.get("part"))
        match name:
            case "step_start":
                self._note_work(has_spoken=False)
                return [self._described(name, event)]
            case "step_finish":
                return [self._read_finish(name, event, part)]
            case "text" | "reasoning" if isinstance(part.get("text"), str):
                self._note_session(event)
                if name == "text" and part["text"].strip():
                    self._note_work(has_spoken=True)
                return [Draft(part["text"], "assistant", metadata={"thinking": True} if name == "reasoning" else None)]
            case "tool_use":
                self._note_session(event)
                if not self._has_failed:
                    self._note_work(has_spoken=False)
                return [_read_tool(part)]
            case "error":
                self.last_error = reason_in(event.get("error"), event.get("message")) or compact_json(event)
                self.verdict, self._has_failed = Verdict(False, self.last_error, dict(self.result)), True
                return [self._described(name, event, "error", self.last_error)]
            case "done":
                self.verdict = self.verdict or Verdict(True, None, dict(self.result))
                return [self._described(name, event)]
        return []

    def _read_finish(self, name: str, event: dict[str, Any], part: dict[str, Any]) -> Draft:
        used: dict[str, Any] = {"cost": part["cost"]} if is_number(part.get("cost")) else {}
        used |= {"usage": part["tokens"]} if isinstance(part.get("tokens"), dict) else {}
        self.result = add_up(self.result, used)
        reason = part.get("reason")
        if self._has_failed:
            self.verdict = Verdict(False, self.last_error, dict(self.result))
        elif reason == "tool-calls":
            self._note_work(has_spoken=False)
        else:
            why = self._why_failed(reason)
            self.verdict = Verdict(why is None, why, dict(self.result))
        return self._described(name, event, "response")

    def _note_work(self, *, has_spoken: bool) -> None:
        self.verdict, self._has_failed = None, False
        self._has_spoken = has_spoken
        self.needs_verdict = not has_spoken

    def _why_failed(self, reason: Any) -> str | None:
        if reason == "error":
            return self.last_error or "its last step ended with an error"
        if reason in _GIVEN_UP and not self._has_spoken:
            return f"its last step ended with {reason!r}, and it had printed no answer"
        return None

    def _described(self, name: str, event: dict[str, Any], kind: str = "system", content: str = "") -> Draft:
        self._note_session(event)
        return Draft(content, kind, metadata={"event": name, **{k: v for k, v in event.items() if k != "type"}})

    def _note_session(self, event: dict[str, Any]) -> None:
        self.session_id = as_text(event.get("sessionID")) or self.session_id


def _read_tool(part: dict[str, Any]) -> Draft:
    name, state = as_text(part.get("tool")) or "tool", as_object(part.get("state"))
    call = f"{name} {compact_json(state['input'])}" if "input" in state else name
    output = [as_text(state.get("output")), reason_in(state.get("error"))]
    used = {key: value for key, value in part.items() if key not in ("type", "state")}
    metadata = {"tool_use": {**used, "status": as_text(state.get("status"))}}
    return Draft("\n".join([call, *filter(None, output)]), "tool", metadata=metadata)
