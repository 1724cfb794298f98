"""The frames between a host's ASGI app and the gateway in another process: one connection for each request. Pure.

The conversation is ASGI's. The host sends the scope of a request, then what the client of a WebSocket sends; the server
sends the answer. That the client has left is told by the end of the connection. A frame is the length of its body as
four bytes, the most significant first, and a message in MessagePack. Bodies and texts are cut into parts, so that a
slow client holds up little memory. Bodies of requests are not sent, because the gateway reads none. Headers and what a
client sends may have a token, so no `repr` shows them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from commitcast.gateway.protocol import frames
from commitcast.persistence.writes import MAX_MESSAGE_BYTES

T = TypeVar("T")

PART_BYTES: Final = 64 * 1024
"""Of a body or a text in one frame: as much as a paused subscriber may have unsent."""
MAX_FRAME_BYTES: Final = frames.MAX_FRAME_BYTES + 64 * 1024
"""The limit of any frame. It holds a client's largest frame, and one byte more, for which the server refuses it."""
MAX_TEXT_BYTES: Final = 8 * MAX_MESSAGE_BYTES
"""The limit of a text in all its parts: in JSON a message may have six times its size, and there is an envelope."""
PREFIX_BYTES: Final = 4
"""Of the length of a frame."""

Asgi = dict[str, Any]
"""A message of ASGI."""
Headers = tuple[tuple[bytes, bytes], ...]
Address = tuple[str, int | None]

_SOCKET: Final = "websocket."
"""Prefix of ASGI's messages about a WebSocket, also of the HTTP response that refuses one."""


class BadFrameError(ValueError):
    """A frame is too large, or not one of these: the connection cannot be used any more."""


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    pass


class Scope(_Frame, frozen=True, tag=1):
    """A request: what the host's server knows of it. The first frame of a connection."""

    kind: Literal["http", "websocket"]
    path: str
    root_path: str
    """The prefix under which the app is mounted; the path begins with it."""
    query: bytes
    headers: Headers
    http_version: str
    method: str
    scheme: str
    client: Address | None
    """None if the client came over a Unix socket."""
    server: Address | None
    subprotocols: tuple[str, ...]
    extensions: tuple[str, ...]
    """Names of what else the host's server can do, such as to refuse a WebSocket with a response."""

    def __repr__(self) -> str:
        return f"Scope({self.kind} {self.method} {self.path!r})"

    @property
    def is_socket(self) -> bool:
        """Whether the request is for a WebSocket."""
        return self.kind == "websocket"


class Received(_Frame, frozen=True, tag=2):
    """A frame that the client of a WebSocket has sent."""

    data: bytes
    is_text: bool
    """Whether it is a text, in UTF-8."""

    def __repr__(self) -> str:
        return f"Received({len(self.data)} bytes)"


class Started(_Frame, frozen=True, tag=3):
    """The beginning of an HTTP response."""

    status: int
    headers: Headers
    stall_timeout_s: float
    """For the client to read one part of what follows; after it the host gives the client up."""


class Body(_Frame, frozen=True, tag=4):
    """A part of the body of an HTTP response."""

    part: bytes
    more: bool


class Accepted(_Frame, frozen=True, tag=5):
    """The WebSocket is accepted."""

    subprotocol: str | None
    headers: Headers
    stall_timeout_s: float
    """As in `Started`."""


class Text(_Frame, frozen=True, tag=6):
    """A part of a text frame to the client, in UTF-8; a part may end within a character."""

    part: bytes
    more: bool


class Closed(_Frame, frozen=True, tag=7):
    """The WebSocket is to be closed; before `Accepted`, it is refused."""

    code: int
    reason: str


FromHost = Scope | Received
FromServer = Started | Body | Accepted | Text | Closed

_encoder: Final = msgspec.msgpack.Encoder()
_decode_host: Final[Callable[[bytes | bytearray], FromHost]] = msgspec.msgpack.Decoder(FromHost).decode
_decode_server: Final[Callable[[bytes | bytearray], FromServer]] = msgspec.msgpack.Decoder(FromServer).decode


# Frames.


def encode(message: FromHost | FromServer) -> bytearray:
    """Return a message as a frame.

    Raises:
        BadFrameError: it would be too large, for example because of the headers of a request.
    """
    frame = bytearray(PREFIX_BYTES)
    _encoder.encode_into(message, frame, PREFIX_BYTES)
    size = len(frame) - PREFIX_BYTES
    if size > MAX_FRAME_BYTES:
        raise _too_large(size)
    frame[:PREFIX_BYTES] = size.to_bytes(PREFIX_BYTES)
    return frame


def size_of(prefix: bytes | bytearray) -> int:
    """Return the length of the body behind a prefix.

    Raises:
        BadFrameError: it is over the limit.
    """
    size = int.from_bytes(prefix)
    if size > MAX_FRAME_BYTES:
        raise _too_large(size)
    return size


def decode_host(body: bytes | bytearray) -> FromHost:
    """Return what the host sent.

    Raises:
        BadFrameError: it is not one of its messages.
    """
    return _decoded(_decode_host, body)


def decode_server(body: bytes | bytearray) -> FromServer:
    """Return what the server sent.

    Raises:
        BadFrameError: it is not one of its messages.
    """
    return _decoded(_decode_server, body)


def _decoded(decode: Callable[[bytes | bytearray], T], body: bytes | bytearray) -> T:
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):  # whose text may quote a token
        raise BadFrameError("the peer does not send frames of this protocol: are both of the same version?") from None


def _too_large(size: int) -> BadFrameError:
    return BadFrameError(f"a frame may have at most {MAX_FRAME_BYTES:,} bytes, not {size:,}")


# From the host.


def scope_of(scope: Mapping[str, Any]) -> Scope:
    """Return the scope of an ASGI request."""
    return Scope(
        kind=scope["type"],
        path=scope["path"],
        root_path=scope.get("root_path", ""),
        query=scope.get("query_string", b""),
        headers=_headers(scope.get("headers", ())),
        http_version=scope.get("http_version", "1.1"),
        method=scope.get("method", "GET"),
        scheme=scope.get("scheme", "http"),
        client=_address(scope.get("client")),
        server=_address(scope.get("server")),
        subprotocols=tuple(scope.get("subprotocols") or ()),
        extensions=tuple(scope.get("extensions") or ()),
    )


def asgi_scope(scope: Scope) -> Asgi:
    """Return the ASGI scope of a request."""
    only = {"subprotocols": list(scope.subprotocols)} if scope.is_socket else {"method": scope.method}
    return {
        "type": scope.kind,
        "asgi": {"version": "3.0"},
        "path": scope.path,
        "root_path": scope.root_path,
        "query_string": scope.query,
        "headers": list(scope.headers),
        "http_version": scope.http_version,
        "scheme": scope.scheme,
        "client": scope.client,
        "server": scope.server,
        "extensions": {name: {} for name in scope.extensions},
        **only,
    }


def received_of(message: Mapping[str, Any]) -> Received:
    """Return the frame of a `websocket.receive`; of one that is too large, as much as shows that it is."""
    text: str | None = message.get("text")
    data: bytes = message["bytes"] if text is None else text.encode("utf-8", "surrogatepass")
    if len(data) > frames.MAX_FRAME_BYTES:
        return Received(data[: frames.MAX_FRAME_BYTES + 1], is_text=False)
    return Received(data, is_text=text is not None)


def asgi_received(received: Received) -> Asgi:
    """Return the `websocket.receive` of a client's frame."""
    if received.is_text:
        return {"type": "websocket.receive", "text": received.data.decode("utf-8", "surrogatepass")}
    return {"type": "websocket.receive", "bytes": received.data}


# From the server.


def answer_of(message: Mapping[str, Any], stall_timeout_s: float) -> Iterator[FromServer]:
    """Yield the frames of what the gateway sends: a response, or the beginning or end of a WebSocket."""
    match str(message["type"]).removeprefix(_SOCKET):
        case "http.response.start":
            yield Started(message["status"], _headers(message.get("headers", ())), stall_timeout_s)
        case "http.response.body":
            for part, more in parts_of(message.get("body", b"")):
                yield Body(part, more or message.get("more_body", False))
        case "accept":
            yield Accepted(message.get("subprotocol"), _headers(message.get("headers", ())), stall_timeout_s)
        case "close":
            yield Closed(message.get("code", 1000), message.get("reason") or "")
        case other:
            raise BadFrameError(f"no frame stands for the ASGI message {other!r}")


def asgi_answer(frame: Started | Body | Accepted | Closed, *, is_socket: bool) -> Asgi:
    """Return the ASGI message of a frame."""
    prefix = _SOCKET if is_socket else ""
    match frame:
        case Started():
            return {"type": f"{prefix}http.response.start", "status": frame.status, "headers": list(frame.headers)}
        case Body():
            return {"type": f"{prefix}http.response.body", "body": frame.part, "more_body": frame.more}
        case Accepted():
            return {"type": "websocket.accept", "subprotocol": frame.subprotocol, "headers": list(frame.headers)}
        case Closed():
            return {"type": "websocket.close", "code": frame.code, "reason": frame.reason}


def parts_of(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the parts of a body or text, at least one, each with whether another follows."""
    if len(data) <= PART_BYTES:
        yield data, False
        return
    for start in range(0, len(data), PART_BYTES):
        yield data[start : start + PART_BYTES], start + PART_BYTES < len(data)


def _headers(pairs: Any) -> Headers:
    return tuple((bytes(name), bytes(value)) for name, value in pairs)


def _address(address: Any) -> Address | None:
    if not address:
        return None
    host, port = address[0], address[1] if len(address) > 1 else None
    return str(host), port if isinstance(port, int) else None
