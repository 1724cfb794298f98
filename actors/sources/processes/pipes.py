"""One selector loop over a child process: its output, its errors, its input, its exit, and a wake-up by other threads.

Owns the child and its pipes from the start until `close`, after which no process that the child has started and no
descriptor is left. Runs on one thread; only `Wake.set` may be called from others. Knows nothing of lines
or agents.
"""

import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Final

from commitcast.actors.sources.processes.child_input import ChildInput
from commitcast.actors.sources.processes.process import Program, has_exited
from commitcast.actors.sources.processes.registry import Processes
from commitcast.persistence import fork
from commitcast.persistence.recovery.identity import open_pidfd

SILENCE_AFTER_EXIT_S: Final = 2.0
"""How long the output may be silent when the child has exited but a process that it left behind holds it open."""

OUTPUT_AFTER_EXIT_S: Final = 10.0
"""How long a process that the child left behind may still print before it is stopped."""

STDERR_TAIL_BYTES: Final = 8 * 1024
"""The end of standard error, which explains a failure; everything before it is read and dropped."""

EXIT_POLL_S: Final = 0.1
"""How often to check whether the child has exited where no descriptor shows it."""

_READ_BYTES: Final = 64 * 1024
"""What a pipe holds on Linux."""

_DRAIN_READS: Final = 32
"""The largest pipe holds 1 MiB; a writer that escaped from the group must not be read for ever."""

_CONTINUATION_BYTES: Final = bytes(range(0x80, 0xC0))
"""What is left of a UTF-8 character whose beginning was cut off."""


class Wake:
    """A pipe that makes a selector return. Any thread may call `set` at any time, also after `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def set(self) -> None:
        """Make the selector return, now or at its next call."""
        with self._lock:  # a descriptor that was closed may have been opened again for another purpose
            if not self._closed:
                with suppress(BlockingIOError):  # full: it was set many times
                    os.write(self._write_fd, b"\0")

    def clear(self) -> None:
        """Empty the pipe."""
        os.read(self.fd, _READ_BYTES)

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._closed = True
            os.close(self.fd)
            os.close(self._write_fd)


class ChildPipes:
    """One child process, from start to end.

    Attributes:
        wake: makes `step` and `wait` return.
        exited: whether the child itself has exited; it is reaped later, so that its number stays its own.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        """Make the pipes; nothing is started.

        Args:
            processes: the commands that it is stopped together with; None for it alone.
        """
        self.exited = False
        self._processes = Processes() if processes is None else processes
        self._selector = selectors.DefaultSelector()
        self.wake = Wake()
        self._selector.register(self.wake.fd, selectors.EVENT_READ, self.wake.clear)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._output: list[IO[bytes]] = []
        self._sink: Callable[[bytes], object] = _discard
        self._read_at = time.monotonic()
        self._give_up_at: float | None = None
        self._stderr_tail = b""
        self._reaped = False

    @property
    def pid(self) -> int:
        """The number of the child, its group and its session."""
        assert self._process is not None
        return self._process.pid

    @property
    def stderr_tail(self) -> str:
        """The end of what the child has written to standard error."""
        return self._stderr_tail.lstrip(_CONTINUATION_BYTES).decode(errors="replace").strip()

    def start(self, program: Program, stdin: bytes, feed: int | None = None) -> None:
        """Start the child; give it `stdin` and what comes from `feed`, or /dev/null. Its output is not read yet.

        Raises:
            OSError: it cannot be started.
            ValueError: an argument holds a NUL character.
            SourceCancelledError: the runtime stops.
        """
        process = self._process = self._processes.start(program, stdin=bool(stdin) or feed is not None)
        assert process.stdout is not None
        assert process.stderr is not None
        self._output = [process.stdout, process.stderr]
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            os.set_blocking(stream.fileno(), False)
        self._pidfd = open_pidfd(process.pid)
        if self._pidfd is not None:
            self._selector.register(self._pidfd, selectors.EVENT_READ, self._on_exit)
        if process.stdin is not None:
            ChildInput(self._selector, process.stdin, stdin, feed)
        self._selector.register(process.stderr, selectors.EVENT_READ, self._on_stderr)
        fork.register(self)

    def _drop_in_child(self) -> None:
        """Let the program see the end of its input and of its reader although a forked child lives on."""
        assert self._process is not None
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        fork.silence(stream.fileno() for stream in streams if stream is not None and not stream.closed)

    def read_into(self, sink: Callable[[bytes], object]) -> None:
        """Begin to read the output; `sink` is called with each chunk. While it blocks, nothing is read."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._sink = sink
        stream = self._process.stdout
        if not stream.closed and stream.fileno() not in self._selector.get_map():
            self._selector.register(stream, selectors.EVENT_READ, self._on_stdout)

    def step(self, timeout_s: float | None = None) -> bool:
        """Wait for an event and handle it; return whether there was one."""
        polls = self._pidfd is None and not self.exited
        if polls:
            timeout_s = EXIT_POLL_S if timeout_s is None else min(EXIT_POLL_S, timeout_s)
        events = self._selector.select(timeout_s)
        for key, _ in events:
            key.data()
        if polls and has_exited(self.pid):
            self._on_exit()
        return bool(events)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for an event and handle it; return False when there is nothing left to wait for.

        That is when the child has exited and its output is closed, or was silent for `SILENCE_AFTER_EXIT_S`, or
        went on for `OUTPUT_AFTER_EXIT_S`. Returns True also when there was no event for `timeout_s`.
        """
        if not self.exited:
            self.step(timeout_s)
            return True
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + OUTPUT_AFTER_EXIT_S
        left_s = min(self._read_at + SILENCE_AFTER_EXIT_S, self._give_up_at) - time.monotonic()
        if left_s <= 0 or all(stream.closed for stream in self._output):
            return False
        self.step(left_s if timeout_s is None else min(left_s, timeout_s))
        return True

    def stop(self, grace_s: float) -> None:
        """Stop all that the child has started, and read its last output meanwhile."""
        termination = self._processes.terminate(self.pid, grace_s, self.wake.set)
        while not termination.is_over:
            self.step()

    def drain(self) -> None:
        """Read what is in the pipes now."""
        for _ in range(_DRAIN_READS):
            if not self.step(0):
                return

    def reap(self) -> int | None:
        """Reap the child, when all that it has started is gone; return its exit code as `process.reap` does."""
        assert self._process is not None
        self._reaped = True
        return self._processes.reap(self._process)

    def close(self, grace_s: float) -> None:
        """Stop what still runs, drop its output, and close everything."""
        try:
            if self._process is not None and not self._reaped:
                self.read_into(_discard)
                self.stop(grace_s)
                self.reap()
        finally:
            self._selector.close()
            self.wake.close()
            if self._pidfd is not None:
                os.close(self._pidfd)
            if self._process is not None:
                for stream in filter(None, (self._process.stdin, *self._output)):
                    stream.close()

    def _on_stdout(self) -> None:
        chunk = self._read(self._output[0])
        if chunk:
            self._sink(chunk)
            self._read_at = time.monotonic()  # after the sink: the time that it blocked is not the child's silence

    def _on_stderr(self) -> None:
        chunk = self._read(self._output[1])
        self._stderr_tail = (self._stderr_tail + chunk)[-STDERR_TAIL_BYTES:]

    def _read(self, stream: IO[bytes]) -> bytes:
        try:
            chunk = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return b""
        if not chunk:
            self._selector.unregister(stream)
            stream.close()
        return chunk

    def _on_exit(self) -> None:
        self.exited = True
        self._read_at = time.monotonic()
        if self._pidfd is not None:
            self._selector.unregister(self._pidfd)


def _discard(_: bytes) -> None:
    pass
