"""Decodes frames, after a check of their size. Pure.

The only place where frames are decoded. Strangers choose what is decoded here, on the gateway's only event loop: so no
objects are made of data that is not part of the protocol, and a frame that is too large for its kind is not decoded at
all. Of a refused frame only the `id` is read; the rest is skipped.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from commitcast.gateway.protocol.errors import ErrorCode, FrameError
from commitcast.gateway.protocol.frames import (
    MAX_CONTENT_BYTES,
    MAX_CONTROL_BYTES,
    SUBPROTOCOL,
    ClientFrame,
    FrameId,
    Launch,
    Send,
    ServerFrame,
)

_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What a decoder raises: invalid JSON or another type, a lone surrogate, nesting that is too deep."""
_SHOWN: Final = 200
"""Characters of a decoder's message, which quotes the frame."""


class _Head(msgspec.Struct):
    """The fields that are read of an invalid frame. The decoder skips all others without making objects of them."""

    id: msgspec.Raw = msgspec.Raw(b"null")
    type: msgspec.Raw = msgspec.Raw(b"null")


_decode_client: Final[Callable[[str], ClientFrame]] = msgspec.json.Decoder(ClientFrame).decode
_decode_server: Final[Callable[[str | bytes], ServerFrame]] = msgspec.json.Decoder(ServerFrame).decode
_decode_head: Final = msgspec.json.Decoder(_Head).decode
_decode_id: Final[Callable[[msgspec.Raw], FrameId]] = msgspec.json.Decoder(FrameId).decode
_decode_type: Final = msgspec.json.Decoder(str).decode

_SERVER_TYPES: Final = frozenset(str(frame.__struct_config__.tag) for frame in ServerFrame.__args__)
_WITH_CONTENT: Final = frozenset(str(frame.__struct_config__.tag) for frame in (Launch, Send))
"""The only client frames that may be larger than a control frame."""


def size_of(data: str | bytes) -> int:
    """Return the size of a message in bytes of UTF-8."""
    if isinstance(data, bytes) or data.isascii():
        return len(data)
    return len(data.encode("utf-8", "surrogatepass"))


def decode_client(data: str | bytes, *, is_known: bool = True) -> ClientFrame:
    """Return the frame that a client sent.

    Args:
        data: a message of its WebSocket.
        is_known: False until the client has authenticated: a frame larger than a control frame is then not read at all.

    Raises:
        FrameError: it is not a valid frame, or too large; the error has the frame's `id` if that could be read.
    """
    if isinstance(data, bytes):
        raise FrameError("frames are text, not binary: send one JSON object in a text frame")
    size = size_of(data)
    if size > MAX_CONTROL_BYTES:
        _check_has_content(data, size, is_known=is_known)
    try:
        frame = _decode_client(data)
    except _UNREADABLE as error:
        raise _invalid(error, _id_of(_head_of(data))) from None
    match frame:
        case Send():
            _check_content("content", frame.content, frame, frame.agent)
        case Launch():
            _check_content("a prompt", frame.prompt, frame, frame.template)
    return frame


def _check_has_content(data: str, size: int, *, is_known: bool) -> None:
    """Check that a frame that is too large for a control frame is one that carries content."""
    if not is_known:
        raise _too_large("before `hello`, a frame", MAX_CONTROL_BYTES, size, None)
    try:
        head = _decode_head(data)
    except _UNREADABLE as error:
        raise _invalid(error, None) from None
    if _type_of(head) not in _WITH_CONTENT:
        raise _too_large("a control frame", MAX_CONTROL_BYTES, size, _id_of(head))


def _check_content(what: str, content: str, frame: Send | Launch, name: str) -> None:
    """Check the fields of a frame that may be large; those that are echoed are as small as in any other frame."""
    if size_of(name) > MAX_CONTROL_BYTES:
        raise _too_large("a name", MAX_CONTROL_BYTES, size_of(name), None)
    if isinstance(frame.id, str) and size_of(frame.id) > MAX_CONTROL_BYTES:
        raise _too_large("an `id`", MAX_CONTROL_BYTES, size_of(frame.id), None)
    if size_of(content) > MAX_CONTENT_BYTES:
        raise _too_large(what, MAX_CONTENT_BYTES, size_of(content), frame.id)


def _too_large(what: str, limit: int, size: int, id: FrameId) -> FrameError:
    return FrameError(f"{what} may have at most {limit:,} bytes, but it has {size:,}", id=id, code=ErrorCode.TOO_LARGE)


def _invalid(error: Exception, id: FrameId) -> FrameError:
    return FrameError(f"this is not a frame of {SUBPROTOCOL}: {error!s:.{_SHOWN}}", id=id)


def _head_of(data: str | bytes) -> _Head:
    """Return what can be read of an invalid frame."""
    try:
        return _decode_head(data)
    except _UNREADABLE:
        return _Head()


def _id_of(head: _Head) -> FrameId:
    try:
        return _decode_id(head.id)
    except _UNREADABLE:
        return None


def _type_of(head: _Head) -> str | None:
    try:
        return _decode_type(head.type)
    except _UNREADABLE:
        return None


def decode_server(data: str | bytes) -> ServerFrame | None:
    """Return the frame that a server sent; None for a type of a later version.

    Raises:
        FrameError: it is not a valid frame.
    """
    try:
        return _decode_server(data)
    except _UNREADABLE as error:
        type = _type_of(_head_of(data))
        if type is not None and type not in _SERVER_TYPES:
            return None
        raise FrameError(
            f"the server sent a message that is not a frame of {SUBPROTOCOL}: {error!s:.{_SHOWN}}"
        ) from None
