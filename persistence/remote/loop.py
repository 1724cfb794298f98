"""An event loop of descriptors on one thread, for the connections between a host and its server.

asyncio's loop spends some 30 us on each event, which all agents of a host would wait for; this one spends about 5. Owns
the thread's wait and the calls that other threads want made on it. Linux: epoll.
"""

import heapq
import itertools
import logging
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from commitcast.persistence.errors import LinkError
from commitcast.persistence.remote.own_socket import OwnSocket
from commitcast.persistence.remote.system_calls import Receiver

logger: Final = logging.getLogger(__name__)

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT

GONE: Final = 0
"""What a handler gets instead of events when nothing is watched any more, because the host has closed descriptors that
are not its own."""

CHECK_S: Final = 1.0
"""Between two looks whether the host has done that: the kernel says nothing."""
_WAKE_BYTES: Final = 4_096
_GONE_POLL_S: Final = 0.02
"""Between two looks for calls when none can wake the thread any more."""
_not_ours: Final[list[select.epoll]] = []
"""Those whose number may be another file's. They are kept: to collect one closes its number."""

OnEvents = Callable[[int], object]
"""Takes the events of a descriptor, as epoll has them."""


class Timer:
    """A call that is due later."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], object]) -> None:
        self.due = due
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Do not make the call. Idempotent."""
        self.call = None


class Loop:
    """Watches descriptors, makes calls of other threads, and calls what is due. `run` is its thread."""

    def __init__(self, after_events: Callable[[], object] = lambda: None) -> None:
        """Make a loop.

        Args:
            after_events: called after each round of events, when each ready descriptor was handled.
        """
        self.after_events = after_events
        self._epoll = select.epoll()
        self._handlers: dict[int, OnEvents] = {}
        self._calls: deque[Callable[[], object]] = deque()
        # Sockets: an eventfd would write into a file that has its number, once the host has closed what is not its own.
        self._woken, self._waking = map(OwnSocket, socket.socketpair())
        self._wakes = Receiver(_WAKE_BYTES)
        self._epoll.register(self._woken.descriptor, READ)
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._is_stopping = False
        self._is_closed = False
        self._is_gone = False
        self._thread: int | None = None
        self._is_polling = False

    # Any thread.

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop's thread, soon and in order, unless it has ended. Also for signal handlers."""
        self._calls.append(function)
        is_elsewhere = self._is_polling or self._thread != threading.get_ident()  # the former in a signal handler
        if is_elsewhere and not self._is_closed:
            with suppress(OSError, LinkError):  # the thread finds out by itself, and makes the call then
                self._waking.send(b"\0")

    def stop(self) -> None:
        """End `run` after what is under way."""
        self.call(self._stop)

    def watch(self, descriptor: int, on_events: OnEvents, events: int = READ) -> None:
        """Begin to watch a descriptor: `on_events` is called on the loop's thread."""
        self._handlers[descriptor] = on_events
        self._epoll.register(descriptor, events)

    def change(self, descriptor: int, events: int) -> None:
        """Watch a descriptor for other events."""
        with suppress(OSError):  # the host has closed it: the thread finds out
            self._epoll.modify(descriptor, events)

    # On the loop's thread.

    def forget(self, descriptor: int) -> None:
        """Stop watching a descriptor, before it is closed. Idempotent."""
        if self._handlers.pop(descriptor, None) is not None:
            with suppress(OSError):  # the host has closed it
                self._epoll.unregister(descriptor)

    def call_later(self, delay_s: float, function: Callable[[], object]) -> Timer:
        """Call a function after a time. Before `run` on any thread."""
        timer = Timer(time.monotonic() + delay_s, function)
        heapq.heappush(self._timers, (timer.due, next(self._numbers), timer))
        return timer

    def run(self) -> None:
        """Watch until the stop."""
        self._thread = threading.get_ident()
        while not self._is_stopping:
            due_s = self._timers[0][0] - time.monotonic() if self._timers else CHECK_S
            for descriptor, events in self._poll(0 if self._calls else min(max(due_s, 0.0), CHECK_S)):
                if descriptor == self._woken.descriptor:
                    self._woken.receive(self._wakes)
                elif (handler := self._handlers.get(descriptor)) is not None:  # None: an earlier one has closed it
                    _attempt(handler, events)
            for _ in range(len(self._calls)):
                _attempt(self._calls.popleft())
            self._fire()
            _attempt(self.after_events)

    def _poll(self, timeout_s: float) -> list[tuple[int, int]]:
        if self._is_gone:
            time.sleep(min(timeout_s, _GONE_POLL_S))
            return []
        self._is_polling = True
        try:
            ready = self._epoll.poll(timeout_s)
        except OSError:  # its number is closed, or another file's
            ready = []
            self._is_gone = True
        self._is_polling = False
        self._is_gone = self._is_gone or not self._is_intact()
        return [(descriptor, GONE) for descriptor in self._handlers] if self._is_gone else ready

    def _is_intact(self) -> bool:
        return not self._is_gone and self._woken.is_ours() and self._waking.is_ours()

    def close(self) -> None:
        """Close what it holds, after `run`. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            if self._is_intact():
                self._epoll.close()
            else:
                _not_ours.append(self._epoll)
            self._woken.close()
            self._waking.close()

    def drop_in_child(self) -> list[int]:
        """Forget what it holds, in a forked child; return the descriptors. A thread of its own that has forked ends."""
        if self._is_closed:
            return []
        self._is_closed = self._is_stopping = True
        if self._is_intact():
            return [self._epoll.fileno(), self._woken.drop(), self._waking.drop()]
        _not_ours.append(self._epoll)
        return []

    def _stop(self) -> None:
        self._is_stopping = True

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                _attempt(call)


def _attempt(function: Callable[..., object], *arguments: object) -> None:
    try:
        function(*arguments)
    except Exception:  # a defect of ours must not end the thread: other connections need it
        logger.exception("a call on the loop of connections failed")
