"""The baselines of the benchmarks: the same rows, written by bare SQLite.

Owns a file with the product's schema, settings and statements, and writes messages into it without any other work:
one commit for each message, or one for each few thousand. The file passes `verify`. For benchmarks only:
there is no lock, no gate and no subscriber. One thread.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import apsw
from msgspec.structs import astuple

from commitcast.persistence.clock import now
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord
from commitcast.persistence.sqlite import connections, opening
from commitcast.persistence.sqlite.rows import (
    INSERT_STEP,
    SET_POSITION,
    STEP,
    Plan,
    insert_messages,
    message_row,
    set_heads,
)
from commitcast.persistence.writes import NewStatus

CEILING_ROWS: Final = 4_096
"""Rows of one commit of the ceiling: the product's largest batch."""

Row = tuple[Any, ...]
Content = Callable[[str, int], str]
"""Returns what an agent says as its nth message."""


class BareWriter:
    """Writes messages of a few agents in turn, as fast as SQLite accepts them. A context manager."""

    def __init__(self, path: Path, agents: Sequence[str], content: Content) -> None:
        """Make a new file with the agents in it.

        Args:
            path: of a file that is not there yet.
            agents: their ids.
            content: of each message.
        """
        opening.create_if_missing(path)
        self._connection = connections.connect(str(path), create=True)
        opening.migrate(self._connection, str(path))
        self._agents = [(key, agent) for key, agent in enumerate(agents, start=1)]
        self._content = content
        self._made = 0
        plan = Plan(len(agents))
        plan.agents += [astuple(new_agent(key, agent)) for key, agent in self._agents]
        self._write(plan)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rows(self, count: int) -> list[Row]:
        """Return the rows of the next messages, the agents in turn. Each must be written, in order."""
        rows = []
        written_at = now()
        for index in range(self._made, self._made + count):
            turn, place = divmod(index, len(self._agents))
            key, agent = self._agents[place]
            sequence, position = turn + 1, len(self._agents) + index + 1
            text = self._content(agent, sequence)
            record = MessageRecord(agent, sequence, position, "assistant", None, text, "text", written_at)
            back = len(self._agents) if turn else 0
            rows.append(message_row(key, back, record))
        self._made += count
        return rows

    def commit_each(self, rows: Sequence[Row], at_most_s: float) -> list[int]:
        """Write each row in a transaction of its own, for so long at most; rows that are left over are dropped.

        Returns:
            What each transaction took, in nanoseconds.
        """
        durations = []
        began = before = time.perf_counter_ns()
        for row in rows:
            self._commit([row])
            after = time.perf_counter_ns()
            durations.append(after - before)
            before = after
            if after - began > at_most_s * 1e9:
                break
        self._made -= len(rows) - len(durations)
        return durations

    def commit_batches(self, rows: Sequence[Row], size: int = CEILING_ROWS) -> float:
        """Write the rows, `size` to a transaction, and return the seconds that it took."""
        began = time.perf_counter_ns()
        remaining = iter(rows)
        while batch := list(islice(remaining, size)):
            self._commit(batch)
        return (time.perf_counter_ns() - began) / 1e9

    def end_agents(self) -> None:
        """End every agent, so that a runtime which opens the file finds nothing to recover. Nothing may follow."""
        plan = Plan(len(self._agents) + self._made)
        ended = NewStatus(
            previous=AgentStatus.INITIALIZING, status=AgentStatus.TERMINATED, at=now(), wants_record=False
        )
        for place, (key, agent) in enumerate(self._agents):
            turns, more = divmod(self._made, len(self._agents))
            plan.add_status(agent, key, turns + (place < more), ended)
        self._write(plan)

    def _commit(self, rows: list[Row]) -> None:
        ends = [(key, sequence, position, back) for key, back, sequence, position, *_ in rows if sequence % STEP == 0]
        commit_rows(self._connection, rows, [(*end, ",".join([str(back)] * (STEP - 1))) for *end, back in ends])

    def _write(self, plan: Plan) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        plan.execute(self._connection)
        self._connection.execute(SET_POSITION, (plan.position,))
        self._connection.execute("COMMIT")


def commit_rows(connection: apsw.Connection, rows: Sequence[Row], steps: Sequence[Row]) -> None:
    """Write `message_row` and rows of `agent_steps` in one transaction, a statement for each row."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(insert_messages(1), rows)
    heads = {key: (key, sequence, position) for key, _, sequence, position, *_ in rows}
    connection.executemany(set_heads(1), heads.values())
    if steps:
        connection.executemany(INSERT_STEP, steps)
    connection.execute(SET_POSITION, (rows[-1][3],))
    connection.execute("COMMIT")


def new_agent(key: int, agent: str) -> AgentRecord:
    """Return the record of an agent at a position, for `Plan.agents`."""
    return AgentRecord(
        id=agent,
        epoch=secrets.token_hex(8),
        position=key,
        type="agent",
        status=AgentStatus.INITIALIZING,
        head=0,
        prompt="",
        created_at=now(),
    )
