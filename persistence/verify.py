"""Proving a file: that nothing in it is missing, repeated, changed or told out of order.

Reads in short transactions, so that a runtime that has the file at the moment is not held up; must never write. Each
problem is one sentence. What SQLite itself cannot see (a flipped byte inside a row, a lost tail) is found by the
checksum of each row, by the stored heads, and by counting the positions.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from commitcast.persistence import sqlite_file
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.sqlite_rows import AGENT_COLUMNS, MESSAGE_COLUMNS, agent_record, checksum, message_record

PAGE: Final = 2_000
MAX_PROBLEMS: Final = 1_000
"""More are counted, not listed."""

_AGENTS: Final = f"SELECT key, {AGENT_COLUMNS} FROM agents WHERE key > ? ORDER BY key LIMIT ?"
_MESSAGES: Final = (
    f"SELECT {MESSAGE_COLUMNS}, checksum FROM agent_messages WHERE agent_key = ? AND sequence_number > ?"
    " AND sequence_number <= ? ORDER BY sequence_number LIMIT ?"
)
_BEYOND: Final = "SELECT count(*) FROM agent_messages WHERE agent_key = ? AND sequence_number > ?"
_TRANSITIONS: Final = (
    'SELECT position, "from", "to", after_sequence FROM agent_transitions WHERE agent_key = ? AND position <= ?'
    " ORDER BY position"
)
_POSITION_TABLES: Final = (
    ("agent_messages", "position"),
    ("agent_transitions", "position"),
    ("agents", "key"),
    ("agent_deletions", "position"),
)


class Report(msgspec.Struct):
    """What `verify` found."""

    path: str
    agents: int = 0
    messages: int = 0
    transitions: int = 0
    position: int = 0
    problems: list[str] = []
    more_problems: int = 0
    notes: list[str] = []

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def add(self, problem: str) -> None:
        """Note a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more_problems += 1


Progress = Callable[[int, int], object]


def verify(path: str | Path, *, deep: bool = False, progress: Progress = lambda done, of: None) -> Report:
    """Check everything that the product promises of a file.

    Args:
        path: of the file, which a runtime may have at the moment.
        deep: check SQLite's own structure even if a runtime has the file; its commits wait meanwhile.
        progress: called with positions done and positions in all.

    Raises:
        StoreOpenError: the file cannot be read as one of commitcast's.
    """
    found = Path(path).absolute()
    sqlite_file.inspect(found, write=False)
    report = Report(str(found))
    is_live = sqlite_file.is_locked(found)
    try:
        connection = sqlite_file.connect(str(found), read_only=is_live)
        try:
            connection.pragma("query_only", "on")
            _Verification(connection, report, progress).run(structure=deep or not is_live, is_live=is_live)
        finally:
            connection.close()
    except apsw.Error as error:
        raise sqlite_file.explain(error, str(found)) from error
    return report


class _Verification:
    def __init__(self, connection: apsw.Connection, report: Report, progress: Progress) -> None:
        self._connection = connection
        self._report = report
        self._progress = progress

    def run(self, *, structure: bool, is_live: bool) -> None:
        self._report.position = self._value("SELECT last FROM positions") or 0
        if structure:
            self._check_structure()
        else:
            self._report.notes.append("a runtime has the file, so SQLite's own structure was not checked: use --deep")
        self._check_positions()
        unfinished = 0
        for record in self._agents():
            self._report.agents += 1
            unfinished += not record.status.is_terminal
            self._check_life(record)
            self._check_messages(record)
        if unfinished and not is_live:
            self._report.notes.append(f"a crash left {unfinished} agents unfinished: the next start makes them failed")

    def _value(self, sql: str, *parameters: Any) -> Any:
        return self._connection.execute(sql, parameters).get

    def _check_structure(self) -> None:
        for (problem,) in self._connection.execute("PRAGMA integrity_check(100)"):
            if problem != "ok":
                self._report.add(f"SQLite: {problem}")
        for table, row, parent, _ in self._connection.execute("PRAGMA foreign_key_check"):
            self._report.add(f"row {row} of {table} belongs to no row of {parent}")

    def _check_positions(self) -> None:
        with self._connection:  # one snapshot, so that a live writer cannot come between the counts
            last = self._value("SELECT last FROM positions")
            count = 0
            for table, column in _POSITION_TABLES:
                count += self._value(f"SELECT count(*) FROM {table}")
                highest = self._value(f"SELECT max({column}) FROM {table}") or 0
                if highest > last:
                    self._report.add(f"{table} has position {highest} and the counter stands at {last}")
            for index, (one, column) in enumerate(_POSITION_TABLES):
                for other, other_column in _POSITION_TABLES[index + 1 :]:
                    joined = f"{one} JOIN {other} ON {one}.{column} = {other}.{other_column}"
                    for (position,) in self._connection.execute(f"SELECT {one}.{column} FROM {joined}"):
                        self._report.add(f"position {position} is both in {one} and in {other}")
            deleted = self._value("SELECT count(*) FROM agent_deletions")
            if last is None:
                self._report.add("the counter of positions is missing")
            elif not deleted and count != last:
                self._report.add(f"{last} positions were given and {count} are there: {last - count} are missing")

    def _agents(self) -> Iterator[AgentRecord]:
        after = 0
        while page := [agent_record(row) for row in self._connection.execute(_AGENTS, (after, PAGE))]:
            yield from page
            after = page[-1].position

    def _check_life(self, record: AgentRecord) -> None:
        name = f"agent {record.id!r}"
        with self._connection:
            now = self._value("SELECT status FROM agents WHERE key = ?", record.position)
            head = self._value("SELECT head FROM agents WHERE key = ?", record.position)
            steps = list(self._connection.execute(_TRANSITIONS, (record.position, 2**62)))
        self._report.transitions += len(steps)
        status = str(AgentStatus.INITIALIZING)
        for position, previous, following, after in steps:
            if previous != status:
                self._report.add(f"{name} went from {previous} to {following} when it was {status}")
            if AgentStatus(status).is_terminal:
                self._report.add(f"{name} had ended as {status} and became {following}")
            if after > head:
                self._report.add(f"{name} became {following} after message {after} and has only {head}")
            self._check_order(record, position, after, following)
            status = following
        if status != now:
            self._report.add(f"{name} is {now} and its last step was to {status}")

    def _check_order(self, record: AgentRecord, position: int, after: int, following: str) -> None:
        sql = "SELECT position FROM agent_messages WHERE agent_key = ? AND sequence_number = ?"
        before, behind = self._value(sql, record.position, after), self._value(sql, record.position, after + 1)
        if (before is not None and before > position) or (behind is not None and behind < position):
            self._report.add(f"agent {record.id!r} became {following} out of order with message {after}")

    def _check_messages(self, record: AgentRecord) -> None:
        name = f"agent {record.id!r}"
        expected, position = 1, record.position
        while page := list(self._connection.execute(_MESSAGES, (record.position, expected - 1, record.head, PAGE))):
            for row in page:
                message = message_record(record.id, row[:-1])
                if message.sequence != expected:
                    self._report.add(f"{name} has no message {expected} before message {message.sequence}")
                if message.position <= position:
                    self._report.add(f"{name} has message {message.sequence} at a position before the one before it")
                if checksum(message) != row[-1]:
                    self._report.add(f"{name} has message {message.sequence} changed since it was stored")
                expected, position = message.sequence + 1, message.position
            self._report.messages += len(page)
            self._progress(self._report.messages, self._report.position)
        if expected - 1 != record.head:
            self._report.add(f"{name} should have {record.head} messages and ends at {expected - 1}")
        with self._connection:
            head = self._value("SELECT head FROM agents WHERE key = ?", record.position)
            if head is not None and self._value(_BEYOND, record.position, head):
                self._report.add(f"{name} has messages beyond its head {head}")
