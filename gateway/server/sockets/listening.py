"""Listening sockets, and an event loop whose servers limit the connections that they accept.

`asyncio` accepts every connection, calls a protocol only after the TLS handshake, and logs an error a thousand times a
second while no descriptor is free. A `ListeningLoop` is asyncio's own loop with another `create_server`, which
websockets and uvicorn call; it uses only asyncio's documented API.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from commitcast.gateway.protocol.errors import ListenError
from commitcast.gateway.server.sockets.accepted import AcceptedSocket, AcceptedSockets, Address

BACKLOG: Final = 1_024
"""Connections that wait to be accepted: after a restart all clients reconnect at once."""
ACCEPTED_AT_ONCE: Final = 64
"""Per turn of the loop."""
TLS_GOODBYE_S: Final = 2.0
"""For a peer to answer the end of TLS; then the socket is closed. asyncio waits for thirty seconds."""
ACCEPT_PAUSE_S: Final = 1.0
"""After an error, usually that no descriptor is free: an immediate retry would keep the loop busy."""
BIND_ATTEMPTS: Final = 8
"""A port that is free at one address may be taken at the next one."""

_NOT_THERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""An address family that this machine lacks, although the host name has addresses of it."""
_OF_ONE_CONNECTION: Final = frozenset(
    {errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM, errno.ETIMEDOUT, errno.ENETDOWN}
    | {errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
)
"""Errors of a connection that was lost before it was accepted, which `accept` raises (Linux, accept(2))."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind each address of a host to one port; clients cannot connect before a server listens on it.

    Args:
        host: a name or an address. Addresses of a missing family are skipped if there are others.
        port: 0 takes a port that is free at all addresses.

    Raises:
        OSError: the host has no address, or one of them is taken.
        UnicodeError: the host is not a name.
    """
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in infos))
    for _ in range(BIND_ATTEMPTS if port == 0 and len(addresses) > 1 else 1):
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            refused = error
            if error.errno != errno.EADDRINUSE:
                break
    raise refused


def _bind_all(addresses: Sequence[tuple[int, Any]], port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, (host, _, *rest) in addresses:
            wanted = port or (bound[0].getsockname()[1] if bound else 0)
            try:
                bound.append(_bind_one(family, (host, wanted, *rest)))
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
                missing = error
    except BaseException:  # Ctrl-C too: no socket stays open
        for listener in bound:
            listener.close()
        raise
    if not bound and missing is not None:
        raise missing
    return bound


def _bind_one(family: int, address: Address) -> socket.socket:
    # With the protocol, which accepted sockets inherit: without it asyncio does not set TCP_NODELAY on them, and a
    # frame waits up to 40 ms for the acknowledgement of the one before it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 addresses are bound separately
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except BaseException:  # Ctrl-C too: no socket stays open
        listener.close()
        raise
    return listener


def listen_error(address: str, error: Exception) -> ListenError:
    """Return the error of an address that could not be bound or listened on."""
    why = getattr(error, "strerror", None) or error
    return ListenError(address, f"{why}: choose another address, or stop the program that uses it")


Factory = Callable[[], asyncio.BaseProtocol]


class ListeningServer(asyncio.AbstractServer):
    """A server in place of asyncio's own, whose accepted sockets are limited."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        accepted: AcceptedSockets,
        factory: Factory,
        sockets: Sequence[socket.socket],
        tls: ssl.SSLContext | None,
        tls_options: Mapping[str, float | None],
    ) -> None:
        self._loop = loop
        self._accepted = accepted
        self._factory = factory
        self._sockets = tuple(sockets)
        own = {} if tls is None else {"ssl_shutdown_timeout": TLS_GOODBYE_S}
        self._tls: Mapping[str, Any] = {"ssl": tls, **own, **tls_options}
        self._is_serving = False
        self._closed = asyncio.Event()
        self._connecting: set[asyncio.Task[None]] = set()

    # asyncio's interface.

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets, until it is closed."""
        return () if self._closed.is_set() else self._sockets

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that it runs on."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._is_serving

    async def start_serving(self) -> None:
        """Start accepting connections. Idempotent."""
        if self._is_serving or self._closed.is_set():
            return
        for listener in self._sockets:
            listener.listen(BACKLOG)
            self._loop.add_reader(listener, self._accept, listener)
        self._is_serving = True

    async def serve_forever(self) -> None:
        """Accept connections until it is closed."""
        await self.start_serving()
        await self.wait_closed()

    def close(self) -> None:
        """Stop accepting, and drop connections in the TLS handshake: its user does not know them. Idempotent."""
        if self._closed.is_set():
            return
        self._is_serving = False
        self._closed.set()
        for listener in self._sockets:
            self._loop.remove_reader(listener)
            listener.close()
        for accepted in self._accepted:
            if accepted.transport is None:
                accepted.abort()

    async def wait_closed(self) -> None:
        """Wait until it and all its connections are closed."""
        await self._closed.wait()
        await self._accepted.wait_closed()

    # Accepting.

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                accepted, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OF_ONE_CONNECTION:
                    continue
                self._pause(listener, error)
                return
            admitted = self._accepted.admit(accepted, peer)
            if admitted is not None:
                task = self._loop.create_task(self._connect(admitted))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        why = os.strerror(error.errno) if error.errno else str(error)
        self._accepted.warn(f"cannot accept connections now ({why}): new ones wait")
        self._loop.remove_reader(listener)
        self._loop.call_later(ACCEPT_PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if not self._closed.is_set():
            self._loop.add_reader(listener, self._accept, listener)

    async def _connect(self, accepted: AcceptedSocket) -> None:
        try:
            protocol = self._factory()
        except BaseException:  # Ctrl-C too: no socket stays open
            accepted.close()
            raise
        try:
            accepted.transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, accepted, **self._tls)
        except Exception:  # the peer left, or does not use TLS: not logged, because any client can cause it
            accepted.abort()  # not closed: its transport does that


class ListeningLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers limit accepted connections: asyncio's selector loop, whatever policy the host has."""

    def __init__(self, accepted: AcceptedSockets) -> None:
        super().__init__()
        self._accepted = accepted

    async def create_server(  # type: ignore[override]  # with the arguments that websockets and uvicorn pass
        self,
        protocol_factory: Factory,
        host: None = None,
        port: None = None,
        *,
        sock: socket.socket | None = None,
        sockets: Sequence[socket.socket] = (),
        ssl: ssl.SSLContext | None = None,
        backlog: int = BACKLOG,
        start_serving: bool = True,
        **tls_options: float | None,
    ) -> ListeningServer:
        """Make a server of bound sockets."""
        bound = [sock] if sock is not None else sockets
        server = ListeningServer(self, self._accepted, protocol_factory, bound, ssl, tls_options)
        if start_serving:
            await server.start_serving()
        return server
