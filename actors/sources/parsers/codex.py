"""Codex: `codex exec --json`. Pure.

A thread has turns, a turn has items. An item is printed when it starts, changes and is completed; each print
is a message, but the text of an answer or a thought is shown once, when it is complete. Every turn has a
verdict of its own, which an error behind it replaces.
"""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, as_object, as_text, compact_json
from commitcast.actors.sources.parsers.event_parser import EventParser
from commitcast.actors.sources.parsers.parser import Verdict
from commitcast.actors.sources.parsers.reasons import reason_in
from commitcast.actors.sources.parsers.usage import add_up

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
                self.verdict = Verdict(True, None, self._account(event))
                return [_described(name, event, "response")]
            case "turn.failed":
                message = reason_in(event.get("error"), event.get("message")) or self.last_error or "it gave no reason"
                self.verdict = Verdict(False, message, self._account(event))
                return [_described(name, event, "error", message)]
            case "error":
                self.last_error = reason_in(event.get("message"), event.get("error")) or compact_json(event)
                if self.verdict is not None:  # said after it
                    self.verdict = Verdict(False, self.last_error, dict(self.result) or None)
                return [_described(name, event, "error", self.last_error)]
            case "item.started" | "item.updated" | "item.completed":
                item = event.get("item")
                return _read_item(name, item) if isinstance(item, dict) else []
        return []

    def _account(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Add what a turn used; return what all turns did."""
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.result = add_up(self.result, {"usage": usage})
        return dict(self.result) or None


def _described(name: str, event: dict[str, Any], kind: str, content: str = "") -> Draft:
    rest = {key: value for key, value in event.items() if key != "type" and value != content}
    return Draft(content, kind, metadata={"event": name, **rest})


def _read_item(name: str, item: dict[str, Any]) -> list[Draft]:
    kind = as_text(item.get("type")) or ""
    shown = _SHOWN_FIELDS.get(kind)
    metadata: dict[str, Any] = {
        "event": name,
        "item": {key: value for key, value in item.items() if key != shown},
    }
    if kind in ("agent_message", "reasoning") and name != "item.completed":
        return [Draft("", "system", metadata=metadata)]
    match item:
        case {"type": "agent_message", "text": str(text)}:
            return [Draft(text, "assistant", metadata=metadata)]
        case {"type": "reasoning", "text": str(text)}:
            return [Draft(text, "assistant", metadata={"thinking": True, **metadata})]
        case {"type": "error", "message": str(text)}:
            return [Draft(text, "error", metadata=metadata)]
        case {"type": "web_search"}:
            return [Draft(_search_text(item), "tool", metadata=metadata)]
        case {"type": "command_execution"}:
            return [Draft(_command_text(item), "tool", metadata=metadata)]
        case {"type": "file_change"}:
            return [Draft(_file_change_text(item), "tool", metadata=metadata)]
        case {"type": "mcp_tool_call"}:
            return [Draft(_tool_call_text(item), "tool", metadata=metadata)]
        case {"type": "collab_tool_call"}:
            return [Draft(_collaboration_text(item), "tool", metadata=metadata)]
        case {"type": "todo_list"}:
            return [Draft(_todo_text(item), "tool", metadata=metadata)]
    return []


def _command_text(item: dict[str, Any]) -> str:
    output = as_text(item.get("aggregated_output")) or ""
    lines = [f"$ {_shown(item.get('command'))}", output.rstrip("\n")]
    if item.get("exit_code") not in (None, 0):
        lines.append(f"exit code {_shown(item['exit_code'])}")
    return "\n".join(line for line in lines if line)


def _file_change_text(item: dict[str, Any]) -> str:
    changes = [as_object(change) for change in as_list(item.get("changes"))]
    return "\n".join(f"{_shown(change.get('kind'))} {_shown(change.get('path'))}" for change in changes)


def _search_text(item: dict[str, Any]) -> str:
    """Return what was searched or opened: in newer versions the words are in the action."""
    action = as_object(item.get("action"))
    words = [item.get("query"), *as_list(action.get("queries")), *map(action.get, ("query", "url", "pattern"))]
    return "\n".join(dict.fromkeys(word for word in words if isinstance(word, str) and word))


def _collaboration_text(item: dict[str, Any]) -> str:
    return " ".join(word for word in (item.get("tool"), item.get("prompt")) if isinstance(word, str))


def _tool_call_text(item: dict[str, Any]) -> str:
    call = f"{_shown(item.get('server'))}.{_shown(item.get('tool'))}"
    if item.get("arguments") is not None:
        call += f" {compact_json(item['arguments'])}"
    blocks = as_list(as_object(item.get("result")).get("content"))
    texts = [as_text(as_object(block).get("text")) for block in blocks]
    return "\n".join([call, *filter(None, [*texts, reason_in(item.get("error"))])])


def _todo_text(item: dict[str, Any]) -> str:
    entries = [as_object(entry) for entry in as_list(item.get("items"))]
    return "\n".join(
        f"[{'x' if entry.get('completed') is True else ' '}] {_shown(entry.get('text'))}" for entry in entries
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else compact_json(value)
