"""The server's log, which its hosts write: a process of its own has no log that anybody reads. Any thread."""

import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final

from commitcast.persistence.remote.frames import Log

KEPT_LINES: Final = 100
"""Until the first host is there."""
LINE_CHARACTERS: Final = 8_192
ROOT: Final = "commitcast"


class LogForwarder(logging.Handler):
    """Sends every line of our own loggers, and of threads that fail, to the hosts."""

    def __init__(self) -> None:
        """Begin to collect."""
        super().__init__()
        self._kept: deque[Log] = deque(maxlen=KEPT_LINES)
        self._send: Callable[[Log], bool] = lambda _: False
        logging.getLogger(ROOT).addHandler(self)
        logging.getLogger(ROOT).setLevel(logging.WARNING)
        sys.excepthook = lambda kind, error, trace: self._failed("the server process", error)
        threading.excepthook = lambda failed: self._failed(f"the thread {failed.thread}", failed.exc_value)

    def forward_to(self, send: Callable[[Log], bool]) -> None:
        """Send what comes from now on to all hosts; a line for which `send` returns False is kept."""
        self._send = send

    def take_kept(self) -> list[Log]:
        """Return what was logged while there was no host."""
        kept = []
        while self._kept:  # one by one: another thread may add to them
            kept.append(self._kept.popleft())
        return kept

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line. Raises nothing: what is logged goes on."""
        try:
            self._put(record.name, record.levelno, self.format(record))
        except Exception:  # as in every handler of Python's own
            self.handleError(record)

    def _put(self, logger: str, level: int, text: str) -> None:
        shown = text[:LINE_CHARACTERS].encode(errors="backslashreplace").decode()  # a path need not be UTF-8
        line = Log(logger, level, shown)
        if not self._send(line):
            self._kept.append(line)

    def _failed(self, what: str, error: BaseException | None) -> None:
        trace = "" if error is None else "".join(traceback.format_exception(error))
        self._put(f"{ROOT}.gateway.process", logging.CRITICAL, f"{what} failed\n{trace}")
