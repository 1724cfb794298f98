"""Short-lived agents: each is started, emits a few messages, completes, and is replaced by a new one.

One thread emits the messages of all running agents; another launches new agents one by one, like a host that serves
requests.
"""

import queue
import threading
import time
from collections import deque
from typing import Final, Self

from benchmark_errors import BenchmarkError
from chain import Chain, check_status
from commitcast.actors.handle import AgentHandle
from commitcast.actors.kernel.future import Future
from commitcast.actors.runtime import AgentRuntime
from commitcast.persistence.records import AgentRecord
from load import SAMPLED, Emitted
from stream_check import agent_name, content_of

LIFE_MESSAGES: Final = 128
"""What an agent says on average: about a short answer."""
LAUNCH_TIMEOUT_S: Final = 60.0


class _Successors:
    """Launches agents on a thread of its own, one for each that has ended."""

    def __init__(self, runtime: AgentRuntime, first: int, count: int) -> None:
        self._runtime = runtime
        self._names = [agent_name(index) for index in range(first, first + count)]
        self._wanted: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._launched: queue.SimpleQueue[AgentHandle | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._launch, name="bench-launching", daemon=True)
        self.pending = 0

    def __enter__(self) -> Self:
        self._names.reverse()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wanted.put(None)
        self._thread.join(LAUNCH_TIMEOUT_S)

    def _launch(self) -> None:
        while (name := self._wanted.get()) is not None:
            try:
                self._launched.put(self._runtime.launch(id=name))
            except Exception as error:  # raised by `get`, on the thread that measures
                self._launched.put(error)

    def ask(self) -> None:
        """Ask for another agent, unless there have been enough."""
        if self._names:
            self._wanted.put(self._names.pop())
            self.pending += 1

    def get(self, *, block: bool) -> AgentHandle | None:
        """Return the next new agent; None if there is none now."""
        try:
            launched = self._launched.get(block, LAUNCH_TIMEOUT_S)
        except queue.Empty:
            if block:
                raise BenchmarkError(f"an agent was not launched within {LAUNCH_TIMEOUT_S:g} seconds") from None
            return None
        if isinstance(launched, Exception):
            raise launched
        self.pending -= 1
        return launched


def lives(agents: int, mean: int = LIFE_MESSAGES) -> list[int]:
    """Return how many messages each agent emits: from half to one and a half of the mean, well spread."""
    return [max(1, mean // 2 + index * 37 % (mean + 1)) for index in range(agents)]


def emit_mixed(chain: Chain, lengths: list[int], acks_ns: list[int]) -> None:
    """Let agents live their lives, those of the chain first.

    Args:
        chain: whose agents begin.
        lengths: messages of each agent that there will be.
        acks_ns: takes latencies.
    """
    emitted = Emitted(acks_ns)
    changes: list[Future[AgentRecord] | Future[AgentRecord | None]] = []
    active: deque[tuple[AgentHandle, int, int]] = deque()
    remaining = iter(lengths)

    def begin(handle: AgentHandle) -> None:
        changes.append(handle.start())
        active.append((handle, 1, next(remaining)))

    with _Successors(chain.runtime, len(chain.handles), len(lengths) - len(chain.handles)) as successors:
        for handle in chain.handles:
            begin(handle)
        while active or successors.pending:
            for place in range(len(active)):
                handle, sequence, last = active.popleft()
                emitted_at = time.perf_counter_ns()
                future = handle.emit(content_of(handle.id, sequence))
                emitted.add(future, handle.id, sequence)
                if place % SAMPLED == 0:
                    emitted.time(future, emitted_at)
                if sequence < last:
                    active.append((handle, sequence + 1, last))
                else:
                    changes.append(handle.complete())
                    successors.ask()
            while (new := successors.get(block=not active and successors.pending > 0)) is not None:
                begin(new)
    emitted.check_all()
    for change in changes:
        check_status(change)
