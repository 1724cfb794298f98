"""A thousand subscribers of one agent in one process, each on a connection of its own.

A frame that many are given is decoded and checked once; that each subscriber's frames join is checked for each. Against
the bare server it counts the frames and takes them the same way, so that both are measured with the same far end.
"""

import asyncio
import resource
import time
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from commitcast.actors.bench.child import Report, listen_for_orders, report, run_child
from commitcast.actors.bench.errors import BenchmarkError, WrongDataError
from commitcast.actors.bench.stream import StreamCheck
from commitcast.gateway import frames

CONNECTING_AT_ONCE: Final = 50
"""Fewer than a listening socket keeps waiting."""
SPARE_FILES: Final = 256


def allow_files(count: int) -> None:
    """Let this process have so many connections.

    Raises:
        BenchmarkError: the system does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise BenchmarkError(f"{count} connections need {wanted} open files and the limit is {hard}: raise it (ulimit)")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Crowd:
    def __init__(self, order: Report) -> None:
        self._agent: str | None = order["agent"]
        """None: frames of the bare server are counted."""
        self._target: int = order["count"]
        """Of messages, or of frames, that each is to be given."""
        self._known: dict[bytes, tuple[int, int]] = {}
        self.frames = 0
        self.bytes = 0

    async def prepare(self, connection: ClientConnection) -> None:
        """Wait until the subscription is live."""
        if self._agent is None:
            return
        await connection.send(frames.encode(frames.Subscribe(id=1, agent=self._agent, after=0)).decode())
        while not isinstance(frames.decode_server(await connection.recv(decode=False)), frames.Live):
            pass

    async def follow(self, connection: ClientConnection) -> None:
        """Take frames until everything is there."""
        cursor = 0
        try:
            while cursor < self._target:
                data = await connection.recv(decode=False)
                prev, last = self._known.get(data) or self._check(data)
                if self._agent is None:
                    last = cursor + 1
                elif last == prev:
                    continue  # a heartbeat
                elif prev != cursor:
                    raise WrongDataError(f"a subscriber stands at {cursor} and was given what follows {prev}")
                cursor = last
                self.frames += 1
                self.bytes += len(data)
        except ConnectionClosed as error:
            raise BenchmarkError(f"a connection was lost after {cursor} of {self._target} ({error})") from error

    def _check(self, data: bytes) -> tuple[int, int]:
        frame = frames.decode_server(data)
        span = (0, 0)
        if isinstance(frame, frames.Messages):
            span = (frame.prev, frame.last)
            if self._agent is not None:
                StreamCheck(self._agent, after=frame.prev).take(frame)
        self._known[data] = span
        return span


async def _gather(order: Report) -> None:
    allow_files(order["subscribers"])
    crowd = _Crowd(order)
    listen_for_orders()
    places = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def join() -> ClientConnection:
        async with places:
            connection = await connect(
                order["url"],
                subprotocols=None if order["agent"] is None else [Subprotocol(frames.SUBPROTOCOL)],
                compression=None,
                max_size=None,
                proxy=None,
                ping_interval=None,
                open_timeout=60,
                close_timeout=1,
            )
            await crowd.prepare(connection)
            return connection

    connections = await asyncio.gather(*(join() for _ in range(order["subscribers"])))
    following = [asyncio.create_task(crowd.follow(connection)) for connection in connections]
    report(ready=True)
    await asyncio.gather(*following)
    report(done=time.perf_counter_ns(), frames=crowd.frames, bytes=crowd.bytes)
    for connection in connections:
        connection.transport.abort()


def _work(order: Report) -> None:
    asyncio.run(_gather(order))


if __name__ == "__main__":
    run_child(_work)
