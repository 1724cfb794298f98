"""What every store can do: `Reader`, which anybody may have, and `Store`, whose `commit` the DatabaseActor alone calls.

`SqliteStore` is the one in the box. A store owns its file or server, gives sequences and positions, and is the only
maker of `Committed`. It must never report as stored what a crash can take back.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from commitcast.persistence.records import AgentRecord, AgentStatus, Entry, MessageRecord, StatusChange
from commitcast.persistence.verify import Report
from commitcast.persistence.writes import AgentWrites, Outcome, text_size

PAGE_ROWS = 256
PAGE_BYTES = 256 * 1024
"""The ordinary page: short enough that nobody waits long for its reader."""
MAX_PAGE_BYTES = 1024 * 1024
"""A page of agents ends with the one that passes this, so one larger than it is still read."""


class Standing(msgspec.Struct, frozen=True):
    """Where an agent stands, and where a subscriber to it begins."""

    record: AgentRecord
    position: int
    """Of the message after which the subscriber continues; of the agent's last entry if it begins at the tail."""
    epoch: str
    """Of a cursor that is given out now."""


class Head(NamedTuple):
    """The end of an agent's log, or of all."""

    sequence: int
    """Of its last message; of the log of all agents, the position."""
    position: int
    """Of its last entry, message or not."""


class AgentPage(msgspec.Struct, frozen=True):
    """Consecutive entries of one agent: messages, and the changes of status between them."""

    entries: list[Entry]
    at_end: bool
    """Nothing more was stored when the page was read."""
    epoch: str
    """Of the agent: another one's may have its id now."""


class FeedPage(msgspec.Struct, frozen=True):
    """Consecutive entries of all agents: everything in (after, `last`] that has not been deleted since."""

    entries: list[Entry]
    last: int
    at_end: bool


IdRange = tuple[str, str]
"""Ids from the first up to, and without, the second, by the bytes that they are made of."""


def agent_size(record: AgentRecord) -> int:
    """Return the bytes of text that a record holds, for the bound on pages."""
    texts = record.prompt, record.configuration_json, record.result_json or "", record.error_message or ""
    return sum(map(text_size, texts))


def entry_size(entry: Entry) -> int:
    """Return the bytes of text that an entry holds, for the bound on pages."""
    if isinstance(entry, MessageRecord):
        return text_size(entry.content) + text_size(entry.metadata_json or "") + len(entry.raw or b"")
    if isinstance(entry, AgentRecord):
        return agent_size(entry)
    if isinstance(entry, StatusChange):
        return sum(text_size(text or "") for text in (entry.reason, entry.error_message, entry.result_json))
    return 0


class Reader(Protocol):
    """Reads what is committed. The gateway and the handles are given this much of a store: they cannot write."""

    @property
    def name(self) -> str:
        """Display name for logs and errors, e.g. the path of the file."""

    @property
    def waits_for(self) -> str | None:
        """Why the last commit is kept waiting (a full disk, another program's lock); None if it is not."""

    def agent(self, agent: str) -> AgentRecord | None:
        """Return one agent's record, or None if there is none."""

    def launched(self, idempotency_key: str) -> AgentRecord | None:
        """Return the agent that was created under a key, or None if there is none."""

    def agents(
        self,
        status: AgentStatus | None = None,
        after: int = 0,
        limit: int = PAGE_ROWS,
        *,
        newest: bool = False,
        within: Sequence[IdRange] | None = None,
    ) -> list[AgentRecord]:
        """Return records in order of creation, those whose position is beyond `after`.

        With `newest` in the opposite order, those whose position is below `after`, or all if that is 0; with `within`
        only those whose id is in one of the ranges. A page of very large agents may be shorter than `limit`, but is
        empty only at the end.
        """

    def messages(
        self, agent: str, after: int = 0, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES
    ) -> list[MessageRecord]:
        """Return a page of messages after a sequence; empty at the end. Raises `AgentNotFoundError`."""

    def keyed(self, agent: str, key: str) -> MessageRecord | None:
        """Return the message of an agent that was stored under a key, or None if there is none."""

    def standing(self, agent: str, after: int | None, epoch: str | None = None) -> Standing:
        """Return where an agent stands and where a subscriber begins.

        Args:
            agent: its id.
            after: the sequence that it continues after; None for the end.
            epoch: that its cursor was given out with; None if it does not know.

        Raises:
            AgentNotFoundError: there is no such agent.
            StaleEpochError: the cursor is of another history.
        """

    def entries(self, agent: str, sequence: int, position: int) -> AgentPage:
        """Return a page of messages and changes of status after a cursor. Raises `AgentNotFoundError`."""

    def feed(self, after: int) -> FeedPage:
        """Return a page of everything after a position, over all agents."""

    def heads(self, agents: Iterable[str]) -> dict[str, Head]:
        """Return where the log of each of these agents ends; of one that does not exist, nothing."""

    def position(self, after: int | None = None, epoch: str | None = None) -> tuple[int, str]:
        """Return the last position of all, and the epoch of a cursor over all that is given out now.

        Raises:
            StaleEpochError: `after`, which was given out with `epoch`, is a position of another history.
        """


class Store(Reader, Protocol):
    """Durable agents and messages."""

    def open(self) -> None:
        """Open for writing and take the lock. Raises `StoreOpenError` and touches nothing if it cannot."""

    def close(self) -> None:
        """Close everything and give the lock back. Idempotent."""

    def commit(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Write everything in one transaction and return once it is on disk.

        Args:
            work: at most one `AgentWrites` for each agent; at least one write in each.

        Returns:
            One outcome for each, in order. A refused write fails alone, with its error in place of its reply.

        Raises:
            NotStoredError: nothing of it is on disk; try again or give up.
            StoreUnknownError: it may be on disk. Say nothing of it to anybody, and stop.

        Durability: what the outcomes call committed survives a power cut.
        Threads: one thread only.
        """

    def backup(self, path: str | os.PathLike[str], progress: Callable[[int, int], object] = ...) -> None:
        """Copy everything that is committed into a new file, while the store is in use.

        Args:
            path: of the copy, which must not exist.
            progress: called now and then with what is done and what there is in all.

        Raises:
            StorePathError: the copy exists already, its folder does not, or SQLite cannot use its name.
            StoreError: it could not be made; nothing is left of it.

        Durability: on return the copy is on disk.
        Threads: any but the writer's; blocks until it is done. Commits come between its steps.
        """

    def verify(self, *, deep: bool = False, progress: Callable[[int, int], object] = ...) -> Report:
        """Prove what is stored, also while the store is in use.

        Args:
            deep: check also what makes commits wait.
            progress: called now and then with what is done and what there is in all.

        Raises:
            StoreOpenError: it cannot be read.

        Threads: any but the writer's; blocks until it is done. Commits come between its steps.
        """
