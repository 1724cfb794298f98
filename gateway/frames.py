"""The wire protocol `commitcast.v1.json` as types: one JSON object a text frame, told apart by its key `type`.

The only place where frames are encoded and decoded. Pure. Clients ignore fields and types they do not know; the
server ignores unknown fields and refuses unknown types. Numbers stay below 2^53.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec

from commitcast.gateway.errors import ErrorCode, FrameError

SUBPROTOCOL: Final = "commitcast.v1.json"
ALL: Final = "*"
"""In place of an agent's id: all agents. The cursor is then the position."""
MAX_CONTROL_BYTES: Final = 64 * 1024
"""Of a frame that carries no content."""
MAX_CONTENT_BYTES: Final = 1024 * 1024
MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
"""What the WebSocket layer takes at all; more closes the connection with 1009."""

MAX_NUMBER: Final = 2**53 - 1
"""JavaScript counts no further."""

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""Makes a repeated request harmless: chosen by the client, once for each thing that it wants done."""
FrameId = Annotated[int, msgspec.Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)] | str | None
Cursor = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
"""A sequence or a position, as a client may give it."""


SlowPolicy = Literal["catch_up", "skip", "close"]
"""Of a subscriber that falls behind: read what it lacks from the store, go on at the head after a `gap`, or close."""


class _Client(msgspec.Struct, tag_field="type", kw_only=True):
    id: FrameId = None
    """Chosen by the client; echoed in the reply."""


class Hello(_Client, kw_only=True, tag="hello"):
    """Say who one is, or present a new token before the old one expires."""

    token: str | None = None
    client: str | None = None


class Subscribe(_Client, kw_only=True, tag="subscribe"):
    """Get everything of an agent after a cursor, and go on live."""

    agent: str
    after: Cursor | Literal["tail"] = 0
    epoch: str | None = None
    raw: bool = False
    window: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)] | None = None
    """How many messages (on `"*"`: positions) may be unacknowledged; None is no window."""
    slow: SlowPolicy = "catch_up"
    """What is done when the subscriber is so slow that what it lacks is no longer in memory."""


class Unsubscribe(_Client, kw_only=True, tag="unsubscribe"):
    """Get nothing more of an agent."""

    agent: str


class Ack(_Client, kw_only=True, tag="ack"):
    """Say up to where was processed."""

    agent: dict[str, Cursor] = {}


class Ping(_Client, kw_only=True, tag="ping"):
    """Ask whether the server is there."""


class Launch(_Client, kw_only=True, tag="launch"):
    """Launch an agent from a template of the server's owner. The same `key` again launches nothing again."""

    template: str
    prompt: str = ""
    key: Key | None = None


class Send(_Client, kw_only=True, tag="send"):
    """Send a durable user message to an agent. The same `key` again stores nothing again."""

    agent: str
    content: str
    key: Key | None = None


class Terminate(_Client, kw_only=True, tag="terminate"):
    """End an agent. Of one that has ended the reply tells how: so it needs no key to be repeated."""

    agent: str
    reason: str | None = None
    key: Key | None = None


ClientFrame = Hello | Subscribe | Unsubscribe | Ack | Ping | Launch | Send | Terminate


class Item(msgspec.Struct, omit_defaults=True):
    """One message inside a `messages` frame."""

    sequence: int
    type: str
    role: str | None
    content: str
    content_type: str
    metadata: Any
    created_at: str
    raw: Any = None
    """Text, or `{"base64": …}` if it is not UTF-8; only if it was subscribed to."""
    agent: str | None = None
    """Only on a subscription to all agents, as is `position`."""
    position: int | None = None


class AgentView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An agent as subscribers see it: without its process, and without what in its configuration may be secret."""

    id: str
    epoch: str
    type: str
    status: str
    head: int
    prompt: str
    created_at: str
    started_at: str | None = None
    completed_at: str | None = None
    error: "ErrorView | None" = None
    result: Any = None
    configuration: dict[str, Any] = {}


class ErrorView(msgspec.Struct, kw_only=True):
    """Why an agent failed."""

    name: str | None
    message: str | None


class _Server(msgspec.Struct, tag_field="type", kw_only=True, omit_defaults=True):
    pass


class Welcome(_Server, kw_only=True, tag="welcome"):
    """The first frame on every connection."""

    protocol: str
    server: str
    session: str
    """Random; it names the connection in the server's log and is no credential."""
    heartbeat_s: float
    """Seconds between heartbeats."""
    limits: dict[str, int]
    needs_hello: bool = False
    """A `hello` with a token must come first, within `limits.hello_timeout_ms`."""


class Subscribed(_Server, kw_only=True, tag="subscribed"):
    """The reply to `subscribe`; everything after it belongs to the new subscription."""

    id: FrameId = None
    agent: str
    epoch: str
    after: int
    head: int
    first: int
    status: str | None
    record: AgentView | None


class Messages(_Server, kw_only=True, tag="messages"):
    """Everything in (prev, last]."""

    agent: str
    prev: int
    last: int
    items: list[Item]


class Gap(_Server, kw_only=True, tag="gap"):
    """Everything in (prev, last] is left out for a subscriber that is slow and asked to skip; the cursor is now `last`.

    It is in the store, and can be read from there.
    """

    agent: str
    prev: int
    last: int
    status: str | None = None
    """Of the agent now: changes of status are left out too. Null on `"*"`."""


class Live(_Server, kw_only=True, tag="live"):
    """Caught up: what follows is new."""

    agent: str
    sequence: int


class Status(_Server, kw_only=True, tag="status"):
    """A change of status, after the message `sequence`."""

    agent: str
    status: str
    previous: str
    sequence: int
    at: str
    error: ErrorView | None = None
    result: Any = None
    reason: str | None = None
    prev: int | None = None
    """Positions, only on a subscription to all agents, as is `last`."""
    last: int | None = None


class Agent(_Server, kw_only=True, tag="agent"):
    """An agent was created, changed or deleted. Only on a subscription to all agents."""

    agent: str
    event: Literal["created", "updated", "deleted"]
    record: AgentView | None = None
    prev: int
    last: int


class Ok(_Server, kw_only=True, tag="ok"):
    """Done, and if something was stored, it is on disk."""

    id: FrameId = None
    agent: str | None = None
    """That was launched, sent to or ended."""
    sequence: int | None = None
    """Of the message that was sent."""
    status: str | None = None
    """Of the agent that was launched or ended."""
    expires_at: str | None = None
    """When the token of this `hello` expires, RFC 3339."""


class Error(_Server, kw_only=True, tag="error"):
    """Not done, and why."""

    id: FrameId = None
    agent: str | None = None
    code: str
    message: str
    retry: bool
    first: int | None = None
    head: int | None = None


class Heartbeat(_Server, kw_only=True, tag="heartbeat"):
    """The heads of this connection's subscriptions, from the store: one above the cursor shows a lost tail."""

    heads: dict[str, int]


class Goodbye(_Server, kw_only=True, tag="goodbye"):
    """The server is going to close the connection."""

    code: int
    reason: str
    reconnect_ms: int | None = None


ServerFrame = Welcome | Subscribed | Messages | Gap | Live | Status | Agent | Ok | Error | Heartbeat | Goodbye

encode: Final = msgspec.json.Encoder().encode
"""Return any frame as UTF-8 JSON."""

_decode_client: Final[Callable[[str], ClientFrame]] = msgspec.json.Decoder(ClientFrame).decode
_decode_server: Final[Callable[[str | bytes], ServerFrame]] = msgspec.json.Decoder(ServerFrame).decode
_decode_any: Final = msgspec.json.Decoder().decode
_SERVER_TYPES: Final = frozenset(str(frame.__struct_config__.tag) for frame in ServerFrame.__args__)


_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What a decoder raises: no JSON or not ours, a lone surrogate, nested too deeply."""
_SHOWN: Final = 200
"""Characters of a decoder's complaint, which quotes the frame."""


def decode_client(data: str | bytes) -> ClientFrame:
    """Return the frame that a client sent.

    Raises:
        FrameError: it is none, or too large; the error has the frame's `id` if that could be read.
    """
    if isinstance(data, bytes):
        raise FrameError("frames are text, not binary: send one JSON object in a text frame")
    try:
        frame = _decode_client(data)
    except _UNREADABLE as error:
        raise FrameError(f"this is no frame of {SUBPROTOCOL}: {error!s:.{_SHOWN}}", id=_id_of(data)) from None
    match frame:
        case Send():
            _check_size("content", frame.content, MAX_CONTENT_BYTES, frame.id)
        case Launch():
            _check_size("a prompt", frame.prompt, MAX_CONTENT_BYTES, frame.id)
        case _:
            _check_size("a control frame", data, MAX_CONTROL_BYTES, frame.id)
    return frame


def _check_size(what: str, text: str, most: int, id: FrameId) -> None:
    size = len(text) if text.isascii() else len(text.encode())
    if size > most:
        raise FrameError(f"{what} may have {most:,} bytes, and this has {size:,}", id=id, code=ErrorCode.TOO_LARGE)


def _fields_of(data: str | bytes) -> dict[str, Any]:
    """Return what can be read of a frame that is none."""
    try:
        decoded = _decode_any(data)
    except _UNREADABLE:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _id_of(data: str) -> FrameId:
    try:
        id: FrameId = msgspec.convert(_fields_of(data).get("id"), FrameId)
    except msgspec.ValidationError:
        return None
    return id


def decode_server(data: str | bytes) -> ServerFrame | None:
    """Return the frame that a server sent; None for a type of a later version.

    Raises:
        FrameError: it is none.
    """
    try:
        return _decode_server(data)
    except _UNREADABLE as error:
        found = _fields_of(data).get("type")
        if isinstance(found, str) and found not in _SERVER_TYPES:
            return None
        raise FrameError(f"the server sent no frame of {SUBPROTOCOL}: {error!s:.{_SHOWN}}") from None
