"""A program that was started without a fork, and what it is told and says.

Another thread of this process may fork at any moment: its child has a copy of every pipe, for as long as it lives. So
nothing here waits for the end of a pipe without a limit. `subprocess` does, for one of its own. Linux: `posix_spawn`.
"""

import os
import select
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_READ_BYTES: Final = 64 * 1024


class Spawned:
    """One such program, whose standard streams are pipes. What else can be inherited it must close itself."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            arguments: the first is its path.
            environment: its variables.

        Raises:
            OSError: it cannot be started.
        """
        self._ours: list[int] = []
        theirs: list[int] = []
        try:
            for writes in (False, True, True):
                reading, writing = os.pipe()
                (self._ours, theirs)[not writes].append(reading)
                (self._ours, theirs)[writes].append(writing)
            streams = [(os.POSIX_SPAWN_DUP2, end, stream) for stream, end in enumerate(theirs)]
            self.pid = os.posix_spawn(arguments[0], arguments, environment, file_actions=streams)
        except BaseException:  # Ctrl-C too: nothing stays open
            self._close(self._ours)
            raise
        finally:
            self._close(theirs)
        for end in self._ours:
            os.set_blocking(end, False)

    def tell(self, data: bytes, timeout_s: float) -> None:
        """Write to its standard input, and close that. What it does not read in time is not written."""
        rest, end, deadline = memoryview(data), self._ours[0], time.monotonic() + timeout_s
        with suppress(BrokenPipeError):  # it has ended: its error output says why
            while rest and _is_ready(end, select.POLLOUT, deadline - time.monotonic()):
                rest = rest[os.write(end, rest) :]
        os.close(end)
        self._ours[0] = -1

    def hear(self, timeout_s: float) -> bytes | None:
        """Return what it says on its standard output: empty at the end of that, None if it says nothing in time."""
        end = self._ours[1]
        return os.read(end, _READ_BYTES) if _is_ready(end, select.POLLIN, timeout_s) else None

    def complaint(self) -> str:
        """Return what it has written to its standard error so far."""
        try:
            return os.read(self._ours[2], _READ_BYTES).decode(errors="replace")
        except BlockingIOError:
            return ""

    def wait(self) -> None:
        """Close the pipes, and wait for its end. Blocks for as long as it lives."""
        self._close(self._ours)
        with suppress(ChildProcessError):  # other code of this program waits for all children
            os.waitpid(self.pid, 0)

    def _close(self, ends: list[int]) -> None:
        while ends:
            if (end := ends.pop()) >= 0:
                os.close(end)


def _is_ready(end: int, event: int, timeout_s: float) -> bool:
    waiting = select.poll()
    waiting.register(end, event)
    return bool(waiting.poll(max(0.0, timeout_s) * 1_000))
