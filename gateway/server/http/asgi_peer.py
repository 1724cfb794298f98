"""Between two event loops: the gateway's, where sessions live, and a host's, whose ASGI server holds the sockets.

Owns the calls between them, a queue of frames to a client with a limit in bytes, and one of frames from it with a limit
in frames. Must never let one loop wait for the other, which may be slow, stopped or closed. Each method says on which
loop it runs. A number that both loops read is written on one of them only. Both are one loop where the ASGI server is
in another process, whose end of the connection is then a tunnel's.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.hub.subscription import Subscriber
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.decoding import size_of
from commitcast.gateway.server.access.limits import MESSAGE_TOO_BIG, Bucket
from commitcast.gateway.server.gateway import Gateway
from commitcast.gateway.server.sockets.websocket import CLOSE_TIMEOUT_S, WRITE_LIMIT_BYTES

T = TypeVar("T")

RESUME_BYTES: Final = WRITE_LIMIT_BYTES // 4
"""A paused connection is resumed when at most this is unsent: asyncio's rule for sockets."""
RECEIVED_LIMIT_FRAMES: Final = 16
"""From one client, unread by its session; then reading is paused, as on the gateway's own port."""
CHECK_S: Final = 5.0
"""Between two checks whether the gateway has ended since a call was made: then it is never answered."""


class NotServingError(ConnectionError):
    """The gateway is not running: it is not started yet, or has stopped."""


async def call(core: Gateway, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the gateway's loop. On the host's loop; cancelling the call cancels the coroutine.

    Raises:
        NotServingError: the gateway is not running, or ended before the coroutine did.
    """
    loop = core.loop
    if loop is None:
        raise NotServingError
    working = work()
    try:
        called = asyncio.run_coroutine_threadsafe(working, loop)
    except RuntimeError as error:  # it is closed
        working.close()
        raise NotServingError from error
    outcome = asyncio.wrap_future(called)
    try:
        while not outcome.done():
            await asyncio.wait({outcome}, timeout=CHECK_S)
            if loop.is_closed() and not called.done():
                raise NotServingError
        if outcome.cancelled():
            raise NotServingError
        return outcome.result()
    finally:
        outcome.cancel()


class AsgiPeer:
    """A connection that an ASGI server holds, as the gateway's sessions see it."""

    def __init__(self, core: Gateway, *, address: str, token: str | None) -> None:
        """Make a peer on the running loop, which is its host's."""
        self.subscriber = Subscriber(self)
        self.token = token
        self.was_heard = True
        self.bucket = Bucket.of_stranger(time.monotonic())
        self.peer_address = address
        self.ending: tuple[int, str] | None = None
        """Code and reason of the close, after the last frame."""
        self._core = core
        self._host = asyncio.get_running_loop()
        # To the client: written on the gateway's loop, taken on the host's.
        self._outbox: deque[PreparedFrame] = deque()
        self._written_bytes = 0
        self._taken_bytes = 0
        self._is_awake = False
        self._wake = asyncio.Event()
        # From the client: received on the host's loop, read on the gateway's.
        self._is_refused = False
        self._places = asyncio.Semaphore(RECEIVED_LIMIT_FRAMES)
        self._inbox: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        # Of the gateway's loop alone.
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()

    # On the host's loop.

    async def outgoing(self) -> AsyncGenerator[PreparedFrame, None]:
        """Yield each written frame until the connection is to be closed. The caller reports sent bytes to `took`."""
        while True:
            is_ending = self.ending is not None  # read before the outbox, which gets nothing after it
            while self._outbox:
                yield self._outbox.popleft()
                await asyncio.sleep(0)  # an ASGI `send` need not yield, and the host serves other tasks
            if is_ending:
                return
            self._is_awake = False
            if not self._outbox and self.ending is None:
                await self._wake.wait()
            self._wake.clear()

    def took(self, size: int) -> None:
        """Note a number of bytes that the ASGI server has taken."""
        self._taken_bytes += size
        if self.subscriber.is_paused and self._is_drained:
            self._core.call(self._resume)

    async def put(self, data: str | bytes) -> None:
        """Hand a client's frame to the session; waits while its queue is full. After a too large one, drop all."""
        await self._places.acquire()
        if size_of(data) > frames.MAX_FRAME_BYTES:
            self._is_refused = True
            self._core.call(self._refuse_too_large)
        elif not self._is_refused:
            self._core.call(partial(self._inbox.put_nowait, data))

    # On the gateway's loop.

    async def receive(self) -> AsyncIterator[str | bytes]:
        """Yield the client's frames until the connection ends."""
        while (data := await self._inbox.get()) is not None:
            self.was_heard = True
            self._tell_host(self._places.release)
            yield data
        self._inbox.put_nowait(None)  # for the next call

    def write(self, frame: PreparedFrame) -> int:
        """Send a frame without waiting and return its size in bytes; does nothing if the connection is not open."""
        if self.ending is not None or self._lost.is_set():
            return 0
        size = len(frame.json)
        self._outbox.append(frame)
        self._written_bytes += size
        if self.unsent_bytes > WRITE_LIMIT_BYTES and not self.subscriber.is_paused:
            self._writable.clear()
            self.subscriber.pause()
            if self._is_drained:  # the host took it before it could see the pause
                self._core.call(self._resume)
        self._wake_host()
        return size

    def send_ping(self) -> None:
        """Count the peer as alive, unless its host's loop is closed with all its connections.

        The ASGI server pings, and closes the connection of a silent peer; it does not show pongs to an app, and an
        `EventSource` never sends. So silence proves nothing here.
        """
        self.was_heard = True
        if self._host.is_closed():
            self.lose()

    async def wait_until_writable(self) -> None:
        """Wait while the connection is paused, and give other connections a turn.

        Raises:
            ConnectionResetError: the connection was lost meanwhile.
        """
        await asyncio.sleep(0)
        if not self._writable.is_set():
            await self._writable.wait()
            if self._lost.is_set():
                raise ConnectionResetError

    async def finish(self, code: int, reason: str) -> None:
        """Make the host send the remaining frames and close; the connection is lost after `CLOSE_TIMEOUT_S`."""
        if self.ending is None:
            self.ending = code, reason
        self._wake_host()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._lost.wait()
        except TimeoutError:
            self.lose()  # its session ends, and then the host's task

    def lose(self) -> None:
        """Note that the connection is lost; frames received before are still read. Idempotent."""
        if not self._lost.is_set():
            self._lost.set()
            self._writable.set()
            self._inbox.put_nowait(None)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the ASGI server has not taken. Any loop."""
        return self._written_bytes - self._taken_bytes

    @property
    def _is_drained(self) -> bool:
        return self.unsent_bytes <= RESUME_BYTES

    def _resume(self) -> None:
        if self.subscriber.is_paused and self._is_drained:
            self._writable.set()
            self._core.pump.resume(self.subscriber)

    def _refuse_too_large(self) -> None:
        reason = f"a frame may have at most {frames.MAX_FRAME_BYTES:,} bytes"
        self.write(PreparedFrame(frames.Goodbye(code=MESSAGE_TOO_BIG, reason=reason)))
        self._core.tasks.spawn(self.finish(MESSAGE_TOO_BIG, reason))

    def _wake_host(self) -> None:
        if not self._is_awake:
            self._is_awake = True
            self._tell_host(self._wake.set)

    def _tell_host(self, function: Callable[[], object]) -> None:
        try:
            if self._host is self._core.loop:  # a tunnel's: a loop need not wake itself
                self._host.call_soon(function)
            else:
                self._host.call_soon_threadsafe(function)
        except RuntimeError:  # it is closed, with its connections
            self.lose()


async def converse(
    core: Gateway, peer: AsgiPeer, sending: Coroutine[Any, Any, None], receiving: Coroutine[Any, Any, None]
) -> None:
    """Run a connection until either side has ended it, and end its tasks. On the host's loop.

    `sending` ends when all frames were sent, or cannot be; `receiving` when the client has disconnected.
    """
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(_serving(core, peer))
        own = {group.create_task(sending), group.create_task(receiving)}
        try:
            await asyncio.wait({serving, *own}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            core.call(peer.lose)
            for task in own:
                task.cancel()


async def _serving(core: Gateway, peer: AsgiPeer) -> None:
    try:
        await call(core, lambda: _serve(core, peer))
    except NotServingError:
        pass


async def _serve(core: Gateway, peer: AsgiPeer) -> None:
    """Serve a connection until it is closed, counted by its address like those of the gateway's own port."""
    try:
        if core.counts.enter(peer.peer_address):
            await core.serve(peer)
    finally:
        core.counts.leave(peer.peer_address)
