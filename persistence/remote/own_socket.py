"""A socket whose number is looked at before it is used: a host may close descriptors that are not its own.

A program that closes all its descriptors (`os.closerange`), and then opens files, has those under the numbers of our
connections. Nothing of ours may be written into them, and they are not ours to close. The kernel gives each socket a
cookie that no other has (`SO_COOKIE`, Linux 4.12); to ask for it takes half a microsecond, and keeps the interpreter's
lock.
"""

import errno
import socket
from typing import Final

from commitcast.persistence.errors import LinkError
from commitcast.persistence.remote import system_calls
from commitcast.persistence.remote.system_calls import Receiver

CLOSED: Final = "this process has closed a descriptor that was not its own, as os.closerange does"
_SO_COOKIE: Final = 57
"""asm-generic/socket.h; Python has no name for it."""
_COOKIE_BYTES: Final = 8


class OwnSocket:
    """A socket that nobody else is to use or to close. Any thread."""

    def __init__(self, connection: socket.socket) -> None:
        """Take a socket over, and have it block no more."""
        connection.setblocking(False)
        self._socket = connection
        self.descriptor = connection.fileno()
        """Its number; -1 once it is closed or given away."""
        self._cookie = _cookie_of(connection)

    def is_ours(self) -> bool:
        """Whether the number is still that of this socket."""
        return self.descriptor >= 0 and _cookie_of(self._socket) == self._cookie

    def check(self) -> None:
        """Raise `LinkError` if it was closed behind our back."""
        if not self.is_ours():
            raise LinkError(CLOSED)

    def send(self, data: bytes) -> int:
        """Send bytes without waiting; return how many were taken, 0 if it is full.

        Raises:
            OSError: the connection has ended.
            LinkError: it was closed behind our back.
        """
        self.check()
        return system_calls.send(self.descriptor, data)

    def receive(self, receiver: Receiver) -> memoryview | None:
        """Receive what has come, without waiting. See `Receiver.receive`.

        Raises:
            OSError: the connection was reset.
            LinkError: it was closed behind our back.
        """
        self.check()
        return receiver.receive(self.descriptor)

    def duplicate(self) -> "OwnSocket":
        """Return another number of the same socket. Raises `OSError` if none is free, `LinkError` if it is not ours."""
        self.check()
        return OwnSocket(self._socket.dup())

    def close(self) -> None:
        """Close it, if it is still ours. Idempotent."""
        if self.is_ours():
            self.descriptor = -1
            self._socket.close()
        else:
            self.drop()

    def drop(self) -> int:
        """Forget it without closing it; return its number if it is still ours, otherwise -1."""
        descriptor = self.descriptor if self.is_ours() else -1
        self.descriptor = -1
        self._socket.detach()
        return descriptor

    def give(self) -> socket.socket:
        """Give the socket away."""
        self.descriptor = -1
        return self._socket


def _cookie_of(connection: socket.socket) -> bytes | None:
    """Return the kernel's cookie; None if there is no socket; empty if the kernel gives none."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_BYTES)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            return None
        return b""
