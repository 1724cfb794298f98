"""How messages are emitted: pipelined from one thread, or each when the one before it is acknowledged.

Latencies are taken from the call of `emit` to the future's completion: of every message in a closed loop, of one in
`SAMPLED` when pipelined, so that the measurement itself costs little. Every future is checked.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from benchmark_errors import BenchmarkError
from chain import FUTURE_TIMEOUT_S, check_message
from commitcast.actors.handle import AgentHandle
from commitcast.actors.kernel.future import Future
from commitcast.persistence.records import MessageRecord
from stream_check import content_of

SAMPLED: Final = 64
"""One message in this number has its latency taken when pipelined."""

Stored = Future[MessageRecord]
"""What `emit` returns."""


class Emitted:
    """Futures that are still to be checked, in the order of their messages."""

    def __init__(self, acks_ns: list[int]) -> None:
        """Begin; latencies are appended to `acks_ns`."""
        self._acks_ns = acks_ns
        self._waiting: deque[tuple[Stored, str, int]] = deque()

    def add(self, future: Stored, agent: str, sequence: int) -> None:
        """Remember a future, and of whose which message it is."""
        self._waiting.append((future, agent, sequence))

    def time(self, future: Stored, emitted_at: int) -> None:
        """Take the latency of a future once it is complete."""
        acks_ns = self._acks_ns
        future.add_done_callback(lambda _: acks_ns.append(time.perf_counter_ns() - emitted_at))

    def check_done(self) -> None:
        """Check those that are complete. Does not block."""
        waiting = self._waiting
        while waiting and waiting[0][0].done():
            check_message(*waiting.popleft())

    def check_all(self) -> None:
        """Check all. Blocks until they are complete."""
        while self._waiting:
            check_message(*self._waiting.popleft())


class Pipeline:
    """Messages over agents in turn, made before the clock starts."""

    def __init__(self, handles: Sequence[AgentHandle], each: int, acks_ns: list[int], *, after: int = 0) -> None:
        """Make the messages.

        Args:
            handles: the agents.
            each: messages of each.
            acks_ns: takes latencies.
            after: how many messages each has emitted before.
        """
        self._after = after
        self._emitted = Emitted(acks_ns)
        self._work = [
            (handle.emit, content_of(handle.id, sequence))
            for sequence in range(after + 1, after + each + 1)
            for handle in handles
        ]
        self._agents = [handle.id for handle in handles]
        self._futures: list[Stored] = []

    def emit(self) -> None:
        """Emit everything as fast as the runtime takes it. Blocks at its bounds."""
        futures, work = self._futures, self._work
        for start in range(0, len(work), SAMPLED):
            emitted_at = time.perf_counter_ns()
            emit, text = work[start]
            future = emit(text)
            self._emitted.time(future, emitted_at)
            futures.append(future)
            futures += [emit(text) for emit, text in work[start + 1 : start + SAMPLED]]

    def check_all(self) -> None:
        """Check every future. Blocks until they are complete. After the clock was stopped, which it would cost."""
        agents = self._agents
        for index, future in enumerate(self._futures):
            check_message(future, agents[index % len(agents)], self._after + index // len(agents) + 1)


def on_a_thread(work: Callable[[], object]) -> None:
    """Do it as most hosts do, not on the main thread, where no turn of an actor is taken (see `kernel/dispatch.py`)."""
    with ThreadPoolExecutor(1, thread_name_prefix="host") as pool:
        pool.submit(work).result()


def contents(handle: AgentHandle, count: int) -> list[str]:
    """Return what an agent says as its first messages."""
    return [content_of(handle.id, sequence) for sequence in range(1, count + 1)]


def emit_one_by_one(handle: AgentHandle, texts: Sequence[str], acks_ns: list[int]) -> None:
    """Emit each text when the one before is acknowledged, from this thread."""
    for sequence, text in enumerate(texts, start=1):
        emitted_at = time.perf_counter_ns()
        future = handle.emit(text)
        check_message(future, handle.id, sequence)
        acks_ns.append(time.perf_counter_ns() - emitted_at)


def emit_closed(handles: Sequence[AgentHandle], each: int, acks_ns: list[int]) -> None:
    """Let every agent emit its next message when its one before is acknowledged, from the futures' callbacks.

    Raises:
        BenchmarkError: a future failed.
    """
    finished = threading.Semaphore(0)
    loops = [_ClosedLoop(handle, each, acks_ns, finished.release) for handle in handles]
    for loop in loops:
        loop.emit()
    for _ in loops:
        if not finished.acquire(timeout=FUTURE_TIMEOUT_S * 2):
            raise BenchmarkError("an agent's next message was not acknowledged in time")
    for loop in loops:
        if loop.error is not None:
            raise loop.error


class _ClosedLoop:
    def __init__(self, handle: AgentHandle, each: int, acks_ns: list[int], finished: Callable[[], object]) -> None:
        self.error: Exception | None = None
        self._agent = handle.id
        self._emit = handle.emit
        self._texts = contents(handle, each)
        self._next = 0
        self._acks_ns = acks_ns
        self._emitted_at = 0
        self._finished = finished

    def emit(self) -> None:
        """Emit the next message."""
        text = self._texts[self._next]
        self._next += 1
        self._emitted_at = time.perf_counter_ns()
        self._emit(text).add_done_callback(self._on_acknowledged)

    def _on_acknowledged(self, future: Stored) -> None:
        self._acks_ns.append(time.perf_counter_ns() - self._emitted_at)
        try:
            check_message(future, self._agent, self._next)
            if self._next < len(self._texts):
                self.emit()
                return
        except Exception as error:  # raised by `emit_closed`; a callback's error would only be logged
            self.error = error
        self._finished()
