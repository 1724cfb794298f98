"""The kind of program that prints an object of a shape: for wrappers, launchers and shells of any name. Pure.

Each shape is one that no other of them prints, and a program with another purpose seldom. Some are so particular that
what they say of an error is believed at once; the others only tell how to read what is printed.
"""

from collections.abc import Callable
from typing import Any, Final

_CODEX_EVENTS: Final = {
    "thread.started": lambda event: isinstance(event.get("thread_id"), str),
    "turn.started": lambda event: len(event) == 1,
    "turn.completed": lambda event: isinstance(event.get("usage"), dict),
    "turn.failed": lambda event: "error" in event,
    "item.started": lambda event: _holds_typed(event, "item"),
    "item.updated": lambda event: _holds_typed(event, "item"),
    "item.completed": lambda event: _holds_typed(event, "item"),
}

_COPILOT_EVENTS: Final = (
    *("session.start", "session.resume", "session.error", "session.info", "session.warning", "session.idle"),
    *("assistant.turn_start", "assistant.turn_end", "assistant.intent", "assistant.usage", "user.message"),
    *("assistant.message", "assistant.message_delta", "assistant.reasoning", "assistant.reasoning_delta"),
    *("tool.execution_start", "tool.execution_complete", "tool.execution_progress"),
)

_COMMON: Final = {
    "codex": ("turn.started", "item.started", "item.updated", "item.completed"),
    "copilot": ("session.error", "session.info", "session.warning", "session.idle"),
    "gemini-cli": ("error", "message"),
}
"""By type of agent, events that a linter, a chat log or a server may print as well."""

_BEGINNINGS: Final = ("thread.started", "init", "step_start", "session", "agent_start", "session.start")


def kind_of(event: dict[str, Any]) -> str | None:
    """Return the type of agent whose program prints such an object; None if it is not known."""
    return next((kind for kind, fits in SHAPES.items() if fits(event)), None)


def begins_run(event: dict[str, Any]) -> bool:
    """Tell whether an event is one that a run begins with."""
    is_one = event.get("type") in _BEGINNINGS or event.get("subtype") == "init"
    return is_one and kind_of(event) is not None


def is_unmistakable(event: dict[str, Any]) -> bool:
    """Tell whether an event is so particular to its program that an error in it is certainly the program's own."""
    kind = kind_of(event)
    return kind is not None and event.get("type") not in _COMMON.get(kind, ())


def _is_claude_like(event: dict[str, Any]) -> bool:
    match event:
        case {"type": "result", "is_error": bool()}:
            return "subtype" in event or "session_id" in event
        case {"type": "system", "subtype": str(), "session_id": str()}:
            return True
        case {"type": "assistant" | "user", "message": dict(message), "session_id": str()}:
            return "content" in message
        case {"type": "stream_event", "event": dict(inner)}:
            return "type" in inner
    return False


def _is_amp(event: dict[str, Any]) -> bool:
    return _is_claude_like(event) and str(event.get("session_id")).startswith("T-")


def _is_claude(event: dict[str, Any]) -> bool:
    return _is_claude_like(event) and "uuid" in event


def _is_codex(event: dict[str, Any]) -> bool:
    name = event.get("type")
    return isinstance(name, str) and name in _CODEX_EVENTS and _CODEX_EVENTS[name](event)


def _is_gemini(event: dict[str, Any]) -> bool:
    match event:
        case {"type": "init", "session_id": str(), "model": _}:
            return True
        case {"type": "result", "status": "success" | "error", "timestamp": str()}:
            return isinstance(event.get("stats"), dict) or isinstance(event.get("error"), dict)
        case {"type": "message", "role": "user" | "assistant", "content": str(), "timestamp": str()}:
            return True
        case {"type": "error", "severity": "warning" | "error", "message": str(), "timestamp": str()}:
            return True
        case {"stats": dict(), "response": str() | None} | {"stats": dict(), "error": {"message": str()}}:
            return "type" not in event
        case {"session_id": str(), "error": {"type": str(), "message": str()}}:
            return "type" not in event
    return False


def _is_opencode(event: dict[str, Any]) -> bool:
    is_one = isinstance(event.get("sessionID"), str) and isinstance(event.get("type"), str)
    return is_one and (isinstance(event.get("part"), dict) or "error" in event)


def _is_pi(event: dict[str, Any]) -> bool:
    match event:
        case {"type": "session", "version": _, "id": str(), "cwd": str()}:
            return True
        case {"type": "agent_start"}:
            return len(event) == 1
        case {"type": "message_start" | "message_update" | "message_end", "message": {"role": str()}}:
            return True
        case {"type": "agent_end", "messages": list()}:
            return True
    return False


def _is_copilot(event: dict[str, Any]) -> bool:
    match event:
        case {"type": str(name), "data": dict(), "timestamp": str()}:
            return name in _COPILOT_EVENTS
        case {"type": "result", "sessionId": str(), "exitCode": int()}:
            return True
    return False


def _is_kimi(event: dict[str, Any]) -> bool:
    match event:
        case {"role": "assistant", "content": str() | list()} | {"role": "assistant", "tool_calls": list()}:
            return "type" not in event
        case {"role": "tool", "tool_call_id": str(), "content": _}:
            return "type" not in event
    return False


def _holds_typed(event: dict[str, Any], name: str) -> bool:
    inner = event.get(name)
    return isinstance(inner, dict) and isinstance(inner.get("type"), str)


SHAPES: Final[dict[str, Callable[[dict[str, Any]], bool]]] = {
    "amp": _is_amp,
    "claude-code": _is_claude,
    "cursor-agent": _is_claude_like,
    "codex": _is_codex,
    "gemini-cli": _is_gemini,
    "opencode": _is_opencode,
    "pi": _is_pi,
    "copilot": _is_copilot,
    "kimi": _is_kimi,
}
"""By type of agent, the first that fits; "qwen" prints what "claude-code" does."""
