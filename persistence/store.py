"""The interface of every store: `Reader`, which any part may have, and `Store`, whose `commit` the writer alone calls.

A store owns its file or server, gives out sequences and positions, and is the only maker of `Committed`. It must never
report as stored what a crash can undo. `tests/persistence/contract` proves it of each store.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from commitcast.persistence.deprecation import renamed_names
from commitcast.persistence.records import AgentRecord, AgentStatus, Entry, MessageRecord, StatusChange
from commitcast.persistence.writes import AgentWrites, Outcome, text_size, texts_size

PAGE_ROWS: Final = 256
PAGE_BYTES: Final = 256 * 1024
"""Bounds of an ordinary page. Short, so that a commit never waits long for a reader."""
MAX_PAGE_BYTES: Final = 1024 * 1024
"""A page of agents ends with the record that passes this, so a larger record is still read."""
READERS: Final = 4
"""Pages that are read at once. More do not read faster under one interpreter lock."""
MAX_PROBLEMS: Final = 1_000
"""Problems that a verification lists; further ones are counted."""

Progress = Callable[[int, int], object]
"""Called during a long operation with the units done and the units in all."""


class ResolvedCursor(msgspec.Struct, frozen=True):
    """A cursor of one agent's log, checked against the store, with the agent's record as it was then."""

    record: AgentRecord
    position: int
    """Of the message after which the subscriber continues; of the agent's last entry if it begins at the tail."""
    epoch: str
    """Of a cursor that is given out now."""


class Head(NamedTuple):
    """The end of an agent's log, or of the log of all agents."""

    sequence: int
    """Of the last message; in the log of all agents, the position."""
    position: int
    """Of the last entry, a message or not."""


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
"""Ids from the first up to, but not including, the second, compared as bytes."""


def entry_size(entry: Entry) -> int:
    """Return the bytes of text in UTF-8 and of raw bytes in an entry, for bounds on memory such as that on pages.

    Encoded as JSON it may be up to six times as long; what is sent is bounded where it is encoded.
    """
    if isinstance(entry, MessageRecord):
        # Written out, because each page of a replay asks for it twice: a twentieth of the gateway's time.
        content, metadata, raw = entry.content, entry.metadata_json, entry.raw
        size = len(content) if content.isascii() else text_size(content)
        if metadata is not None:
            size += text_size(metadata)
        return size if raw is None else size + len(raw)
    if isinstance(entry, AgentRecord):
        error = texts_size(entry.error_name, entry.error_message)
        return error + texts_size(entry.prompt, entry.configuration_json, entry.result_json)
    if isinstance(entry, StatusChange):
        return texts_size(entry.reason, entry.error_name, entry.error_message, entry.result_json)
    return 0


class Report(msgspec.Struct):
    """The result of `verify`."""

    path: str
    """Display name of the store."""
    agents: int = 0
    messages: int = 0
    transitions: int = 0
    """Changes of status."""
    position: int = 0
    """The last position that was given out."""
    problems: list[str] = []
    """One sentence each; empty for a sound store."""
    more_problems: int = 0
    """Problems beyond the first `MAX_PROBLEMS`."""
    notes: list[str] = []
    """What is not a problem, but was not checked or will change at the next start."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, problem: str) -> None:
        """Add a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more_problems += 1


class Reader(Protocol):
    """Reads what is committed. The gateway and the handles are given a `Reader`, so they cannot write."""

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

    def resolve_cursor(self, agent: str, after: int | None, epoch: str | None = None) -> ResolvedCursor:
        """Check a cursor, and return the agent's record and the position that belongs to it.

        Args:
            agent: its id.
            after: the sequence that it continues after; None for the end.
            epoch: that its cursor was given out with; None if it does not know.

        Raises:
            AgentNotFoundError: there is no such agent.
            StaleEpochError: the cursor is of another history.
        """

    def entries(
        self, agent: str, sequence: int, position: int, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES
    ) -> AgentPage:
        """Return a page of messages and changes of status after a cursor.

        Args:
            agent: its id.
            sequence: of the last message before the page.
            position: of the last entry before the page.
            limit: messages at most.
            max_bytes: the page ends with the message that passes this.

        Raises:
            AgentNotFoundError: there is no such agent.
        """

    def feed(self, after: int, limit: int = PAGE_ROWS, max_bytes: int = PAGE_BYTES) -> FeedPage:
        """Return a page of everything after a position, over all agents."""

    def heads(self, agents: Iterable[str]) -> dict[str, Head]:
        """Return where the log of each of these agents ends; agents that do not exist are left out."""

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
            One outcome for each, in order. A refused write fails alone: its reply is its error.

        Raises:
            NotStoredError: nothing of it is on disk; try again or give up.
            StoreUnknownError: it may be on disk. Publish nothing of it, and stop.

        Durability: what the outcomes call committed survives a power cut.
        Threads: one thread only.
        """

    def abandon_waiting(self) -> None:
        """Make a commit give up that waits for something outside: another program's lock, a server. For the stop.

        The commit under way, and each later one, is still tried once; where it would have to wait it raises
        `NotStoredError`; so does a read that would have to wait, with a `StoreError`. What need not wait goes on. A
        store that never waits has nothing to do; one that wraps another store forwards the call. Idempotent.

        Threads: any, also before `open` and after `close`; returns at once.
        """

    def backup(self, path: str | os.PathLike[str], progress: Progress = ...) -> None:
        """Copy everything that is committed into a new file, while the store is in use.

        Args:
            path: of the copy, which must not exist.
            progress: called at intervals with the units done and the units in all.

        Raises:
            StorePathError: the copy exists already, its folder does not, or SQLite cannot use its name.
            StoreError: the copy failed and was removed.

        Durability: on return the copy is on disk.
        Threads: any but the writer's; blocks until it is done. Commits come between its steps.
        """

    def verify(self, *, deep: bool = False, progress: Progress = ...) -> Report:
        """Verify what is stored while the store is in use.

        * Each agent's messages have the sequences 1, 2, 3, … up to the head in the agent's record, and none beyond.
        * Each message is byte for byte what was stored: its checksum covers every field.
        * Over all agents, each position from 1 to the counter was given exactly once; positions are missing only if an
          agent was deleted. Within one agent, positions rise with the sequence.
        * Each agent's changes of status form a path that the lifecycle allows, end in the status of its record, and
          stand between the messages that they came between.
        * The runs of the store began in order, none after the end.

        Args:
            deep: include checks that make commits wait.
            progress: called at intervals with the units done and the units in all.

        Raises:
            StoreOpenError: it cannot be read.

        Threads: any but the writer's; blocks until it is done. Commits come between its steps.
        """


if not TYPE_CHECKING:  # a type checker would believe that every name exists
    __getattr__ = renamed_names(__name__, {"Standing": "ResolvedCursor"})
