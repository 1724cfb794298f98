"""The control of `streams`: what one would write by hand, in forty lines, without actors, subscribers or checks.

A list of what was said, and one writer that takes all of it and commits it with bare SQLite, into the product's own
schema with its own settings. The writer is a thread of the host, or a process of its own, which this program is then:
batches come on standard input, answers go to standard output.
"""

import struct
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec.structs import astuple

from bare_sqlite import commit_rows, new_agent
from child import Report, report, run_child
from commitcast.persistence.sqlite import connections, journal, opening
from commitcast.persistence.sqlite.rows import SET_POSITION, STEP, Plan
from stream_check import agent_name

WRITTEN_AT: Final = "2026-01-01T00:00:00.000000Z"
LENGTH: Final = struct.Struct("<I")

Said = tuple[int, str]
"""The number of an agent, and what it said."""


class ControlWriter:
    """Commits batches. One thread."""

    def __init__(self, path: Path, agents: int, journal_mode: str) -> None:
        """Make the file, with the agents in it."""
        opening.create_if_missing(path)
        self._connection = connections.connect(str(path), create=True)
        opening.migrate(self._connection, str(path))
        journal.switch(self._connection, str(path), journal_mode)
        self._tails = [(0, 0)] * agents
        self._backs: list[list[int]] = [[] for _ in range(agents)]
        self._position = agents
        plan = Plan(agents)
        plan.agents += [astuple(new_agent(key, agent_name(key - 1))) for key in range(1, agents + 1)]
        with self._connection:
            plan.execute(self._connection)
            self._connection.execute(SET_POSITION, (agents,))

    def commit(self, batch: Sequence[Said]) -> None:
        """Write what was said in one transaction."""
        rows, steps = [], []
        for agent, text in batch:
            self._position += 1
            sequence, tail = self._tails[agent]
            sequence, back = sequence + 1, tail and self._position - tail
            self._tails[agent] = sequence, self._position
            self._backs[agent].append(back)
            message = ("assistant", None, text, "text", WRITTEN_AT, None, None, None, 12345)
            rows.append((agent + 1, back, sequence, self._position, *message))
            if sequence % STEP == 0:
                steps.append((agent + 1, sequence, self._position, ",".join(map(str, self._backs[agent][:0:-1]))))
                self._backs[agent].clear()
        commit_rows(self._connection, rows, steps)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class WriterThread:
    """A writer as a thread of the host. A context manager."""

    def __init__(self, writer: ControlWriter, committed: Callable[[int], object]) -> None:
        """Call `committed`, on the writer's thread, with how many were written."""
        self._writer = writer
        self._committed = committed
        self._waiting: list[Said] = []
        self._event = threading.Event()
        self._is_over = False
        self.commits = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "WriterThread":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._event.set()
        self._thread.join()

    def say(self, said: Said) -> None:
        """Have it written soon."""
        self._waiting.append(said)
        self._event.set()

    def _run(self) -> None:
        while not self._is_over or self._waiting:
            self._event.wait()
            self._event.clear()
            batch, self._waiting = self._waiting, []
            if batch:
                self._writer.commit(batch)
                self.commits += 1
                self._committed(len(batch))


def send(pipe: BinaryIO, data: bytes) -> None:
    """Write a frame: its length, and it."""
    pipe.write(LENGTH.pack(len(data)) + data)
    pipe.flush()


def receive(pipe: BinaryIO) -> bytes | None:
    """Read a frame; None at the end."""
    head = pipe.read(LENGTH.size)
    return pipe.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def _work(order: Report) -> None:
    writer = ControlWriter(Path(order["path"]), order["agents"], order["journal_mode"])
    decode = msgspec.msgpack.Decoder(list[Said]).decode
    report(ready=True)
    while (data := receive(sys.stdin.buffer)) is not None:
        batch = decode(data)
        writer.commit(batch)
        sys.stdout.buffer.write(LENGTH.pack(len(batch)))
        sys.stdout.buffer.flush()
    writer.close()


if __name__ == "__main__":
    run_child(_work)
