"""Opening an SQLite file: what it must look like, and how its schema is brought up to date.

Each function refuses, with the `StoreOpenError` that says why, a file that is not a database, or is of another program,
damaged, not writable or of a newer schema, and leaves it unchanged. Must never repair anything. Runs on the thread
that opens the store.
"""

import contextlib
import logging
import os
import secrets
import stat
from importlib import resources
from pathlib import Path
from typing import Final
from urllib.parse import quote

import apsw

from commitcast.persistence.errors import (
    NotADatabaseError,
    SchemaTooNewError,
    StoreCorruptError,
    StoreLockedError,
    StoreOpenError,
    StorePathError,
    StoreReadOnlyError,
    StoreSettingError,
)
from commitcast.persistence.sqlite import journal

logger: Final = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x434D5443  # "CMTC"
SCHEMA_VERSION: Final = 3
CHECK_WHOLE_FILE_BYTES: Final = 64 * 1024 * 1024
"""Up to this size every page is checked at start (well under a second); larger files are left to `verify`."""
MEMORY: Final = ":memory:"
"""In place of a path: the database is kept in memory."""
MAX_NAME_BYTES: Final = 255 - len("-journal")
"""NAME_MAX of Linux's file systems, less the longest suffix that SQLite appends (others: `-wal`, `-shm`)."""
KEPT_NAME_BYTES: Final = 200
"""Bytes of a file's name that a longer name, which is made of it, keeps; the journal of that is longer still."""
_MAGIC: Final = b"SQLite format 3\x00"
_JOURNAL_MAGIC: Final = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"


def check_name(path: Path) -> None:
    """Check that SQLite can use the path, and that its journal can have a name."""
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise StorePathError(shown, "SQLite accepts only paths in UTF-8: rename the file or its folder") from None
    if "\0" in name:
        raise StorePathError(name.replace("\0", "\\0"), "a path cannot contain a NUL character")
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        raise StorePathError(
            name, f"its name has more than {MAX_NAME_BYTES} bytes, leaving no room for the journal's suffix: shorten it"
        )


def kept_name(path: Path) -> str:
    """Return the name of a file, which `check_name` has accepted, cut to `KEPT_NAME_BYTES`."""
    return path.name.encode()[:KEPT_NAME_BYTES].decode(errors="ignore")


def check_folder(path: Path) -> None:
    """Check that a journal and a lock can be made beside the file."""
    folder = path.parent
    if not folder.is_dir():
        raise StoreReadOnlyError(str(path), f"there is no folder {folder}: create it first")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):  # to be read because it is opened to be synced
        raise StoreReadOnlyError(str(path), f"the folder {folder} is not writable: change its mode, or use another")


def create_if_missing(path: Path) -> None:
    """Create an empty file of mode 0600 if there is none."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def mode_for_others(path: Path) -> int:
    """Return the mode of a file that other users may read or write; 0 if none may."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if mode & 0o066 else 0


def inspect(path: Path, *, write: bool) -> None:
    """Inspect a file without opening it as a database. Harmless while a runtime of this process has it open.

    Args:
        path: an existing file.
        write: whether it is going to be written.
    """
    name = str(path)
    if not path.is_file():
        raise NotADatabaseError(name, "it is not a regular file" if path.exists() else "there is no such file")
    status = path.stat()
    if write and status.st_nlink != 1:
        raise StorePathError(
            name,
            f"it has {status.st_nlink} hard links, and a runtime could be started on each: keep only one",
        )
    # The mode is asked too because the superuser passes every access test.
    if write and (not os.access(path, os.W_OK) or not status.st_mode & 0o222):
        raise StoreReadOnlyError(name, "the file is read-only: change its mode, or use another file")
    if not os.access(path, os.R_OK):
        raise StoreReadOnlyError(name, "it cannot be read (Permission denied): change its mode, or use another file")
    if write:
        _check_beside(path)
    log_size = journal.log_size(path)  # before the header: a runtime may be switching the journal mode right now
    header = _head_of(path, 100)
    is_wal = journal.is_wal(header)
    if log_size and not is_wal and journal.log_size(path):
        raise StorePathError(
            name,
            f"a log of another database lies beside it ({journal.log_of(path).name}), which SQLite would write into it:"
            " move that file away, or put the database back to which it belongs",
        )
    is_blank = not header.strip(b"\0") and (not header or _is_half_created(path))
    if is_blank and write:
        return  # a new file, or one whose creation was cut off before anything was committed
    if not is_blank and (len(header) < 100 or not header.startswith(_MAGIC)):
        raise NotADatabaseError(name, "it is not a SQLite database: move it away, or use another path")
    page_size, change_counter, pages, user_version, valid_for = (
        int.from_bytes(header[start:end], "big")  # SQLite file format, section 1.3
        for start, end in ((16, 18), (24, 28), (28, 32), (60, 64), (92, 96))
    )
    application_id = int.from_bytes(header[68:72], "big")
    is_blank = is_blank or not (application_id or user_version or pages != 1 or is_wal)
    if application_id != APPLICATION_ID and not is_blank:
        raise NotADatabaseError(name, "it is another program's database: use another path")
    if user_version == 0 and not write:
        raise NotADatabaseError(name, "it is empty: no runtime has stored anything in it")
    if user_version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            name,
            f"its schema has version {user_version}, but this program supports {SCHEMA_VERSION}: upgrade commitcast",
        )
    length = pages * (65_536 if page_size == 1 else page_size)
    # Journal and log are looked for before the size: a runtime may be finishing a commit right now.
    is_at_rest = valid_for == change_counter and not _journal(path).exists() and not journal.log_size(path)
    if is_at_rest and (size := path.stat().st_size) < length:
        raise StoreCorruptError(name, f"it is truncated ({size:,} of {length:,} bytes): restore a backup")


def _check_beside(path: Path) -> None:
    """Check that a log and its index are not links: they would be those of two databases."""
    for beside in (journal.log_of(path), journal.index_of(path)):
        try:
            status = beside.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise StorePathError(str(path), f"{beside} is not a regular file, or has hard links: remove it")


def _head_of(path: Path, count: int) -> bytes:
    """Read the beginning of a database through SQLite.

    Closing any descriptor of a file drops all POSIX locks that the process has on it (SQLite, "How To Corrupt", 2.2),
    a runtime's in mid-commit too. SQLite puts the close off while another connection of the process holds a lock.
    """
    file = apsw.VFSFile("", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
    try:
        return file.xRead(count, 0)
    finally:
        file.xClose()


def source_for_reading(path: Path) -> str:
    """Return what a reader opens: the path, or a URI if the file is in WAL mode where no index can be made.

    SQLite needs the index also to read. On read-only media a file without a log has no writer and is read as it is.
    """
    if os.access(path.parent, os.W_OK) or journal.log_size(path) or not journal.is_wal(_head_of(path, 100)):
        return str(path)
    return f"file:{quote(str(path))}?immutable=1"


def _journal(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


def _is_half_created(path: Path) -> bool:
    """Whether the first transaction was cut off: the journal takes the file back to no pages at all."""
    try:
        with _journal(path).open("rb") as file:  # SQLite takes no lock on a journal
            journal = file.read(20)
    except FileNotFoundError:
        return False
    return journal.startswith(_JOURNAL_MAGIC) and not any(journal[16:20])  # SQLite file format, section 3


def migrate(connection: apsw.Connection, name: str) -> None:
    """Bring the schema to `SCHEMA_VERSION`, in one transaction."""
    version = connection.pragma("user_version")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise NotADatabaseError(name, "it is another program's database: use another path")
    if connection.pragma("auto_vacuum") != 2:
        raise StoreSettingError(name, "PRAGMA auto_vacuum is not INCREMENTAL: the file was not made by commitcast")
    if version in range(1, SCHEMA_VERSION):
        logger.warning("%s: its schema is brought from version %d to %d", name, version, SCHEMA_VERSION)
        connection.pragma("cache_spill", "on")  # all messages are written again: more than memory may hold
    with connection:
        for number in range(version + 1, SCHEMA_VERSION + 1):
            connection.execute(_script(number))
            if number == 1:
                connection.execute("INSERT INTO positions VALUES (1, 0, ?)", (secrets.token_hex(8),))
                connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", number)
    journal.set_setting(connection, name, "cache_spill", "off", 0)


def _script(number: int) -> str:
    for script in resources.files("commitcast.persistence.sqlite.schema").iterdir():
        if script.name.startswith(f"{number:04d}_"):
            return script.read_text("utf-8")
    raise AssertionError(f"migration {number} is missing from the package")


def check_pages(connection: apsw.Connection, path: Path) -> None:
    """Check the structure of a file: all pages of a small file, the schema of a large one."""
    small = path.stat().st_size <= CHECK_WHOLE_FILE_BYTES
    answer = connection.pragma("quick_check", 1) if small else connection.pragma("schema_version")
    if small and answer != "ok":
        problem = " ".join(answer.split())  # SQLite reports it in several lines
        raise StoreCorruptError(str(path), f"it is damaged ({problem}): restore a backup; it was not changed")


def explain(error: apsw.Error | OSError, path: str) -> StoreOpenError:
    """Return the open error that an error of SQLite or of the system means."""
    if isinstance(error, OSError):
        return StoreReadOnlyError(path, f"{error.filename or 'it'} cannot be used ({error.strerror})")
    if isinstance(error, apsw.NotADBError):
        return NotADatabaseError(path, "it is not a SQLite database: move it away, or use another path")
    if isinstance(error, apsw.CorruptError):
        return StoreCorruptError(path, "it is damaged: restore a backup; it was not changed")
    if isinstance(error, (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError)):
        return StoreReadOnlyError(path, f"it cannot be written ({error})")
    if isinstance(error, apsw.BusyError):
        return StoreLockedError(path, "another program has locked it: close that program, or use another file")
    return StoreOpenError(path, str(error))
