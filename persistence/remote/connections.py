"""The two connections of a host with the server of its file, each with a loop on a thread of its own.

`Connections` is what a store needs of them, so that tests can put something else in their place. `connect` opens them,
and starts the server if there is none.
"""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from commitcast.persistence import fork
from commitcast.persistence.errors import ServerStartError, StoreOpenError
from commitcast.persistence.recovery.identity import this_runtime
from commitcast.persistence.remote.attaching import EndingError, attach, greet
from commitcast.persistence.remote.frames import COMMITS, PROTOCOL, Frame, Hello, Settings, Welcome
from commitcast.persistence.remote.lending import Lending
from commitcast.persistence.remote.link import Link
from commitcast.persistence.remote.loop import Loop

END_S: Final = 5.0
"""For a thread to end."""

OnFrame = Callable[[Frame, int], object]
"""Takes a frame and its length in bytes."""
OnEnd = Callable[[Exception | None], object]
"""Takes the error with which a connection has ended; None: it ended like any other."""


class Receivers(Protocol):
    """Takes what comes. Each is called on one thread, and must not block."""

    def on_request(self, frame: Frame, size: int, /) -> None:
        """Take a frame of the connection for requests."""

    def on_commit(self, frame: Frame, size: int, /) -> None:
        """Take a frame of the connection for commits."""

    def on_end(self, error: Exception | None, /) -> None:
        """Take note that one of the connections has ended."""


class Connections(Protocol):
    """A host's connections with its server."""

    address: str
    """Of the server's socket."""
    welcome: Welcome

    def begin(self) -> None:
        """Begin to receive."""

    def send_request(self, frame: Frame) -> None:
        """Send a frame on the connection for requests. Never blocks; after the end it is dropped. Any thread."""

    def send_commit(self, frame: Frame) -> None:
        """Send a frame on the connection for commits. See `send_request`."""

    def offer(self) -> None:
        """Let the event loop of this thread, if one runs, receive the answers to batches. With each batch."""

    def end(self) -> None:
        """End both connections. Returns at once. Idempotent. Any thread."""

    def close(self) -> None:
        """End both connections, and wait for their threads. Blocks. Idempotent."""

    def drop_in_child(self) -> None:
        """Close them in a forked child without a word to the server, which takes them for its parent's."""


class ThreadedLink:
    """A connection with a loop and a thread of its own."""

    def __init__(self, connection: socket.socket, name: str, on_frame: OnFrame, on_end: OnEnd) -> None:
        """Take a connection over; nothing is received before `begin`."""
        self.loop = Loop()
        try:
            self.link = Link(connection, self.loop, on_frame, on_end)
            self.link.begin()
        except BaseException:  # Ctrl-C too: nothing stays open
            self.loop.close()
            raise
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._ends_itself = False

    def begin(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def _run(self) -> None:
        self.loop.run()
        if self._ends_itself:
            self.loop.close()

    def close(self) -> None:
        """End it, and its thread. Blocks, but not for its own thread."""
        self.link.end()
        if self._thread is threading.current_thread():
            self._ends_itself = True
            self.loop.stop()
            return  # the loop ends after this call
        self.loop.stop()
        if self._thread.ident is None:  # it never began
            self.loop.run()
        else:
            self._thread.join(END_S)
        self.loop.close()

    def drop_in_child(self) -> None:
        """See `Connections.drop_in_child`."""
        descriptors = [self.link.drop_in_child(), *self.loop.drop_in_child()]
        fork.silence(descriptor for descriptor in descriptors if descriptor >= 0)


class SocketConnections:
    """Connections by Unix sockets. Implements `Connections`."""

    def __init__(
        self,
        requests: socket.socket,
        commits: socket.socket,
        welcome: Welcome,
        address: str,
        receivers: Receivers,
    ) -> None:
        """Take two connections over that were welcomed. Raises `OSError`."""
        self.address = address
        self.welcome = welcome
        self._requests = ThreadedLink(requests, "requests", receivers.on_request, receivers.on_end)
        try:
            self._commits = ThreadedLink(commits, "commits", receivers.on_commit, receivers.on_end)
        except BaseException:  # Ctrl-C too: nothing stays open
            self._requests.close()
            raise
        self.send_request = self._requests.link.send
        self.send_commit = self._commits.link.send
        self._lending = Lending(self._commits.link, self._commits.loop)
        self.offer = self._lending.offer

    def begin(self) -> None:
        """Begin to receive."""
        self._requests.begin()
        self._commits.begin()

    def end(self) -> None:
        """End both. See `Connections.end`."""
        self._lending.end()
        self._requests.link.end()
        self._commits.link.end()

    def close(self) -> None:
        """End both, and their threads."""
        self.end()
        self._requests.close()
        self._commits.close()
        self._lending.reclaim()

    def drop_in_child(self) -> None:
        """Close them in a forked child."""
        self._requests.drop_in_child()
        self._commits.drop_in_child()
        fork.silence(self._lending.drop_in_child())


Connect = Callable[[Path, Settings, Receivers], Connections]
"""Opens the connections with the server of a file. Blocks. Raises `StoreOpenError`."""


def connect(path: Path, settings: Settings, receivers: Receivers) -> SocketConnections:
    """Attach to the server of a file, and start it if there is none. Blocks.

    Raises:
        StoreOpenError: the file cannot be used, or is served in another way; or no descriptor is free.
    """
    while True:
        requests, welcome, address = attach(path, settings, this_runtime())
        try:
            commits, _ = greet(address, Hello(PROTOCOL, COMMITS, session=welcome.session))
        except EndingError:  # between the two
            requests.close()
            continue
        except BaseException as error:  # Ctrl-C too: nothing stays open
            requests.close()
            if isinstance(error, OSError) and not isinstance(error, StoreOpenError):
                raise ServerStartError(str(path), f"its server process cannot be used ({error})") from error
            raise
        try:
            return SocketConnections(requests, commits, welcome, address, receivers)
        except BaseException as error:  # Ctrl-C too: nothing stays open
            requests.close()
            commits.close()
            if isinstance(error, OSError):
                raise ServerStartError(str(path), f"its server process cannot be used ({error})") from error
            raise
