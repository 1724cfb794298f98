"""Thousands of subscribers in one process who come back by themselves, each with a connection and a cursor of its own.

They keep the client's rules, with our policy (`gateway.client.reconnect.ReconnectPolicy`), and nothing more.
Reports `back` with the time whenever everyone has lost a connection and has caught up on another since.
The order at the end names the heads; `end` is reported when every cursor stands there.
"""

import asyncio
import random
import time
from contextlib import nullcontext
from typing import Final

from commitcast.actors.bench.child import Report, listen_for_orders, report, run_child
from commitcast.actors.bench.errors import WrongDataError
from commitcast.actors.bench.light_client import LightClient, allow_files
from commitcast.actors.bench.stream import SharedCheck, agent_name, joined
from commitcast.gateway.client.reconnect import ConnectionLost, ReconnectPolicy, closed
from commitcast.gateway.protocol import decoding, frames

CONNECTING_AT_ONCE: Final = 50
"""Until it was subscribed once. Later each comes when its rule says."""


class _Subscriber:
    def __init__(self, crowd: "_Crowd", url: str, agent: str) -> None:
        self.agent = agent
        self.cursor = 0
        self._crowd = crowd
        self._url = url
        self._agent_epoch: str | None = None
        self._epoch: str | None = None
        """Of the last `subscribed`: another after each start of the server."""
        self._is_subscribed = False
        self._comeback = ReconnectPolicy(None)
        self._client: LightClient | None = None

    async def stay(self) -> None:
        """Be there, for ever, over as many connections as it takes."""
        while True:
            try:
                await self._be_connected()
            except OSError as error:
                lost = ConnectionLost(str(error))
            except ConnectionLost as error:
                lost = error
            self._crowd.lost(self)
            await asyncio.sleep(self._comeback.delay_after(lost, random.random()))

    async def _be_connected(self) -> None:
        self._is_subscribed = False
        client = LightClient(self._url, lambda data: self._take(client, data))
        try:
            async with self._crowd.places if self._epoch is None else nullcontext():
                await client.open()
            client.send(frames.encode(frames.Subscribe(id=1, agent=self.agent, after=self.cursor, epoch=self._epoch)))
            await client.closed
        finally:
            client.abort()

    def _take(self, client: LightClient, data: bytes) -> None:
        span = self._crowd.check.take(data)
        if span is not None:
            self.cursor = joined(self.cursor, span)
            self._crowd.moved()
            return
        match decoding.decode_server(data):
            case frames.Goodbye() as goodbye:
                raise closed(goodbye.code, goodbye.reason, goodbye.reconnect_ms)
            case frames.Error() as error:
                raise ConnectionLost(error.message, error.code)
            case frames.Subscribed() as subscribed:
                self._on_subscribed(subscribed)
            case frames.Live() as live:
                if live.sequence != self.cursor:
                    raise WrongDataError(f"a subscriber stands at {self.cursor} and is live at {live.sequence}")
                self._comeback.made_progress()
                self._crowd.live(self)

    def _on_subscribed(self, frame: frames.Subscribed) -> None:
        record = frame.record
        is_same = record is not None and self._agent_epoch in (None, record.epoch)
        if record is None or not is_same or frame.after != self.cursor or frame.head < self.cursor:
            raise WrongDataError(f"a subscriber stands at {self.cursor} and the server begins anew: {frame}")
        self._agent_epoch, self._epoch = record.epoch, frame.epoch
        self._comeback.token_accepted()


class _Crowd:
    def __init__(self, order: Report) -> None:
        self.check = SharedCheck()
        self.places = asyncio.Semaphore(CONNECTING_AT_ONCE)
        agents = order["agents"]
        self._all = [
            _Subscriber(self, order["url"], agent_name(index % agents)) for index in range(order["subscribers"])
        ]
        self._awaited = set(self._all)
        self._heads: dict[str, int] | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def stay(self) -> None:
        """Return when everything is there that there will be."""
        staying = [asyncio.create_task(subscriber.stay()) for subscriber in self._all]
        done, _ = await asyncio.wait([self.ended, *staying], return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()

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
        """Wait only until every cursor is there."""
        self._heads = heads
        self.moved()

    def moved(self) -> None:
        """A cursor has moved."""
        heads = self._heads
        if heads is None or self.ended.done() or any(one.cursor < heads[one.agent] for one in self._all):
            return
        if any(one.cursor > heads[one.agent] for one in self._all):
            self.ended.set_exception(WrongDataError("a subscriber was given messages beyond the last"))
        else:
            self.ended.set_result(None)


async def _stay(order: Report) -> None:
    allow_files(order["subscribers"])
    crowd = _Crowd(order)
    loop = asyncio.get_running_loop()
    listen_for_orders(lambda order: loop.call_soon_threadsafe(crowd.end_at, order["heads"]))
    await crowd.stay()
    report(end=True)


def _work(order: Report) -> None:
    asyncio.run(_stay(order))


if __name__ == "__main__":
    run_child(_work)
