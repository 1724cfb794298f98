"""The folder of a database: syncs it without opening a new descriptor.

SQLite opens the folder anew for each sync of it, after the journal was created and after it was unlinked, and takes
"cannot be opened" for success (`unixSync`, `unixDelete` in os_unix.c): with every descriptor of the process in use, a
commit would be acknowledged that a power cut undoes. So the descriptor is kept from the start, and SQLite's system call
`openDirectory` is replaced by one that syncs through it. For other folders it calls the original. Any thread.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw

from commitcast.persistence.errors import StoreSettingError

SYSTEM_CALL: Final = "openDirectory"
_BASE: Final = "unix"
"""The VFS whose system calls all SQLite files of the process use, also those of VFSes above it."""

_Function: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))
"""`int openDirectory(const char *file, int *descriptor)`: opens the folder of a file."""


class Folder:
    """One folder, open for as long as a store has a file in it."""

    def __init__(self, path: Path) -> None:
        """Open the folder of a file, whose path has no symbolic link in it.

        Raises:
            OSError: the folder cannot be opened.
            StoreSettingError: SQLite's system call cannot be replaced.
        """
        self._descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = os.fsencode(path.parent)
        self.failure: Exception | None = None
        """Of a sync that SQLite has asked for, which cannot be told to SQLite: commits since may not be durable."""
        try:
            _hook.add(self._name, self)
        except BaseException:  # Ctrl-C too: no descriptor stays open
            os.close(self._descriptor)
            raise

    def sync(self) -> None:
        """Make every change of names in the folder durable."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._descriptor >= 0:
            _hook.remove(self._name, self)
            os.close(self._descriptor)
            self._descriptor = -1


class _Hook:
    """The replaced system call, installed while there is a folder. One per process, as SQLite's is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: dict[bytes, tuple[Folder, ...]] = {}
        self._address = 0
        self._original: Any = None
        self._call = _Function(self._open_directory)  # kept, for SQLite holds its address only

    def add(self, name: bytes, folder: Folder) -> None:
        with self._lock:
            if not self._folders:
                self._install()
            self._folders[name] = (*self._folders.get(name, ()), folder)

    def remove(self, name: bytes, folder: Folder) -> None:
        with self._lock:
            remaining = tuple(other for other in self._folders[name] if other is not folder)
            if remaining:
                self._folders[name] = remaining
            else:
                del self._folders[name]
            if not self._folders:
                with _system_calls() as calls:
                    calls.xSetSystemCall(SYSTEM_CALL, self._address)

    def _install(self) -> None:
        with _system_calls() as calls:
            address = calls.xGetSystemCall(SYSTEM_CALL)
            if address is None:
                raise StoreSettingError(
                    SYSTEM_CALL, "this build of SQLite lacks this system call, so durability cannot be guaranteed"
                )
            self._address, self._original = address, _Function(address)
            calls.xSetSystemCall(SYSTEM_CALL, ctypes.cast(self._call, ctypes.c_void_p).value or 0)

    def _open_directory(self, file: bytes, descriptor: Any) -> int:
        # No lock: SQLite may call this while another thread waits for SQLite. The tuples are replaced, not changed.
        kept = self._folders.get(os.path.dirname(file))
        if kept is None:
            answer: int = self._original(file, descriptor)
            return answer
        for folder in kept:
            try:
                folder.sync()
            except Exception as error:  # any failure must reach the commit, not SQLite
                folder.failure = error
        return apsw.SQLITE_CANTOPEN  # SQLite treats it as: there is nothing to sync


@contextmanager
def _system_calls() -> Iterator[apsw.VFS]:
    """Give access to the system calls of SQLite's own VFS, which only a VFS above it has."""
    vfs = apsw.VFS("commitcast-system-calls", _BASE)
    try:
        yield vfs
    finally:
        vfs.unregister()


_hook: Final = _Hook()
