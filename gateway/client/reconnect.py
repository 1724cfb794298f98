"""When a connection is over, or none was made: whether, how soon and with which token to try again.

Pure: clocks, random numbers and sockets stay with the clients.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.protocol.errors import CloseCode, ErrorCode, FrameError

logger: Final = logging.getLogger(__name__)

BACKOFF_S: Final = (0.5, 20.0)
"""Each wait is drawn evenly from zero to a ceiling (full jitter); the ceiling doubles from the first to the second."""
QUICK_S: Final = 0.1
"""The ceiling after a connection that brought something: a single loss should not be felt, and since each such wait
is paid for by progress, a server that accepts and drops is not hammered."""
LONGEST_S: Final = 300.0
"""No server may send a client away for longer."""

Token = str | Callable[[], str] | None
AsyncToken = str | Callable[[], str | Awaitable[str]] | None

HELLO: Final = "hello"
"""The id of that frame."""
OF_TOKEN: Final = frozenset({ErrorCode.UNAUTHENTICATED, ErrorCode.TOKEN_EXPIRED})
"""Codes that say that a token is missing, wrong or too old."""
_TOO_BIG: Final = 1009
"""RFC 6455, 7.4.1: the peer takes no message as large as the one we sent."""
_CLOSE_CODES: Final[dict[int, str]] = {
    CloseCode.TOKEN_EXPIRED: ErrorCode.TOKEN_EXPIRED,
    CloseCode.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
    _TOO_BIG: ErrorCode.TOO_LARGE,
}


class Lost(Exception):
    """A connection is over, or none was made. `is_final` says that another would end the same way."""

    def __init__(
        self, message: str, code: str = ErrorCode.UNAVAILABLE, *, is_final: bool = False, wait_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.is_final = is_final
        self.wait_s = wait_s


def decode(data: str | bytes) -> frames.ServerFrame | None:
    """Return the frame that a server sent; None for one of a later version.

    Raises:
        Lost: it is none, so whoever sent it is no server of ours.
    """
    try:
        return decoding.decode_server(data)
    except FrameError as error:
        raise Lost(str(error), ErrorCode.BAD_REQUEST, is_final=True) from error


def closed(code: int, reason: str, reconnect_ms: int | None = None) -> Lost:
    """Return what a close code, or a `goodbye` before it, means."""
    message = f"the server closed the connection: {reason or 'it did not say why'} ({code})"
    wait_s = None if reconnect_ms is None else min(max(reconnect_ms / 1000, 0), LONGEST_S)
    is_final = code >= CloseCode.BAD_REQUEST or code == _TOO_BIG
    return Lost(message, _CLOSE_CODES.get(code, str(code)), is_final=is_final, wait_s=wait_s)


def greeting(welcome: frames.Welcome, token: str | None) -> Iterator[frames.Hello]:
    """Yield the `hello` that a server asks for, if it does: the header may have been lost on the way.

    Raises:
        Lost: there is no token.
    """
    if not welcome.needs_hello:
        return
    if token is None:
        raise Lost("the server demands a token: give one", ErrorCode.UNAUTHENTICATED, is_final=True)
    yield frames.Hello(id=HELLO, token=token)


class Comeback:
    """Whether to connect again, with which token, and after how long."""

    def __init__(self, token: AsyncToken, known: str | None = None) -> None:
        """Begin; `known` is what a function gave earlier."""
        self.token = token if isinstance(token, str) else known
        """What to present now."""
        self._ask = None if isinstance(token, str) else token
        self._refusals = 0
        self._tries = 0

    @property
    def ask(self) -> Callable[[], str | Awaitable[str]] | None:
        """What to call for a token before connecting; None if none is needed, or the one at hand will do."""
        return self._ask if self.token is None else None

    @property
    def headers(self) -> dict[str, str]:
        """What to send when connecting.

        Raises:
            Lost: the token cannot stand in a header. It is not repeated in the error.
        """
        if self.token is None:
            return {}
        if not self.token.isascii() or not self.token.isprintable() or not self.token.strip():
            message = "a token is printable ASCII, and this one is not: look for a line break in it"
            raise Lost(message, ErrorCode.BAD_REQUEST, is_final=True)
        return {"Authorization": f"Bearer {self.token}"}

    def accepted(self) -> None:
        """The server took the token."""
        self._refusals = 0

    def worked(self) -> None:
        """The connection brought something, so the next wait is short."""
        self._tries = -1

    def wait_s(self, lost: Lost, chance: float) -> float:
        """Return how many seconds to wait before connecting again.

        Args:
            lost: why the last connection is over.
            chance: a random number from 0 to 1.

        Raises:
            Lost: it is final.
        """
        if self._is_final(lost):
            raise lost
        logger.info("coming back: %s", lost)
        longest_s = QUICK_S if self._tries < 0 else min(BACKOFF_S[0] * 2**self._tries, BACKOFF_S[1])
        self._tries = min(self._tries + 1, 10)
        return chance * longest_s if lost.wait_s is None else lost.wait_s

    def _is_final(self, lost: Lost) -> bool:
        """A token may be refused once if there can be a fresh one, or if it only expired: clocks differ."""
        if lost.code not in OF_TOKEN:
            return lost.is_final
        self._refusals += 1
        if self._ask is not None:
            self.token = None
        return self._refusals > 1 or (self._ask is None and lost.code != ErrorCode.TOKEN_EXPIRED)
