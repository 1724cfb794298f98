"""What websockets 15 and 16 lack, and 17 has: to be deleted when 17 is the lowest version that is supported.

Before 17 the library hangs up on every request that is not `GET` with HTTP/1.1, so that a `HEAD` of a monitor or a
proxy that asks with HTTP/1.0 gets no answer, and on what is too long. It logs each handshake that a peer breaks off,
with a traceback that may quote a token. Before 16 it closes connections with 1001 and nothing else. Runs on the
gateway's loop.
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
"""From 17 on."""
CLOSES_WITH_A_CODE: Final = "code" in inspect.signature(Server.close).parameters
"""From 16 on."""

_REQUEST_LINE: Final = re.compile(rb"([!-~]+) ([^ \x80-\xff]+) (HTTP/1\.[01])\r\n")
_NO_BODY: Final = re.compile(rb"content-length:[ \t]*0+[ \t]*\r\n", re.IGNORECASE)


class _TooLongError(Exception):
    """The first line is."""


_ReadLine = Callable[..., Generator[None, None, bytes | bytearray]]


def _answer_who_is_there(protocol: ServerProtocol) -> None:
    """Have no response made for a peer that left during its handshake, for which the library's own checks fail."""
    send_response = protocol.send_response

    def send_response_unless_it_left(response: Response) -> None:
        if protocol.state is State.CONNECTING and not protocol.eof_sent:
            send_response(response)

    protocol.send_response = send_response_unless_it_left  # type: ignore[method-assign]


class RequestLine:
    """The method and the version of a request, whichever version of the library parses it."""

    def __init__(self, protocol: ServerProtocol) -> None:
        self._method = "GET"
        self._version = "HTTP/1.1"
        self._is_next = True
        if not TELLS_THE_METHOD:
            self._read_line: _ReadLine = protocol.reader.read_line
            protocol.reader.read_line = self._translated  # type: ignore[method-assign, assignment]  # the library has no hook for it
            protocol.parser = protocol.parse()
            next(protocol.parser)
            _answer_who_is_there(protocol)

    def method_of(self, request: Request) -> str:
        """Return the method."""
        return str(getattr(request, "method", self._method))

    def version_of(self, request: Request) -> str:
        """Return the version of HTTP."""
        return str(getattr(request, "protocol", self._version))

    def _translated(self, *arguments: Any) -> Generator[None, None, bytes | bytearray]:
        """Read a line; put what the parser understands in the place of what it does not."""
        if self._is_next:
            line = yield from self._first_line(*arguments)
            self._is_next = False
            return self._note(line)
        line = yield from self._read_line(*arguments)
        while _NO_BODY.fullmatch(line):  # some say so where there is none, and the parser takes it for a body
            line = yield from self._read_line(*arguments)
        return line

    def _first_line(self, *arguments: Any) -> Generator[None, None, bytes | bytearray]:
        try:
            return (yield from self._read_line(*arguments))
        except RuntimeError as error:  # else the parser says the same of it as of a header
            raise _TooLongError from error

    def _note(self, line: bytes | bytearray) -> bytes:
        found = _REQUEST_LINE.fullmatch(line)
        if found is None:
            raise ValueError("this is not the first line of an HTTP request")
        method, path, version = found.groups()
        self._method, self._version = method.decode("ascii"), version.decode("ascii")
        return b"GET " + path + b" HTTP/1.1\r\n"


def status_of(error: InvalidMessage) -> HTTPStatus:
    """Return the status for a request that the library hung up on: 17 answers what is too long by itself."""
    if isinstance(error.__cause__, _TooLongError):
        return HTTPStatus.REQUEST_URI_TOO_LONG
    if isinstance(error.__cause__, SecurityError):
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return HTTPStatus.BAD_REQUEST


def is_noise(message: object) -> bool:
    """Whether a record of the library's log tells of what a peer did, as 17 does not. Called while it is handled."""
    error = sys.exc_info()[1]
    return message == "opening handshake failed" and isinstance(error, WebSocketException | OSError | EOFError)


def close_server(server: Server, code: int, reason: str) -> list[asyncio.Task[None]]:
    """Close the listener, and every connection with a code. What is returned is to be kept until they are closed."""
    if CLOSES_WITH_A_CODE:
        server.close(code=code, reason=reason)
        return []
    server.close(close_connections=False)
    return [asyncio.ensure_future(connection.close(code, reason)) for connection in server.connections]
