"""One write transaction's worth of rows: sequences and positions given, rows inserted, refusals sorted out.

Works inside the transaction that `SqliteStore.commit` has opened and never begins, commits or retries one itself.
What it returns is not durable until that COMMIT has returned. The writer's thread only.

The common case is planned in memory and written with one `executemany` for each table. If that fails, everything is
undone to a savepoint and done again write by write, each in its own savepoint, so that a refused row fails alone.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import apsw

from commitcast.persistence.errors import (
    AgentExistsError,
    AgentNotFoundError,
    IdempotencyConflictError,
    IllegalTransitionError,
    PrecedingRefusedError,
    RowRefusedError,
)
from commitcast.persistence.records import AgentRecord, AgentStatus, Committed, Entry, MessageRecord, StatusChange
from commitcast.persistence.sqlite_plan import Plan, StaleHeadError
from commitcast.persistence.sqlite_rows import (
    AGENT_COLUMNS,
    MESSAGE_COLUMNS,
    agent_record,
    agent_row,
    checksum,
    message_record,
)
from commitcast.persistence.writes import (
    AgentPatch,
    AgentWrites,
    NewAgent,
    NewMessage,
    NewStatus,
    Outcome,
    Reply,
    Write,
    needs_preceding,
)

CACHED_AGENTS: Final = 65_536
"""Heads kept in memory, about 200 bytes each; a miss costs one indexed SELECT."""
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
_SELECT_AGENT: Final = f"SELECT key, {AGENT_COLUMNS} FROM agents WHERE id = ?"
_SELECT_AGENT_BY_IDEMPOTENCY: Final = f"SELECT key, {AGENT_COLUMNS} FROM agents WHERE idempotency_key = ?"
_SELECT_MESSAGE_BY_KEY: Final = f"SELECT {MESSAGE_COLUMNS} FROM agent_messages WHERE agent_key = ? AND key = ?"


class _Head:
    """Where one agent stands: what the next row of it needs to know."""

    __slots__ = ("epoch", "key", "position", "sequence", "status")

    def __init__(self, key: int, epoch: str, sequence: int, status: AgentStatus, position: int) -> None:
        self.key = key
        self.epoch = epoch
        self.sequence = sequence
        self.status = status
        self.position = position  # of the agent's last entry


class Batch:
    """Turns writes into rows. Keeps each agent's head in memory between transactions."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._heads: OrderedDict[str, _Head] = OrderedDict()
        self._position = 0

    def forget(self) -> None:
        """Drop what is kept in memory. Must be called after every rollback."""
        self._heads.clear()

    def write(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Insert and update everything, inside the open transaction.

        Returns:
            For each agent what there will be to say once the transaction is committed. A refused write has its
            error among the replies and left nothing behind.

        Raises:
            apsw.Error: the transaction as a whole failed and must be rolled back.
        """
        self._position = begun = self._read_position()
        # The rows of an unknown agent are going to be refused: alone, so that they cost nobody else the fast way.
        known = [agent for agent in work if self._is_known(agent)]
        planned = self._write_at_once(known)
        if planned is None:
            known, planned = [], []
        done = dict(zip(map(id, known), planned, strict=True))
        outcomes = [done.get(id(agent)) or self._write_one_by_one(agent.agent, agent.writes) for agent in work]
        if self._position != begun:
            self._connection.execute("UPDATE positions SET last = ?", (self._position,))
        while len(self._heads) > CACHED_AGENTS:
            self._heads.popitem(last=False)
        return outcomes

    def _write_at_once(self, work: Sequence[AgentWrites]) -> list[Outcome] | None:
        plan = Plan(self._position)
        self._connection.execute("SAVEPOINT batch")
        try:
            planned = [
                (agent.agent, self._head(agent.agent).position, *self._plan(plan, agent.agent, agent.writes))
                for agent in work
            ]
            plan.execute(self._connection)
        except _REFUSALS:
            self._undo("batch")
            return None
        self._connection.execute("RELEASE batch")
        self._position = plan.position
        return [self._outcome(*answers) for answers in planned]

    def _write_one_by_one(self, agent: str, writes: Sequence[Write]) -> Outcome:
        replies: list[Reply] = []
        entries: list[Entry] = []
        size = 0
        refused = False
        follows = self._head(agent).position  # now: what is read after a refusal includes what was written before it
        for write in writes:
            if refused and needs_preceding(write):
                replies.append(PrecedingRefusedError(agent))
                continue
            plan = Plan(self._position)
            self._connection.execute("SAVEPOINT one")
            try:
                answer, new_entries, new_size, was_refused = self._plan(plan, agent, [write])
                plan.execute(self._connection)
            except _REFUSALS as error:
                self._undo("one")
                replies.append(self._refusal(agent, write, error))
                refused = refused or isinstance(write, NewMessage)
                continue
            self._connection.execute("RELEASE one")
            self._position = plan.position
            replies += answer
            entries += new_entries
            size += new_size
            refused = refused or was_refused
        return self._outcome(agent, follows, replies, entries, size, refused)

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

    def _outcome(
        self, agent: str, follows: int, replies: list[Reply], entries: list[Entry], size: int, refused: bool
    ) -> Outcome:
        committed = None
        if entries:
            head = self._head(agent)
            first = next((entry for entry in entries if type(entry) is MessageRecord), None)
            previous = head.sequence if first is None else first.sequence - 1
            committed = Committed._of(agent, head.epoch, previous, head.sequence, follows, tuple(entries), size)
            head.position = entries[-1].position
        return Outcome(committed, [self._look_up(agent) if reply is _LATER else reply for reply in replies], refused)

    # Planning: no row is written here, but rows that decide are read.

    def _plan(self, plan: Plan, agent: str, writes: Iterable[Write]) -> tuple[list[Any], list[Entry], int, bool]:
        replies: list[Any] = []
        entries: list[Entry] = []
        size = 0
        refused = False
        head = self._head(agent)
        for write in writes:
            if refused and needs_preceding(write):
                replies.append(PrecedingRefusedError(agent))
            elif type(write) is NewMessage:
                if write.key is not None and (kept := self._find_by_key(agent, head, write, entries)) is not None:
                    replies.append(kept)
                    refused = isinstance(kept, Exception)
                    continue
                record = self._plan_message(plan, agent, head, write)
                replies.append(record)
                entries.append(record)
                size += write.size
            elif isinstance(write, NewStatus):
                replies.append(self._plan_status(plan, agent, head, write, entries))
            elif isinstance(write, NewAgent):
                head, added = self._plan_agent(plan, agent, head, write, replies, entries)
                size += added
            elif isinstance(write, AgentPatch):
                plan.patches.append((write.configuration_json, write.pid, write.pid_started, head.key))
                replies.append(_LATER if head.key else AgentNotFoundError(agent))
        return replies, entries, size, refused

    def _plan_message(self, plan: Plan, agent: str, head: _Head, new: NewMessage) -> MessageRecord:
        plan.position = position = plan.position + 1
        head.sequence = sequence = head.sequence + 1
        record = MessageRecord(
            agent,
            sequence,
            position,
            new.type,
            new.role,
            new.content,
            new.content_type,
            new.created_at,
            new.metadata_json,
            new.raw,
            new.key,
        )
        plan.messages.append(
            (
                head.key,
                sequence,
                position,
                new.type,
                new.role,
                new.content,
                new.content_type,
                new.created_at,
                new.metadata_json,
                new.raw,
                new.key,
                checksum(record),
            )
        )
        plan.heads[head.key] = sequence
        return record

    def _plan_status(self, plan: Plan, agent: str, head: _Head, new: NewStatus, entries: list[Entry]) -> Any:
        if not head.key:
            return AgentNotFoundError(agent)
        if head.status != new.previous:
            return IllegalTransitionError(agent, head.status, new.status)
        plan.position += 1
        head.status = new.status
        started_at = new.at if new.status is AgentStatus.RUNNING else None
        completed_at = new.at if new.status.is_terminal else None
        plan.statuses.append(
            (
                new.status,
                started_at,
                completed_at,
                new.error_name,
                new.error_message,
                new.result_json,
                head.key,
                new.previous,
            )
        )
        plan.transitions.append((plan.position, head.key, new.previous, new.status, head.sequence, new.at, new.reason))
        entries.append(
            StatusChange(
                agent=agent,
                position=plan.position,
                previous=new.previous,
                status=new.status,
                sequence=head.sequence,
                at=new.at,
                reason=new.reason,
                error_name=new.error_name,
                error_message=new.error_message,
                result_json=new.result_json,
            )
        )
        return _LATER

    def _plan_agent(
        self, plan: Plan, agent: str, head: _Head, new: NewAgent, replies: list[Any], entries: list[Entry]
    ) -> tuple[_Head, int]:
        existing = self._find_by_idempotency(new, entries)
        if existing is not None:
            same = (existing.type, existing.prompt, existing.configuration_json) == (
                new.type,
                new.prompt,
                new.configuration_json,
            )
            replies.append(existing if same else IdempotencyConflictError(str(new.idempotency_key), "agent"))
            return head, 0
        if head.key:
            replies.append(AgentExistsError(agent))
            return head, 0
        plan.position += 1
        head = _Head(plan.position, new.epoch, 0, AgentStatus.INITIALIZING, 0)
        self._heads[agent] = head
        record = AgentRecord(
            id=agent,
            epoch=new.epoch,
            position=head.key,
            type=new.type,
            status=head.status,
            head=len(new.messages),
            prompt=new.prompt,
            created_at=new.created_at,
            idempotency_key=new.idempotency_key,
            configuration_json=new.configuration_json,
        )
        plan.agents.append(agent_row(record))
        entries.append(record)
        entries += [self._plan_message(plan, agent, head, message) for message in new.messages]
        plan.heads.pop(head.key, None)  # the row is inserted with it
        replies.append(record)
        return head, sum(message.size for message in new.messages)

    # Reading what a write depends on, inside the transaction.

    def _read_position(self) -> int:
        position: int = self._connection.execute("SELECT last FROM positions").get
        return position

    def _is_known(self, work: AgentWrites) -> bool:
        return isinstance(work.writes[0], NewAgent) or self._head(work.agent).key != NO_AGENT

    def _head(self, agent: str) -> _Head:
        head = self._heads.get(agent)
        if head is None:
            row = self._connection.execute(_SELECT_HEAD, (agent,)).fetchone()
            if row is None:
                return _Head(NO_AGENT, "", 0, AgentStatus.INITIALIZING, 0)
            head = self._heads[agent] = _Head(row[0], row[1], row[2], AgentStatus(row[3]), row[4])
        else:
            self._heads.move_to_end(agent)
        return head

    def _look_up(self, agent: str) -> AgentRecord:
        row = self._connection.execute(_SELECT_AGENT, (agent,)).fetchone()
        assert row is not None
        return agent_record(row)

    def _find_by_idempotency(self, new: NewAgent, entries: list[Entry]) -> AgentRecord | None:
        if new.idempotency_key is None:
            return None
        for entry in entries:
            if isinstance(entry, AgentRecord) and entry.idempotency_key == new.idempotency_key:
                return entry
        row = self._connection.execute(_SELECT_AGENT_BY_IDEMPOTENCY, (new.idempotency_key,)).fetchone()
        return None if row is None else agent_record(row)

    def _find_by_key(self, agent: str, head: _Head, new: NewMessage, entries: list[Entry]) -> Reply | None:
        """Return what was stored under the key of a repeated send: by this transaction, or before it."""
        for entry in entries:
            if isinstance(entry, MessageRecord) and entry.key == new.key:
                kept = entry
                break
        else:
            row = self._connection.execute(_SELECT_MESSAGE_BY_KEY, (head.key, new.key)).fetchone()
            if row is None:
                return None
            kept = message_record(agent, row)
        same = (kept.type, kept.content, kept.content_type) == (new.type, new.content, new.content_type)
        return kept if same else IdempotencyConflictError(str(new.key), "message")


_LATER: Final[Any] = object()
"""Stands for the agent's record, which is read when all rows of the transaction are written."""
