"""The frames of a tunnel: each arrives as it was, none is over the limit, and no text shows what is in them."""

from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commitcast.gateway.protocol import frames
from commitcast.gateway.server.http import tunnel_frames
from commitcast.gateway.server.http.tunnel_frames import (
    MAX_FRAME_BYTES,
    PART_BYTES,
    PREFIX_BYTES,
    Accepted,
    BadFrameError,
    Body,
    Closed,
    FromHost,
    FromServer,
    Received,
    Scope,
    Started,
    Text,
)

SECRET: Final = "S3cr3t"
HEADERS: Final = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=50))).map(tuple)
ADDRESS: Final = st.none() | st.tuples(st.text(max_size=20), st.none() | st.integers(0, 65_535))
TEXTS: Final = st.lists(st.text(max_size=20), max_size=4).map(tuple)
SCOPES: Final = st.builds(
    Scope,
    kind=st.sampled_from(["http", "websocket"]),
    path=st.text(),
    root_path=st.text(max_size=20),
    query=st.binary(max_size=50),
    headers=HEADERS,
    http_version=st.sampled_from(["1.0", "1.1", "2"]),
    method=st.just("GET"),
    scheme=st.sampled_from(["http", "wss"]),
    client=ADDRESS,
    server=ADDRESS,
    subprotocols=st.just(()),
    extensions=TEXTS.map(lambda names: tuple(dict.fromkeys(names))),
)
FROM_HOST: Final = SCOPES | st.builds(Received, data=st.binary(), is_text=st.booleans())
FROM_SERVER: Final = (
    st.builds(Started, status=st.integers(100, 599), headers=HEADERS, stall_timeout_s=st.floats(0, 1e9))
    | st.builds(Body, part=st.binary(), more=st.booleans())
    | st.builds(Accepted, subprotocol=st.none() | st.text(), headers=HEADERS, stall_timeout_s=st.floats(0, 1e9))
    | st.builds(Text, part=st.binary(), more=st.booleans())
    | st.builds(Closed, code=st.integers(1000, 4999), reason=st.text())
)


def opened(frame: bytearray) -> bytearray:
    """Return the body of a frame."""
    body = frame[PREFIX_BYTES:]
    assert tunnel_frames.size_of(frame[:PREFIX_BYTES]) == len(body)
    return body


@given(FROM_HOST)
def test_what_a_host_sends_arrives_as_it_was(message: FromHost) -> None:
    assert tunnel_frames.decode_host(opened(tunnel_frames.encode(message))) == message


@given(FROM_SERVER)
def test_what_a_server_sends_arrives_as_it_was(message: FromServer) -> None:
    assert tunnel_frames.decode_server(opened(tunnel_frames.encode(message))) == message


@given(SCOPES)
def test_a_scope_is_the_same_after_the_trip(scope: Scope) -> None:
    assert tunnel_frames.scope_of(tunnel_frames.asgi_scope(scope)) == scope


def test_a_scope_may_lack_what_asgi_makes_optional() -> None:
    scope = tunnel_frames.scope_of({"type": "websocket", "path": "/", "headers": [[b"host", b"h"]], "client": None})

    asgi = tunnel_frames.asgi_scope(scope)

    assert (asgi["headers"], asgi["client"], asgi["subprotocols"]) == ([(b"host", b"h")], None, [])
    assert (asgi["http_version"], asgi["extensions"]) == ("1.1", {})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x80",
        msgspec.msgpack.encode([99]),
        msgspec.msgpack.encode([1, "http"]),
        msgspec.msgpack.encode([2, SECRET, True]),
        msgspec.msgpack.encode([4, b"", SECRET]),
        b"\x91" * 100_000,
        tunnel_frames.encode(Received(b"x", is_text=True))[PREFIX_BYTES:] + b"\x00",
    ],
)
def test_what_is_no_message_is_refused_without_being_shown(body: bytes | bytearray) -> None:
    for decode in (tunnel_frames.decode_host, tunnel_frames.decode_server):
        with pytest.raises(BadFrameError) as caught:
            decode(body)
        assert SECRET not in str(caught.value) and len(str(caught.value)) < 200


def test_messages_of_the_other_side_are_refused() -> None:
    with pytest.raises(BadFrameError):
        tunnel_frames.decode_host(tunnel_frames.encode(Closed(1000, ""))[PREFIX_BYTES:])
    with pytest.raises(BadFrameError):
        tunnel_frames.decode_server(tunnel_frames.encode(Received(b"", is_text=True))[PREFIX_BYTES:])


def test_no_frame_is_over_the_limit() -> None:
    assert tunnel_frames.size_of(MAX_FRAME_BYTES.to_bytes(PREFIX_BYTES)) == MAX_FRAME_BYTES
    with pytest.raises(BadFrameError):
        tunnel_frames.size_of((MAX_FRAME_BYTES + 1).to_bytes(PREFIX_BYTES))
    with pytest.raises(BadFrameError):
        tunnel_frames.encode(Received(bytes(MAX_FRAME_BYTES), is_text=False))


@pytest.mark.parametrize("character", ["x", "ü", "\U0001f600"])
def test_the_largest_frame_of_a_client_fits_and_of_a_larger_one_as_much_as_shows_that_it_is(character: str) -> None:
    largest = character * (frames.MAX_FRAME_BYTES // len(character.encode()))

    fits = tunnel_frames.received_of({"type": "websocket.receive", "text": largest})
    assert tunnel_frames.asgi_received(fits)["text"] == largest
    assert len(tunnel_frames.encode(fits)) < MAX_FRAME_BYTES

    cut = tunnel_frames.received_of({"type": "websocket.receive", "text": largest + character * 1_000_000})
    assert len(tunnel_frames.asgi_received(cut)["bytes"]) == frames.MAX_FRAME_BYTES + 1


def test_a_text_that_is_no_unicode_arrives_too() -> None:
    received = tunnel_frames.received_of({"type": "websocket.receive", "text": "\ud800"})

    assert tunnel_frames.asgi_received(received) == {"type": "websocket.receive", "text": "\ud800"}


def test_a_binary_frame_stays_one() -> None:
    received = tunnel_frames.received_of({"type": "websocket.receive", "bytes": b"{}", "text": None})

    assert tunnel_frames.asgi_received(received) == {"type": "websocket.receive", "bytes": b"{}"}


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_a_body_goes_in_parts_of_which_the_last_says_that_it_is(size: int) -> None:
    for more_body in (False, True):
        message = {"type": "http.response.body", "body": bytes(range(251)) * (size // 251 + 1), "more_body": more_body}
        message["body"] = message["body"][:size]  # type: ignore[index]  # it is bytes
        parts: list[Any] = list(tunnel_frames.answer_of(message, 1.0))
        assert b"".join(part.part for part in parts) == message["body"]
        assert [part.more for part in parts] == [True] * (len(parts) - 1) + [more_body]
        assert all(len(part.part) <= PART_BYTES for part in parts)


@pytest.mark.parametrize("is_socket", [False, True], ids=["of a request", "in place of a WebSocket"])
def test_a_response_is_the_same_after_the_trip(is_socket: bool) -> None:
    prefix = "websocket." if is_socket else ""
    start = {"type": f"{prefix}http.response.start", "status": 403, "headers": [(b"a", b"b")]}
    body = {"type": f"{prefix}http.response.body", "body": b"no", "more_body": False}

    answered: list[Any] = [*tunnel_frames.answer_of(start, 1.5), *tunnel_frames.answer_of(body, 1.5)]

    assert answered[0].stall_timeout_s == 1.5
    assert [tunnel_frames.asgi_answer(frame, is_socket=is_socket) for frame in answered] == [start, body]


def test_the_beginning_and_end_of_a_websocket_are_the_same_after_the_trip() -> None:
    accept = {"type": "websocket.accept", "subprotocol": "one", "headers": [(b"a", b"b")]}
    close = {"type": "websocket.close", "code": 4000, "reason": "over"}

    answered: list[Any] = [*tunnel_frames.answer_of(accept, 1.0), *tunnel_frames.answer_of(close, 1.0)]

    assert [tunnel_frames.asgi_answer(frame, is_socket=True) for frame in answered] == [accept, close]


def test_a_message_for_which_there_is_no_frame_is_a_defect() -> None:
    with pytest.raises(BadFrameError, match=r"http\.response\.trailers"):
        list(tunnel_frames.answer_of({"type": "http.response.trailers"}, 1.0))


def test_no_repr_shows_a_token() -> None:
    headers = [(b"authorization", f"Bearer {SECRET}".encode())]
    scope = tunnel_frames.scope_of({"type": "http", "path": "/", "headers": headers, "query_string": SECRET.encode()})

    assert SECRET not in repr([scope, Received(SECRET.encode(), is_text=True)])
