"""One write transaction's worth of rows: sequences and positions given, rows inserted, refusals sorted out.

Works inside the transaction that `SqliteStore.commit` has opened and never begins, commits or retries one itself.
What it returns is not durable until that COMMIT has returned. The writer's thread only.

The common case is planned in memory and written with one `executemany` for each table. If that fails, everything is
undone to a savepoint and done again write by write, each in its own savepoint, so that a refused row fails alone.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final

import apsw
import msgspec

from commitcast.persistence.errors import (
    AgentExistsError,
    AgentNotFoundError,
    IdempotencyConflictError,
    IllegalTransitionError,
    PrecedingRefusedError,
    RowRefusedError,
)
from commitcast.persistence.records import AgentRecord, AgentStatus, Committed, Entry, MessageRecord
from commitcast.persistence.sqlite.plan import SET_POSITION, Plan, StaleHeadError
from commitcast.persistence.sqlite.rows import AGENT_OF_KEY, MESSAGE_COLUMNS, agent_record, message_record
from commitcast.persistence.writes import (
    AgentWrites,
    NewAgent,
    NewMessage,
    NewStatus,
    Outcome,
    Reply,
    Write,
    needs_preceding,
    repeated,
)

CACHED_AGENTS: Final = 131_072
"""Heads kept in memory, about 200 bytes each. All are dropped beyond that: a miss costs one indexed SELECT."""
NO_AGENT: Final = 0
"""A key that no agent has (keys are positions and begin at 1): its rows are refused by the foreign key."""
_REFUSALS: Final = (apsw.ConstraintError, StaleHeadError, TypeError, ValueError, OverflowError)
"""What refuses a row: a rule of the schema, or a value that SQLite cannot hold. All else is of the transaction."""

_SELECT_HEAD: Final = (
    "SELECT key, epoch, head, status, max(key,"
    " coalesce((SELECT position FROM agent_messages WHERE agent_key = agents.key AND sequence_number = head), 0),"
    " coalesce((SELECT max(position) FROM agent_transitions WHERE agent_key = agents.key), 0))"
    " FROM agents WHERE id = ?"
)
_SELECT_MESSAGE_BY_KEY: Final = f"SELECT {MESSAGE_COLUMNS} FROM agent_messages WHERE agent_key = ? AND key = ?"


class _Head(msgspec.Struct, gc=False):
    """Where one agent stands: what the next row of it needs to know."""

    key: int
    epoch: str
    sequence: int
    status: AgentStatus
    position: int
    """Of the agent's last entry."""


class _Planned:
    """What one agent's writes come to: the answers, and what there will be to say."""

    __slots__ = (
        "agent",
        "entries",
        "has_later",
        "head",
        "previous",
        "previous_entry_position",
        "refused",
        "replies",
        "size",
        "stored_sequence",
    )

    def __init__(self, agent: str, head: _Head) -> None:
        self.agent = agent
        self.head = head
        self.previous = self.stored_sequence = head.sequence
        self.previous_entry_position = head.position
        self.replies: list[Any] = []
        self.entries: list[Entry] = []
        self.size = 0
        self.refused = False
        self.has_later = False

    def reply_later(self) -> None:
        """Answer with the agent's record as it is when all rows of the transaction are written."""
        self.replies.append(_LATER)
        self.has_later = True

    def add(self, other: "_Planned") -> None:
        """Append what another part of the same agent's writes comes to."""
        self.head = other.head
        self.replies += other.replies
        self.entries += other.entries
        self.size += other.size
        self.refused = self.refused or other.refused
        self.has_later = self.has_later or other.has_later


_ONLY_MESSAGES: Final[set[type]] = {NewMessage}
_key_of: Final = attrgetter("key")
_size_of: Final = attrgetter("size")

_LATER: Final[Any] = object()
"""Stands for the agent's record, which is read when all rows of the transaction are written."""


class Batch:
    """Turns writes into rows. Keeps each agent's head in memory between transactions."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._heads: dict[str, _Head] = {}
        self._position = 0
        self._stored = self._read_counter()
        """The counter of positions and the epoch, as the last commit left them."""

    def forget(self) -> None:
        """Drop what is kept in memory. Must be called after every rollback."""
        self._heads.clear()

    def committed(self) -> None:
        """Remember what is stored now that the transaction is committed."""
        self._stored = self._position, self._stored[1]

    def find_difference(self) -> str | None:
        """Compare what is stored with what the last commit left; say what differs of all that numbers rest on."""
        found = self._read_counter()
        if found != self._stored:
            return f"it ends at position {found[0]} where {self._stored[0]} was committed"
        for agent, head in self._heads.items():
            row = self._connection.execute(_SELECT_HEAD, (agent,)).fetchone()
            if row is not None and (row[0], row[1], row[2], row[4]) != (
                head.key,
                head.epoch,
                head.sequence,
                head.position,
            ):
                return f"agent {agent!r} ends at message {row[2]} where {head.sequence} was committed"
        return None

    def write(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Insert and update everything, inside the open transaction.

        Returns:
            For each agent what there will be to say once the transaction is committed. A refused write has its
            error among the replies and left nothing behind.

        Raises:
            apsw.Error: the transaction as a whole failed and must be rolled back.
        """
        self._position = begun = self._read_position()
        if len(self._heads) > CACHED_AGENTS:
            self._heads.clear()
        outcomes = self._write_at_once(work) or [None] * len(work)
        if None in outcomes:
            outcomes = [
                self._write_one_by_one(agent.agent, agent.writes) if outcome is None else outcome
                for agent, outcome in zip(work, outcomes, strict=True)
            ]
        if self._position != begun:
            self._connection.execute(SET_POSITION, (self._position,))
        return outcomes  # type: ignore[return-value]  # whatever was None has been written one by one

    def _write_at_once(self, work: Sequence[AgentWrites]) -> list[Outcome | None] | None:
        """Write everything together, but for the rows of unknown agents, which are going to be refused: those alone.

        Returns:
            The outcomes, None for those left out; or None if a row was refused, and then nothing was written.
        """
        plan = Plan(self._position)
        planned: list[_Planned | None] = []
        self._connection.execute("SAVEPOINT batch")
        try:
            for agent in work:
                head = self._head(agent.agent)
                is_known = head.key != NO_AGENT or isinstance(agent.writes[0], NewAgent)
                planned.append(self._plan(plan, agent.agent, head, agent.writes) if is_known else None)
            plan.execute(self._connection)
        except _REFUSALS:
            self._undo("batch")
            return None
        self._connection.execute("RELEASE batch")
        self._position = plan.position
        return [None if done is None else self._outcome(done, plan.changed) for done in planned]

    def _write_one_by_one(self, agent: str, writes: Sequence[Write]) -> Outcome:
        done = _Planned(agent, self._head(agent))
        changed: dict[int, AgentRecord] = {}
        for write in writes:
            if done.refused and needs_preceding(write):
                done.replies.append(PrecedingRefusedError(agent))
                continue
            plan = Plan(self._position)
            self._connection.execute("SAVEPOINT one")
            try:
                one = self._plan(plan, agent, self._head(agent), [write])
                plan.execute(self._connection)
            except _REFUSALS as error:
                self._undo("one")
                done.replies.append(self._refusal(agent, write, error))
                done.refused = done.refused or isinstance(write, NewMessage)
                continue
            self._connection.execute("RELEASE one")
            self._position = plan.position
            done.add(one)
            changed |= plan.changed
        return self._outcome(done, changed)

    def _undo(self, savepoint: str) -> None:
        self._connection.execute(f"ROLLBACK TO {savepoint}")
        self._connection.execute(f"RELEASE {savepoint}")
        self.forget()

    def _refusal(self, agent: str, write: Write, error: Exception) -> Exception:
        refusal: Exception
        if isinstance(error, StaleHeadError) and isinstance(write, NewStatus):
            refusal = IllegalTransitionError(agent, error.status, write.status)
        elif getattr(error, "extendedresult", 0) == apsw.SQLITE_CONSTRAINT_FOREIGNKEY:
            refusal = AgentNotFoundError(agent)
        else:
            refusal = RowRefusedError(f"a row of agent {agent!r} was refused by the database: {error}")
        refusal.__cause__ = error
        return refusal

    def _outcome(self, done: _Planned, changed: dict[int, AgentRecord]) -> Outcome:
        committed, entries = None, done.entries
        if entries:
            head = self._head(done.agent)
            committed = Committed._of(
                done.agent,
                head.epoch,
                done.previous,
                head.sequence,
                done.previous_entry_position,
                tuple(entries),
                done.size,
            )
            head.position = entries[-1].position
        if done.has_later:
            record = changed[done.head.key]
            sequence = self._head(done.agent).sequence
            if record.head != sequence:  # messages were written after it
                record = msgspec.structs.replace(record, head=sequence)
            done.replies = [record if reply is _LATER else reply for reply in done.replies]
        return Outcome(committed, done.replies, done.refused)

    # Planning: no row is written here, but rows that decide are read.

    def _plan(self, plan: Plan, agent: str, head: _Head, writes: Sequence[Write]) -> _Planned:
        done = _Planned(agent, head)
        if set(map(type, writes)) == _ONLY_MESSAGES and not any(map(_key_of, writes)):
            records = plan.add_messages(agent, head.key, head.sequence, writes)  # type: ignore[arg-type]  # as just seen
            done.replies = done.entries = records  # type: ignore[assignment]  # read only from here on
            head.sequence += len(writes)
            done.size = sum(map(_size_of, writes))
        else:
            for write in writes:
                self._plan_other(plan, done, write)
        head = done.head
        if head.sequence != done.stored_sequence:
            plan.heads[head.key] = head.sequence
        return done

    def _plan_message(self, plan: Plan, done: _Planned, new: NewMessage) -> None:
        head = done.head
        records = plan.add_messages(done.agent, head.key, head.sequence, (new,))
        head.sequence += 1
        done.replies += records
        done.entries += records
        done.size += new.size

    def _plan_other(self, plan: Plan, done: _Planned, write: Write) -> None:
        if done.refused and needs_preceding(write):
            done.replies.append(PrecedingRefusedError(done.agent))
        elif isinstance(write, NewMessage):
            kept = self._find_by_key(done, write)
            if kept is None:
                self._plan_message(plan, done, write)
            else:
                done.replies.append(kept)
                done.refused = isinstance(kept, Exception)
        elif isinstance(write, NewStatus):
            self._plan_status(plan, done, write)
        elif isinstance(write, NewAgent):
            self._plan_agent(plan, done, write)
        elif done.head.key == NO_AGENT:
            done.replies.append(AgentNotFoundError(done.agent))
        else:
            plan.patches.append((write.configuration_json, write.pid, write.pid_started, done.head.key))
            done.reply_later()

    def _plan_status(self, plan: Plan, done: _Planned, new: NewStatus) -> None:
        head = done.head
        if head.key == NO_AGENT:
            done.replies.append(AgentNotFoundError(done.agent))
        elif head.status != new.previous:
            done.replies.append(IllegalTransitionError(done.agent, head.status, new.status))
        else:
            head.status = new.status
            change = plan.add_status(done.agent, head.key, head.sequence, new)
            done.entries.append(change)
            if new.wants_record:
                done.reply_later()
            else:
                done.replies.append(change)

    def _plan_agent(self, plan: Plan, done: _Planned, new: NewAgent) -> None:
        existing = self._find_by_idempotency(new, done.entries)
        if existing is not None:
            same = (existing.type, existing.prompt, existing.configuration_json) == (
                new.type,
                new.prompt,
                new.configuration_json,
            )
            done.replies.append(existing if same else IdempotencyConflictError(str(new.idempotency_key), "agent"))
        elif done.head.key != NO_AGENT:
            done.replies.append(AgentExistsError(done.agent))
        else:
            record = plan.add_agent(done.agent, new)
            done.head = self._heads[done.agent] = _Head(record.position, new.epoch, 0, record.status, 0)
            done.replies.append(record)
            done.entries.append(record)
            for message in new.messages:
                self._plan_message(plan, done, message)
                done.replies.pop()  # the agent's record answers for all
            done.stored_sequence = done.head.sequence  # the row is inserted with it

    # Reading what a write depends on, inside the transaction.

    def _read_position(self) -> int:
        position: int = self._connection.execute("SELECT last FROM positions").get
        return position

    def _read_counter(self) -> tuple[int, str]:
        return self._connection.execute("SELECT last, epoch FROM positions").fetchone() or (0, "")

    def _head(self, agent: str) -> _Head:
        head = self._heads.get(agent)
        if head is None:
            row = self._connection.execute(_SELECT_HEAD, (agent,)).fetchone()
            if row is None:
                return _Head(NO_AGENT, "", 0, AgentStatus.INITIALIZING, 0)
            head = self._heads[agent] = _Head(row[0], row[1], row[2], AgentStatus(row[3]), row[4])
        return head

    def _find_by_idempotency(self, new: NewAgent, entries: list[Entry]) -> AgentRecord | None:
        if new.idempotency_key is None:
            return None
        for entry in entries:
            if isinstance(entry, AgentRecord) and entry.idempotency_key == new.idempotency_key:
                return entry
        row = self._connection.execute(AGENT_OF_KEY, (new.idempotency_key,)).fetchone()
        return None if row is None else agent_record(row)

    def _find_by_key(self, done: _Planned, new: NewMessage) -> Reply | None:
        """Return what was stored under the key of a repeated send: by this transaction, or before it."""
        if new.key is None:
            return None
        for entry in done.entries:
            if isinstance(entry, MessageRecord) and entry.key == new.key:
                kept = entry
                break
        else:
            row = self._connection.execute(_SELECT_MESSAGE_BY_KEY, (done.head.key, new.key)).fetchone()
            if row is None:
                return None
            kept = message_record(done.agent, row)
        return repeated(kept, new)
