"""Child processes of a measurement: how they are started, controlled, read and ended.

A child gets its first order in its arguments and later ones as lines on standard input, and reports in lines of JSON on
standard output. It ends when its standard input does, so it does not outlive its parent.
"""

import argparse
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from benchmark_errors import BenchmarkError
from commitcast.persistence.errors import CommitcastError

FOLDER: Final = Path(__file__).parent
PATIENCE_S: Final = 120.0
"""How long to wait for an expected report."""
END_TIMEOUT_S: Final = 5.0

Report = dict[str, Any]


class Child:
    """A process that was started for a measurement. A context manager; it is killed if it does not end by itself."""

    def __init__(self, module: str, what: str, **order: Any) -> None:
        """Start it.

        Args:
            module: of this folder.
            what: to call it in a sentence.
            order: its first, as values that JSON can carry.
        """
        self._what = what
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, str(FOLDER / f"{module}.py"), msgspec.json.encode(order).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._reader = threading.Thread(target=self._read, name=f"bench-{module}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(msgspec.DecodeError):  # half a line of one that was killed
                self._reports.put(msgspec.json.decode(line))
        self._reports.put(None)

    @property
    def has_reported(self) -> bool:
        """Whether a report is waiting."""
        return not self._reports.empty()

    def order(self, **order: Any) -> None:
        """Give it a further order."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended; `hear` says so
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()

    def end(self, number: signal.Signals) -> None:
        """Send it a signal, and wait until it is gone. Blocks.

        Raises:
            BenchmarkError: it is not gone in time.
        """
        self._process.send_signal(number)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{self._what} has not ended within {PATIENCE_S:g} seconds of {number.name}") from None

    def hear(self, timeout_s: float = PATIENCE_S) -> Report:
        """Return its next report. Blocks.

        Raises:
            BenchmarkError: it reports an error, has ended, or reports nothing in time.
        """
        try:
            report = self._reports.get(timeout=timeout_s)
        except queue.Empty:
            raise BenchmarkError(f"{self._what} has not finished within {timeout_s:g} seconds") from None
        if report is None:
            self._reports.put(None)
            raise BenchmarkError(f"{self._what} ended with code {self._process.wait()} before it was done")
        if "error" in report:
            raise BenchmarkError(f"{self._what} says: {report['error']}")
        return report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            if kind is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            self._process.stdout.close()


# In the child.


def report(**values: Any) -> None:
    """Send a report to the parent."""
    sys.stdout.buffer.write(msgspec.json.encode(values) + b"\n")
    sys.stdout.buffer.flush()


def run_child(work: Callable[[Report], None]) -> None:
    """Do the work of a child with its first order; what goes wrong is reported in one sentence."""
    parser = argparse.ArgumentParser(description="A program of the benchmarks. run.py starts it.")
    parser.add_argument("order", help="what it does, as JSON")
    order = parser.parse_args().order
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends it
    try:
        work(msgspec.json.decode(order))
    except CommitcastError as error:
        report(error=str(error))
        sys.exit(1)
    except Exception as error:  # the last place where it can be reported
        report(error=f"{type(error).__name__}: {error}")
        sys.exit(1)


def listen_for_orders(take: Callable[[Report], object] = lambda order: None) -> None:
    """Call a function with each further order, on a thread of its own; end the process when there can be no more."""

    def listen() -> None:
        # Not `sys.stdin`: an interpreter that ends wants its lock, which a thread that reads from it holds.
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as orders:
            for line in orders:
                take(msgspec.json.decode(line))
        os._exit(0)

    threading.Thread(target=listen, name="orders", daemon=True).start()
