"""The receiver: one subscriber in a process of its own, over a real socket, that checks everything it is given.

Uses only the product's decoder and the client's rule, so that the receiver is not the bottleneck.
Reports `ready` when it has caught up, `done` with the time when it has everything that it waits for, and at the end of
the connection whether anything came after that.
"""

import asyncio
import time

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from benchmark_errors import BenchmarkError
from child import Report, listen_for_orders, report, run_child
from commitcast.gateway.protocol import decoding, frames
from commitcast.persistence.records import AgentStatus
from stream_check import StreamCheck


async def _subscribe(order: Report) -> None:
    agent, messages, completed = order["agent"], order["messages"], order.get("completed", 0)
    check = StreamCheck(agent)
    go = asyncio.Event()
    loop = asyncio.get_running_loop()
    listen_for_orders(lambda _: loop.call_soon_threadsafe(go.set))
    async with connect(
        order["url"],
        subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
        compression=None,
        max_size=None,
        proxy=None,
        close_timeout=1,
    ) as connection:
        if order.get("wait"):
            report(ready=True)
            await go.wait()
        began = time.perf_counter_ns()
        await connection.send(frames.encode(frames.Subscribe(id=1, agent=agent, after=0)).decode())
        try:
            await _receive(connection, check, messages, completed)
        except ConnectionClosed as error:
            raise BenchmarkError(
                f"the connection was lost after {check.messages:,} of {messages:,} messages ({error})"
            ) from error
        report(done=time.perf_counter_ns(), began=began)
        try:
            while True:
                check.take(decoding.decode_server(await connection.recv(decode=False)))
        except ConnectionClosed:
            pass
    if check.messages != messages:
        raise BenchmarkError(f"{check.messages - messages:,} messages were given to the subscriber beyond the last")
    report(end=True)


async def _receive(connection: ClientConnection, check: StreamCheck, messages: int, completed: int) -> None:
    while check.messages < messages or check.statuses[AgentStatus.COMPLETED] < completed:
        frame = decoding.decode_server(await connection.recv(decode=False))
        check.take(frame)
        if isinstance(frame, frames.Live):
            report(ready=True)


def _work(order: Report) -> None:
    asyncio.run(_subscribe(order))


if __name__ == "__main__":
    run_child(_work)
