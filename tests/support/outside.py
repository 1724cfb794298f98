"""Programs beside us that have nothing to do with commitcast, such as one that reads the file with its own SQLite."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

READER: Final = """
import sqlite3, sys
print("reading", flush=True)
while True:
    connection = sqlite3.connect(sys.argv[1], timeout=5, isolation_level=None)
    connection.execute("SELECT count(*) FROM agent_messages").fetchone()
    connection.close()
"""


@contextmanager
def outside(script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python program that has printed its first line; it is killed at the end."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None and child.stdout.readline()
            yield child
        finally:
            child.kill()


def outside_reader(path: Path) -> AbstractContextManager[object]:
    """A program that opens, reads and closes a file all the time."""
    return outside(READER, str(path))
