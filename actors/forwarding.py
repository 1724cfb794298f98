"""Requests of this runtime to the runtimes that other agents are at work in: a bounded number is under way at a time.

The server cuts a host that has too many unanswered ones, and a runtime that is stopped answers none. Any thread.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from commitcast.actors.backend import Forwarded
from commitcast.actors.errors import MailboxFullError
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.remote.values import unpack_record

UNDER_WAY: Final = 64
"""Of the 256 requests that a host may have unanswered (`gateway/process/requests.py`)."""
WAITING: Final = 4_096
"""As many as the mailbox of an agent holds."""
WAITING_BYTES: Final = 64 * 1024 * 1024

Ask = Callable[[str, list[Any], Callable[[Any], object]], object]
"""Sends a request, and has its answer taken later, or at once."""


class Forwarder:
    """The requests that have no answer yet."""

    def __init__(self, ask: Ask) -> None:
        """Make it with what sends a request to the server."""
        self._ask = ask
        self._lock = threading.Lock()
        self._waiting: deque[tuple[list[Any], Forwarded]] = deque()
        self._waiting_bytes = 0
        self._under_way = 0
        self._is_sending = False

    def forward(self, method: str, arguments: list[Any], answered: Forwarded) -> None:
        """Forward a request, now or when others are answered. See `Backend.forward`."""
        request = [method, *arguments]
        with self._lock:
            is_taken = len(self._waiting) < WAITING and self._waiting_bytes < WAITING_BYTES
            if is_taken:
                self._waiting.append((request, answered))
                self._waiting_bytes += _size(request)
        if is_taken:
            self._send()
        else:
            answered(MailboxFullError(f"agent {arguments[0]!r}, which is at work in another runtime", WAITING))

    def _send(self) -> None:
        """Send what may be under way, unless that is being done: also when answers come within it."""
        with self._lock:
            if self._is_sending:
                return
            self._is_sending = True
        while (taken := self._take()) is not None:
            request, answered = taken
            try:
                self._ask("forward", request, partial(self._on_answer, answered))
            except InvalidValueError as error:  # it cannot be sent
                self._on_answer(answered, error)

    def _take(self) -> tuple[list[Any], Forwarded] | None:
        with self._lock:
            if self._under_way >= UNDER_WAY or not self._waiting:
                self._is_sending = False
                return None
            self._under_way += 1
            request, answered = self._waiting.popleft()
            self._waiting_bytes -= _size(request)
            return request, answered

    def _on_answer(self, answered: Forwarded, answer: Any) -> None:
        with self._lock:
            self._under_way -= 1
        answered(answer if isinstance(answer, Exception) else unpack_record(answer))
        self._send()


def _size(request: list[Any]) -> int:
    return sum(len(part) for part in request if isinstance(part, str))
