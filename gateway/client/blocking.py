"""A subscriber for plain threads: `for message in subscribe_blocking(url, agent, after=n)`.

Owns the blocking connection; what is said on it and what it means is `following`'s, as for the asynchronous client.
There is no event loop. The thread that iterates waits in the operating system, where a signal or another thread's
`close` wakes it at once; websockets reads the socket on a thread of its own.
"""

import random
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri

from commitcast.gateway.client.asyncio import CLOSE_TIMEOUT_S, CONNECT_OPTIONS, OPEN_TIMEOUT_S, losing
from commitcast.gateway.client.protocol import After, Following, OnCursor, Standing
from commitcast.gateway.client.reconnect import Comeback, Lost, Token, decode
from commitcast.gateway.protocol import frames


class Line:
    """The way to the server, which any thread may cut, also while it is still being made."""

    def __init__(self) -> None:
        self.closing = threading.Event()
        """No new one is to be made."""
        self._guard = threading.RLock()
        self._held: socket.socket | None = None

    def dial(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connect to the first address of a host that answers.

        Raises:
            OSError: none does, or the line was cut.
        """
        failed: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            made = socket.socket(family, kind, protocol)
            try:
                self._hold(made)
                made.settimeout(timeout_s)
                made.connect(address)
            except OSError as error:
                made.close()
                failed = error
            except BaseException:  # Ctrl-C
                made.close()
                raise
            else:
                return made
        raise failed or OSError(f"{host} has no address")

    def _hold(self, made: socket.socket) -> None:
        """Keep a second descriptor: it stays valid when TLS takes the first, and shuts both down."""
        with self._guard:
            if self.closing.is_set():
                raise OSError("the subscription was closed")
            self.hang_up()
            self._held = made.dup()

    def cut(self) -> None:
        """Wake whoever waits for the socket. Any thread, and signal handlers; does not block."""
        with self._guard:
            if self._held is not None:
                try:
                    self._held.shutdown(socket.SHUT_RDWR)
                except OSError:  # it is not connected yet, or no more
                    pass

    def hang_up(self) -> None:
        """Cut what there is, and forget it."""
        with self._guard:
            self.cut()
            if self._held is not None:
                self._held.close()
                self._held = None


@contextmanager
def blocking_connection_to(
    url: str, comeback: Comeback, line: Line, timeout_s: float = OPEN_TIMEOUT_S
) -> Iterator[ClientConnection]:
    """Connect with a token, and close at the end. Whatever the token's function raises is the caller's, but `Lost`."""
    if comeback.ask is not None:
        token = comeback.ask()
        if not isinstance(token, str):
            raise TypeError("an asynchronous function cannot give a token here")
        comeback.token = token
    headers = comeback.headers
    try:
        with losing():
            uri = parse_uri(url)
            made = line.dial(uri.host, uri.port, timeout_s)
            connection = connect(url, sock=made, additional_headers=headers, open_timeout=timeout_s, **CONNECT_OPTIONS)
        with connection:
            try:
                yield connection
            finally:
                connection.close()
    finally:
        line.hang_up()  # also what a Ctrl-C during the handshake left open


def blocking_send(connection: ClientConnection, frame: frames.ClientFrame) -> None:
    """Send a frame."""
    with losing():
        connection.send(frames.encode(frame), text=True)


class BlockingSubscription(Standing):
    """An iterator over one agent's messages (or all agents'), from a cursor until the agent's end or `close`.

    Made by `subscribe_blocking`. Its attributes are those of `Standing`: cursor, epoch, status, ending, record,
    reconnects, skipped.
    """

    def __init__(self, url: str, agent: str, *, after: After = 0, epoch: str | None = None, **options: Any) -> None:
        super().__init__(after, epoch)
        self._url = url
        self._following = Following(self, agent, after=after, clock=time.monotonic, **options)
        self._line = Line()
        self._turn = threading.RLock()
        self._messages = self._run()

    def __iter__(self) -> Iterator[frames.Item]:
        return self

    def __next__(self) -> frames.Item:
        with self._turn:
            if self._line.closing.is_set():
                self._messages.close()
            return next(self._messages)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop, and close the connection; whoever iterates gets to the end of the loop. Idempotent.

        Threads: any, and signal handlers. Blocks for some tenths of a second at most. Only a name that is just being
        looked up, or a function of the application (`token`, `on_cursor`), is waited for by the iterating thread.
        """
        self._line.closing.set()
        if not self._turn.acquire(blocking=False):
            self._line.cut()
            if not self._turn.acquire(timeout=CLOSE_TIMEOUT_S):
                return  # it is not in our hands, and `__next__` does the rest
        try:
            self._messages.close()
        except ValueError:  # it is this thread that iterates, further up the stack: in a hook, or under a signal
            self._line.cut()
        finally:
            self._turn.release()

    def cut(self) -> None:
        """Drop the connection without a word, as a network would; the subscription comes back by itself. Any thread."""
        self._line.cut()

    def _run(self) -> Generator[frames.Item]:
        while not self._following.is_over and not self._line.closing.is_set():
            try:
                yield from self._follow()
            except Lost as lost:
                if not self._line.closing.is_set():
                    self._line.closing.wait(self._following.come_back(lost, random.random()))

    def _follow(self) -> Generator[frames.Item]:
        """Give out what one connection brings."""
        following = self._following
        following.connected()
        with blocking_connection_to(self._url, following.comeback, self._line) as connection:
            while not following.is_over and not self._line.closing.is_set():
                for said in self._hear(connection):
                    if isinstance(said, frames.Item):
                        yield said
                    else:
                        blocking_send(connection, said)

    def _hear(self, connection: ClientConnection) -> Iterator[frames.Item | frames.ClientFrame]:
        """Read only when asked: what an application does not take stays in the sockets, and then with the server."""
        with losing():
            try:
                data = connection.recv(self._following.wait_s)
            except TimeoutError:
                return self._following.on_silence()
        return self._following.receive(decode(data))


def subscribe_blocking(
    url: str,
    agent: str,
    *,
    after: After = 0,
    epoch: str | None = None,
    raw: bool = False,
    token: Token = None,
    window: int | None = None,
    slow: frames.SlowPolicy = "catch_up",
    on_cursor: OnCursor | None = None,
) -> BlockingSubscription:
    """Subscribe to an agent; iterate over the result with `for`.

    Args:
        url: `ws://HOST:PORT/v1/ws`.
        agent: an id, or `"*"` for all agents.
        after: the cursor: every later message is given out; 0 is everything, "tail" what is new.
        epoch: of the agent that the cursor belongs to; a relaunched id is then refused.
        raw: whether the producers' lines are wanted.
        token: if the server demands one: text, or a function that returns one; when it is called, and what is final,
            is said at `subscribe`.
        window: how many messages (on `"*"`: positions) the server may send ahead of what was taken. What was taken is
            acknowledged when the next message is asked for.
        slow: what the server does if the subscriber is too slow for its memory; see `subscribe`.
        on_cursor: called with cursor and epoch, on the thread that iterates, when everything that came in one frame
            was taken; what that means for a restart is said at `subscribe`.

    Returns:
        An iterator that ends when the agent has ended (that of all agents never does) or was closed. It reconnects by
        itself.

    Raises:
        SubscriptionError: while iterating: the server refused for good.

    Threads: iterating blocks until there is a message; Ctrl-C and `close` wake it. One thread iterates at a time,
        others wait for their turn.
    """
    options: dict[str, Any] = {"raw": raw, "token": token, "window": window, "slow": slow, "on_cursor": on_cursor}
    return BlockingSubscription(url, agent, after=after, epoch=epoch, **options)
