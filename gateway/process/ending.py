"""The end of a host that is gone: its programs are killed, what was committed is cast, and its agents are ended.

In that order, so that nobody is told of an end before the agent's last message, or while its processes live. On a
thread of its own for each host, because looking for processes takes a while.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from commitcast.persistence.errors import NotStoredError
from commitcast.persistence.records import AgentRecord
from commitcast.persistence.recovery.interruption import end_interrupted
from commitcast.persistence.recovery.lost_host import kill_processes_of
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import Commit, Frame, NotStored, Stored
from commitcast.persistence.remote.outcomes import outcome_of
from commitcast.persistence.writes import AgentWrites, Outcome

if TYPE_CHECKING:
    from commitcast.gateway.process.host import Host
    from commitcast.gateway.process.server import Server

logger: Final = logging.getLogger(__name__)

KILL_S: Final = 5.0
"""For the processes of its agents to be gone. Only one in a hanging system call takes longer, and is logged."""
ANSWER_S: Final = 30.0
"""For one of these transactions. A store that refuses for longer is left to the next start, which follows at once: or,
while there are other hosts, it is waited for."""
PAUSE_S: Final = 1.0
"""Until another attempt at one that was rolled back."""
AWAITED_S: Final = 5.0
"""How long a new host waits for it; a store that refuses writes takes longer."""
CATCH_UP_S: Final = 0.5
"""For the subscribers of the host's door to receive the ends of its agents."""


class HostEnding:
    """The end of one host."""

    def __init__(self, host: "Host", server: "Server", then: Callable[[], object]) -> None:
        """Make it; `then` is called when it is over."""
        self._host = host
        self._server = server
        self._then = then
        self._began = time.monotonic()
        self._are_agents_ended = False

    @property
    def is_awaited(self) -> bool:
        """Whether a new host waits for it, so that it finds none of these agents at work. Any thread."""
        return not self._are_agents_ended and time.monotonic() - self._began < AWAITED_S

    def begin(self) -> None:
        """Begin: first the writer forgets what the host had on its way."""
        self._server.writer.loop.call(self._leave_the_writer)

    def _leave_the_writer(self) -> None:
        writer = self._server.writer
        self._host.has_left_the_writer = True
        writer.drop(self._host)
        agents = writer.owners.agents(self._host)
        threading.Thread(target=self._run, args=(agents,), name=f"ending-{self._host.pid}", daemon=True).start()

    def _run(self, agents: set[str]) -> None:
        try:
            self._end(agents)
        except Exception:  # a defect of ours, or a store that fails: the next start ends what is left
            logger.exception("the agents of the process %d could not be ended", self._host.pid)
        finally:
            self._then()

    def _end(self, agents: set[str]) -> None:
        records = list(self._records(agents))
        killed = self._kill(records) if records else 0
        self._server.casting.cast_all(self._host)
        self._host.has_abandoned = False  # that was for its own batches
        end_interrupted(self._commit, records)
        self._server.casting.cast_all(self._host)
        if records:
            logger.warning(
                "the process %d ended without stopping its runtime: %d agents are marked as failed, and %d processes"
                " that they had started were stopped",
                *(self._host.pid, len(records), killed),
            )
        self._are_agents_ended = True
        self._server.doors.close(self._host, catch_up_s=CATCH_UP_S)

    def _kill(self, records: list[AgentRecord]) -> int:
        try:
            return kill_processes_of(records, KILL_S)
        except OSError as error:  # no /proc, or no descriptor: the agents have ended nevertheless
            logger.warning("the processes of the agents of the process %d cannot be found: %s", self._host.pid, error)
            return 0

    def _records(self, agents: set[str]) -> Iterator[AgentRecord]:
        for agent in sorted(agents):
            record = self._server.store.agent(agent)
            if record is not None and not record.status.is_terminal:
                yield record

    def _commit(self, work: Sequence[AgentWrites]) -> list[Outcome]:
        """Write in the place of the host, whose agents are still its own."""
        while True:
            answer = self._answer_to(work)
            if isinstance(answer, Stored):
                parts = zip(work, answer.parts, strict=True)
                return [outcome_of(agent, part, answer.committed_ns) for agent, part in parts]
            assert isinstance(answer, NotStored)
            error = error_of(answer.failure)
            if self._is_last or not isinstance(error, NotStoredError):
                raise error
            time.sleep(PAUSE_S)

    def _answer_to(self, work: Sequence[AgentWrites]) -> Frame:
        answered: SimpleQueue[Frame] = SimpleQueue()
        self._host.answer = answered.put  # type: ignore[assignment,method-assign]  # it has no connection any more
        writer = self._server.writer
        writer.loop.call(lambda: writer.put(self._host, Commit(0, 0, list(work)), 0))
        while True:
            try:
                return answered.get(timeout=ANSWER_S)
            except Empty:
                if self._is_last:
                    raise

    @property
    def _is_last(self) -> bool:
        """Whether the server ends after this."""
        return all(other is self._host or other.is_gone for other in self._server.hosts)
