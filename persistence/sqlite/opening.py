"""Opening an SQLite file: what it may look like, who may have it, and how its schema is brought up to date.

Refuses, with one `StoreOpenError` each, a file that is no database, of another program, damaged, not writable, of a
newer schema, or held by another runtime, and leaves it untouched. Must never repair anything. Runs on the thread that
opens the store.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from importlib import resources
from pathlib import Path
from typing import Final

import apsw

from commitcast.persistence import fork
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

APPLICATION_ID: Final = 0x434D5443  # "CMTC"
SCHEMA_VERSION: Final = 2
CHECK_WHOLE_FILE_BYTES: Final = 64 * 1024 * 1024
"""Up to this size every page is checked at start (well under a second); larger files are left to `verify`."""
MEMORY: Final = ":memory:"
"""In place of a path: the database is kept in memory."""
MAX_NAME_BYTES: Final = 255 - len("-journal")
"""NAME_MAX of Linux's file systems, less what SQLite appends."""
LOOKERS_POLL_S: Final = 0.001
LOOKERS_PATIENCE_S: Final = 1.0
"""How long the lock is waited for while nobody has it but those who only look whether somebody has it."""
_MAGIC: Final = b"SQLite format 3\x00"
_JOURNAL_MAGIC: Final = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_WITH_LOG: Final = 2
"""The file format of a database whose tables may be in a write-ahead log beside it."""


class FileLock:
    """Keeps a second runtime out by `flock` on `FILE.lock`; the kernel drops it with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            StoreLockedError: another runtime has it.
            OSError: there can be no lock.
        """
        self._file = _open_lock(path, os.O_RDWR | os.O_CREAT)
        fork.register(self)
        try:
            if not self._take():
                raise StoreLockedError(str(path), _who_has_it(self._file, path))
        except BaseException:
            self.close()
            raise
        with contextlib.suppress(OSError):  # a note for people: a full disk must not keep the store from being opened
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def _take(self) -> bool:
        deadline = time.monotonic() + LOOKERS_PATIENCE_S
        while not _try_lock(self._file, fcntl.LOCK_EX):
            if not _try_lock(self._file, fcntl.LOCK_SH) or time.monotonic() > deadline:
                return False
            fcntl.flock(self._file, fcntl.LOCK_UN)  # it was somebody in `is_locked`, who is gone in a moment
            time.sleep(LOOKERS_POLL_S)
        return True

    def close(self) -> None:
        """Give the lock back. Idempotent. The file stays: unlinking it would let two runtimes lock two files."""
        if self._file >= 0:
            _unlock(self._file)
            self._file = -1

    def _drop_in_child(self) -> None:
        """Let go of a parent's lock: closed and not unlocked, which would unlock it for the parent too."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _unlock(file: int) -> None:
    """Give a lock back and close its file. The lock would outlive a mere close in a copy that a fork has made."""
    try:
        fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def _who_has_it(lock: int, path: Path) -> str:
    """Say who holds a lock, as far as it is known: the note in it is of the last to take it, and may be older."""
    owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
    if not owner.isdecimal() or not Path("/proc", owner).exists():
        return f"a process has it that is not known: stop what `fuser {path}.lock` shows, or use another file"
    which = ", which is this one" if int(owner) == os.getpid() else ""
    return f"another runtime has it (process {owner}{which}): stop that one, or use another file"


def is_locked(path: Path) -> bool:
    """Whether a runtime has this file at the moment. Touches nothing."""
    try:
        refuse_if_locked(path)
    except StoreLockedError:
        return True
    except OSError:
        return False
    return False


def refuse_if_locked(path: Path) -> None:
    """Ask for the lock without making one.

    Raises:
        StoreLockedError: a runtime has the file at the moment.
        StoreOpenError: what lies in the lock's place is none.
    """
    try:
        file = _open_lock(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        if not _try_lock(file, fcntl.LOCK_SH):
            raise StoreLockedError(str(path), _who_has_it(file, path))
    finally:
        _unlock(file)


def _open_lock(path: Path, flags: int) -> int:
    """Open `FILE.lock`, which must be a file of its own: a link would be the lock of two databases, or of nothing."""
    lock = path.with_name(path.name + ".lock")
    try:
        file = os.open(lock, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorePathError(str(path), f"{lock} is a symbolic link: remove it") from error
        raise
    found = os.fstat(file)
    if stat.S_ISDIR(found.st_mode):
        os.close(file)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(lock))
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(file)
        raise StorePathError(str(path), f"{lock} is not a file with one name of its own: remove it")
    return file


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_name(path: Path) -> None:
    """Check that SQLite can use the path, and that its journal can have a name.

    Raises:
        StoreOpenError: it cannot.
    """
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise StorePathError(shown, "SQLite takes paths in UTF-8 only: rename the file or its folder") from None
    if "\0" in name:
        raise StorePathError(name.replace("\0", "\\0"), "a path cannot hold a NUL character")
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        raise StorePathError(
            name, f"its name has more than {MAX_NAME_BYTES} bytes, so the journal beside it could have none: shorten it"
        )


def check_folder(path: Path) -> None:
    """Check that a journal and a lock can be made beside the file.

    Raises:
        StoreReadOnlyError: the folder is missing or cannot be written.
    """
    folder = path.parent
    if not folder.is_dir():
        raise StoreReadOnlyError(str(path), f"there is no folder {folder}: create it first")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):  # to be read because it is opened to be synced
        raise StoreReadOnlyError(str(path), f"the folder {folder} cannot be written: change its mode, or use another")


def create_if_missing(path: Path) -> None:
    """Create an empty file of mode 0600 if there is none.

    Raises:
        OSError: it cannot be created.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def mode_for_others(path: Path) -> int:
    """Return the mode of a file that other users may read or write; 0 if none may."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if mode & 0o066 else 0


def inspect(path: Path, *, write: bool) -> None:
    """Look at a file without opening it as a database. Harmless beside a runtime of this process that has it.

    Args:
        path: an existing file.
        write: whether it is going to be written.

    Raises:
        StoreOpenError: it cannot be what is wanted; the subclass says why.
    """
    name = str(path)
    if not path.is_file():
        raise NotADatabaseError(name, "it is no regular file" if path.exists() else "there is no such file")
    found = path.stat()
    mode = found.st_mode
    if write and found.st_nlink != 1:
        raise StorePathError(
            name,
            f"it has {found.st_nlink} names (hard links), and a runtime could be started on each: keep one of them",
        )
    # The mode is asked too because the superuser passes every access test.
    if write and (not os.access(path, os.W_OK) or not mode & 0o222):
        raise StoreReadOnlyError(name, "the file is read-only: change its mode, or use another file")
    if not os.access(path, os.R_OK):
        raise StoreReadOnlyError(name, "it cannot be read (Permission denied): change its mode, or use another file")
    header = _head_of(path, 100)
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
    is_blank = is_blank or not (application_id or user_version or pages != 1 or header[18] == _WITH_LOG)
    if application_id != APPLICATION_ID and not is_blank:
        raise NotADatabaseError(name, "it is a database of another program: use another path")
    if user_version == 0 and not write:
        raise NotADatabaseError(name, "it is empty: nothing was ever stored in it")
    if user_version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            name,
            f"its schema has version {user_version} and this program knows {SCHEMA_VERSION}: upgrade commitcast",
        )
    length = pages * (65_536 if page_size == 1 else page_size)
    # The journal is looked for before the size: a runtime may be finishing a commit right now.
    is_at_rest = valid_for == change_counter and not _journal(path).exists()
    if is_at_rest and (size := path.stat().st_size) < length:
        raise StoreCorruptError(name, f"its tail is missing ({size:,} of {length:,} bytes): restore a backup")


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


def _journal(path: Path) -> Path:
    return path.with_name(path.name + "-journal")


def _is_half_created(path: Path) -> bool:
    """Whether the first transaction was cut off: the journal takes the file back to no pages at all."""
    try:
        with _journal(path).open("rb") as file:  # nobody locks a journal
            journal = file.read(20)
    except FileNotFoundError:
        return False
    return journal.startswith(_JOURNAL_MAGIC) and not any(journal[16:20])  # SQLite file format, section 3


def migrate(connection: apsw.Connection, name: str) -> None:
    """Bring the schema to `SCHEMA_VERSION`, in one transaction.

    Raises:
        StoreOpenError: the file is damaged or of another program; nothing was written.
    """
    version = connection.pragma("user_version")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise NotADatabaseError(name, "it is a database of another program: use another path")
    if connection.pragma("auto_vacuum") != 2:
        raise StoreSettingError(name, "PRAGMA auto_vacuum is not INCREMENTAL: the file was not made by commitcast")
    with connection:
        for number in range(version + 1, SCHEMA_VERSION + 1):
            connection.execute(_script(number))
            if number == 1:
                connection.execute("INSERT INTO positions VALUES (1, 0, ?)", (secrets.token_hex(8),))
                connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", number)


def begin_run(connection: apsw.Connection) -> None:
    """Begin a new run of the file, which ends the one before it where the file ends now."""
    connection.execute("INSERT INTO runs (epoch, began) SELECT ?, last FROM positions", (secrets.token_hex(8),))


def _script(number: int) -> str:
    for script in resources.files("commitcast.persistence.sqlite.schema").iterdir():
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
        found = " ".join(answer.split())  # SQLite says it in several lines
        raise StoreCorruptError(str(path), f"it is damaged ({found}): restore a backup; it was left as it is")


def explain(error: apsw.Error | OSError, path: str) -> StoreOpenError:
    """Return the open error that an error of SQLite or of the system means."""
    if isinstance(error, OSError):
        return StoreReadOnlyError(path, f"{error.filename or 'it'} cannot be used ({error.strerror})")
    if isinstance(error, apsw.NotADBError):
        return NotADatabaseError(path, "it is not a SQLite database: move it away, or use another path")
    if isinstance(error, apsw.CorruptError):
        return StoreCorruptError(path, "it is damaged: restore a backup; it was left as it is")
    if isinstance(error, (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError)):
        return StoreReadOnlyError(path, f"it cannot be written ({error})")
    if isinstance(error, apsw.BusyError):
        return StoreLockedError(path, "another program holds it locked: close that one, or use another file")
    return StoreOpenError(path, str(error))
