"""The outcome of a batch on its way back: the server sends positions, and the host makes the records of its own writes.

A host has what it sent. So a message is not sent back, but made a record with the sequence and position that it was
given, which are consecutive for the entries of one agent in a transaction. Must give exactly the outcome that the store
has returned. Pure.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from commitcast.persistence.records import Committed, Entry, MessageRecord
from commitcast.persistence.remote.failures import error_of, failure_of
from commitcast.persistence.remote.frames import Failure, Part
from commitcast.persistence.remote.values import pack_record, unpack_record
from commitcast.persistence.writes import AgentWrites, NewAgent, NewMessage, NewStatus, Outcome, Write

# In the server.


def part_of(work: AgentWrites, outcome: Outcome) -> Part:
    """Return what the host needs to make the outcome of its writes again."""
    committed = outcome.committed
    if committed is not None and len(committed.entries) == len(work.writes) and work.only_plain_messages():
        return Part(*place_of(committed))
    return Part(*place_of(committed), outcome.refused, packed_replies(work, outcome))


def place_of(committed: Committed | None) -> tuple[str, int, int, int]:
    """Return where entries begin: the agent's epoch, the sequence and position before them, and their own position."""
    if committed is None:
        return "", 0, 0, 0
    return committed.epoch, committed.previous, committed.previous_entry_position, committed.entries[0].position


def packed_replies(work: AgentWrites, outcome: Outcome) -> list[Any]:
    """Return one value for each write. See `Part.replies`."""
    entries: Sequence[Entry] = () if outcome.committed is None else outcome.committed.entries
    packed = []
    stored = 0  # entries of the writes so far
    for write, reply in zip(work.writes, outcome.replies, strict=True):
        if isinstance(reply, Exception):
            packed.append(packed_failure(reply))
            continue
        is_entry = stored < len(entries) and reply is entries[stored]
        packed.append(None if is_entry else pack_record(reply))
        if is_entry or isinstance(write, NewStatus):
            stored += 1 + (len(write.messages) if isinstance(write, NewAgent) else 0)
    return packed


def packed_failure(error: Exception) -> Any:
    """Return an error as a value."""
    return msgspec.to_builtins(failure_of(error))


# In the host.


def outcome_of(work: AgentWrites, part: Part, committed_ns: int) -> Outcome:
    """Return the outcome of writes that were sent.

    Args:
        work: as sent.
        part: the answer.
        committed_ns: when the COMMIT returned, of `time.monotonic_ns`.
    """
    if part.replies is None:
        return _outcome_of_messages(work, part, committed_ns)
    rebuilt = _Rebuilt(work.agent, part.previous, part.position)
    for write, packed in zip(work.writes, part.replies, strict=True):
        rebuilt.add(write, _unpacked(packed))
    committed = None
    if rebuilt.entries:
        before = part.previous, rebuilt.sequence, part.previous_entry_position
        entries = tuple(rebuilt.entries)
        committed = Committed._of(work.agent, part.epoch, *before, entries, rebuilt.size, committed_ns)
    return Outcome(committed, rebuilt.replies, part.refused)


def _outcome_of_messages(work: AgentWrites, part: Part, committed_ns: int) -> Outcome:
    """Return the outcome of messages that were all stored: by far the most frequent one."""
    agent, sequence, position, size = work.agent, part.previous, part.position, 0
    records: list[Any] = []
    for message in work.writes:
        assert isinstance(message, NewMessage)
        sequence += 1
        records.append(message.stored(agent, sequence, position))
        size += message.size
        position += 1
    before = part.previous, sequence, part.previous_entry_position
    return Outcome(Committed._of(agent, part.epoch, *before, tuple(records), size, committed_ns), records)


def _unpacked(packed: Any) -> Any:
    if isinstance(packed, Sequence) and isinstance(packed[0], str):  # records begin with a number
        return error_of(msgspec.convert(packed, Failure))
    return unpack_record(packed)


class _Rebuilt:
    """The entries and replies of one agent, made in the order in which the store has given positions."""

    def __init__(self, agent: str, sequence: int, position: int) -> None:
        self.replies: list[Any] = []
        self.entries: list[Entry] = []
        self.sequence = sequence
        self.size = 0
        self._agent = agent
        self._first = position

    @property
    def _position(self) -> int:
        return self._first + len(self.entries)

    def add(self, write: Write, reply: Any) -> None:
        """Add one write, given its reply; None: it was stored, and the reply is what it became."""
        match write:
            case NewMessage() if reply is None:
                reply = self._add_message(write)
            case NewStatus() if not isinstance(reply, Exception):
                change = write.stored(self._agent, self.sequence, self._position)
                self.entries.append(change)
                reply = reply or change
            case NewAgent() if reply is None:
                reply = write.stored(self._agent, self._position)
                self.entries.append(reply)
                for message in write.messages:
                    self._add_message(message)
            case _:  # refused, a repeat, or new facts
                pass
        self.replies.append(reply)

    def _add_message(self, message: NewMessage) -> MessageRecord:
        self.sequence += 1
        record = message.stored(self._agent, self.sequence, self._position)
        self.entries.append(record)
        self.size += message.size
        return record
