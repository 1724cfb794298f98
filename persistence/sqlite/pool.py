"""A small pool of read-only connections behind the gate.

Owns when a reader may be inside, and the error that every read gets once the store is closed or has failed. Any
thread; a read blocks for at most one commit and one free connection.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import apsw

from commitcast.persistence.errors import CommitcastError, StoreClosedError, StoreReadError
from commitcast.persistence.read_timeout import remaining_s
from commitcast.persistence.sqlite.gate import Gate
from commitcast.persistence.store import READERS

_Error = TypeVar("_Error", bound=CommitcastError)


class ReaderPool:
    """Read-only connections, opened when they are first needed."""

    def __init__(self, connect: Callable[[], apsw.Connection], readers: int = READERS) -> None:
        """Make a pool of connections that cannot write; nothing is opened yet."""
        self.gate: Final = Gate(readers)
        self._connect = connect
        self._idle: list[apsw.Connection | None] = [None] * readers
        self.refusal: CommitcastError | None = None
        """The error that every read and commit gets; None while the store is open."""

    def refuse(self, error: _Error) -> _Error:
        """Answer every later read with this error, and return it."""
        self.refusal = error
        return error

    def check(self) -> None:
        """Raise the error that reads are answered with, if there is one."""
        if self.refusal is not None:
            raise type(self.refusal)(*self.refusal.args) from self.refusal

    def open(self) -> None:
        """Open every connection now: later there may be no descriptor for it."""
        with self.gate.writing():
            for place, connection in enumerate(self._idle):
                self._idle[place] = connection or self._connect()

    def close(self) -> None:
        """Wait for the pages under way, then close the connections. Idempotent."""
        with self.exclusive():
            self.refusal = StoreClosedError()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have no connection open inside the block, which begins when the pages under way are read."""
        with self.gate.writing():
            for place, connection in enumerate(self._idle):
                self._idle[place] = None
                if connection is not None:
                    connection.close()
            yield

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """Give a connection in a read transaction. Blocks while a commit waits or runs.

        Raises:
            StoreReadError: the read failed, or took longer than its time limit (`StoreReadTimeoutError`).
            CommitcastError: the store is closed or has failed.
        """
        with self.gate.reading():
            self.check()
            connection = self._idle.pop()  # the gate admits no more readers than there are connections
            try:
                if connection is None:
                    connection = self._connect()
                with _transaction(connection):
                    yield connection
            except CommitcastError:
                raise
            except apsw.BusyError as error:
                remaining_s()  # raises if the time limit is reached
                raise StoreReadError(str(error)) from error
            except (apsw.Error, ValueError) as error:  # ValueError: a damaged row holds no text, or an unknown status
                raise StoreReadError(str(error)) from error
            finally:
                self._idle.append(connection)


@contextmanager
def _transaction(connection: apsw.Connection) -> Iterator[None]:
    """Read in one transaction, which ends with the block: a query that is not read to its end would go on with it."""
    cursors: list[apsw.Cursor] = []

    def make(connection: apsw.Connection) -> apsw.Cursor:
        cursors.append(apsw.Cursor(connection))
        return cursors[-1]

    connection.cursor_factory = make
    try:
        connection.execute("BEGIN")
        yield
    finally:
        connection.cursor_factory = apsw.Cursor
        for cursor in cursors:
            cursor.close(True)
        if connection.in_transaction:
            connection.execute("ROLLBACK")
