"""Server-sent events: one subscription as one long HTTP response. Pure: frames in, bytes of events out.

Owns the parsing of a request, the response before there is a stream, and the end of the stream. Each event carries a
frame of the protocol unchanged. Its id is the cursor after it, `EPOCH.SEQUENCE`, with which a browser resumes by
itself; the id of the last event of an ended agent has the suffix `.end`. Without it a browser whose connection was lost
between the last message and the status could not be told from one that has received the end.
"""

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

import msgspec

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode
from commitcast.gateway.server.http.reads import flag
from commitcast.gateway.server.http.request import STATUS_OF, HttpResponse, error_response, refusal, respond
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentStatus

RETRY_MS: Final = 1_000
"""How long a browser waits before it reconnects, unless `goodbye` says otherwise; its own default is some seconds."""

HEAD: Final = {
    name: value
    for name, value in respond("text/event-stream", b"", X_Accel_Buffering="no").headers.items()
    if name != "Content-Length"
}
"""The headers of a stream. Proxies must not buffer events."""

_ENDED: Final = frozenset(status.value for status in AgentStatus if status.is_terminal)
_WITH_STATUS: Final = (frames.Subscribed, frames.Gap, frames.Status)
_ID: Final = re.compile(r"(?:([!-\-/-~]{1,64})\.)?([0-9]{1,16})(\.end)?")
"""The epoch is any visible ASCII except the point."""


class EventId(msgspec.Struct, frozen=True):
    """The id of the last event that a client received: its cursor."""

    sequence: int
    epoch: str | None = None
    is_end: bool = False
    """The client has received the agent's end."""

    @classmethod
    def parse(cls, text: str) -> "EventId":
        """Read a `Last-Event-ID`: an id, or a sequence alone.

        Raises:
            InvalidValueError: it is neither of them.
        """
        match = _ID.fullmatch(text)
        if match is None or int(match[2]) > frames.MAX_NUMBER:
            raise InvalidValueError(f"Last-Event-ID must be EPOCH.SEQUENCE or SEQUENCE, not {text[:40]!r}")
        is_sequence = match[1] is None  # not the id of an event: a client that gives it knows the status too
        return cls(int(match[2]), match[1], is_end=is_sequence or match[3] is not None)

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}{'.end' if self.is_end else ''}"


def subscription(agent: str, query: str, seen: EventId | None) -> frames.Subscribe:
    """Return the subscription that a request asks for; `seen` overrides `after` and `epoch`.

    Raises:
        InvalidValueError: a parameter of the query is out of range.
    """
    fields = parse_qs(query, keep_blank_values=True)
    after, raw = fields.get("after", ["0"])[0], flag(fields, "raw")
    if seen is not None:
        return frames.Subscribe(agent=agent, after=seen.sequence, epoch=seen.epoch, raw=raw)
    if after == "tail":
        return frames.Subscribe(agent=agent, after="tail", raw=raw)
    if not re.fullmatch("[0-9]{1,16}", after) or int(after) > frames.MAX_NUMBER:
        raise InvalidValueError(f"after must be a whole number up to {frames.MAX_NUMBER} or tail, not {after[:40]!r}")
    return frames.Subscribe(agent=agent, after=int(after), epoch=fields.get("epoch", [None])[0] or None, raw=raw)


class EventStream:
    """One response: prepared frames in, events out."""

    def __init__(self, agent: str, seen: EventId | None) -> None:
        """Make a stream for a client that has received the event `seen`."""
        self.is_over = False
        """The last event was the end of the stream."""
        self._to_all = agent == frames.ALL
        self._seen = seen
        self._epoch: str | None = None
        self._is_live = False
        self._has_ended = False

    def take(self, prepared: PreparedFrame) -> bytes | HttpResponse:
        """Return the event of a frame, empty if it has none; or, before any event, a response in place of a stream."""
        frame = prepared.frame
        if self._epoch is not None:
            return self._event(prepared)
        match frame:
            case frames.Subscribed():
                return self._begin(frame, prepared)
            case frames.Error():
                return refusal(ErrorCode(frame.code), frame.message)
            case frames.Goodbye():
                is_limit = frame.code == CloseCode.CONNECTION_LIMIT
                code = ErrorCode.LIMIT if is_limit else ErrorCode.UNAVAILABLE
                return error_response(STATUS_OF[code], code, frame.reason or "the server is stopping", Retry_After="2")
            case _:
                return b""  # `welcome` describes what a client may send; a heartbeat has nothing to say yet

    def _begin(self, frame: frames.Subscribed, prepared: PreparedFrame) -> bytes | HttpResponse:
        self._epoch = frame.epoch
        is_ended = not self._to_all and frame.status in _ENDED
        if is_ended and self._seen is not None and self._seen.is_end and frame.after == frame.head:
            return HttpResponse(status=HTTPStatus.NO_CONTENT, headers={"Cache-Control": "no-store"}, body=b"")
        return _retry(RETRY_MS) + self._event(prepared)

    def _event(self, prepared: PreparedFrame) -> bytes:
        frame = prepared.frame
        self._note(frame)
        type = str(frame.__struct_config__.tag)
        cursor = _cursor_after(frame)
        lines = [b"event: " + type.encode(), b"data: " + prepared.json]
        if cursor is not None and self._epoch is not None:
            lines.insert(1, b"id: " + str(EventId(cursor, self._epoch, self.is_over)).encode())
        if isinstance(frame, frames.Heartbeat):
            lines.insert(0, b": heartbeat")
        retry = b""
        if isinstance(frame, frames.Goodbye) and frame.reconnect_ms is not None:
            retry = _retry(frame.reconnect_ms)
        return retry + b"\n".join(lines) + b"\n\n"

    def _note(self, frame: frames.ServerFrame) -> None:
        if isinstance(frame, frames.Goodbye):
            self.is_over = True
        if self._to_all:
            return
        self._is_live |= isinstance(frame, frames.Live)
        self._has_ended |= isinstance(frame, _WITH_STATUS) and frame.status in _ENDED
        is_gone = isinstance(frame, frames.Error) and frame.code == ErrorCode.GONE
        self.is_over |= (self._is_live and self._has_ended) or is_gone


def _cursor_after(frame: frames.ServerFrame) -> int | None:
    """Return the client's cursor after a frame; None if the frame does not move it."""
    match frame:
        case frames.Messages() | frames.Gap() | frames.Agent():
            return frame.last
        case frames.Status():
            return frame.sequence if frame.last is None else frame.last
        case frames.Live():
            return frame.sequence
        case frames.Subscribed():
            return frame.after
        case _:
            return None


def _retry(ms: int) -> bytes:
    return b"retry: %d\n" % ms
