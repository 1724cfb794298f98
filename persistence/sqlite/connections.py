"""Connections to an SQLite file: the settings that durability rests on, read back, and the busy handler.

Must never hand out a connection on which a setting did not take. Any thread.
"""

import math
import time
from collections.abc import Callable
from typing import Final

import apsw

from commitcast.persistence import fork
from commitcast.persistence.errors import StoreReadTimeoutError
from commitcast.persistence.read_timeout import remaining_s
from commitcast.persistence.sqlite import journal

BUSY_TIMEOUT_S: Final = 5.0
"""How long SQLite waits for another program that has the file before it says BUSY."""
BUSY_POLL_S: Final = 0.001
"""How often it polls meanwhile. SQLite's own busy handler polls ten times a second, and finds a busy file locked nearly
every time."""


def connect(
    source: str,
    *,
    create: bool = False,
    read_only: bool = False,
    mode: str | None = None,
    vfs: str | None = None,
    give_up: Callable[[], bool] = lambda: False,
    busy_timeout_s: float | None = BUSY_TIMEOUT_S,
) -> apsw.Connection:
    """Open a connection whose settings have been read back.

    Args:
        source: a path, or a URI of a database in memory.
        create: whether it is the writer's: it makes the file.
        read_only: whether the file cannot be written.
        mode: the journal mode that the file must be in; None: any, and the writer sets it later.
        vfs: name of a registered SQLite VFS.
        give_up: asked while another program's lock is waited for; True ends the waiting.
        busy_timeout_s: seconds after which that waiting ends by itself; None: never.

    Raises:
        StoreOpenError: a setting did not take, or the file cannot be opened.
        ForkedRuntimeError: SQLite cannot be used in this process.
    """
    flags = apsw.SQLITE_OPEN_URI
    flags |= apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    flags |= apsw.SQLITE_OPEN_CREATE if create else 0
    fork.check_usable()
    connection = apsw.Connection(source, flags=flags, vfs=vfs)
    try:
        connection.set_busy_handler(_BusyHandler(give_up, busy_timeout_s))
        if create and "vfs=memdb" in source:
            journal.set_setting(connection, source, "journal_mode", "memory", "memory")
        if mode == journal.WAL:  # a reader must not set it: that would take the writer's lock
            journal.check_setting(connection, source, "journal_mode", mode, mode)
        for pragma, value, wanted in (
            ("synchronous", *journal.SYNCHRONOUS[mode or journal.DELETE]),
            ("foreign_keys", "on", 1),
            # Pages reach the file only inside COMMIT, so page reads exclude nothing else of a transaction.
            ("cache_spill", "off", 0),
            ("temp_store", "memory", 2),
        ):
            journal.set_setting(connection, source, pragma, value, wanted)
        if create and connection.pragma("page_count") == 0:
            connection.pragma("auto_vacuum", 2)  # takes effect only before the first table; `migrate` reads it back
    except BaseException:  # Ctrl-C too: no connection stays open
        journal.leave_log(connection)
        connection.close()
        raise
    return connection


class _BusyHandler:
    """Decides for one connection whether to go on waiting for a lock."""

    def __init__(self, give_up: Callable[[], bool], timeout_s: float | None) -> None:
        self._give_up = give_up
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._deadline = 0.0

    def __call__(self, polls: int) -> bool:
        if polls == 0:
            self._deadline = time.monotonic() + self._timeout_s
        if time.monotonic() >= self._deadline or self._give_up():
            return False
        try:
            remaining_s()
        except StoreReadTimeoutError:
            return False
        time.sleep(BUSY_POLL_S)
        return True
