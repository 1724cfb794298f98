"""Opening an SQLite file: what it may look like, who may have it, and the settings that durability rests on.

Refuses, with one `StoreOpenError` each, a file that is no database, of another program, damaged, not writable, of a
newer schema, or held by another runtime, and leaves it untouched. Must never repair anything. Runs on the thread that
opens the store.
"""

import fcntl
import os
import secrets
from importlib import resources
from pathlib import Path
from typing import Any, Final

import apsw

from commitcast.persistence.errors import (
    NotADatabaseError,
    SchemaTooNewError,
    StoreCorruptError,
    StoreLockedError,
    StoreOpenError,
    StoreReadOnlyError,
    StoreSettingError,
)

APPLICATION_ID: Final = 0x434D5443  # "CMTC"
SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_MS: Final = 5_000
"""How long SQLite waits for another program that has the file before it says BUSY."""
CHECK_WHOLE_FILE_BYTES: Final = 64 * 1024 * 1024
"""Up to this size every page is checked at start (well under a second); larger files are left to `verify`."""
_MAGIC: Final = b"SQLite format 3\x00"


class FileLock:
    """Keeps a second runtime out by `flock` on `FILE.lock`; the kernel drops it with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreLockedError: another runtime has it.
        """
        self._path = path.with_name(path.name + ".lock")
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._file, 32).decode("ascii", "replace").strip()
            os.close(self._file)
            raise StoreLockedError(
                str(path),
                f"another runtime has it (process {owner or 'unknown'}): stop that one, or use another file",
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back. Idempotent. The file stays: unlinking it would let two runtimes lock two files."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def is_locked(path: Path) -> bool:
    """Whether a runtime has this file at the moment. Touches nothing."""
    try:
        file = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def check_folder(path: Path) -> None:
    """Check that a journal and a lock can be made beside the file.

    Raises:
        StoreReadOnlyError: the folder is missing or cannot be written.
    """
    folder = path.parent
    if not folder.is_dir():
        raise StoreReadOnlyError(str(path), f"there is no folder {folder}: create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreReadOnlyError(str(path), f"the folder {folder} cannot be written: change its mode, or use another")


def create_if_missing(path: Path) -> None:
    """Create an empty file of mode 0600 if there is none.

    Raises:
        StoreReadOnlyError: it cannot be created.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StoreReadOnlyError(str(path), f"it cannot be created ({error.strerror})") from error


def inspect(path: Path, *, write: bool) -> None:
    """Look at a file without opening it as a database.

    Args:
        path: an existing file.
        write: whether it is going to be written.

    Raises:
        StoreOpenError: it cannot be what is wanted; the subclass says why.
    """
    name = str(path)
    if not path.is_file():
        raise NotADatabaseError(name, "it is no regular file" if path.exists() else "there is no such file")
    mode = path.stat().st_mode
    # The mode is asked too because the superuser passes every access test.
    if write and (not os.access(path, os.W_OK) or not mode & 0o222):
        raise StoreReadOnlyError(name, "the file is read-only: change its mode, or use another file")
    try:
        header = path.read_bytes() if path.stat().st_size < 100 else _read_header(path)
    except OSError as error:
        raise StoreReadOnlyError(name, f"it cannot be read ({error.strerror})") from error
    if not header:
        return  # a new file, or one whose creation was cut off before anything was committed
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise NotADatabaseError(name, "it is not a SQLite database: move it away, or use another path")
    page_size, change_counter, pages, user_version, valid_for = (
        int.from_bytes(header[start:end], "big")  # SQLite file format, section 1.3
        for start, end in ((16, 18), (24, 28), (28, 32), (60, 64), (92, 96))
    )
    application_id = int.from_bytes(header[68:72], "big")
    if application_id != APPLICATION_ID and (application_id or user_version or pages > 1):
        raise NotADatabaseError(name, "it is a database of another program: use another path")
    if user_version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            name,
            f"its schema has version {user_version} and this program knows {SCHEMA_VERSION}: upgrade commitcast",
        )
    page_size = 65_536 if page_size == 1 else page_size
    journal = path.with_name(path.name + "-journal")
    if valid_for == change_counter and path.stat().st_size < pages * page_size and not journal.exists():
        raise StoreCorruptError(
            name, f"its tail is missing ({path.stat().st_size:,} of {pages * page_size:,} bytes): restore a backup"
        )


def _read_header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def connect(source: str, *, create: bool = False, read_only: bool = False, vfs: str | None = None) -> apsw.Connection:
    """Open a connection whose settings have been read back.

    Raises:
        StoreOpenError: a setting did not take, or the file cannot be opened.
    """
    flags = apsw.SQLITE_OPEN_URI
    flags |= apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    flags |= apsw.SQLITE_OPEN_CREATE if create else 0
    connection = apsw.Connection(source, flags=flags, vfs=vfs)
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        in_memory = "vfs=memdb" in source
        if create:
            connection.pragma("auto_vacuum", 2)  # takes effect only before the first table
        for pragma, value, wanted in (
            ("journal_mode", "memory" if in_memory else "delete", "memory" if in_memory else "delete"),
            ("synchronous", "extra", 3),
            ("foreign_keys", "on", 1),
            # Pages reach the file only inside COMMIT, so page reads exclude nothing else of a transaction.
            ("cache_spill", "off", 0),
            ("temp_store", "memory", 2),
        ):
            _set(connection, source, pragma, value, wanted)
    except BaseException:
        connection.close()
        raise
    return connection


def _set(connection: apsw.Connection, source: str, pragma: str, value: str, wanted: Any) -> None:
    connection.pragma(pragma, value)
    found = connection.pragma(pragma)
    if found != wanted:
        raise StoreSettingError(
            source, f"PRAGMA {pragma} is {found!r} after it was set to {value!r}, so durability cannot be promised"
        )


def migrate(connection: apsw.Connection, name: str) -> None:
    """Bring the schema to `SCHEMA_VERSION`, one transaction for each step.

    Raises:
        StoreOpenError: the file is damaged or of another program.
    """
    version = connection.pragma("user_version")
    for number in range(version + 1, SCHEMA_VERSION + 1):
        with connection:
            connection.execute(_script(number))
            if number == 1:
                connection.execute("INSERT INTO positions VALUES (1, 0, ?)", (secrets.token_hex(8),))
                connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", number)
    if connection.pragma("auto_vacuum") != 2:
        raise StoreSettingError(name, "PRAGMA auto_vacuum is not INCREMENTAL: the file was not made by commitcast")


def _script(number: int) -> str:
    for script in resources.files("commitcast.persistence.schema").iterdir():
        if script.name.startswith(f"{number:04d}_"):
            return script.read_text("utf-8")
    raise AssertionError(f"migration {number} is missing from the package")


def check_pages(connection: apsw.Connection, path: Path) -> None:
    """Check that the pages of a file hang together: all of a small file, the schema of a large one.

    Raises:
        StoreCorruptError: they do not.
    """
    small = path.stat().st_size <= CHECK_WHOLE_FILE_BYTES
    answer = connection.pragma("quick_check", 1) if small else connection.pragma("schema_version")
    if small and answer != "ok":
        raise StoreCorruptError(str(path), f"it is damaged ({answer}): restore a backup; it was left as it is")


def sync_folder(path: Path) -> None:
    """Make the entries of the file's folder durable: a finished recovery must not come back after a power cut."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def explain(error: apsw.Error, path: str) -> StoreOpenError:
    """Return the open error that an SQLite error means."""
    if isinstance(error, apsw.NotADBError):
        return NotADatabaseError(path, "it is not a SQLite database: move it away, or use another path")
    if isinstance(error, apsw.CorruptError):
        return StoreCorruptError(path, "it is damaged: restore a backup; it was left as it is")
    if isinstance(error, (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError)):
        return StoreReadOnlyError(path, f"it cannot be written ({error})")
    if isinstance(error, apsw.BusyError):
        return StoreLockedError(path, "another program holds it locked: close that one, or use another file")
    return StoreOpenError(path, str(error))
