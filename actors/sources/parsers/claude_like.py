"""Programs that print the events of Claude Code, with words of their own. Pure.

* Amp: `amp -x … --stream-json`. Its result says nothing of usage; each message does.
* Qwen Code: `qwen -p … --output-format stream-json`; with `json` the same events come in one array.
* Cursor: `cursor-agent -p … --output-format stream-json`. Tool calls and thoughts are events of their own. With
  `--stream-partial-output` each text comes in parts, which carry a time, and then as a whole.

All print the prompt as a message of their own, but for Qwen Code.
"""

from typing import Any

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.claude_code import ClaudeCodeParser
from commitcast.actors.sources.parsers.decoding import as_object, as_text, shown, without
from commitcast.actors.sources.parsers.events import add_up, call_text, reason_in, texts_in, tool_result


class AmpParser(ClaudeCodeParser):
    """For `amp`."""

    echoes_prompt = True
    json_option = "--execute --stream-json"

    def __init__(self) -> None:
        super().__init__()
        self._has_counted = False  # messages of this turn

    def _read_message(self, speaker: str, event: dict[str, Any]) -> list[Draft]:
        usage = as_object(as_object(event.get("message")).get("usage"))
        if usage:
            self._has_counted = True
            self.result = add_up(self.result, {"usage": without(usage, "max_tokens")})
        return super()._read_message(speaker, event)

    def _usage(self, event: dict[str, Any]) -> dict[str, Any]:
        has_counted, self._has_counted = self._has_counted, False
        return {} if has_counted else super()._usage(event)


class QwenParser(ClaudeCodeParser):
    """For `qwen`."""

    json_option = "--output-format stream-json"


class CursorParser(ClaudeCodeParser):
    """For `cursor-agent`."""

    echoes_prompt = True
    json_option = "--print --output-format stream-json"

    def _read_event(self, name: str, event: dict[str, Any]) -> list[Draft]:
        match name:
            case "tool_call":
                return [_read_tool_call(event)]
            case "thinking":
                return [_read_thinking(event)]
            case "assistant" if "timestamp_ms" in event and "model_call_id" not in event:
                return self._read_part(event)
        drafts = super()._read_event(name, event)
        if name == "assistant":
            self._deltas.start("")
        return drafts

    def _read_part(self, event: dict[str, Any]) -> list[Draft]:
        self._note_message(event)
        text = "".join(texts_in(as_object(event.get("message")).get("content")))
        self._deltas.add("", "0", text)
        return [Draft(text, "assistant", metadata={"delta": True})]


def _read_thinking(event: dict[str, Any]) -> Draft:
    text = as_text(event.get("text")) or ""
    metadata = {"thinking": True, "delta": True} if event.get("subtype") == "delta" else {"event": "thinking"}
    return Draft(text, "assistant" if text else "system", metadata=metadata)


def _read_tool_call(event: dict[str, Any]) -> Draft:
    """Read a call that stands under a key of its own, as `readToolCall`, with arguments and, at its end, a result."""
    calls = as_object(event.get("tool_call")).items()
    key, call = next(((key, call) for key, call in calls if isinstance(call, dict)), ("", {}))
    name = key.removesuffix("ToolCall") or "tool"
    if event.get("subtype") != "completed":
        used = {
            "id": as_text(event.get("call_id")),
            "name": name,
            **({"input": call["args"]} if "args" in call else {}),
        }
        return Draft(call_text(name, call, "args"), "tool", metadata={"tool_use": used})
    result = as_object(call.get("result"))
    outcome = next((key for key in ("success", "error", "rejected", "failure") if key in result), None)
    value = result.get(outcome) if outcome else call.get("result")
    is_error = outcome not in (None, "success")
    content = (reason_in(value) if is_error else None) or _result_text(value)
    return tool_result(content, event.get("call_id"), is_error=is_error, name=name)


def _result_text(value: Any) -> str:
    if isinstance(value, dict):
        texts = [text for text in map(as_text, map(value.get, ("content", "stdout", "stderr", "output"))) if text]
        if texts:
            return "\n".join(texts)
    return "" if value is None else shown(value)
