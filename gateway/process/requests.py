"""Performs what a host asks: reads of the store, its door, verify and backup. Answers each request once.

Reads run on a few threads that all hosts share; a long request and the control of a door on a thread of its own.
"""

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from commitcast.persistence.errors import AgentLeftError, CommitcastError, InvalidValueError, LinkError
from commitcast.persistence.read_timeout import read_within
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import Answer, Ask, Progress
from commitcast.persistence.remote.values import LONG, READS

if TYPE_CHECKING:
    from commitcast.gateway.process.host import Host
    from commitcast.gateway.process.server import Server

logger: Final = logging.getLogger(__name__)

MAX_REQUESTS: Final = 256
"""Of one host, unanswered: a host itself asks for few at once."""


class Requests:
    """The requests of one host."""

    def __init__(self, host: "Host", server: "Server") -> None:
        self._host = host
        self._server = server
        self._unanswered = 0
        self._lock = threading.Lock()

    def perform(self, ask: Ask) -> None:
        """Begin a request. On the loop of requests.

        Raises:
            LinkError: there are too many, or there is no such method.
        """
        with self._lock:
            self._unanswered += 1
        if self._unanswered > MAX_REQUESTS:
            raise LinkError(f"more than {MAX_REQUESTS} requests are unanswered")
        method = ask.method
        if method in READS:
            self._server.readers.submit(self._attempt, ask, self._read)
        elif method in LONG or method in ("open_door", "accept", "close_door", "detach"):
            threading.Thread(
                target=self._attempt, args=(ask, getattr(self, f"_{method}")), name=f"host-{method}", daemon=True
            ).start()
        elif method == "forward":
            self._forward(ask)
        elif method in ("offer", "drain"):
            self._attempt(ask, getattr(self, f"_{method}"))
        else:
            raise LinkError(f"there is no method {method[:40]!r}")

    def _attempt(self, ask: Ask, work: Callable[[Ask], Any]) -> None:
        try:
            answer = Answer(ask.id, work(ask))
        except CommitcastError as error:
            answer = Answer(ask.id, failure=failure_of(error))
        except Exception as error:  # a defect of ours: this request fails, the host goes on
            logger.exception("a request of the process %d failed: %s", self._host.pid, ask.method)
            answer = Answer(ask.id, failure=failure_of(error))
        self._finish(answer)

    def _finish(self, answer: Answer) -> None:
        with self._lock:
            self._unanswered -= 1
        try:
            self._host.send(answer)
        except InvalidValueError as error:  # it cannot be sent, and must be answered
            self._host.send(Answer(answer.id, failure=failure_of(error)))

    # Of the store.

    def _read(self, ask: Ask) -> Any:
        arguments = ask.arguments
        options = {}
        if ask.method == "agents":
            status, after, limit, newest, within = arguments
            arguments = [None if status is None else AgentStatus(status), after, limit]
            options = {"newest": newest, "within": within}
        with read_within(ask.timeout):
            return READS[ask.method].pack(getattr(self._server.store, ask.method)(*arguments, **options))

    def _verify(self, ask: Ask) -> Any:
        report = self._server.store.verify(deep=ask.arguments[0], progress=self._progress(ask))
        return LONG["verify"].pack(report)

    def _backup(self, ask: Ask) -> Any:
        return self._server.store.backup(ask.arguments[0], self._progress(ask))

    def _progress(self, ask: Ask) -> Callable[[int, int], object]:
        return lambda done, of: self._host.send(Progress(ask.id, done, of))

    # Of other hosts.

    def _offer(self, ask: Ask) -> Any:
        self._host.templates = frozenset(ask.arguments[0])
        self._server.templates |= self._host.templates

    def _forward(self, ask: Ask) -> None:
        """Have the host of an agent do what it alone can, and pass its answer on."""
        method, agent = ask.arguments[0], ask.arguments[1]
        owner = self._server.owner(agent)
        if owner is None or owner.is_gone:
            self._finish(Answer(ask.id, failure=failure_of(AgentLeftError(agent))))
            return

        def answer(value: Any) -> None:
            is_error = isinstance(value, Exception)
            self._finish(Answer(ask.id, failure=failure_of(value)) if is_error else Answer(ask.id, value))

        owner.asking.ask(method, ask.arguments[1:], answer)

    # Of the host's door and its end.

    def _open_door(self, ask: Ask) -> Any:
        return self._server.doors.open(self._host, ask.arguments[0])

    def _accept(self, ask: Ask) -> Any:
        if self._host.door is None:
            raise InvalidValueError("this runtime has no door")
        self._host.door.accept()

    def _drain(self, ask: Ask) -> Any:
        if self._host.door is not None:
            self._host.door.drain()

    def _close_door(self, ask: Ask) -> Any:
        self._server.doors.close(self._host, catch_up_s=ask.arguments[0])

    def _detach(self, ask: Ask) -> Any:
        self._server.settle_if_last(self._host)
        self._server.loop.call(lambda: self._server.host_gone(self._host))
