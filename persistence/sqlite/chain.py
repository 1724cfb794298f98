"""How one agent's messages are found among those of all agents, which lie in commit order.

An index with an entry for each message is written in as many places as a commit has agents. So each message tells how
far *back* the agent's one before it lies, the agent's row where its *tail* is, and for every 128 messages there is a
*step*: where the last of them lies, and the way back from it to the first. A page is found by the steps that it
touches, and the few messages after the last step by going back from the tail.

It is a skip list of two levels (Pugh, 1990) whose lower level is in the rows, and in the steps once more. Files of an
earlier version have an index instead; they can be read, and are migrated when they are opened to be written. Any
thread.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from operator import sub
from typing import Final, NamedTuple, Protocol

import apsw

from commitcast.persistence.sqlite.rows import CHECKED_COLUMNS, STEP, Row

CHUNK_ROWS: Final = 1_024
"""How many messages are looked for at once; their positions are kept in memory, 30 bytes each."""
CHAINED: Final = 3
"""The version of the schema from which on messages are chained."""

TOGETHER: Final = 8
"""Messages that are read as one row of a result: for each row the interpreter is released and taken again."""
GROUPS: Final = (1, 2, 4, 8, 16, 32, 64)
"""For how many such rows there is a statement."""
LARGE_BYTES: Final = 8 * 1024
"""A message from this size on is read alone, when it is asked for: a page may have no room for it."""

_STEPS: Final = (
    "SELECT group_concat(way, ';') FROM (SELECT position || ',' || backs AS way FROM agent_steps"
    " WHERE agent_key = ? AND sequence_number > ? AND sequence_number < ? ORDER BY sequence_number)"
)
_FROM_TAIL: Final = (
    "WITH RECURSIVE walk (position, back, sequence) AS ("
    " SELECT position, back, sequence_number FROM agent_messages"
    " WHERE position = (SELECT tail FROM agents WHERE key = ?1) AND sequence_number > ?2"
    " UNION ALL SELECT m.position, m.back, m.sequence_number FROM walk"
    " JOIN agent_messages AS m ON m.position = walk.position - walk.back"
    " WHERE walk.back > 0 AND m.sequence_number > ?2)"
    " SELECT group_concat(position) FROM walk"
)
_BY_INDEX: Final = (
    "SELECT position FROM agent_messages WHERE agent_key = ? AND sequence_number > ? ORDER BY sequence_number LIMIT ?"
)
_COLUMNS: Final = CHECKED_COLUMNS.split(", ")
_WIDTH: Final = len(_COLUMNS)
_STARTS: Final = range(0, _WIDTH * TOGETHER, _WIDTH)
_AT: Final = f"SELECT {CHECKED_COLUMNS} FROM agent_messages WHERE position = ?"
_SMALL: Final = (
    " LEFT JOIN agent_messages AS m{0} ON m{0}.position = page.column{0} AND octet_length(m{0}.content)"
    " + ifnull(octet_length(m{0}.raw), 0) + ifnull(octet_length(m{0}.metadata), 0) <"
    f" {LARGE_BYTES}"
)
_ONE_BY_ONE: Final = ",1" * (STEP - 1)
_HEAD: Final = (
    "SELECT key, epoch, head, status,"
    " max(key, {0}, coalesce((SELECT max(position) FROM agent_transitions WHERE agent_key = agents.key), 0)), {0}"
    " FROM agents WHERE id = ?"
)


class Find(Protocol):
    """Finds messages of an agent; see `BY_CHAIN`."""

    def __call__(self, connection: apsw.Connection, key: int, after: int, limit: int, /) -> Sequence[int]:
        """Return the positions of up to `limit` messages after a sequence, in order."""


class Layout(NamedTuple):
    """How messages are found in one version of the schema."""

    head: str
    """The statement for an agent's key, epoch, last sequence, status, position of its last entry, and tail; by id."""
    find: Find


def _find_by_chain(connection: apsw.Connection, key: int, after: int, limit: int) -> Sequence[int]:
    positions: list[int] = []
    first = after - after % STEP  # what the first step covers begins after this
    until = after + limit
    steps: str | None = connection.execute(_STEPS, (key, after, until + STEP)).get
    for way in () if steps is None else steps.split(";"):
        if way.endswith(_ONE_BY_ONE):
            position = int(way.removesuffix(_ONE_BY_ONE))
            positions += range(position - STEP + 1, position + 1)
        else:
            step = list(accumulate(map(int, way.split(",")), sub))
            step.reverse()
            positions += step
    if first + len(positions) < until:
        rest: str | None = connection.execute(_FROM_TAIL, (key, max(after, first + len(positions)))).get
        if not positions:
            first = after
        if rest is not None:
            positions += sorted(map(int, rest.split(",")))
    return positions[after - first : until - first]


def _find_by_index(connection: apsw.Connection, key: int, after: int, limit: int) -> Sequence[int]:
    return [position for (position,) in connection.execute(_BY_INDEX, (key, after, limit))]


BY_CHAIN: Final = Layout(_HEAD.format("tail"), _find_by_chain)
BY_INDEX: Final = Layout(
    _HEAD.format(
        "coalesce((SELECT position FROM agent_messages WHERE agent_key = agents.key AND sequence_number = head), 0)"
    ),
    _find_by_index,
)


def layout_of(connection: apsw.Connection) -> Layout:
    """Return the layout of a file."""
    return BY_CHAIN if connection.pragma("user_version") >= CHAINED else BY_INDEX


def find_position(connection: apsw.Connection, layout: Layout, key: int, sequence: int) -> int | None:
    """Return where a message of an agent lies; None if there is none with this sequence."""
    return next(iter(layout.find(connection, key, sequence - 1, 1)), None) if sequence > 0 else None


def find_messages(connection: apsw.Connection, layout: Layout, key: int, after: int, limit: int) -> Iterator[Row]:
    """Yield `CHECKED_COLUMNS` of up to `limit` messages of an agent after a sequence, in order.

    Raises:
        ValueError: one is missing.
    """
    end = after + limit
    while after < end:
        until = min(end, after + CHUNK_ROWS)
        positions = layout.find(connection, key, after, until - after)
        if not positions:
            return
        for row in _rows_at(connection, positions):
            after += 1
            if row[0] != after:
                raise ValueError(f"message {after} of the agent is missing before message {row[0]}")
            yield row
        if after < until:
            return


def _rows_at(connection: apsw.Connection, positions: Sequence[int]) -> Iterator[Row]:
    """Yield the rows at these positions as they are asked for; of large ones none is read before."""
    place = 0
    while place < len(positions):
        try:
            for row in _small_rows_at(connection, positions[place : place + GROUPS[-1] * TOGETHER]):
                place += 1
                yield row
        except UnicodeDecodeError:  # one of the next few is damaged
            pass
        if place < len(positions):  # one that is large, damaged or missing, or begins the next group
            alone: Row | None = connection.execute(_AT, (positions[place],)).fetchone()
            place += 1
            if alone is not None:
                yield alone


def _small_rows_at(connection: apsw.Connection, positions: Sequence[int]) -> Iterator[Row]:
    """Yield the rows at these positions up to the first that is large or missing."""
    groups = GROUPS[bisect_left(GROUPS, -(-len(positions) // TOGETHER))]
    padded = (*positions, *(None,) * (groups * TOGETHER - len(positions)))
    for rows in connection.execute(_together(groups), padded):
        for start in _STARTS:
            row = rows[start : start + _WIDTH]
            if row[0] is None:
                return
            yield row


@cache
def _together(groups: int) -> str:
    """Return the statement for the small rows at that many groups of positions, in their order."""
    numbers = range(1, TOGETHER + 1)
    columns = ", ".join(f"m{number}.{column}" for number in numbers for column in _COLUMNS)
    values = ", ".join([f"({', '.join('?' * TOGETHER)})"] * groups)
    joins = "".join(_SMALL.format(number) for number in numbers)
    return f"SELECT {columns} FROM (VALUES {values}) AS page{joins}"


def recent_backs(connection: apsw.Connection, key: int, sequence: int) -> list[int]:
    """Return what the next step of an agent whose last message is `sequence` begins with: see `Plan.add_messages`.

    Raises:
        apsw.CorruptError: they are not all there.
    """
    positions = _find_by_chain(connection, key, sequence - sequence % STEP, STEP)
    if len(positions) != sequence % STEP:
        raise apsw.CorruptError(f"the way back from message {sequence} of an agent is broken")
    return [0, *map(sub, positions[1:], positions)] if positions else []
