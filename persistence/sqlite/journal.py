"""The journal modes of an SQLite file: DELETE, which is the default, and WAL (a write-ahead log).

Owns the names, the files that a mode keeps beside the database, and the switch from one mode to the other. Must never
leave a file half-way: SQLite switches in a transaction of its own, alone with the file. Any thread.
"""

from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence.errors import InvalidValueError, StoreLockedError, StoreSettingError

DELETE: Final = "delete"
WAL: Final = "wal"
SYNCHRONOUS: Final = {DELETE: ("extra", 3), WAL: ("full", 2)}
"""By journal mode: EXTRA syncs the folder after the journal's removal, FULL the log at each commit."""
_VERSION_AT: Final = 18
_VERSION_WITH_LOG: Final = b"\x02"
"""The file format of a database whose pages may be in a log beside it (SQLite, Database File Format, 1.3)."""


def checked_mode(mode: str) -> str:
    """Return a journal mode, or raise `InvalidValueError` if it is not one."""
    if mode not in SYNCHRONOUS:
        raise InvalidValueError(f"journal_mode is {mode!r}, but must be {DELETE!r} or {WAL!r}")
    return mode


def is_wal(header: bytes) -> bool:
    """Whether a file that begins like this is in WAL mode."""
    return header[_VERSION_AT : _VERSION_AT + 1] == _VERSION_WITH_LOG


def log_of(path: Path) -> Path:
    """Return the path of the write-ahead log."""
    return path.with_name(f"{path.name}-wal")


def index_of(path: Path) -> Path:
    """Return the path of the log's index, which the connections of all processes share in memory."""
    return path.with_name(f"{path.name}-shm")


def log_size(path: Path) -> int:
    """Return the bytes of the log; 0 if there is none."""
    try:
        return log_of(path).lstat().st_size
    except FileNotFoundError:
        return 0


def leave_log(connection: apsw.Connection) -> None:
    """Let a connection, when it is closed, neither write a log into the file nor remove it."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def set_setting(connection: apsw.Connection, name: str, pragma: str, value: str, wanted: object) -> None:
    """Set a pragma and read it back. Raises `StoreSettingError` if it did not take."""
    connection.pragma(pragma, value)
    check_setting(connection, name, pragma, value, wanted)


def check_setting(connection: apsw.Connection, name: str, pragma: str, value: str, wanted: object) -> None:
    """Read a pragma back. Raises `StoreSettingError` if it is not as wanted."""
    actual = connection.pragma(pragma)
    if actual != wanted:
        raise StoreSettingError(
            name, f"PRAGMA {pragma} is {actual!r} after it was set to {value!r}, so durability cannot be promised"
        )


def switch(connection: apsw.Connection, name: str, mode: str) -> None:
    """Put a file into a journal mode, and read the mode and `synchronous` back.

    A file that leaves WAL mode has its log written into it and removed first.

    Args:
        connection: the writer's, outside a transaction.
        name: the file's, for errors.
        mode: which it is in, or is switched to.

    Raises:
        StoreLockedError: it is in the other mode and another connection uses it; nothing was changed.
        StoreSettingError: the mode did not take.
        apsw.Error: the file cannot be read or written; a transaction that was cut off is rolled back by the next start.

    Durability: on return the file is in the mode also after a power cut.
    """
    try:
        set_setting(connection, name, "journal_mode", mode, mode)
    except apsw.BusyError as error:
        raise StoreLockedError(
            name, f"another program uses it, so it cannot be switched to journal mode {mode!r}: close that program"
        ) from error
    set_setting(connection, name, "synchronous", *SYNCHRONOUS[mode])
