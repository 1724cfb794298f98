"""What holds whichever version of websockets is installed: the lowest that is supported, and the newest."""

import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidMessage

from commitcast.actors import AgentRuntime
from commitcast.gateway.server.sockets.websockets_compat import is_noise
from waiting import TIMEOUT_S, wait_until

UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[AgentRuntime]:
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
        yield runtime


def asked(runtime: AgentRuntime, line: bytes, headers: bytes = b"") -> tuple[bytes, bytes]:
    """Send a request as it stands; return the head and the body of what is answered until the server hangs up."""
    assert runtime.address is not None
    host, _, port = runtime.address.partition(":")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as wire:
        wire.sendall(line + b"\r\nHost: " + runtime.address.encode() + b"\r\n" + headers + b"\r\n")
        data = b""
        while more := wire.recv(65536):
            data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def test_head_is_answered_with_the_headers_alone(runtime: AgentRuntime) -> None:
    got, body = asked(runtime, b"GET /healthz HTTP/1.1")
    head, nothing = asked(runtime, b"HEAD /healthz HTTP/1.1")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert (nothing, body) == (b"", b'{"status":"ok"}')
    assert b"Content-Length: 15" in got
    assert b"Content-Length: 15" in head


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"OPTIONS", b"DELETE", b"M-SEARCH"])
@pytest.mark.parametrize("headers", [b"", b"Content-Length: 0\r\n", b"content-length:0\r\n"])
def test_another_method_is_refused_and_told_which_are_answered(
    runtime: AgentRuntime, method: bytes, headers: bytes
) -> None:
    head, _ = asked(runtime, method + b" /v1/agents HTTP/1.1", headers)

    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: GET, HEAD" in head


@pytest.fixture
def behind_a_proxy(tmp_path: Path) -> Iterator[AgentRuntime]:
    with AgentRuntime(tmp_path / "b.db", listen="127.0.0.1:0", token="t0ken") as runtime:
        yield runtime


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_proxy_that_asks_with_http_1_0_is_answered(behind_a_proxy: AgentRuntime, method: bytes) -> None:
    head, _ = asked(behind_a_proxy, method + b" /healthz HTTP/1.0")

    assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_without_tokens_it_is_taken_for_a_proxy_and_refused(runtime: AgentRuntime, method: bytes) -> None:
    head, _ = asked(runtime, method + b" /healthz HTTP/1.0")

    assert head.startswith(b"HTTP/1.1 403 ")


def test_a_websocket_is_not_opened_with_http_1_0(behind_a_proxy: AgentRuntime) -> None:
    head, body = asked(behind_a_proxy, b"GET /v1/ws HTTP/1.0", UPGRADE)

    assert head.startswith(b"HTTP/1.1 505 ")
    assert b"HTTP/1.1" in body


def test_a_websocket_is_not_opened_with_head(runtime: AgentRuntime) -> None:
    head, _ = asked(runtime, b"HEAD /v1/ws HTTP/1.1", UPGRADE)

    assert head.startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    "line",
    [
        b"GET /\xc3\xa9 HTTP/1.1",
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.11",
        b"GET  / HTTP/1.1",
        b"GET /",
        b"\xff\xfe / HTTP/1.1",
        b"",
    ],
)
def test_what_is_not_http_is_not_answered_with_ok(
    runtime: AgentRuntime, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head, _ = asked(runtime, line)

    assert b" 200 " not in head
    assert asked(runtime, b"GET /healthz HTTP/1.1")[0].startswith(b"HTTP/1.1 200 ")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_handshake_that_is_broken_off_is_logged_by_nobody(
    runtime: AgentRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    assert runtime.address is not None
    host, _, port = runtime.address.partition(":")

    with socket.create_connection((host, int(port)), TIMEOUT_S) as wire:
        wire.sendall(b"GET /v1/ws HTTP/1.1\r\nAuthorization: Bearer s3cr")
    with socket.create_connection((host, int(port)), TIMEOUT_S) as wire:
        wire.sendall(b"GET /v1/ws HTTP/1.1\r\nAuthorization: Bearer \x00s3cret\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 400 ")
    wait_until(lambda: b" 200 " in asked(runtime, b"GET /healthz HTTP/1.1")[0], "the server to go on")

    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("error", "is_of_the_peer"),
    [
        (InvalidMessage("no HTTP"), True),
        (EOFError(), True),
        (ConnectionResetError(), True),
        (ssl.SSLError(), True),
        (ValueError("a defect of ours"), False),
    ],
)
def test_only_what_a_peer_did_is_noise(error: Exception, is_of_the_peer: bool) -> None:
    try:
        raise error
    except Exception:
        assert is_noise("opening handshake failed") is is_of_the_peer
        assert not is_noise("connection handler failed")
