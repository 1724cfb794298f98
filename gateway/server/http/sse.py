"""Server-sent events: one subscription as one long HTTP response. Pure: frames in, bytes of events out.

Owns what a request asks for, what is answered before there is a stream, and where the stream ends. Each event carries a
frame of the protocol as it is. Its id is the cursor after it, `EPOCH.SEQUENCE`, with which a browser comes back by
itself; the id of the last event of an agent that has ended has `.end` after that. Without this a browser whose
connection was lost between the last message and the status could not be told from one that has heard of the end.
"""

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

import msgspec

from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode
from commitcast.gateway.server.http.reads import flag
from commitcast.gateway.server.http.request import HttpResponse, error_response, respond
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentStatus

RETRY_MS: Final = 1_000
"""What a browser waits before it comes back, unless `goodbye` says otherwise; left alone it waits some seconds."""

HEAD: Final = {
    name: value
    for name, value in respond("text/event-stream", b"", X_Accel_Buffering="no").headers.items()
    if name != "Content-Length"
}
"""The headers of a stream. Proxies must not keep events back."""

_STATUS_OF: Final = {
    ErrorCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.TOKEN_EXPIRED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.GONE: HTTPStatus.GONE,
    ErrorCode.AHEAD: HTTPStatus.CONFLICT,
    ErrorCode.STALE_EPOCH: HTTPStatus.CONFLICT,
    ErrorCode.LIMIT: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}
_ENDED: Final = frozenset(status.value for status in AgentStatus if status.is_terminal)
_ID: Final = re.compile(r"(?:([!-\-/-~]{1,64})\.)?([0-9]{1,16})(\.end)?")
"""The epoch is any visible ASCII but the point."""


class EventId(msgspec.Struct, frozen=True):
    """Where a client stands, as the id of the last event that it got."""

    sequence: int
    epoch: str | None = None
    is_end: bool = False
    """It has heard of the agent's end."""

    @classmethod
    def parse(cls, text: str) -> "EventId":
        """Read a `Last-Event-ID`: an id, or a sequence alone.

        Raises:
            InvalidValueError: it is neither.
        """
        match = _ID.fullmatch(text)
        if match is None or int(match[2]) > frames.MAX_NUMBER:
            raise InvalidValueError(f"Last-Event-ID must be EPOCH.SEQUENCE or SEQUENCE, not {text[:40]!r}")
        is_end = (
            match[3] is not None or match[1] is None
        )  # a sequence alone is nobody's event: who gives it knows it all
        return cls(int(match[2]), match[1], is_end)

    def __str__(self) -> str:
        return f"{self.epoch}.{self.sequence}{'.end' if self.is_end else ''}"


def subscription(agent: str, query: str, seen: EventId | None) -> frames.Subscribe:
    """Return what a request asks for; where the client stands counts for more than `after` and `epoch`.

    Raises:
        InvalidValueError: the query asks for something that cannot be.
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


class _Frame(msgspec.Struct):
    """What a stream needs to know of a frame; the messages in it are passed over."""

    type: str
    epoch: str = ""
    after: int | None = None
    head: int | None = None
    last: int | None = None
    sequence: int | None = None
    status: str | None = None
    code: str | int | None = None
    message: str = ""
    reason: str | None = None
    reconnect_ms: int | None = None

    @property
    def cursor(self) -> int | None:
        """The client's, after this frame; None if it says nothing of that."""
        return next((each for each in (self.last, self.sequence, self.after) if each is not None), None)


_decode: Final = msgspec.json.Decoder(_Frame).decode


class EventStream:
    """One response."""

    def __init__(self, agent: str, seen: EventId | None) -> None:
        """Make a stream.

        Args:
            agent: an id, or `"*"`.
            seen: the id of the last event that the client got.
        """
        self.is_over = False
        """Nothing follows what was returned last."""
        self._to_all = agent == frames.ALL
        self._seen = seen
        self._epoch: str | None = None
        self._is_live = False
        self._has_ended = False

    def take(self, data: bytes) -> bytes | HttpResponse:
        """Take a frame; return its event, if it has one, or before any event what is answered in place of a stream."""
        frame = _decode(data)
        if self._epoch is not None:
            return self._event(frame, data)
        match frame.type:
            case "subscribed":
                return self._begin(frame, data)
            case "error":
                return _refusal(frame)
            case "goodbye":
                is_limit = frame.code == CloseCode.CONNECTION_LIMIT
                code = ErrorCode.LIMIT if is_limit else ErrorCode.UNAVAILABLE
                return error_response(_STATUS_OF[code], code, frame.reason or "the server stops", Retry_After="2")
            case _:
                return b""  # `welcome` says what a client may send, and a heartbeat has nothing to tell yet

    def _begin(self, frame: _Frame, data: bytes) -> bytes | HttpResponse:
        self._epoch = frame.epoch
        is_ended = not self._to_all and frame.status in _ENDED
        if is_ended and self._seen is not None and self._seen.is_end and frame.after == frame.head:
            return HttpResponse(status=HTTPStatus.NO_CONTENT, headers={"Cache-Control": "no-store"}, body=b"")
        return _retry(RETRY_MS) + self._event(frame, data)

    def _event(self, frame: _Frame, data: bytes) -> bytes:
        self._note(frame)
        lines = [b"event: " + frame.type.encode(), b"data: " + data]
        if frame.cursor is not None and self._epoch is not None:
            lines.insert(1, b"id: " + str(EventId(frame.cursor, self._epoch, self.is_over)).encode())
        if frame.type == "heartbeat":
            lines.insert(0, b": heartbeat")
        retry = _retry(frame.reconnect_ms) if frame.reconnect_ms is not None else b""
        return retry + b"\n".join(lines) + b"\n\n"

    def _note(self, frame: _Frame) -> None:
        if frame.type == "goodbye":
            self.is_over = True
        if self._to_all:
            return
        self._is_live |= frame.type == "live"
        self._has_ended |= frame.status in _ENDED
        self.is_over |= (self._is_live and self._has_ended) or frame.code == ErrorCode.GONE


def _retry(ms: int) -> bytes:
    return b"retry: %d\n" % ms


def _refusal(frame: _Frame) -> HttpResponse:
    code = str(frame.code)
    known = ErrorCode(code) if code in set(ErrorCode) else ErrorCode.INTERNAL
    status = _STATUS_OF.get(known, HTTPStatus.INTERNAL_SERVER_ERROR)
    extra = {"WWW_Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
    return error_response(status, code, frame.message, **extra)
