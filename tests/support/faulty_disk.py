"""A disk that fails on order: an SQLite VFS over the ordinary one, for `SqliteStore(path, vfs=disk.name)`.

A fault is armed for the database file, its journal or its log, and is met by the next operation of its kind. Everything
else goes to the real file, so what SQLite does about a failure is what it does in production.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Final

import apsw

DATABASE: Final = "database"
JOURNAL: Final = "journal"
LOG: Final = "log"
EVER: Final = 1_000_000


class Fault(Enum):
    """What can go wrong: the operation that meets it, and what SQLite is told."""

    WRITE_ERROR = ("write", apsw.SQLITE_IOERR_WRITE)
    TORN_WRITE = ("half write", apsw.SQLITE_IOERR_WRITE)
    """Half of the page reaches the file."""
    DISK_FULL = ("write", apsw.SQLITE_FULL)
    SYNC_ERROR = ("sync", apsw.SQLITE_IOERR_FSYNC)
    DELETE_ERROR = ("delete", apsw.SQLITE_IOERR_DELETE)
    FOLDER_SYNC_ERROR = ("deleted", apsw.SQLITE_IOERR_DIR_FSYNC)
    """The file is deleted, and nobody knows whether that survives a power cut."""


class FaultyDisk(apsw.VFS):
    """The VFS. Registered when made; `unregister` it when every connection is closed."""

    def __init__(self) -> None:
        self.name = f"faulty-{secrets.token_hex(4)}"
        self.operations: list[tuple[str, str]] = []
        """What was done, in order: ("write", "journal") and so on."""
        self.kept: dict[str, bytes] | None = None
        """By path, what a power cut leaves: each file as it was last synced. None until it is asked for."""
        self._actions: dict[tuple[str, str], tuple[Callable[[], object], int, int]] = {}
        super().__init__(self.name, "")

    def arm(self, fault: Fault, file: str, *, after: int = 0, times: int = 1) -> None:
        """Let the operation fail, once so many of its kind have gone well, so many times."""
        operation, code = fault.value

        def fail() -> None:
            with suppress(OSError):
                os.close(-1)  # an errno that says neither "no space" nor "try again", as a broken disk's does not
            raise apsw.exception_for(code)

        self.on(operation, file, fail, after=after, times=times)

    def on(self, operation: str, file: str, action: Callable[[], object], *, after: int = 0, times: int = 1) -> None:
        """Call something just before an operation."""
        self._actions[operation, file] = (action, after, times)

    def disarm(self) -> None:
        """Be an ordinary disk again."""
        self._actions.clear()

    @property
    def is_armed(self) -> bool:
        """Whether something was not met yet."""
        return bool(self._actions)

    def meet(self, operation: str, path: str) -> None:
        """Do what is armed for an operation."""
        point = (operation, {"-journal": JOURNAL, "-wal": LOG}.get(path[path.rfind("-") :], DATABASE))
        self.operations.append(point)
        if point not in self._actions:
            return
        action, after, times = self._actions.pop(point)
        if after or times > 1:
            self._actions[point] = (action, max(after - 1, 0), times if after else times - 1)
        if not after:
            action()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        """Open one of SQLite's files."""
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Delete a file."""
        self.meet("delete", filename)
        super().xDelete(filename, syncdir)
        self.meet("deleted", filename)


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.meet("write", self._path)
        try:
            self._disk.meet("half write", self._path)
        except apsw.Error:
            super().xWrite(data[: len(data) // 2], offset)
            raise
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.meet("sync", self._path)
        super().xSync(flags)
        if self._disk.kept is not None:
            self._disk.kept[self._path] = self.xRead(self.xFileSize(), 0)


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    """A disk for as long as the block."""
    disk = FaultyDisk()
    try:
        yield disk
    finally:
        disk.unregister()
