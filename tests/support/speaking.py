"""A host that speaks the protocol of the server process by hand, frame by frame, and breaks it where a test wants."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commitcast.persistence.errors import StoreOpenError
from commitcast.persistence.remote.attaching import EndingError, greet
from commitcast.persistence.remote.frames import (
    COMMITS,
    PROTOCOL,
    REQUESTS,
    TUNNEL,
    Deframer,
    Frame,
    Hello,
    Settings,
    pack,
    unpack,
)
from commitcast.persistence.sqlite.lock import holder_of
from waiting import TIMEOUT_S


class Speaker:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.settimeout(TIMEOUT_S)
        self._deframer = Deframer()
        self._frames: list[Frame] = []

    def send(self, frame: Frame) -> None:
        """Send a frame; blocks until the socket has taken all of it."""
        self.socket.sendall(pack(frame))

    def receive(self) -> Frame:
        """Return the next frame. Raises `EOFError`."""
        while not self._frames:
            data = self.socket.recv(self._deframer.missing_bytes)
            if not data:
                raise EOFError
            self._frames += [unpack(payload) for payload in self._deframer.feed(memoryview(data))]
        return self._frames.pop(0)


class SpeakingHost:
    """Both connections, welcomed."""

    def __init__(self, address: str, journal_mode: str = "delete") -> None:
        self.address = address
        hello = Hello(PROTOCOL, REQUESTS, settings=Settings(journal_mode))
        connection, self.welcome = greet(address, hello)
        self.requests = Speaker(connection)
        connection, _ = greet(address, Hello(PROTOCOL, COMMITS, session=self.welcome.session))
        self.commits = Speaker(connection)

    def close(self) -> None:
        """End both."""
        self.requests.socket.close()
        self.commits.socket.close()


def is_forgotten(address: str, session: str) -> bool:
    """Whether a server has brought a host to its end."""
    try:
        connection, _ = greet(address, Hello(PROTOCOL, TUNNEL, session=session))
    except EndingError:
        return False
    except StoreOpenError:  # it knows no such session
        return True
    connection.close()
    return False


@contextmanager
def speaking_host(path: Path) -> Iterator[SpeakingHost]:
    """A host of the server that has a file now."""
    holder = holder_of(path)
    assert holder is not None
    host = SpeakingHost(holder.note)
    try:
        yield host
    finally:
        host.close()
