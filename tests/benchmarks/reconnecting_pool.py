"""Thousands of subscribers in one process that reconnect by themselves, each with a connection and a cursor of its own.

They follow the product's own client protocol, on lighter connections. Reports `back` with the time whenever every
subscriber has lost a connection and has caught up on another since. The order at the end names the heads; `end` is
reported when every cursor stands there.
"""

import asyncio
import random
import time
from contextlib import nullcontext
from typing import Final

import msgspec

from benchmark_errors import WrongDataError
from child import Report, listen_for_orders, report, run_child
from commitcast.gateway.client.protocol import SubscriptionProtocol, SubscriptionState
from commitcast.gateway.client.reconnect import ConnectionLost, decode
from commitcast.gateway.protocol import frames
from light_client import LightClient, allow_files
from stream_check import agent_name, content_of

CONNECTING_AT_ONCE: Final = 50
"""At the start. Later the client protocol chooses when each connects."""


class _Subscriber:
    def __init__(self, pool: "_Pool", url: str, agent: str) -> None:
        self.agent = agent
        self.standing = SubscriptionState(0, None)
        self._pool = pool
        self._url = url
        self._protocol = SubscriptionProtocol(self.standing, agent, clock=time.monotonic)
        self._has_subscribed = False

    async def stay(self) -> None:
        """Stay subscribed for ever, over as many connections as it takes."""
        while True:
            try:
                await self._be_connected()
            except OSError as error:
                lost = ConnectionLost(str(error))
            except ConnectionLost as error:
                lost = error
            self._pool.lost(self)
            await asyncio.sleep(self._protocol.next_delay(lost, random.random()))

    async def _be_connected(self) -> None:
        self._protocol.connect()
        self._has_subscribed = False
        client = LightClient(self._url, lambda data: self._take(client, data))
        try:
            async with self._pool.places if self.standing.epoch is None else nullcontext():
                await client.open()
            await client.closed
        finally:
            client.abort()

    def _take(self, client: LightClient, data: bytes) -> None:
        frame = decode(data)
        # The server speaks for its agents after their end too, so the protocol is not to end with them.
        if isinstance(frame, frames.Status):
            return
        if isinstance(frame, frames.Subscribed):
            frame = msgspec.structs.replace(frame, status="running")
        for output in self._protocol.receive(frame):
            if isinstance(output, frames.Item):
                self._check(output)
            else:
                self._send(client, output)
        if isinstance(frame, frames.Messages):
            self._pool.moved()
        elif isinstance(frame, frames.Live):
            self._pool.live(self)

    def _check(self, item: frames.Item) -> None:
        if item.content != content_of(self.agent, item.sequence):
            raise WrongDataError(
                f"a subscriber was given message {item.sequence} of agent {self.agent} with the content"
                f" {item.content!r:.80}"
            )

    def _send(self, client: LightClient, frame: frames.ClientFrame) -> None:
        if isinstance(frame, frames.Subscribe):
            if self._has_subscribed:  # the client mends a gap that way, which voids a measurement
                raise WrongDataError(
                    f"a subscriber stands at {self.standing.cursor} and the next frame does not follow"
                )
            self._has_subscribed = True
        client.send(frames.encode(frame))


class _Pool:
    def __init__(self, order: Report) -> None:
        self.places = asyncio.Semaphore(CONNECTING_AT_ONCE)
        agents = order["agents"]
        self._all = [
            _Subscriber(self, order["url"], agent_name(index % agents)) for index in range(order["subscribers"])
        ]
        self._awaited = set(self._all)
        self._heads: dict[str, int] | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def stay(self) -> None:
        """Return when every cursor is at the heads of `end_at`."""
        staying = [asyncio.create_task(subscriber.stay()) for subscriber in self._all]
        done, _ = await asyncio.wait([self.ended, *staying], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def lost(self, subscriber: _Subscriber) -> None:
        """A connection is over."""
        self._awaited.add(subscriber)

    def live(self, subscriber: _Subscriber) -> None:
        """A subscriber has caught up."""
        self._awaited.discard(subscriber)
        if not self._awaited:
            report(back=time.perf_counter_ns())
            self._awaited = set(self._all)

    def end_at(self, heads: dict[str, int]) -> None:
        """End when every cursor is there."""
        self._heads = heads
        self.moved()

    def moved(self) -> None:
        """A cursor has moved."""
        heads = self._heads
        if heads is None or self.ended.done():
            return
        missing = [heads[subscriber.agent] - subscriber.standing.cursor for subscriber in self._all]
        if min(missing) < 0:
            self.ended.set_exception(WrongDataError("a subscriber was given messages beyond the last"))
        elif max(missing) == 0:
            self.ended.set_result(None)


async def _stay(order: Report) -> None:
    allow_files(order["subscribers"])
    pool = _Pool(order)
    loop = asyncio.get_running_loop()
    listen_for_orders(lambda order: loop.call_soon_threadsafe(pool.end_at, order["heads"]))
    await pool.stay()
    report(end=True)


def _work(order: Report) -> None:
    asyncio.run(_stay(order))


if __name__ == "__main__":
    run_child(_work)
