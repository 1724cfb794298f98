"""A thousand subscribers of one agent in one process, each on a connection of its own.

A frame that many subscribers receive is decoded and checked once; for each subscriber the pool checks that its frames
are consecutive. With the bare server it only counts the frames, so that both are measured with the same receiver.

Reports `ready` when all have caught up, and for each target when the last subscriber reached it. Stalled subscribers
stop reading: every other one when it has caught up, the rest before they receive `subscribed`, so that their history is
blocked as well. Times are of `time.perf_counter_ns`, which is the system's monotonic clock on Linux and so the same in
every process.
"""

import asyncio
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from benchmark_errors import BenchmarkError
from child import Report, listen_for_orders, report, run_child
from commitcast.gateway.protocol import decoding, frames
from light_client import LightClient, allow_files
from results import percentile_ms
from stream_check import SharedCheck, joined

CONNECTING_AT_ONCE: Final = 50
"""Fewer than a listening socket keeps waiting."""
STALLED_BUFFER_BYTES: Final = 4_096
"""What the kernel takes for a subscriber that stalls: little, so that it is the server who has to keep the rest."""


class _Pool:
    def __init__(self, order: Report) -> None:
        self.agent: str | None = order["agent"]
        """None: frames of the bare server are counted."""
        self.check = SharedCheck(order.get("content_bytes", 0))
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.frames = 0
        self.bytes = 0
        self.latencies_ns: dict[str, array[int]] = {}
        """From `emit` to the receiver, by the label of the message."""
        self._targets: list[int] = order["targets"]
        """Of messages, or of frames."""
        self._awaited = [order["subscribers"]] * len(self._targets)

    def count(self, before: int, after: int, size: int) -> None:
        """Count a frame that took a subscriber from one cursor to another."""
        self.frames += 1
        self.bytes += size
        for index in range(bisect_right(self._targets, before), bisect_right(self._targets, after)):
            self._awaited[index] -= 1
            if not self._awaited[index]:
                report(reached=time.perf_counter_ns(), frames=self.frames, bytes=self.bytes)
                if not any(self._awaited):
                    self.finished.set_result(None)

    def note(self, emitted: Iterable[tuple[str, int]]) -> None:
        """Note how long ago messages were emitted that are just received."""
        now = time.perf_counter_ns()
        for label, emitted_ns in emitted:
            self.latencies_ns.setdefault(label, array("q")).append(now - emitted_ns)


class _Member:
    def __init__(self, pool: _Pool, url: str) -> None:
        self.client = LightClient(url, self._take)
        self._pool = pool
        self._cursor = 0
        self._live: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def join(self) -> None:
        """Return when the subscription is live."""
        await self.client.open()
        if self._pool.agent is not None:
            await self._subscribe(self._pool.agent)

    async def stall(self, agent: str, *, is_early: bool) -> None:
        """Subscribe, and take nothing more; if that is early, not even the history."""
        await self.client.open(STALLED_BUFFER_BYTES)
        if is_early:
            self.client.stop_reading()
            self._live.set_result(None)
        await self._subscribe(agent)
        self.client.stop_reading()

    async def _subscribe(self, agent: str) -> None:
        self.client.send(frames.encode(frames.Subscribe(id=1, agent=agent, after=0)))
        await self.client.wait_for(self._live)

    def _take(self, data: bytes) -> None:
        pool, before = self._pool, self._cursor
        span = pool.check.take(data)
        if span is None:
            if not self._live.done() and isinstance(decoding.decode_server(data), frames.Live):
                self._live.set_result(None)
            return
        self._cursor = before + 1 if pool.agent is None else joined(before, span)
        pool.count(before, self._cursor, len(data))
        if span.emitted:
            pool.note(span.emitted)


async def _gather(order: Report) -> None:
    allow_files(order["subscribers"])
    pool = _Pool(order)
    listen_for_orders()
    places = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def join(index: int) -> LightClient:
        async with places:
            member = _Member(pool, order["url"])
            if order.get("stall"):
                await member.stall(order["agent"], is_early=index % 2 == 0)
            else:
                await member.join()
            return member.client

    clients = await asyncio.gather(*(join(index) for index in range(order["subscribers"])))
    report(ready=True)
    await asyncio.wait([pool.finished, *(client.closed for client in clients)], return_when=asyncio.FIRST_COMPLETED)
    for client in clients:
        if client.closed.done() and not pool.finished.done():
            raise client.closed.exception() or BenchmarkError("a connection was lost")
    report(p99_ms={label: percentile_ms(found, 0.99) for label, found in pool.latencies_ns.items()})


def _work(order: Report) -> None:
    asyncio.run(_gather(order))


if __name__ == "__main__":
    run_child(_work)
