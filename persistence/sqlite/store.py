"""The store in an SQLite file (or in memory): opening and closing it, and the calls that go beside commits.

Owns the connections, the lock, and their order at open and close. Commits are in `commit`, reads in `reader`. `commit`
is called by one thread; reads by any.
"""

import contextlib
import logging
import os
import secrets
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Never

import apsw

from commitcast.persistence import fork
from commitcast.persistence.deprecation import renamed_attribute
from commitcast.persistence.errors import (
    ForkedRuntimeError,
    StoreClosedError,
    StoreError,
    StoreOpenError,
    StorePathError,
    StoreUnavailableError,
)
from commitcast.persistence.paths import absolute, real
from commitcast.persistence.sqlite import connections, journal, opening
from commitcast.persistence.sqlite.backup import back_up, target_of
from commitcast.persistence.sqlite.commit import Committer
from commitcast.persistence.sqlite.folder import Folder
from commitcast.persistence.sqlite.lock import FileLock, refuse_if_locked, wait_for_server
from commitcast.persistence.sqlite.log import Log
from commitcast.persistence.sqlite.pool import ReaderPool
from commitcast.persistence.sqlite.reader import SqliteReader
from commitcast.persistence.sqlite.verify import verify
from commitcast.persistence.store import Progress, Report
from commitcast.persistence.writes import AgentWrites, Outcome

logger: Final = logging.getLogger(__name__)


class SqliteStore(SqliteReader):
    """Agents and messages in one SQLite file."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        journal_mode: str = journal.DELETE,
        vfs: str | None = None,
        note: str = "",
    ) -> None:
        """Make a store; nothing is opened yet.

        Args:
            path: of the file, created with mode 0600 if missing; `:memory:` for one that ends with the process.
            read_only: open an existing file for reading, without the lock, even while a runtime has it open.
            journal_mode: `delete`, or `wal` for a write-ahead log, where a commit takes one sync. A file that is in the
                other mode is switched when it is opened for writing; in memory there is no journal.
            vfs: name of a registered SQLite VFS, for fault tests.
            note: of a process that serves the file to others. See `announce`.

        Raises:
            InvalidValueError: `journal_mode` is neither.
        """
        super().__init__(ReaderPool(self._connect_reader))
        self._in_memory = str(path) == opening.MEMORY
        self._path = absolute(path)
        self._read_only = read_only
        self._journal_mode = journal.checked_mode(journal_mode)
        self._vfs = vfs
        self._note = note
        self._source = f"file:/commitcast-{secrets.token_hex(8)}?vfs=memdb" if self._in_memory else str(self._path)
        self._lock: FileLock | None = None
        self._folder: Folder | None = None
        self._writer: apsw.Connection | None = None
        self._log: Log | None = None
        self._committer: Committer | None = None
        self._committing = threading.Lock()
        self._closing = threading.Event()
        self._was_forked = False
        self.on_waiting: Callable[[str | None], object] = lambda for_what: None
        """Called by `commit` with the reason when it is kept waiting, and with None when it is over. Must not block."""

    @property
    def name(self) -> str:
        """Display name for logs and errors: the path of the file."""
        return opening.MEMORY if self._in_memory else str(self._path)

    @property
    def journal_mode(self) -> str:
        """The journal mode of the file: `delete` or `wal`."""
        return self._journal_mode

    @property
    def waits_for(self) -> str | None:
        """Why the last commit is kept waiting; None if it is not. Any thread."""
        committer = self._committer
        return None if committer is None else committer.waits_for

    def open(self) -> None:
        """Open the store, recover it from a crash, migrate it, and read its settings back.

        Raises:
            StoreOpenError: it cannot be used; nothing was changed.
            ForkedRuntimeError: it was open when this process was forked.

        Durability: on return the recovered state is on disk, so that nothing read later can be rolled back.
        """
        if self._was_forked:
            raise ForkedRuntimeError
        fork.register(self)
        try:
            with self._committing:  # a fork waits for what is done to the file
                if self._read_only:
                    self._check_readable()
                else:
                    self._open_writer()
        except BaseException as error:  # Ctrl-C too: no lock or connection stays
            self.close()
            if isinstance(error, (apsw.Error, OSError)) and not isinstance(error, StoreOpenError):
                raise opening.explain(error, self.name) from error
            raise

    def announce(self, note: str) -> None:
        """Tell other processes how the file is served, by a note in the lock file. While it is open for writing.

        Raises:
            OSError: it cannot be written.
        """
        assert self._lock is not None
        self._lock.announce(note)

    def settle(self) -> None:
        """Copy the log into the file, in WAL mode: from then on a copy of the file alone has everything committed.

        What another program reads from the log is left in it, and so is what cannot be copied now.
        """
        with self._between_commits():
            if self._log is not None and self._committer is not None:
                with contextlib.suppress(StoreUnavailableError):
                    self._committer.checkpoint(self._log)

    @property
    def note_found(self) -> str:
        """The note of a process that had the file open and was killed; else empty. While it is open for writing."""
        return "" if self._lock is None else self._lock.note_found

    def _check_readable(self) -> None:
        opening.inspect(self._path, write=False)
        with closing(self._connect_reader()) as reader:
            reader.execute("SELECT last FROM positions")

    def _open_writer(self) -> None:
        if not self._in_memory:
            self._prepare_file()
        writer = self._writer = self._connect(create=True, busy_timeout_s=connections.BUSY_TIMEOUT_S)
        if not self._in_memory:
            writer.pragma("user_version")  # the first read rolls a hot journal back
            opening.check_pages(writer, self._path)
        opening.migrate(writer, self.name)  # before a switch: a header in the file that is ours lets it be recognized
        if not self._in_memory:
            journal.switch(writer, self.name, self._journal_mode)
            self._log = Log(self._path, writer) if self._journal_mode == journal.WAL else None
        path = Path(opening.MEMORY) if self._in_memory else self._path
        waits = self._closing.is_set, lambda for_what: self.on_waiting(for_what)
        self._committer = Committer(writer, self._pool, path, self._folder, self._log, *waits)
        if not self._in_memory:
            self._pool.open()

    def _prepare_file(self) -> None:
        """Check the file, take its lock, and create it if it is missing."""
        opening.check_name(self._path)
        self._path = real(self._path)  # the lock and the identity are of the file, not of a link
        self._source = str(self._path)
        opening.check_folder(self._path)
        opening.check_name(self._path)
        if self._path.exists():
            if not self._note:
                wait_for_server(self._path)
            refuse_if_locked(self._path)
            opening.inspect(self._path, write=True)
        self._lock = FileLock(self._path, self._note)
        self._folder = Folder(self._path)
        opening.create_if_missing(self._path)
        opening.inspect(self._path, write=True)
        if mode := opening.mode_for_others(self._path):
            logger.warning(
                "other users may read or write %s, which holds every message of the agents (mode %04o): chmod 600 %s",
                *(self.name, mode, shlex.quote(self.name)),
            )

    def _connect_reader(self) -> apsw.Connection:
        read_only = self._read_only and not os.access(self._path, os.W_OK)
        timeout_s = connections.BUSY_TIMEOUT_S if self._read_only else None  # a runtime waits, a command says why
        mode = None if self._read_only or self._in_memory else self._journal_mode
        connection = self._connect(read_only=read_only, mode=mode, busy_timeout_s=timeout_s)
        connection.pragma("query_only", "on")
        return connection

    def _connect(self, **options: Any) -> apsw.Connection:
        source = opening.source_for_reading(self._path) if self._read_only else self._source
        return connections.connect(source, vfs=self._vfs, give_up=self._gives_up, **options)

    def _gives_up(self) -> bool:
        """Whether a connection stops waiting for the lock of another program."""
        return self._closing.is_set() or (self._log is not None and self._log.is_in_checkpoint)

    def close(self) -> None:
        """Close every connection and release the lock. Idempotent. Waits for a commit under way."""
        self._closing.set()
        with self._committing:
            try:
                is_sound = self._pool.refusal is None
                self._pool.close()
                if self._writer is not None:
                    if self._log is None:  # DELETE mode, or a file that was refused
                        journal.leave_log(self._writer)
                    else:
                        self._log.close(is_sound=is_sound)
                    self._writer.close()
            finally:
                fork.forget(self)
                self._writer = self._log = None
                committer, self._committer = self._committer, None
                for resource in (self._folder, self._lock, committer):  # the last takes longest: the end of its inotify
                    if resource is not None:
                        resource.close()

    @contextmanager
    def _at_rest(self, timeout: float) -> Iterator[bool]:
        """Hold commits and reads back while the process is forked; gives whether those under way ended in time."""
        if not self._committing.acquire(timeout=timeout):
            yield False
            return
        try:
            with self._pool.gate.writing(timeout) as is_alone:
                yield is_alone
        finally:
            self._committing.release()

    def _drop_in_child(self) -> None:
        """Refuse every call in a child. Its connections stay open: closing them would roll back the parent's."""
        self._was_forked = True
        self._writer = self._committer = self._lock = self._log = None
        self._committing = threading.Lock()
        self._pool = ReaderPool(self._connect_reader)
        self._pool.refuse(ForkedRuntimeError())

    def abandon_waiting(self) -> None:
        """Make a commit that waits for another program give up instead. See `Store.abandon_waiting`."""
        self._closing.set()

    def commit(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Write everything in one transaction and return once it is on disk. See `Store.commit`."""
        with self._committing:
            if self._committer is None or self._pool.refusal is not None:
                self._refuse()
            return self._committer.commit(work)

    @contextmanager
    def _between_commits(self) -> Iterator[apsw.Connection]:
        with self._committing:
            if self._writer is None or self._pool.refusal is not None:
                self._refuse()
            yield self._writer

    def _refuse(self) -> Never:
        self._pool.check()
        raise StoreClosedError

    def backup(self, path: str | os.PathLike[str], progress: Progress = lambda done, of: None) -> None:
        """Copy the database while it is in use. See `Store.backup`."""
        with self._between_commits():
            target = target_of(path)
        try:
            back_up(target, self._between_commits, progress)
        except (apsw.Error, OSError) as error:
            if isinstance(error, StoreError):
                raise
            raise opening.explain(error, str(target)) from error

    def verify(self, *, deep: bool = False, progress: Progress = lambda done, of: None) -> Report:
        """Verify the file while it is in use. See `Store.verify`."""
        if self._was_forked:
            raise ForkedRuntimeError
        if self._in_memory:
            raise StorePathError(opening.MEMORY, "it is in memory and has no file to verify: verify a backup instead")
        return verify(self._path, deep=deep, progress=progress)

    standing = renamed_attribute("standing", "resolve_cursor")
