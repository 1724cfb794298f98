"""Codex: `codex exec --json`. Pure.

A thread has turns, a turn has items. An item is printed when it starts, changes and is completed; each print
is a message, but the text of an answer or a thought is shown once, when it is complete. Every turn has a
verdict of its own, which an error behind it replaces.
"""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, as_object, as_text, compact_json, shown, without
from commitcast.actors.sources.parsers.event_parser import EventParser
from commitcast.actors.sources.parsers.events import add_up, call_text, reason_in, texts_in

_SHOWN_FIELDS: Final = {
    "agent_message": "text",
    "reasoning": "text",
    "error": "message",
    "command_execution": "aggregated_output",
}
"""By type of item: the long field that its content shows, and that metadata need not repeat."""


class CodexParser(EventParser):
    """For `codex`."""

    json_option = "exec --json"
    session_field = "thread_id"

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        match name:
            case "thread.started":
                self.session_id = as_text(event.get("thread_id")) or self.session_id
                return [_described(name, event, "system")]
            case "turn.started":
                self.verdict = None
                return [_described(name, event, "system")]
            case "turn.completed":
                self._account(event)
                self._conclude(None)
                return [_described(name, event, "response")]
            case "turn.failed":
                message = reason_in(event.get("error"), event.get("message")) or self.last_error or "it gave no reason"
                self._account(event)
                self._conclude(message)
                return [_described(name, event, "error", message)]
            case "error":
                self.last_error = reason_in(event.get("message"), event.get("error")) or compact_json(event)
                if self.verdict is not None:  # it came before the error
                    self._conclude(self.last_error)
                return [_described(name, event, "error", self.last_error)]
            case "item.started" | "item.updated" | "item.completed":
                item = event.get("item")
                return _read_item(name, item) if isinstance(item, dict) else []
        return []

    def _account(self, event: dict[str, Any]) -> None:
        if isinstance(event.get("usage"), dict):
            self.result = add_up(self.result, {"usage": event["usage"]})


def _described(name: str, event: dict[str, Any], kind: str, content: str = "") -> Draft:
    rest = {key: value for key, value in event.items() if key != "type" and value != content}
    return Draft(content, kind, metadata={"event": name, **rest})


def _read_item(name: str, item: dict[str, Any]) -> list[Draft]:
    kind = as_text(item.get("type")) or ""
    metadata: dict[str, Any] = {"event": name, "item": without(item, _SHOWN_FIELDS.get(kind, ""))}
    if kind in ("agent_message", "reasoning") and name != "item.completed":
        return [Draft("", "system", metadata=metadata)]
    match item:
        case {"type": "agent_message", "text": str(text)}:
            return [Draft(text, "assistant", metadata=metadata)]
        case {"type": "reasoning", "text": str(text)}:
            return [Draft(text, "assistant", metadata={"thinking": True, **metadata})]
        case {"type": "error", "message": str(text)}:
            return [Draft(text, "error", metadata=metadata)]
    text_of = _TOOLS.get(kind)
    return [] if text_of is None else [Draft(text_of(item), "tool", metadata=metadata)]


def _command_text(item: dict[str, Any]) -> str:
    output = as_text(item.get("aggregated_output")) or ""
    lines = [f"$ {shown(item.get('command'))}", output.rstrip("\n")]
    if item.get("exit_code") not in (None, 0):
        lines.append(f"exit code {shown(item['exit_code'])}")
    return "\n".join(line for line in lines if line)


def _file_change_text(item: dict[str, Any]) -> str:
    changes = [as_object(change) for change in as_list(item.get("changes"))]
    return "\n".join(f"{shown(change.get('kind'))} {shown(change.get('path'))}" for change in changes)


def _search_text(item: dict[str, Any]) -> str:
    """Return what was searched or opened: in newer versions the words are in the action."""
    action = as_object(item.get("action"))
    words = [item.get("query"), *as_list(action.get("queries")), *map(action.get, ("query", "url", "pattern"))]
    return "\n".join(dict.fromkeys(word for word in words if isinstance(word, str) and word))


def _collaboration_text(item: dict[str, Any]) -> str:
    return " ".join(word for word in (item.get("tool"), item.get("prompt")) if isinstance(word, str))


def _tool_call_text(item: dict[str, Any]) -> str:
    call = f"{shown(item.get('server'))}.{shown(item.get('tool'))}"
    if item.get("arguments") is not None:
        call = call_text(call, item, "arguments")
    texts = texts_in(as_list(as_object(item.get("result")).get("content")))
    return "\n".join([call, *texts, *filter(None, [reason_in(item.get("error"))])])


def _todo_text(item: dict[str, Any]) -> str:
    entries = [as_object(entry) for entry in as_list(item.get("items"))]
    return "\n".join(
        f"[{'x' if entry.get('completed') is True else ' '}] {shown(entry.get('text'))}" for entry in entries
    )


_TOOLS: Final = {
    "web_search": _search_text,
    "command_execution": _command_text,
    "file_change": _file_change_text,
    "mcp_tool_call": _tool_call_text,
    "collab_tool_call": _collaboration_text,
    "todo_list": _todo_text,
}
"""By type of item, what its content shows."""
