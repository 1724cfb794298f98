"""The checks of an SQLite file: nothing in it is missing, repeated, changed or out of order.

Reads in short transactions, so that a runtime that has the file open is not held up; must never write. Each problem is
one sentence. What SQLite itself cannot detect (a flipped byte inside a row, a lost tail) is found by the checksum of
each row, by the stored heads, and by counting the positions.
"""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec

from commitcast.persistence import fork
from commitcast.persistence.errors import StoreOpenError
from commitcast.persistence.paths import real
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.sqlite import connections, journal, opening
from commitcast.persistence.sqlite.chain import BY_CHAIN, find_position, layout_of
from commitcast.persistence.sqlite.lock import is_locked
from commitcast.persistence.sqlite.rows import CHECKED_COLUMNS, STEP, Row, checked_message
from commitcast.persistence.store import Progress, Report
from commitcast.persistence.writes import text_size

MAX_HOLD_S: Final = 0.01
"""How long commits are kept waiting before one is let through."""
STEPS_BETWEEN_PROBES: Final = 10_000
"""Steps of SQLite's virtual machine between two probes of the lock: some milliseconds."""
PAGE_ROWS: Final = 2_000
PAGE_BYTES: Final = 1024 * 1024
"""Bounds of what is read at once; one larger message is read alone."""

_AGENTS: Final = "SELECT key, id, head, status FROM agents WHERE key > ? ORDER BY key LIMIT ?"
_AGENT: Final = "SELECT head, status FROM agents WHERE key = ?"
_NUMBERS_ALONE: Final = 2
_POSITION: Final = 3
"""Place of the position in a row of `_page`."""
_TAIL: Final = "SELECT head, tail FROM agents WHERE key = ?"
_STEPS: Final = "SELECT count(*), coalesce(max(sequence_number), 0) FROM agent_steps WHERE agent_key = ?"
_STEP: Final = "SELECT position, backs FROM agent_steps WHERE agent_key = ? AND sequence_number = ?"
_TRANSITIONS: Final = (
    'SELECT position, "from", "to", after_sequence FROM agent_transitions WHERE agent_key = ? ORDER BY position'
)
_POSITION_TABLES: Final = (
    ("agents", "key"),
    ("agent_messages", "position"),
    ("agent_transitions", "position"),
    ("agent_deletions", "position"),
)
_POSITIONS: Final = " UNION ALL ".join(
    f"SELECT {column} AS position, '{table}' AS name FROM {table} WHERE {column} > ?1 AND {column} <= ?2"
    for table, column in _POSITION_TABLES
)
_COUNT: Final = f"SELECT count(*), count(DISTINCT position) FROM ({_POSITIONS})"
_REPEATED: Final = (
    f"SELECT position, group_concat(name, ' and in ') FROM ({_POSITIONS}) GROUP BY position HAVING count(*) > 1"
)
_RUNS: Final = (
    "SELECT number, began FROM (SELECT number, began, lag(began, 1, 0) OVER (ORDER BY number) AS previous FROM runs)"
    " WHERE began < previous OR began > ?"
)
_TERMINAL: Final = frozenset(str(status) for status in AgentStatus if status.is_terminal)


def verify(path: str | Path, *, deep: bool = False, progress: Progress = lambda done, of: None) -> Report:
    """Check everything that `Store.verify` lists in a file, without a runtime.

    Args:
        path: of the file, which a runtime may have open.
        deep: check SQLite's own structure even if a runtime has the file open; its commits wait meanwhile.
        progress: called with the positions done and the positions in all.

    Raises:
        StoreOpenError: the file cannot be read, or is not a database of commitcast.

    Threads: any; blocks until it is done. Reads in short transactions, so that commits of a runtime come between.
    """
    target = real(path)  # the lock lies beside the file, not beside a link to it
    report = Report(str(target))
    try:
        opening.inspect(target, write=False)
        is_live = is_locked(target)
        source = opening.source_for_reading(target)
        with fork.using(), closing(connections.connect(source, read_only=is_live)) as connection:
            connection.pragma("query_only", "on")
            if not is_live and journal.log_size(target):
                journal.leave_log(connection)
            is_taken = (lambda: False) if deep else partial(is_locked, target)
            _Verification(connection, report, progress, is_taken).run(structure=deep or not is_live, is_live=is_live)
    except (apsw.Error, OSError) as error:
        if isinstance(error, StoreOpenError):
            raise
        raise opening.explain(error, str(target)) from error
    return report


class _Verification:
    def __init__(
        self, connection: apsw.Connection, report: Report, progress: Progress, is_taken: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._report = report
        self._progress = progress
        self._began = 0.0
        self._is_taken = is_taken
        self._layout = layout_of(connection)
        self._is_chained = self._layout is BY_CHAIN
        self._logs: dict[int, _Log] = {}

    def run(self, *, structure: bool, is_live: bool) -> None:
        self._begin()
        try:
            last = self._value("SELECT last FROM positions")
            self._report.position = last or 0
            if not structure or not self._check_structure():
                self._report.notes.append(
                    "a runtime has the file open, so SQLite's own structures were not checked: use --deep to check them"
                )
            self._check_positions(last)
            self._check_agents(is_live)
        except apsw.CorruptError as error:
            self._report.add(f"SQLite: {error}: the rest could not be checked")
        except UnicodeDecodeError as error:
            self._report.add(f"an agent or a change of status holds bytes that are not text ({error})")
        self._connection.execute("ROLLBACK")
        self._progress(self._report.position, self._report.position)

    def _begin(self) -> None:
        self._connection.execute("BEGIN")
        self._began = time.monotonic()

    def _rest(self) -> None:
        """Let a waiting commit through after `MAX_HOLD_S`, and report the progress."""
        if time.monotonic() - self._began < MAX_HOLD_S:
            return
        self._restart()
        done = self._report.agents + self._report.messages + self._report.transitions
        self._progress(min(done, self._report.position), self._report.position)  # a live file may have grown

    def _restart(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._begin()

    def _value(self, sql: str, *parameters: Any) -> Any:
        return self._connection.execute(sql, parameters).get

    def _rows(self, sql: str, *parameters: Any) -> list[Row]:
        return list(self._connection.execute(sql, parameters))

    def _check_structure(self) -> bool:
        """Check SQLite's own structure. It is one long read, so it stops if a runtime opens the file."""
        self._connection.set_progress_handler(self._is_taken, STEPS_BETWEEN_PROBES)
        try:
            self._read_structure()
            is_complete = True
        except apsw.InterruptError:
            is_complete = False
        finally:
            self._connection.set_progress_handler(None)
        if not is_complete:
            self._restart()
        return is_complete

    def _read_structure(self) -> None:
        for (problems,) in self._connection.execute("PRAGMA integrity_check(100)"):
            for problem in str(problems).splitlines():
                if problem != "ok":
                    self._report.add(f"SQLite: {problem}")
        for table, row, parent, _ in self._connection.execute("PRAGMA foreign_key_check"):
            self._report.add(f"row {row} of {table} refers to a missing row of {parent}")

    def _check_positions(self, last: int | None) -> None:
        if last is None:
            self._report.add("the counter of positions is missing")
            return
        missing, first_missing = 0, 0
        for after in range(0, last, PAGE_ROWS):
            bounds = (after, min(after + PAGE_ROWS, last))
            ((count, different),) = self._rows(_COUNT, *bounds)
            if count != different:
                for position, names in self._rows(_REPEATED, *bounds):
                    self._report.add(f"position {position} is both in {names}")
            if different < bounds[1] - after and not missing:
                there = {position for position, _ in self._rows(_POSITIONS, *bounds)}
                first_missing = next(position for position in range(after + 1, last + 1) if position not in there)
            missing += bounds[1] - after - different
            self._rest()
        now = self._value("SELECT last FROM positions")
        for table, column in _POSITION_TABLES:
            highest = self._value(f"SELECT max({column}) FROM {table}") or 0
            if highest > now:
                self._report.add(f"{table} has position {highest}, but the counter is at {now}")
        if self._value("SELECT count(*) FROM pragma_table_info('runs')"):  # a file of the first version has none
            for number, began in self._rows(_RUNS, now):
                self._report.add(f"run {number} began at position {began}, before the previous run or after the end")
        deleted = self._value("SELECT count(*) FROM agent_deletions")
        if missing and not deleted:  # a deleted agent takes its positions with it
            self._report.add(
                f"{last} positions were assigned, but only {last - missing} exist: {missing} are missing,"
                f" the first is {first_missing}"
            )

    def _check_agents(self, is_live: bool) -> None:
        after = unfinished = 0
        while page := self._rows(_AGENTS, after, PAGE_ROWS):
            for key, agent, head, status in page:
                self._report.agents += 1
                unfinished += status not in _TERMINAL
                self._logs[key] = _Log(key, agent, head)
                self._check_life(key, agent)
                self._rest()
            after = page[-1][0]
        self._check_messages()
        if unfinished and not is_live:
            self._report.notes.append(f"a crash left {unfinished} agents unfinished: the next start fails them")

    def _check_life(self, key: int, agent: str) -> None:
        name = f"agent {agent!r}"
        rows = self._rows(_AGENT, key)
        steps = self._rows(_TRANSITIONS, key)
        if not rows:
            return  # deleted meanwhile
        ((head, now),) = rows
        self._report.transitions += len(steps)
        status = str(AgentStatus.INITIALIZING)
        for position, previous, following, after in steps:
            if previous != status:
                self._report.add(f"{name} changed from {previous} to {following} while it was {status}")
            if status in _TERMINAL:
                self._report.add(f"{name} had ended as {status}, but then became {following}")
            if after > head:
                self._report.add(f"{name} became {following} after message {after}, but has only {head}")
            self._check_order(key, name, position, after, following)
            status = following
        due = head // STEP
        if self._is_chained and self._rows(_STEPS, key) != [(due, due * STEP)]:
            self._report.add(f"{name} has {head} messages, but other steps")
        if status != now:
            self._report.add(f"{name} is {now}, but its last change was to {status}")

    def _check_order(self, key: int, name: str, position: int, after: int, following: str) -> None:
        find = partial(find_position, self._connection, self._layout, key)
        before, behind = find(after), find(after + 1)
        if (before is not None and before > position) or (behind is not None and behind < position):
            self._report.add(f"{name} became {following} out of order with message {after}")

    def _check_messages(self) -> None:
        """Check the messages in the order in which they lie, which is that of their commits."""
        last, after = self._value("SELECT last FROM positions"), 0
        if last is None:
            last = self._value("SELECT max(position) FROM agent_messages") or 0
        while page := self._page(after, last):
            for key, back, *row in page:
                if (log := self._logs.get(key)) is not None:  # else it has come since, or was deleted
                    self._check_message(log, back, row)
            after = page[-1][_POSITION]
            self._rest()
        for key, log in self._logs.items():
            self._check_end(key, log, last)
            self._rest()

    def _check_message(self, log: "_Log", back: int, row: list[Any]) -> None:
        name, (sequence, position) = log.name, row[:2]
        self._report.messages += 1
        if not _is_as_stored(log.agent, row):
            self._report.add(f"message {sequence} of {name} was changed since it was stored")
        if sequence <= log.last:
            if log.found_late(sequence):
                self._report.add(f"{name} has message {sequence + 1} at a position before that of the previous message")
            else:
                self._report.add(f"{name} has message {sequence} twice")
            return
        if sequence > log.last + 1:
            log.missing.append(range(log.last + 1, sequence))
        elif self._is_chained and back != (log.last and position - log.position):
            self._report.add(f"message {sequence} of {name} does not lead back to the one before it")
        log.recent.append(back)
        if sequence % STEP == 0:
            backs = ",".join(map(str, log.recent[:0:-1]))
            log.recent.clear()
            if self._is_chained and self._rows(_STEP, log.key, sequence) not in ([], [(position, backs)]):
                self._report.add(f"{name} has {log.head} messages, but other steps")
        log.last, log.position = sequence, position

    def _check_end(self, key: int, log: "_Log", last: int) -> None:
        for missing in log.missing:
            self._report.add(f"{log.name} has no message {missing.start} before message {missing.stop}")
        row = self._rows(_TAIL if self._is_chained else _AGENT, key)
        if not row:
            return  # deleted meanwhile
        if log.last < log.head:
            self._report.add(f"{log.name} should have {log.head} messages, but ends at {log.last}")
        ((head, tail),) = row
        if log.last > head:
            self._report.add(f"{log.name} has messages beyond its head {head}")
        elif self._is_chained and log.position != tail and tail <= last:
            self._report.add(f"{log.name} does not lead to its last message, {log.last}")

    def _page(self, *bounds: int) -> list[Row]:
        """Read messages in order, up to one with invalid text; a page that begins with it has its numbers only."""
        page: list[Row] = []
        size = 0
        with closing(self._connection.cursor()) as cursor:
            try:
                for row in cursor.execute(self._select(CHECKED_COLUMNS), (*bounds, PAGE_ROWS)):
                    page.append(row)
                    size += _size_of(row[2:])
                    if size > PAGE_BYTES:
                        break
            except UnicodeDecodeError:
                return page or self._rows(self._select("sequence_number, position"), *bounds, 1)
        return page

    def _select(self, columns: str) -> str:
        back = "back" if self._is_chained else "0"
        where = "position > ? AND position <= ? ORDER BY position LIMIT ?"
        return f"SELECT agent_key, {back}, {columns} FROM agent_messages WHERE {where}"


class _Log(msgspec.Struct, gc=False):
    """What was found of one agent's messages so far."""

    key: int
    agent: str
    head: int
    """How many it had when its row was read."""
    position: int = 0
    last: int = 0
    """The highest sequence, and where it lies."""
    recent: list[int] = []
    """`back` of those since the last step."""
    missing: list[range] = []
    """Sequences below it that were not found yet."""

    @property
    def name(self) -> str:
        return f"agent {self.agent!r}"

    def found_late(self, sequence: int) -> bool:
        """Take a sequence from those that are missing; return whether it was."""
        for place, missing in enumerate(self.missing):
            if sequence in missing:
                parts = range(missing.start, sequence), range(sequence + 1, missing.stop)
                self.missing[place : place + 1] = [part for part in parts if part]
                return True
        return False


def _size_of(row: Row) -> int:
    """Return the bytes of content, metadata and raw in a row of `CHECKED_COLUMNS`, which may be damaged."""
    size = 0
    for value in (row[4], row[7], row[8]):
        size += text_size(value) if isinstance(value, str) else len(value) if isinstance(value, bytes) else 0
    return size


def _is_as_stored(agent: str, row: list[Any]) -> bool:
    if len(row) == _NUMBERS_ALONE:
        return False
    try:
        checked_message(agent, tuple(row))
    except ValueError:
        return False
    return True
