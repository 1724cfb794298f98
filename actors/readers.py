"""Readers in the host, which follow an agent or wait for its end: fed from memory with what was committed.

An agent that has readers has a log of its recent messages; a reader is a cursor. It is given each next message from the
log while that continues its cursor, else a page of the store: the logic that subscribers have (`gateway/hub`). So a
slow reader costs a cursor, and a commit makes nobody read the store. Any thread.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import partial
from typing import Any, Final

from commitcast.actors.errors import RuntimeStoppedError
from commitcast.actors.kernel.loopcalls import wake_on_loop
from commitcast.actors.kernel.waiting import Signal
from commitcast.persistence.records import AgentRecord, Committed, Entry, MessageRecord, StatusChange
from commitcast.persistence.store import AgentPage, entry_size

LOG_BYTES: Final = 256 * 1024
"""Of the recent messages of one agent, as for its subscribers (`gateway/hub/log.py`)."""
ALL_LOGS_BYTES: Final = 64 * 1024 * 1024
"""Of all agents that have readers; each has an equal share at most."""
MESSAGE_BYTES: Final = 512
"""Of memory that a message takes beside its text."""
PAGE_BYTES: Final = 64 * 1024
"""Of a page of the store: all that a slow reader holds beside its cursor."""

Wake = Callable[[], object]


class AgentLog:
    """The recent messages of one agent, and the readers that wait for more."""

    def __init__(self) -> None:
        self.version = 0
        """How many commits it was given. Take it, look, and wait for a newer one: then no commit falls between."""
        self.is_over = False
        """Whether the agent has ended. Take it before a look: then the last message is here."""
        self.record: AgentRecord | None = None
        """Of the agent after its end, if the writer has returned it."""
        self.is_closed = False
        """Whether the runtime has stopped, so that nothing more comes."""
        self.failure: Exception | None = None
        """Why it is closed, if that is a failure of the runtime."""
        self.is_watched = False
        """Whether another runtime may have the agent, whose commits are told by `on_news`."""
        self.users = self.followers = 0
        """Kept by `Readers`. Messages are kept for followers alone."""
        self._recent: tuple[int, list[MessageRecord]] = (
            -1,
            [],
        )  # replaced as one, and appended to: read without the lock
        self._size = 0
        self._lock = threading.Lock()
        self._waiting: list[Wake] = []
        self._waiting_for_end: list[Wake] = []

    def next(self, after: int) -> MessageRecord | None:
        """Return the message that follows a sequence, if it is here."""
        start, messages = self._recent
        return messages[after - start] if 0 <= start <= after < start + len(messages) else None

    def continues(self, after: int) -> bool:
        """Whether every message after a sequence is here, or will be."""
        return 0 <= self._recent[0] <= after

    @property
    def is_waited_for(self) -> bool:
        """Whether a reader waits for the agent's end."""
        return bool(self._waiting_for_end)

    def publish(self, committed: Committed, replies: Sequence[Any], max_bytes: int) -> None:
        """Add what was committed, in order, and wake the readers.

        Args:
            committed: of this agent.
            replies: to its writes; the record of the agent may be among them.
            max_bytes: of the messages that are kept.
        """
        has_others = len(committed.entries) > committed.last - committed.previous  # beside messages
        ends = has_others and any(map(_is_end, committed.entries))
        if not self.followers and not ends:
            return  # see `begin`
        messages: Sequence[Any] = committed.entries if not has_others else committed.messages
        with self._lock:
            self._add(messages, committed, max_bytes)
            self.version += 1
            waiting, self._waiting = self._waiting, []
            if ends:
                self.record = next((reply for reply in replies if isinstance(reply, AgentRecord)), None)
                self.is_over = True
                waiting += self._waiting_for_end
                self._waiting_for_end = []
        for wake in waiting:
            wake()

    def note_news(self, is_end: bool) -> None:
        """Take note that another runtime has committed something of this agent, which is in the store."""
        with self._lock:
            self.version += 1
            self.is_over = self.is_over or is_end
            waiting, self._waiting = self._waiting, []
            if is_end:
                waiting += self._waiting_for_end
                self._waiting_for_end = []
        for wake in waiting:
            wake()

    def begin(self) -> None:
        """Forget what there is, before the first follower and after the last: without them nothing is added."""
        with self._lock:
            self._recent, self._size = (-1, []), 0

    def begin_after(self, last: int | None) -> None:
        """Begin after the last message, unless that is not known, or it has begun already."""
        with self._lock:
            if last is not None and self._recent[0] < 0:
                self._recent = (last, [])

    def _add(self, added: Sequence[MessageRecord], committed: Committed, max_bytes: int) -> None:
        start, messages = self._recent
        if start < 0 or start + len(messages) != committed.previous:
            self._recent = start, messages = committed.previous, []
            self._size = 0
        messages += added
        self._size += committed.size + MESSAGE_BYTES * len(added)
        if self._size > max_bytes:
            drop = 0
            while self._size > max_bytes // 2 and drop < len(messages):
                self._size -= entry_size(messages[drop]) + MESSAGE_BYTES
                drop += 1
            self._recent = start + drop, messages[drop:]

    def close(self, failure: Exception | None) -> None:
        """Wake all readers, because nothing more comes."""
        with self._lock:
            self.failure = failure
            self.is_closed = True
            waiting = self._waiting + self._waiting_for_end
            self._waiting, self._waiting_for_end = [], []
        for wake in waiting:
            wake()

    # Waiting for news: a newer version, or with None the agent's end; and that it is closed.

    def on_news(self, wake: Wake, version: int | None) -> bool:
        """Have `wake` called once, on any thread, when there is news; False if there is already. It must not block."""
        with self._lock:
            if self.is_over or self.is_closed or version not in (None, self.version):
                return False
            (self._waiting_for_end if version is None else self._waiting).append(wake)
            return True

    def forget(self, wake: Wake, version: int | None) -> None:
        """Do not call `wake` any more."""
        with self._lock, suppress(ValueError):  # it was called
            (self._waiting_for_end if version is None else self._waiting).remove(wake)

    def wait(self, version: int | None, timeout: float | None = None) -> bool:
        """Block until there is news; return False if there was none within `timeout` seconds."""
        arrived = Signal()
        if not self.on_news(arrived.set, version):
            return True
        try:
            return arrived.wait(timeout)
        finally:
            self.forget(arrived.set, version)

    async def wait_async(self, version: int | None, timeout: float | None = None) -> bool:
        """Await news; return False if there was none within `timeout` seconds."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()
        wake = partial(wake_on_loop, loop, partial(_arrive, arrived))
        if not self.on_news(wake, version):
            return True
        try:
            if timeout is None:
                await arrived
            else:
                await asyncio.wait([arrived], timeout=timeout)
        except BaseException:  # cancelled: `arrived` is then done too
            self.forget(wake, version)
            raise
        if not arrived.done():
            self.forget(wake, version)
            return False
        return True

    def _drop_in_child(self) -> None:
        self._lock = threading.Lock()


def _is_end(entry: Entry) -> bool:
    return isinstance(entry, StatusChange) and entry.status.is_terminal


def _arrive(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


class Step(Enum):
    """What a follower needs before its next message."""

    READ = auto()
    """The page of the store after its cursor, for `Follower.take`."""
    WAIT = auto()
    """News."""
    END = auto()
    """Nothing: the agent has ended, and every message was taken."""


class Follower:
    """A cursor over the messages of one agent. Neither blocks nor reads; its caller does."""

    def __init__(self, log: AgentLog, after: int) -> None:
        """Begin after a sequence."""
        self.after = after
        self.version = 0
        """Of the log at the last look."""
        self._log = log
        self._page: deque[MessageRecord] = deque()
        self._store_read_at: int | None = None
        """The version at which the store was read to its end."""
        self._store_has_end = False

    def next(self) -> MessageRecord | Step:
        """Return the next message, or what is needed before it.

        Raises:
            RuntimeStoppedError: the runtime has stopped before the agent's end.
        """
        version, is_over, is_closed = self._log.version, self._log.is_over, self._log.is_closed  # before the look
        message = self._page.popleft() if self._page else self._log.next(self.after)
        if message is not None:
            self.after = message.sequence
            return message
        self.version = version
        if not self._log.continues(self.after) and self._store_read_at != version:
            return Step.READ
        if is_over or self._store_has_end:
            return Step.END
        if is_closed:
            raise RuntimeStoppedError.after(self._log.failure)
        return Step.WAIT

    def take(self, page: AgentPage) -> None:
        """Take the page that was needed."""
        self._page.extend(entry for entry in page.entries if isinstance(entry, MessageRecord))
        if page.at_end:
            self._store_read_at = self.version
            self._store_has_end = any(map(_is_end, page.entries))


class Readers:
    """The logs of the agents that have readers, for as long as they have."""

    def __init__(
        self,
        owns: Callable[[str], bool] = lambda agent: True,
        watch: Callable[[str, bool], object] = lambda agent, is_on: None,
    ) -> None:
        """Make it.

        Args:
            owns: whether an agent that has not ended is at work in this runtime.
            watch: begins or stops having `on_news` called when another runtime commits something of an agent.
        """
        self._owns = owns
        self._watch = watch
        self._lock = threading.Lock()
        self._is_closed = False
        self._failure: Exception | None = None
        self._logs: dict[str, AgentLog] = {}
        self.get: Final = self._logs.get
        """Return the log of an agent, if it has readers. Any thread."""

    @contextmanager
    def of(self, agent: str, *, follows: bool) -> Iterator[AgentLog]:
        """Use the log of an agent, to follow its messages or only to wait for its end."""
        with self._lock:
            log = self._logs.setdefault(agent, AgentLog())
            log.users += 1
            if log.users == 1 and not self._owns(agent):
                log.is_watched = True  # from before the first read of the store
                self._watch(agent, True)
            if follows and not log.followers:
                log.begin()
            log.followers += follows
            log.is_closed, log.failure = self._is_closed, self._failure
        try:
            yield log
        finally:
            with self._lock:
                log.users -= 1
                log.followers -= follows
                if follows and not log.followers:
                    log.begin()
                if not log.users:
                    del self._logs[agent]
                    if log.is_watched:
                        self._watch(agent, False)

    def on_news(self, agent: str, is_end: bool) -> None:
        """Take note that another runtime has committed something of an agent, or its end. Any thread."""
        if (log := self._logs.get(agent)) is not None:
            log.note_news(is_end)

    @property
    def share_bytes(self) -> int:
        """How many bytes of messages the log of each agent may keep."""
        return min(LOG_BYTES, ALL_LOGS_BYTES // (len(self._logs) or 1))

    def close(self, failure: Exception | None = None) -> None:
        """Wake all readers, because nothing more comes; `failure` is why, unless the host has stopped the runtime."""
        with self._lock:
            self._is_closed, self._failure = True, failure
            logs = list(self._logs.values())
        for log in logs:
            log.close(failure)

    def _drop_in_child(self) -> None:
        """Let a wait in a child end without another error than the store's."""
        self._lock = threading.Lock()
        for log in self._logs.values():
            log._drop_in_child()
