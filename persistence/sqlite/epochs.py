"""Runs of a file, and the cursors that they gave out: an epoch names a log and the run that gave the cursor out.

A file that is restored from a backup knows neither the runs that came after the backup, nor that the run which made
the backup went on. So a cursor is valid if this file knows its run and the run reached as far. Inside a transaction.
"""

import secrets
from typing import Final

import apsw

from commitcast.persistence.errors import StaleEpochError

_BEGIN: Final = "INSERT INTO runs (epoch, began) SELECT ?, last FROM positions"
_NOW: Final = "SELECT epoch FROM runs ORDER BY number DESC LIMIT 1"
_NEXT: Final = (
    "SELECT (SELECT began FROM runs WHERE number > r.number ORDER BY number LIMIT 1) FROM runs r WHERE r.epoch = ?"
)


def begin_run(connection: apsw.Connection) -> None:
    """Begin a new run, which ends the run before it at the current end of the file."""
    connection.execute(_BEGIN, (secrets.token_hex(8),))


def check(connection: apsw.Connection, log: str, epoch: str | None, position: int | None) -> str:
    """Check a cursor, and return the epoch of one that is given out now.

    Args:
        connection: in a transaction.
        log: the epoch of the agent, or of the file for a cursor over all.
        epoch: of the cursor. An epoch that names a log and no run proves the log only.
        position: of the cursor; None for the end, which every history has.

    Raises:
        StaleEpochError: the cursor is of another history.
    """
    now = f"{log}{connection.execute(_NOW).get}"
    if epoch is None or epoch == now:
        return now
    theirs, run = epoch[: len(log)], epoch[len(log) :]
    if theirs != log or (run and position is not None and not _reached(connection, run, position)):
        raise StaleEpochError(epoch, now)
    return now


def _reached(connection: apsw.Connection, run: str, position: int) -> bool:
    row = connection.execute(_NEXT, (run,)).fetchone()
    return row is not None and (row[0] is None or position <= row[0])
