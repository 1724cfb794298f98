"""Compatibility with websockets 15 and 16: to be deleted when 17 is the lowest supported version.

Before 17 the library closes the connection without an answer for every request that is not `GET` with HTTP/1.1, such as
the `HEAD` of a monitor or the HTTP/1.0 of a proxy, and for headers that are too long. It logs each aborted handshake
with a traceback that may quote a token. Before 16 it closes connections with 1001 only. Runs on the gateway's loop.
"""

import asyncio
import inspect
import re
import sys
from collections.abc import Callable, Generator
from http import HTTPStatus
from typing import Any, Final

from websockets.asyncio.server import Server
from websockets.exceptions import InvalidMessage, SecurityError, WebSocketException
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

TELLS_THE_METHOD: Final = hasattr(Request, "method")
"""Since websockets 17."""
CLOSES_WITH_A_CODE: Final = "code" in inspect.signature(Server.close).parameters
"""Since websockets 16."""

_REQUEST_LINE: Final = re.compile(rb"([!-~]+) ([^ \x80-\xff]+) (HTTP/1\.[01])\r\n")
_NO_BODY: Final = re.compile(rb"content-length:[ \t]*0+[ \t]*\r\n", re.IGNORECASE)


class _TooLongError(Exception):
    """The request line is too long."""


_ReadLine = Callable[..., Generator[None, None, bytes | bytearray]]


def _answer_if_connected(protocol: ServerProtocol) -> None:
    """Skip the response to a peer that left during its handshake, for which the library's own checks fail."""
    send_response = protocol.send_response

    def send_response_if_connected(response: Response) -> None:
        if protocol.state is State.CONNECTING and not protocol.eof_sent:
            send_response(response)

    protocol.send_response = send_response_if_connected  # type: ignore[method-assign]


class RequestLine:
    """The method and the HTTP version of a request, for every version of the library."""

    def __init__(self, protocol: ServerProtocol) -> None:
        self._method = "GET"
        self._version = "HTTP/1.1"
        self._is_next = True
        if not TELLS_THE_METHOD:
            self._read_line: _ReadLine = protocol.reader.read_line
            protocol.reader.read_line = self._translated  # type: ignore[method-assign, assignment]  # the library has no hook for it
            protocol.parser = protocol.parse()
            next(protocol.parser)
            _answer_if_connected(protocol)

    def method_of(self, request: Request) -> str:
        """Return the method."""
        return str(getattr(request, "method", self._method))

    def version_of(self, request: Request) -> str:
        """Return the HTTP version."""
        return str(getattr(request, "protocol", self._version))

    def _translated(self, *arguments: Any) -> Generator[None, None, bytes | bytearray]:
        """Read a line, and replace parts that the parser would refuse."""
        if self._is_next:
            line = yield from self._first_line(*arguments)
            self._is_next = False
            return self._note(line)
        line = yield from self._read_line(*arguments)
        while _NO_BODY.fullmatch(line):  # `Content-Length: 0` means no body, but the parser refuses it
            line = yield from self._read_line(*arguments)
        return line

    def _first_line(self, *arguments: Any) -> Generator[None, None, bytes | bytearray]:
        try:
            return (yield from self._read_line(*arguments))
        except RuntimeError as error:  # the parser raises the same error for a header
            raise _TooLongError from error

    def _note(self, line: bytes | bytearray) -> bytes:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise ValueError("this is not the first line of an HTTP request")
        method, path, version = match.groups()
        self._method, self._version = method.decode("ascii"), version.decode("ascii")
        return b"GET " + path + b" HTTP/1.1\r\n"


def status_of(error: InvalidMessage) -> HTTPStatus:
    """Return the status for a request that the library could not parse; 17 itself answers those that are too long."""
    if isinstance(error.__cause__, _TooLongError):
        return HTTPStatus.REQUEST_URI_TOO_LONG
    if isinstance(error.__cause__, SecurityError):
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return HTTPStatus.BAD_REQUEST


def is_noise(message: object) -> bool:
    """Whether a log record is about a peer's fault, which 17 does not log. Called while the exception is handled."""
    error = sys.exc_info()[1]
    return message == "opening handshake failed" and isinstance(error, WebSocketException | OSError | EOFError)


def close_server(server: Server, code: int, reason: str) -> list[asyncio.Task[None]]:
    """Close the listener, and every connection with a code. The caller keeps the returned tasks until then."""
    if CLOSES_WITH_A_CODE:
        server.close(code=code, reason=reason)
        return []
    server.close(close_connections=False)
    return [asyncio.ensure_future(connection.close(code, reason)) for connection in server.connections]
