"""The baseline of the fan-out: a bare `websockets` server that sends one shared frame to all connections.

Reports its `url`. Takes orders for a number of `frames`, each as large as one message's; reports when it began to send
them, and the CPU time that the sending took. With `rest` it is idle after each frame for that many times as long as it
was sending, as the product is; otherwise it sends as fast as it can.
"""

import asyncio
import time
from typing import Final

from websockets.asyncio.server import ServerConnection, broadcast, serve

from child import Report, listen_for_orders, report, run_child
from commitcast.gateway.protocol import frames
from light_client import allow_files
from stream_check import agent_name, content_of

BACKLOG: Final = 1_024


def frame_of_one_message() -> bytes:
    """Return a `messages` frame as the product sends it for one message."""
    agent = agent_name(0)
    item = frames.Item(
        sequence=1,
        type="assistant",
        role=None,
        content=content_of(agent, 1),
        content_type="text",
        metadata=None,
        created_at="2000-01-01T00:00:00.000000Z",
    )
    return frames.encode(frames.Messages(agent=agent, prev=0, last=1, items=[item]))


async def _send(connections: list[ServerConnection], count: int, rest: float) -> float:
    """Send as a user of the library would; return the CPU time in seconds that the calls of `broadcast` took."""
    frame = frame_of_one_message()
    cpu_s = 0.0
    for _ in range(count):
        began_cpu, began = time.thread_time(), time.perf_counter()
        broadcast(connections, frame, text=True)
        cpu_s += time.thread_time() - began_cpu
        await asyncio.sleep(rest * (time.perf_counter() - began))
    return cpu_s


async def _serve(order: Report) -> None:
    allow_files(order["subscribers"])
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[Report] = asyncio.Queue()
    connections: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        await connection.wait_closed()

    async with serve(
        handle, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=1, backlog=BACKLOG
    ) as server:
        port = server.sockets[0].getsockname()[1]
        listen_for_orders(lambda order: loop.call_soon_threadsafe(orders.put_nowait, order))
        report(url=f"ws://127.0.0.1:{port}/")
        while True:
            wanted = await orders.get()
            while len(connections) < order["subscribers"]:  # the last handshakes may not be through on this side
                await asyncio.sleep(0.01)
            report(began=time.perf_counter_ns())
            report(cpu_s=await _send(connections, wanted["frames"], wanted["rest"]))


def _work(order: Report) -> None:
    asyncio.run(_serve(order))


if __name__ == "__main__":
    run_child(_work)
