"""OpenCode: `opencode run --format json`. Pure.

Events carry the session and a part of a message. A step ends with a reason: "tool-calls" when another one follows.
Some versions exit before they have printed the end of the last step: then a text is taken for the answer if the exit
code is 0. An error ends the run, unless a text comes or another step begins; the exit code of earlier versions is 0
all the same.
"""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_object, as_text, compact_json, is_number, without
from commitcast.actors.sources.parsers.event_parser import EventParser
from commitcast.actors.sources.parsers.events import add_up, call_text, reason_in

_GIVEN_UP: Final = ("length", "content-filter")
"""Reasons with which a step ends that was cut off: without a text, there is no answer."""


class OpenCodeParser(EventParser):
    """For `opencode`."""

    json_option = "run --format json"
    session_field = "sessionID"

    def __init__(self) -> None:
        super().__init__()
        self._has_text = False  # in this step
        self._has_failed = False  # in this step: what ends now began before the error

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        part = as_object(event.get("part"))
        kind, content = "system", ""
        match name:
            case "step_start":
                self._note_work(has_text=False)
            case "step_finish":
                kind = "response"
                self._end_step(part)
            case "text" | "reasoning" if isinstance(part.get("text"), str):
                self._note_session(event)
                if name == "text" and part["text"].strip():
                    self._note_work(has_text=True)
                return [Draft(part["text"], "assistant", metadata={"thinking": True} if name == "reasoning" else None)]
            case "tool_use":
                self._note_session(event)
                if not self._has_failed:
                    self._note_work(has_text=False)
                return [_read_tool(part)]
            case "error":
                content = reason_in(event.get("error"), event.get("message")) or compact_json(event)
                kind, self.last_error, self._has_failed = "error", content, True
                self._conclude(content)
            case "done":
                if self.verdict is None:
                    self._conclude(None)
            case _:
                return []
        self._note_session(event)
        return [Draft(content, kind, metadata={"event": name, **without(event, "type")})]

    def _end_step(self, part: dict[str, Any]) -> None:
        used: dict[str, Any] = {"cost": part["cost"]} if is_number(part.get("cost")) else {}
        used |= {"usage": part["tokens"]} if isinstance(part.get("tokens"), dict) else {}
        self.result = add_up(self.result, used)
        reason = part.get("reason")
        if self._has_failed:
            self._conclude(self.last_error)
        elif reason == "tool-calls":
            self._note_work(has_text=False)
        else:
            self._conclude(self._why_failed(reason))

    def _note_work(self, *, has_text: bool) -> None:
        self.verdict, self._has_failed = None, False
        self._has_text = has_text
        self.needs_verdict = not has_text

    def _why_failed(self, reason: Any) -> str | None:
        if reason == "error":
            return self.last_error or "its last step ended with an error"
        if reason in _GIVEN_UP and not self._has_text:
            return f"its last step ended with {reason!r}, and it had printed no answer"
        return None

    def _note_session(self, event: dict[str, Any]) -> None:
        self.session_id = as_text(event.get("sessionID")) or self.session_id


def _read_tool(part: dict[str, Any]) -> Draft:
    name, state = as_text(part.get("tool")) or "tool", as_object(part.get("state"))
    call = call_text(name, state, "input")
    output = [as_text(state.get("output")), reason_in(state.get("error"))]
    metadata = {"tool_use": {**without(part, "type", "state"), "status": as_text(state.get("status"))}}
    return Draft("\n".join([call, *filter(None, output)]), "tool", metadata=metadata)
