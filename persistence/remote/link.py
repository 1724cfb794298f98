"""One end of a connection between a host and its server: frames out from any thread, frames in on its loop.

Sending never waits. What the socket does not take is kept up to a bound, and sent by the loop; a peer beyond the bound
does not read and is cut. Owns the socket. Linux: `SO_PEERCRED`.
"""

import logging
import os
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from commitcast.persistence.errors import LinkError
from commitcast.persistence.remote.frames import Deframer, Frame, Packed, pack, unpack
from commitcast.persistence.remote.loop import GONE, READ, WRITE, Loop
from commitcast.persistence.remote.own_socket import CLOSED, OwnSocket
from commitcast.persistence.remote.system_calls import Receiver

logger: Final = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 256 * 1024
"""Received at once: more than the kernel keeps for a Unix socket by default."""
SEND_BYTES: Final = 256 * 1024
"""Sent at once, without giving the interpreter to other threads: it takes some 50 us."""
SOCKET_BYTES: Final = 1024 * 1024
"""The kernel is to keep this much for a peer that is busy, a full batch, so that it has the next one when it is ready;
by default Linux keeps 208 KiB, and the sender's thread would have to wake for the rest."""
ROUNDS: Final = 16
"""Received in a row from one peer before others have their turn."""
UNSENT_BYTES: Final = 256 * 1024 * 1024
"""Kept for a peer that does not read. When there is more already, the next frame cuts it: one large frame alone, or the
few answers that a host wants at once, never do."""
KEPT_FRAME_BYTES: Final = 256
"""Of memory that a frame takes beside its bytes, while it is kept."""
_CREDENTIALS: Final = struct.Struct("3i")


class Credentials(NamedTuple):
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int


class Link:
    """One end of a connection."""

    def __init__(
        self,
        connection: socket.socket,
        loop: Loop,
        on_frame: Callable[[Frame, int], object],
        on_end: Callable[[Exception | None], object],
        *,
        max_unsent_bytes: int = UNSENT_BYTES,
    ) -> None:
        """Make it; it receives nothing before `begin`.

        Args:
            connection: a connected Unix stream socket; the link closes it.
            loop: receives, and sends what did not go at once.
            on_frame: takes each frame and its length in bytes, on the loop.
            on_end: called once on the loop when the connection has ended, with an error if that is not an ordinary end.
            max_unsent_bytes: the bound of what is kept for a peer that does not read.
        """
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self._socket = OwnSocket(connection)
        self._loop = loop
        self._on_frame = on_frame
        self._on_end = on_end
        self._max_unsent_bytes = max_unsent_bytes
        self._deframer = Deframer()
        self._receiver = Receiver(RECEIVE_BYTES)
        self._lock = threading.Lock()  # of what is unsent
        self._receiving = threading.Lock()  # of what is received; waited for at the end only
        self._is_lent = False
        self.received = 0
        """How many times something was received."""
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._failure: Exception | None = None
        self._has_more = False
        """A failed `send` has shown that the peer is gone: what it has sent before is to be received."""
        self.is_open = True
        """Whether frames can be sent, as far as is known. Any thread."""

    @property
    def unsent_bytes(self) -> int:
        """What is kept because the socket has not taken it yet. Any thread."""
        return self._unsent_bytes

    # Any thread.

    def begin(self) -> None:
        """Begin to receive."""
        self._loop.watch(self._socket.descriptor, self._on_events)

    def send(self, frame: Frame) -> None:
        """Send a frame without waiting. After the end of the connection it is dropped."""
        self.send_packed(pack(frame))

    def send_packed(self, packed: Packed) -> None:
        """Send a frame that was packed before. See `send`."""
        with self._lock:
            if not self.is_open:
                return
            if self._unsent_bytes > self._max_unsent_bytes:
                self._fail(LinkError(f"the peer has left {self._unsent_bytes:,} bytes unread"))
                return
            rest = memoryview(packed)
            if not self._unsent:
                sent = self._try(packed)
                if sent == len(packed) or not self.is_open:
                    return
                rest = rest[sent:]
            self._unsent.append(rest)
            self._unsent_bytes += len(rest) + KEPT_FRAME_BYTES
            if len(self._unsent) == 1:
                self._watch()

    def end(self) -> None:
        """End the connection, and call `on_end` soon. Idempotent."""
        with self._lock:
            self._fail(None)

    def _try(self, data: bytes | memoryview) -> int:
        """Send what the socket takes; return how much. With the lock."""
        sent = 0
        try:
            while sent < len(data):
                part = data if len(data) <= SEND_BYTES else data[sent : sent + SEND_BYTES]
                sent += (taken := self._socket.send(bytes(part)))
                if taken < len(part):
                    break
        except OSError:  # the peer is gone
            self._has_more = True
            self._fail(None)
        except LinkError as error:
            self._fail(error)
        return sent

    def _fail(self, error: Exception | None) -> None:
        if self.is_open:
            self.is_open = False
            self._failure = error
            self._loop.call(self._finish)

    # On the loop.

    def _on_events(self, events: int) -> None:
        if events == GONE:
            self._end_after(LinkError(CLOSED))
        if events & WRITE:
            self._flush()
        if events & ~WRITE:
            self.receive()

    def _flush(self) -> None:
        with self._lock:
            while self._unsent and self.is_open:
                data = self._unsent[0]
                sent = self._try(data)
                self._unsent_bytes -= sent
                if sent < len(data):
                    self._unsent[0] = data[sent:]
                    return
                self._unsent.popleft()
                self._unsent_bytes -= KEPT_FRAME_BYTES
            if self.is_open:
                self._watch()

    def _watch(self) -> None:
        """Watch for what is waited for. With the lock."""
        self._loop.change(self._socket.descriptor, (0 if self._is_lent else READ) | (WRITE if self._unsent else 0))

    def receive(self) -> None:
        """Receive what has come, unless another thread does so at this moment. On the loop, or its borrower's."""
        if self._receiving.acquire(False):
            try:
                self._receive()
            finally:
                self._receiving.release()

    def has_input(self) -> bool:
        """Whether something waits to be received. On the loop."""
        if not self.is_open:
            return False
        waiting = select.poll()  # `select` itself takes no descriptor beyond 1,023
        waiting.register(self._socket.descriptor, select.POLLIN)
        return bool(waiting.poll(0))

    def lend(self) -> OwnSocket | None:
        """Have another loop receive in place of this one; return a duplicate for it, None if that cannot be had."""
        with self._lock:
            if not self.is_open or self._is_lent:
                return None
            try:
                lent = self._socket.duplicate()
            except (OSError, LinkError):  # no number is free; or it was closed, and the loop is about to notice
                return None
            self._is_lent = True
            self._watch()
            return lent

    def take_back(self) -> None:
        """Receive again on the own loop."""
        with self._lock:
            self._is_lent = False
            if self.is_open:
                self._watch()

    def _receive(self) -> None:
        if self._socket.descriptor < 0:
            return
        self.received += 1
        for _ in range(ROUNDS):
            try:
                data = self._socket.receive(self._receiver)
            except OSError:  # the peer has closed with frames unread
                data = memoryview(b"")
            except LinkError as error:
                self._end_after(error)
                return
            if data is None:
                return
            if not data:
                self.end()
                return
            self._take(data)
            if self._failure is not None or self._socket.descriptor < 0 or len(data) < RECEIVE_BYTES:
                return

    def _take(self, data: memoryview) -> None:
        """Pass on the frames that are complete. One that fails ends the connection: its answer would be missing."""
        try:
            for payload in self._deframer.feed(data):
                self._on_frame(unpack(payload), len(payload))
                if self._socket.descriptor < 0:  # it was handed over
                    return
        except LinkError as error:
            self._end_after(error)
        except Exception as error:  # a defect, of ours or of a caller who waits for the answer
            logger.exception("a frame of the other process could not be handled")
            self._end_after(LinkError(f"a frame could not be handled: {error!r}"))

    def _end_after(self, error: LinkError) -> None:
        with self._lock:
            self._failure = self._failure or error
            self._fail(error)

    def _finish(self) -> None:
        if self._socket.descriptor < 0:
            return
        self._loop.forget(self._socket.descriptor)
        with self._receiving:  # a borrower may be at it
            if self._has_more:
                self._receive_the_rest()
            self._socket.close()
        with self._lock:
            self._unsent.clear()
            self._unsent_bytes = 0
        self._on_end(self._failure)

    def _receive_the_rest(self) -> None:
        try:
            while self._failure is None and (data := self._socket.receive(self._receiver)):
                self._take(data)
        except (OSError, LinkError):  # the peer has closed with frames unread, or this process has
            pass

    def hand_over(self) -> socket.socket:
        """Give the connection away, before anything after its first frame is received. On the loop."""
        self._loop.forget(self._socket.descriptor)
        self.is_open = False
        return self._socket.give()

    def drop_in_child(self) -> int:
        """Forget the connection in a forked child; return its descriptor, -1 if there is none."""
        self.is_open = False
        self._lock, self._receiving = threading.Lock(), threading.Lock()
        return self._socket.drop()


def credentials_of(connection: socket.socket) -> Credentials:
    """Return the process at the other end. Raises `OSError`."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Credentials(pid, uid)


def check_same_user(connection: socket.socket) -> Credentials:
    """Return the process at the other end if it is of this user.

    Raises:
        LinkError: it is of another user.
    """
    credentials = credentials_of(connection)
    if credentials.uid != os.geteuid():
        raise LinkError(f"the process {credentials.pid} at the other end is of user {credentials.uid}, not of this one")
    return credentials
