"""Claude Code: `claude -p … --output-format stream-json --verbose [--include-partial-messages]`. Pure.

With partial messages each text comes twice: as deltas, and then once more as a whole. Both are kept, and the
second is marked, so that a reader can show the text once. Events of a sub-agent carry the `parent_tool_use_id`
that started it, and do not change the verdict.

A run has turns, each with a `result`. The verdict is the one of the last turn that the user began: a turn that was
begun and has no result takes it back, and a turn that a notification began (a background command has ended) changes
nothing. Where neither a message nor the result says what began a turn, each notification so far began one. `usage`,
`num_turns` and `duration_ms` are of a turn, `total_cost_usd` is of the session so far.
"""

from typing import Any, Final

from commitcast.actors.sources.draft import Draft
from commitcast.actors.sources.parsers.decoding import as_object, as_text, compact_json, is_number, shown, without
from commitcast.actors.sources.parsers.event_parser import EventParser
from commitcast.actors.sources.parsers.events import add_up, blocks_of, call_text, reason_in, texts_in, tool_result
from commitcast.actors.sources.parsers.parser import Verdict

MAX_REMEMBERED_BYTES: Final = 16 * 1024 * 1024
"""Of text that came as deltas, to recognize it: 200,000 deltas, more than one message of a model has."""

_DELTA_BYTES: Final = 64
"""What remembering one more delta costs beside its text."""

_OF_A_TURN: Final = ("duration_ms", "num_turns")
_BEGINNINGS: Final = ("init", "session_start")
"""Subtypes of the event that each turn begins with."""
_USERS: Final = ("human", "user")
"""Values of `origin.kind` of the user's messages; notifications, timers and other agents have other kinds."""
_SAYS_LITTLE: Final = ("", "success", "error", "error_during_execution")
"""Subtypes that do not say why a turn failed."""


class ClaudeCodeParser(EventParser):
    """For `claude`."""

    json_option = "--output-format stream-json --verbose"

    def __init__(self) -> None:
        super().__init__()
        self._deltas = _Deltas()
        self._cost = _Cost()
        self._users_verdict: Verdict | None = None
        self._was_cut = False  # the user's last turn: no result came before another turn began
        self._is_in_turn = False
        self._turn_has_messages = False
        self._is_users = True  # the turn
        self._notifications = 0  # that have begun no turn yet

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
        subtype = event.get("subtype")
        if not _stream(event):
            if subtype in _BEGINNINGS:
                self.session_id = as_text(event.get("session_id")) or self.session_id
                self._begin_turn()
            elif subtype == "task_notification":
                self._notifications += 1
                self.steps += 1
        return Draft("", "system", metadata=without(event, "type"))

    def _begin_turn(self) -> None:
        """Begin a turn, unless one has begun that has no message yet."""
        if self._is_in_turn and not self._turn_has_messages:
            return
        if self._is_in_turn and self._is_users:  # and it has no result
            self._users_verdict, self._was_cut = None, True
        self._is_in_turn, self._turn_has_messages = True, False
        self._own_turn(is_users=not self._notifications)
        self._notifications = max(0, self._notifications - 1)

    def _own_turn(self, *, is_users: bool) -> None:
        """Set what began the turn: the user, which takes back the verdict, or a notification."""
        self._is_users = is_users
        self.verdict = None if is_users else self._users_verdict or self.verdict

    def _note_message(self, event: dict[str, Any]) -> None:
        """Take note of a message of a turn, which begins with it if nothing else has begun it."""
        if event.get("isReplay") is True:  # the CLI repeats its input
            return
        if not self._is_in_turn:
            self._begin_turn()
        if not self._turn_has_messages:
            self._learn_origin(event)
        self._turn_has_messages = True

    def _learn_origin(self, event: dict[str, Any]) -> None:
        """Take note of what began the turn, if an event says so and it is not what was assumed."""
        kind = as_object(event.get("origin")).get("kind")
        if kind is not None and self._is_users != (kind in _USERS):
            self._notifications += not self._is_users  # the notification that was assumed has begun no turn yet
            self._own_turn(is_users=not self._is_users)

    def _read_message(self, speaker: str, event: dict[str, Any]) -> list[Draft]:
        content = as_object(event.get("message")).get("content")
        if not _stream(event):
            self._note_message(event)
            if "error" in event:  # its text is what the user is shown of it
                self.last_error = reason_in("\n".join(texts_in(content)), event["error"])
        return [self._read_block(speaker, block, event) for block in blocks_of(content)]

    def _read_block(self, speaker: str, block: Any, event: dict[str, Any]) -> Draft:
        match block:
            case {"type": "text", "text": str(text)}:
                return Draft(text, speaker, metadata=self._marks(speaker, text, event) or None)
            case {"type": "thinking", "thinking": str(text)}:
                return Draft(text, "assistant", metadata={"thinking": True, **self._marks(speaker, text, event)})
            case {"type": "tool_use", "name": str(name)}:
                metadata = {"tool_use": without(block, "type"), **_parent(event)}
                return Draft(call_text(name, block, "input"), "tool", metadata=metadata)
            case {"type": "tool_result"}:
                content, is_error = _result_text(block.get("content")), block.get("is_error") is True
                return tool_result(content, block.get("tool_use_id"), is_error=is_error, **_parent(event))
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
        if not _stream(event) and inner.get("type") != "ping":
            self._note_message(event)
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
        message = self._why(event, subtype, answer) if failed else None
        if not _stream(event):
            self._account(event)
            self._end_turn(event, message)
        metadata = without(event, "type") if answer is None else without(event, "type", "result")
        return Draft(answer or message or "", "response", metadata=metadata)

    def _why(self, event: dict[str, Any], subtype: str, answer: str | None) -> str:
        if reason := reason_in(event.get("errors"), event.get("error"), answer):
            return reason
        status = event.get("api_error_status")
        hints = [None if subtype == "success" else subtype, self.last_error if subtype in _SAYS_LITTLE else None]
        hints.append(None if status is None else f"API error {compact_json(status)}")
        return ": ".join(filter(None, hints)) or as_text(event.get("terminal_reason")) or "it gave no reason"

    def _end_turn(self, event: dict[str, Any], error: str | None) -> None:
        facts: dict[str, Any] = {name: event[name] for name in ("subtype", "session_id") if name in event}
        verdict = Verdict(error is None, error, facts)
        self._learn_origin(event)
        if self._is_users:
            self._users_verdict, self._was_cut = verdict, False
        self.verdict = None if self._was_cut else self._users_verdict or verdict
        self.session_id = self.session_id or as_text(event.get("session_id"))
        self._is_in_turn = self._turn_has_messages = False

    def _account(self, event: dict[str, Any]) -> None:
        """Add what a turn used."""
        used = {key: event[key] for key in _OF_A_TURN if is_number(event.get(key))}
        if usage := self._usage(event):
            used["usage"] = usage
        self.result = add_up(self.result, used)
        if is_number(event.get("total_cost_usd")):
            self.result["total_cost_usd"] = self._cost.at(event["total_cost_usd"])

    def _usage(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return what the turn that ends with a result used."""
        return as_object(event.get("usage"))


def _delta_size(text: str) -> int:
    return _DELTA_BYTES + (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))


class _Cost:
    """A total of one session so far: it falls when another session begins."""

    def __init__(self) -> None:
        self._before = 0.0
        self._latest = 0.0

    def at(self, total: float) -> float:
        """Take the latest total; return that of all sessions."""
        if total < self._latest:
            self._before += self._latest
        self._latest = total
        return self._before + total


class _Deltas:
    """Text that came as deltas, by stream (a sub-agent or none) and block. Bounded: beyond it, it forgets."""

    def __init__(self) -> None:
        self._parts: dict[str, dict[str, list[str]]] = {}
        self._bytes = 0

    def start(self, stream: str) -> None:
        """Forget a stream's last message: a new one begins."""
        blocks = self._parts.pop(stream, {})
        self._bytes -= sum(_delta_size(part) for parts in blocks.values() for part in parts)

    def add(self, stream: str, block: str, text: str) -> None:
        """Remember the next bit of a block."""
        self._bytes += _delta_size(text)
        if self._bytes > MAX_REMEMBERED_BYTES:
            self._parts.clear()
            self._bytes = _delta_size(text)
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
    if isinstance(content, list):
        return "\n".join(map(_result_part, content))
    return "" if content is None else shown(content)


def _result_part(part: Any) -> str:
    match part:
        case {"text": str(text)}:
            return text
        case {"type": str(kind)}:  # an image: its bytes are in `raw`
            return f"[{kind}]"
    return compact_json(part)
