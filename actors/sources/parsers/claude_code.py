"""Claude Code: `claude -p … --output-format stream-json --verbose [--include-partial-messages]`. Pure.

With partial messages each text comes twice: as deltas, and then once more as a whole. Both are kept, and the
second is marked, so that a reader can show the text once. What a sub-agent says carries the
`parent_tool_use_id` that started it.
"""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_list, as_object, as_text, compact_json
from commitcast.actors.sources.parsers.parser import EventParser, Verdict

MAX_REMEMBERED_BYTES: Final = 16 * 1024 * 1024
"""Of text that came as deltas, to know it again: 200,000 deltas, more than a model says in one message."""

_DELTA_BYTES: Final = 64
"""What remembering one more delta costs beside its characters."""

_RESULT_FIELDS: Final = ("subtype", "session_id", "duration_ms", "num_turns", "total_cost_usd", "usage")


class ClaudeCodeParser(EventParser):
    """For `claude`."""

    def __init__(self) -> None:
        super().__init__()
        self._deltas = _Deltas()

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        match name:
            case "system":
                return [self._read_system(event)]
            case "assistant" | "user":
                return self._read_message(name, event)
            case "stream_event":
                return self._read_stream_event(event)
            case "result":
                return [self._read_result(event)]
        return []

    def _read_system(self, event: dict[str, Any]) -> Draft:
        if event.get("subtype") == "init":
            self.session_id = as_text(event.get("session_id")) or self.session_id
        return Draft("", "system", metadata={key: value for key, value in event.items() if key != "type"})

    def _read_message(self, speaker: str, event: dict[str, Any]) -> list[Draft]:
        content = as_object(event.get("message")).get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content)
        return [self._read_block(speaker, block, event) for block in blocks]

    def _read_block(self, speaker: str, block: Any, event: dict[str, Any]) -> Draft:
        match block:
            case {"type": "text", "text": str(text)}:
                return Draft(text, speaker, metadata=self._marks(speaker, text, event) or None)
            case {"type": "thinking", "thinking": str(text)}:
                return Draft(text, "assistant", metadata={"thinking": True, **self._marks(speaker, text, event)})
            case {"type": "tool_use", "name": str(name)}:
                used = {key: value for key, value in block.items() if key != "type"}
                content = f"{name} {compact_json(block['input'])}" if "input" in block else name
                return Draft(content, "tool", metadata={"tool_use": used, **_parent(event)})
            case {"type": "tool_result"}:
                answered = {
                    "tool_use_id": as_text(block.get("tool_use_id")),
                    "is_error": block.get("is_error") is True,
                }
                metadata = {"tool_result": answered, **_parent(event)}
                return Draft(_result_text(block.get("content")), "tool", metadata=metadata)
        metadata = {"event": speaker, "block": as_text(as_object(block).get("type")), **_parent(event)}
        return Draft(compact_json(block), "system", metadata=metadata)

    def _marks(self, speaker: str, text: str, event: dict[str, Any]) -> dict[str, Any]:
        marks = _parent(event)
        if speaker == "assistant" and self._deltas.hold(_stream(event), text):
            marks["repeats_deltas"] = True
        return marks

    def _read_stream_event(self, event: dict[str, Any]) -> list[Draft]:
        inner = as_object(event.get("event"))
        metadata: dict[str, Any] = {}
        match inner:
            case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": str(text)}}:
                metadata = {"delta": True}
            case {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": str(text)}}:
                metadata = {"delta": True, "thinking": True}
            case {"type": str(kind)}:
                if kind == "message_start":
                    self._deltas.start(_stream(event))
                return [Draft("", "system", metadata={"event": kind, **_parent(event)})]
            case _:
                return []
        self._deltas.add(_stream(event), compact_json(inner.get("index")), text)
        return [Draft(text, "assistant", metadata={**metadata, **_parent(event)})]

    def _read_result(self, event: dict[str, Any]) -> Draft:
        subtype = as_text(event.get("subtype")) or ""
        failed = event.get("is_error") not in (None, False) or subtype.startswith("error")
        answer = as_text(event.get("result"))
        message = (_errors_text(event) or answer or subtype or "it gave no reason") if failed else None
        self.verdict = Verdict(not failed, message, {key: event[key] for key in _RESULT_FIELDS if key in event})
        shown = ("type",) if answer is None else ("type", "result")
        metadata = {key: value for key, value in event.items() if key not in shown}
        return Draft(answer or message or "", "response", metadata=metadata)


class _Deltas:
    """Text that came as deltas, by stream (a sub-agent or none) and block. Bounded: beyond it, it forgets."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, list[str]]] = {}
        self._bytes = 0

    def start(self, stream: str) -> None:
        """Forget a stream's last message: a new one begins."""
        blocks = self._parts.pop(stream, {})
        self._bytes -= sum(_DELTA_BYTES + len(part) for parts in blocks.values() for part in parts)

    def add(self, stream: str, block: str, text: str) -> None:
        """Remember the next bit of a block."""
        self._bytes += _DELTA_BYTES + len(text)
        if self._bytes > MAX_REMEMBERED_BYTES:
            self._parts.clear()
            self._bytes = _DELTA_BYTES + len(text)
        self._parts.setdefault(stream, {}).setdefault(block, []).append(text)

    def hold(self, stream: str, text: str) -> bool:
        """Tell whether this text came as deltas. White space that was trimmed off its end does not count."""
        for parts in self._parts.get(stream, {}).values():
            if len(parts) > 1:  # joined once, in place: a message may have many blocks
                self._bytes -= _DELTA_BYTES * (len(parts) - 1)
                parts[:] = ["".join(parts)]
            whole = parts[0]
            if text and whole.startswith(text) and (whole[len(text) :].isspace() or whole == text):
                return True
        return False


def _stream(event: dict[str, Any]) -> str:
    return as_text(event.get("parent_tool_use_id")) or ""


def _parent(event: dict[str, Any]) -> dict[str, Any]:
    stream = _stream(event)
    return {"parent_tool_use_id": stream} if stream else {}


def _result_text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return compact_json(content)
    return "\n".join(_result_part(part) for part in content)


def _result_part(part: Any) -> str:
    match part:
        case {"text": str(text)}:
            return text
        case {"type": str(kind)}:  # an image: its bytes are in `raw`
            return f"[{kind}]"
    return compact_json(part)


def _errors_text(event: dict[str, Any]) -> str:
    return "; ".join(error if isinstance(error, str) else compact_json(error) for error in as_list(event.get("errors")))
