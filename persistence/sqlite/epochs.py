"""Whether a cursor belongs to what is in the file: an epoch names a log and the run in which the cursor was given out.

A file that is put back from a backup knows neither the runs that came after the backup, nor that the run in which it
was made went on. So a cursor is good if this file knows its run and the run reached as far in it. Inside a snapshot.
"""

from typing import Final

import apsw

from commitcast.persistence.errors import StaleEpochError

_NOW: Final = "SELECT epoch FROM runs ORDER BY number DESC LIMIT 1"
_NEXT: Final = (
    "SELECT (SELECT began FROM runs WHERE number > r.number ORDER BY number LIMIT 1) FROM runs r WHERE r.epoch = ?"
)


def current(connection: apsw.Connection, log: str) -> str:
    """Return the epoch of a cursor that is given out now.

    Args:
        connection: in a transaction.
        log: the epoch of the agent, or of the file for a cursor over all.
    """
    return f"{log}{connection.execute(_NOW).get}"


def check(connection: apsw.Connection, log: str, epoch: str | None, position: int | None) -> str:
    """Check a cursor, and return the epoch of one that is given out now.

    Args:
        connection: in a transaction.
        log: the epoch of the agent, or of the file for a cursor over all.
        epoch: that the cursor was given out with. One that names a log alone proves that, and no more.
        position: of the cursor; None for the end, which is there in any case.

    Raises:
        StaleEpochError: it is of another history.
    """
    now = current(connection, log)
    if epoch is None or epoch == now:
        return now
    theirs, run = epoch[: len(log)], epoch[len(log) :]
    if theirs != log or (run and position is not None and not _reached(connection, run, position)):
        raise StaleEpochError(epoch, now)
    return now


def _reached(connection: apsw.Connection, run: str, position: int) -> bool:
    row = connection.execute(_NEXT, (run,)).fetchone()
    return row is not None and (row[0] is None or position <= row[0])
