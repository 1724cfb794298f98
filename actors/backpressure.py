"""Back-pressure: limits the unacknowledged messages and bytes, per agent and per runtime.

Credit is acquired when a message is queued and released when it is acknowledged. There is one count for each agent
that has unacknowledged messages, and one for the whole runtime, under one lock, which releasing does not take: what is
released is counted by the next who looks. A sender at a bound blocks, is refused, or awaits; nothing is dropped.
Waiting senders are woken when half of the bound is free, so that a busy agent does not switch threads for every
message. Any thread; on an event loop only the calls that do not block.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, Protocol

import msgspec

from commitcast.actors.errors import AgentBackpressureError
from commitcast.actors.kernel.future import remaining
from commitcast.actors.kernel.loopcalls import call_on_loop
from commitcast.actors.kernel.waiting import Signal
from commitcast.persistence.fork import GONE

AGENT_MESSAGES: Final = 1_024
AGENT_BYTES: Final = 8 * 1024 * 1024
"""For one agent: about a quarter of a full batch, so that a few busy agents keep the writer busy."""
RUNTIME_MESSAGES: Final = 65_536
RUNTIME_BYTES: Final = 64 * 1024 * 1024
"""For all agents together: sixteen full batches, about 30 MB. This much a runtime holds while the disk stalls."""

Call = Callable[[], object]


class GivenUp(Protocol):
    """A flag that is set once, on any thread, when a sender is not to wait any longer."""

    def is_set(self) -> bool:
        """Whether it is set."""

    def on_set(self, callback: Call) -> None:
        """Call `callback` once when it is set; at once if it is."""

    def forget(self, callback: Call) -> None:
        """Do not call `callback` any more."""


class _Count(msgspec.Struct, gc=False):
    """The unacknowledged messages of one agent or of all, and the callbacks of the senders that wait for credit."""

    messages: int = 0
    size: int = 0
    waiting: list[Call] | None = None


class CreditLimiter:
    """Counts messages and bytes under the bounds of one runtime."""

    def __init__(
        self,
        *,
        agent_messages: int = AGENT_MESSAGES,
        agent_bytes: int = AGENT_BYTES,
        all_messages: int = RUNTIME_MESSAGES,
        all_bytes: int = RUNTIME_BYTES,
    ) -> None:
        """Set the bounds.

        Args:
            agent_messages: unacknowledged messages that one agent may have.
            agent_bytes: their bytes; a message larger than this passes when it is alone.
            all_messages: unacknowledged messages of all agents together.
            all_bytes: their bytes; here too a larger message passes when it is alone.
        """
        self._agent_messages = agent_messages
        self._agent_bytes = agent_bytes
        self._all_messages = all_messages
        self._all_bytes = all_bytes
        self._lock = threading.Lock()
        self._all = _Count()
        self._counts: dict[str, _Count] = {}  # of the agents with unacknowledged messages
        self._released: deque[tuple[str, int, int]] = deque()
        """What is still to be taken off the counts. To do so at once, the thread that acknowledges would wait for the
        senders' lock: a chain of 256 busy agents was a tenth slower."""
        self._waiters = 0
        """Senders that wait."""

    @property
    def messages(self) -> int:
        """How many messages of all agents are unacknowledged."""
        self._settle()
        return self._all.messages

    @property
    def size(self) -> int:
        """How many bytes they have."""
        self._settle()
        return self._all.size

    @property
    def has_waiters(self) -> bool:
        """Whether a sender waits for credit."""
        return bool(self._waiters)

    def is_idle(self, agent: str) -> bool:
        """Whether an agent has no unacknowledged message."""
        self._settle()
        return agent not in self._counts

    def try_acquire(self, agent: str, size: int, freed: Call | None = None) -> bool:
        """Count one message of `size` bytes if the bounds allow it; if not, call `freed` when it is to be tried again.

        That call comes once, on any thread, and must not block.
        """
        if self._released:
            self._settle()
        with self._lock:
            count, all = self._counts.get(agent), self._all
            if count is not None and (count.messages >= self._agent_messages or count.size + size > self._agent_bytes):
                full = count
            elif all.messages and (all.messages >= self._all_messages or all.size + size > self._all_bytes):
                full = all
            else:
                if count is None:
                    count = self._counts[agent] = _Count()
                count.messages += 1
                count.size += size
                all.messages += 1
                all.size += size
                return True
            if freed is None:
                return False
            full.waiting = [*(full.waiting or ()), freed]
            self._waiters += 1
        self._settle()  # what was released between the two looks: who did it saw nobody wait
        return False

    def force_acquire(self, agent: str, size: int) -> None:
        """Count one message whatever the bounds: for the few that the runtime itself adds."""
        with self._lock:
            for count in (self._counts.get(agent) or self._counts.setdefault(agent, _Count()), self._all):
                count.messages += 1
                count.size += size

    def acquire(
        self,
        agent: str,
        size: int,
        timeout_s: float | None,
        *,
        instead: str = "aemit",
        given_up: GivenUp | None = None,
    ) -> bool:
        """Count one message, waiting until the bounds allow it. Blocks.

        Args:
            agent: that it is for.
            size: its bytes.
            timeout_s: how long to wait; 0 does not block; None waits for ever.
            instead: the asynchronous method that the error names.
            given_up: ends the waiting when it is set.

        Returns:
            Whether it was counted; False if `given_up` is set.

        Raises:
            AgentBackpressureError: the bounds did not allow it within `timeout_s`; nothing was counted.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while given_up is None or not given_up.is_set():
            freed = Signal()
            call = partial(_set, freed)
            if self.try_acquire(agent, size, None if timeout_s == 0 else call):
                return True
            if timeout_s == 0:
                raise AgentBackpressureError(agent, instead)
            with self._waiting_with(agent, call, given_up):
                is_freed = freed.wait(remaining(deadline))
            if not is_freed:
                raise AgentBackpressureError(agent, instead)
        return False

    async def acquire_async(self, agent: str, size: int, given_up: GivenUp | None = None) -> bool:
        """Count one message, awaiting until the bounds allow it. Cancelling is safe: nothing was counted.

        Returns:
            Whether it was counted; False if `given_up` is set, which ends the waiting.
        """
        if (given_up is None or not given_up.is_set()) and self.try_acquire(agent, size):
            return True
        loop = asyncio.get_running_loop()
        while given_up is None or not given_up.is_set():
            freed = asyncio.Event()
            call = partial(call_on_loop, loop, freed.set)
            if self.try_acquire(agent, size, call):
                return True
            with self._waiting_with(agent, call, given_up):
                await freed.wait()
        return False

    @contextmanager
    def _waiting_with(self, agent: str, call: Call, given_up: GivenUp | None) -> Iterator[None]:
        """Have `call` called by `given_up` too; afterwards by neither, however the waiting ended."""
        try:
            if given_up is not None:
                given_up.on_set(call)
            yield
        finally:
            if given_up is not None:
                given_up.forget(call)
            self._forget(agent, call)

    def release(self, agent: str, messages: int, size: int) -> None:
        """Give back what was counted."""
        self._released.append((agent, messages, size))
        if self._waiters:
            self._settle()

    def _settle(self) -> None:
        """Take what was released off the counts, and wake who waits for it."""
        calls: list[Call] = []
        with self._lock:
            while self._released:
                agent, messages, size = self._released.popleft()
                own = self._counts[agent]
                for count, max_messages, max_size in (
                    (own, self._agent_messages, self._agent_bytes),
                    (self._all, self._all_messages, self._all_bytes),
                ):
                    count.messages -= messages
                    count.size -= size
                    assert count.messages >= 0 and count.size >= 0
                    if count.waiting and count.messages <= max_messages // 2 and count.size <= max_size // 2:
                        calls += count.waiting
                        count.waiting = None
                if not own.messages:
                    assert not own.size
                    del self._counts[agent]
            self._waiters -= len(calls)
        for call in calls:
            call()

    def _drop_in_child(self) -> None:
        self._lock = GONE

    def _forget(self, agent: str, call: Call) -> None:
        with self._lock:
            for count in (self._counts.get(agent), self._all):
                if count is not None and count.waiting is not None and call in count.waiting:
                    count.waiting.remove(call)
                    self._waiters -= 1


def _set(freed: Signal) -> None:
    with suppress(RuntimeError):  # it is set already: there was room, and the sender is to give up
        freed.set()
