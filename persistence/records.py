"""Stored values: agents, messages, changes of status, and `Committed`, the proof of a commit.

Immutable; made by the store from what it wrote or read, and read by every package above. Fields hold text, numbers,
bytes and tuples only, so a record can be passed to any thread. JSON values are kept as the stored text and decoded on
each access, so that changing a decoded dict does not change the record.
"""

from enum import StrEnum
from typing import Any, Final, Self, final

import msgspec

from commitcast.persistence.deprecation import renamed_attribute

MESSAGE_TYPES: Final = ("assistant", "user", "system", "error", "tool", "response")
CONTENT_TYPES: Final = ("text", "json")


class AgentStatus(StrEnum):
    """The state of an agent's lifecycle. The value is what is stored and sent."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TERMINATED = "terminated"

    is_terminal: bool
    """Whether nothing can follow this status."""


for _status in AgentStatus:
    _status.is_terminal = _status.value in ("completed", "failed", "terminated")


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One agent as stored."""

    id: str
    epoch: str
    """Random per launch: distinguishes agents that had the same id."""
    position: int
    """The position of its creation."""
    type: str
    status: AgentStatus
    head: int
    """Sequence of its last message, 0 if it has none."""
    prompt: str
    created_at: str
    started_at: str | None = None
    completed_at: str | None = None
    error_name: str | None = None
    error_message: str | None = None
    idempotency_key: str | None = None
    pid: int | None = None
    pid_started: str | None = None
    configuration_json: str = "{}"
    result_json: str | None = None

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration, decoded anew on each access."""
        value: dict[str, Any] = msgspec.json.decode(self.configuration_json)
        return value

    @property
    def result(self) -> Any:
        """The result that `complete` was given, decoded anew on each access; None if there is none."""
        return None if self.result_json is None else msgspec.json.decode(self.result_json)


class MessageRecord(msgspec.Struct, frozen=True, gc=False):
    """One message as stored. `content` is always text; `content_type` says whether it is a JSON document."""

    agent: str
    sequence: int
    position: int
    type: str
    role: str | None
    content: str
    content_type: str
    created_at: str
    metadata_json: str | None = None
    raw: bytes | None = None
    key: str | None = None

    @property
    def metadata(self) -> dict[str, Any] | None:
        """The metadata, decoded anew on each access."""
        if self.metadata_json is None:
            return None
        value: dict[str, Any] = msgspec.json.decode(self.metadata_json)
        return value

    def json(self) -> Any:
        """Return the content decoded from JSON.

        Raises:
            ValueError: the content is text.
        """
        if self.content_type != "json":
            raise ValueError(f"message {self.sequence} of agent {self.agent!r} is text, not JSON: use .content")
        return msgspec.json.decode(self.content)


class StatusChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One change of an agent's status as stored."""

    agent: str
    position: int
    previous: AgentStatus
    status: AgentStatus
    sequence: int
    """Sequence of the last message before it, 0 if there was none."""
    at: str
    reason: str | None = None
    error_name: str | None = None
    error_message: str | None = None
    result_json: str | None = None


class AgentDeletion(msgspec.Struct, frozen=True, kw_only=True):
    """An agent was deleted with all its messages."""

    agent: str
    position: int
    at: str


Entry = AgentRecord | MessageRecord | StatusChange | AgentDeletion
"""A stored value with a position: what a subscriber to all agents can receive."""


class _MadeByPersistence(type):
    """Refuses construction by call, so that an instance proves that a store has made it."""

    def __call__(cls, *_args: object, **_kwargs: object) -> Any:
        raise TypeError(f"{cls.__name__} cannot be created directly: a store returns it from `commit`")


@final
class Committed(metaclass=_MadeByPersistence):
    """Proof that one agent's part of a transaction is on disk, with its entries.

    Made by a store after its COMMIT returned; the gateway publishes nothing else. Covers the sequences
    (`previous`, `last`] of the agent, and consecutive positions over all agents.
    """

    __slots__ = ("agent", "committed_ns", "entries", "epoch", "last", "previous", "previous_entry_position", "size")

    agent: str
    epoch: str
    previous: int
    last: int
    previous_entry_position: int
    """Of the agent's entry before these, 0 if there was none: it shows whether one is missing."""
    entries: tuple[Entry, ...]
    size: int
    """Bytes of content, metadata and raw."""
    committed_ns: int
    """When its COMMIT returned, of `time.monotonic_ns`."""

    follows: int = renamed_attribute("follows", "previous_entry_position")

    @classmethod
    def _of(
        cls,
        agent: str,
        epoch: str,
        previous: int,
        last: int,
        previous_entry_position: int,
        entries: tuple[Entry, ...],
        size: int,
        committed_ns: int,
    ) -> Self:
        self = object.__new__(cls)
        self.agent = agent
        self.epoch = epoch
        self.previous = previous
        self.last = last
        self.previous_entry_position = previous_entry_position
        self.entries = entries
        self.size = size
        self.committed_ns = committed_ns
        return self

    @property
    def previous_position(self) -> int:
        """The position just before the first entry, over all agents."""
        return self.entries[0].position - 1

    @property
    def last_position(self) -> int:
        """The position of the last entry, over all agents."""
        return self.entries[-1].position

    @property
    def created(self) -> AgentRecord | None:
        """The agent's record if this transaction created it."""
        first = self.entries[0]
        return first if isinstance(first, AgentRecord) else None

    @property
    def messages(self) -> tuple[MessageRecord, ...]:
        """The messages, in order of sequence."""
        return tuple(entry for entry in self.entries if isinstance(entry, MessageRecord))

    @property
    def changes(self) -> tuple[StatusChange, ...]:
        """The changes of status, in order."""
        return tuple(entry for entry in self.entries if isinstance(entry, StatusChange))

    def __repr__(self) -> str:
        return f"<Committed {self.agent} ({self.previous}, {self.last}] at {self.last_position}>"
