"""Listening sockets, and an event loop whose servers bound what they accept.

`asyncio` accepts whatever there is, tells a protocol of it after TLS at the earliest, and when no descriptor is free
reports that a thousand times a second. A `ListeningLoop` is asyncio's own loop with another `create_server`, which is
where websockets and uvicorn get theirs from; it uses nothing that asyncio does not document.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from commitcast.gateway.server.sockets.accepted import AcceptedSocket, AcceptedSockets, Address

BACKLOG: Final = 1_024
"""Connections that wait to be accepted: everybody comes back at once after a restart."""
ACCEPTED_AT_ONCE: Final = 64
"""Then others have their turn."""
TLS_GOODBYE_S: Final = 2.0
"""For a peer to answer the end of TLS, before the socket is closed all the same; asyncio gives it thirty seconds."""
ACCEPT_PAUSE_S: Final = 1.0
"""After an error, mostly that no descriptor is free: to try again at once would keep the loop busy with it."""
BIND_ATTEMPTS: Final = 8
"""A port that is free at one address may be taken at the next one."""

_NOT_THERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""A family of addresses that this machine does not have, though its names do."""
_OF_ONE_CONNECTION: Final = frozenset(
    {errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.EPERM, errno.ETIMEDOUT, errno.ENETDOWN}
    | {errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
)
"""Errors of a connection that was lost before it was accepted, which `accept` hands on (Linux, accept(2))."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind each address of a host to one port; nobody can connect before a server listens there.

    Args:
        host: a name or an address. Addresses of a family that is not there are passed over if there is another.
        port: 0 takes one that is free at all of them.

    Raises:
        OSError: the host has no address, or one of them is taken.
        UnicodeError: the host can be no name.
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
    except BaseException:
        for each in bound:
            each.close()
        raise
    if not bound and missing is not None:
        raise missing
    return bound


def _bind_one(family: int, address: Address) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # the port of an IPv4 address is bound, or is not, for itself
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


Factory = Callable[[], asyncio.BaseProtocol]


class ListeningServer(asyncio.AbstractServer):
    """A server in place of asyncio's own, whose accepted sockets are bounded."""

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

    # What its users call.

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """That it listens on, until it is closed."""
        return () if self._closed.is_set() else self._sockets

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that it is served by."""
        return self._loop

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return self._is_serving

    async def start_serving(self) -> None:
        """Begin to accept connections."""
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
        """Accept no more connections, and drop those without TLS yet: the server's user does not know of them."""
        if self._closed.is_set():
            return
        self._is_serving = False
        self._closed.set()
        for listener in self._sockets:
            self._loop.remove_reader(listener)
            listener.close()
        for each in self._accepted:
            if each.transport is None:
                each.abort()

    async def wait_closed(self) -> None:
        """Wait until it is closed, and every connection with it."""
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
        self._accepted.warn(f"no connection can be accepted ({why}); those that come wait")
        self._loop.remove_reader(listener)
        self._loop.call_later(ACCEPT_PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if not self._closed.is_set():
            self._loop.add_reader(listener, self._accept, listener)

    async def _connect(self, accepted: AcceptedSocket) -> None:
        try:
            protocol = self._factory()
        except BaseException:
            accepted.close()
            raise
        try:
            accepted.transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, accepted, **self._tls)
        except Exception:  # the peer left, or does not speak TLS: what a stranger does is not logged
            accepted.abort()  # not closed: the transport that owns the socket does that


class ListeningLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers bound what they accept. It is asyncio's own, whatever policy the host has set."""

    def __init__(self, accepted: AcceptedSockets) -> None:
        super().__init__()
        self._accepted = accepted

    async def create_server(  # type: ignore[override]  # with all that the users of this loop give
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
        """Make a server of sockets that are bound."""
        bound = [sock] if sock is not None else sockets
        server = ListeningServer(self, self._accepted, protocol_factory, bound, ssl, tls_options)
        if start_serving:
            await server.start_serving()
        return server
