"""Verifying a store without a runtime: the checks that hold for every store, and where they are carried out.

A sound store has all of these, whatever keeps it:

* Each agent's messages have the sequences 1, 2, 3, … up to the head in the agent's record, and nothing beyond it.
* Each message is byte for byte what was stored: its checksum covers every field.
* Over all agents, each position from 1 to the counter was given exactly once; positions are missing only if an agent
  was deleted. Within one agent, positions rise with the sequence.
* Each agent's changes of status form a path that the lifecycle allows, end in the status of its record, and stand
  between the messages that they came between.
* The runs of the store began in order, none after the end.

A store's own package checks them in its own terms, and adds what can be damaged there: `persistence.sqlite.verify` for
a file. A store that is open is verified by `Store.verify`.
"""

from pathlib import Path

from commitcast.persistence.sqlite.verify import verify_file
from commitcast.persistence.store import Progress, Report

__all__ = ["Report", "verify"]


def verify(path: str | Path, *, deep: bool = False, progress: Progress = lambda done, of: None) -> Report:
    """Check everything that the product promises of a file.

    Args:
        path: of the file, which a runtime may have open.
        deep: check SQLite's own structure even if a runtime has the file open; its commits wait meanwhile.
        progress: called with the positions done and the positions in all.

    Raises:
        StoreOpenError: the file cannot be read, or is not a database of commitcast.

    Threads: any; blocks until it is done. Reads in short transactions, so that commits of a runtime come between.
    """
    return verify_file(path, deep=deep, progress=progress)
