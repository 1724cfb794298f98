"""A server in a process of its own, with agents that emit at a fixed rate, for the fault scenarios.

It continues with the agents in its file: after a restart they have ended, but messages that are emitted for them are
still stored and sent, with the sequences that follow. Reports its `url`; then takes orders to `speak`, one after the
other, and reports of each the memory that the process had at most, and at the end of it. A further order, or the
signal to stop, ends one without a number of messages. SIGTERM stops the runtime in order.
"""

import queue
import signal
import time
from pathlib import Path

import msgspec

from child import Report, listen_for_orders, report, run_child
from commitcast.actors.runtime import AgentRuntime
from commitcast.gateway.server.access.limits import Limits
from light_client import allow_files
from load import Emitted
from machine import resident_bytes
from stream_check import agent_name, content_of


class Speech(msgspec.Struct, kw_only=True):
    """An order: which messages to emit."""

    per_s: float
    """Messages, over all agents."""
    messages: int | None = None
    """None: until the next order."""
    content_bytes: int = 0
    label: str | None = None
    """Goes with each message, together with the time of its `emit`; None sends neither."""


class _Agents:
    """Emit their messages, in turn."""

    def __init__(self, runtime: AgentRuntime, count: int, orders: queue.SimpleQueue[Report | None]) -> None:
        heads = {record.id: record.head for record in runtime.agents(limit=count)}
        if not heads:
            runtime.launch_many(count, ids=[agent_name(index) for index in range(count)])
        self._handles = [runtime.agent(agent_name(index)) for index in range(count)]
        self.heads = {handle.id: heads.get(handle.id, 0) for handle in self._handles}
        self._emitted = Emitted([])
        self._orders = orders

    def speak(self, speech: Speech) -> Report | None:
        """Speak, and return the next order. Blocks; what it says is stored when it returns."""
        began, turn, most = time.perf_counter(), 0, resident_bytes()
        while turn != speech.messages:
            try:
                following = self._orders.get(timeout=max(0, began + turn / speech.per_s - time.perf_counter()))
                break
            except queue.Empty:
                self._say_next(speech, turn)
                turn += 1
                most = max(most, resident_bytes())
        else:
            following = None
        self._emitted.check_all()
        resident = resident_bytes()
        report(heads=self.heads, resident=resident, resident_most=max(most, resident))
        return self._orders.get() if turn == speech.messages else following

    def _say_next(self, speech: Speech, turn: int) -> None:
        handle = self._handles[turn % len(self._handles)]
        self.heads[handle.id] = sequence = self.heads[handle.id] + 1
        metadata = None if speech.label is None else {"label": speech.label, "emitted_ns": time.perf_counter_ns()}
        content = content_of(handle.id, sequence, speech.content_bytes)
        self._emitted.add(handle.emit(content, metadata=metadata), handle.id, sequence)
        self._emitted.check_done()


def _work(order: Report) -> None:
    allow_files(order["subscribers"])
    orders: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: orders.put(None))
    listen_for_orders(orders.put)
    limits = Limits(stall_timeout_s=order["stall_timeout_s"])
    with AgentRuntime(Path(order["path"]), listen=order["listen"], limits=limits) as runtime:
        agents = _Agents(runtime, order["agents"], orders)
        report(url=runtime.url, address=runtime.address)
        following = orders.get()
        while following is not None:
            following = agents.speak(msgspec.convert(following, Speech))


if __name__ == "__main__":
    run_child(_work)
