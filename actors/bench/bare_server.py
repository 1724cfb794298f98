"""The yardstick of the fan-out: a bare `websockets` server that sends one shared frame to all connections in a loop.

Reports its `url`; takes an order with `frames` and `bytes`, and reports when it began to send them.
"""

import asyncio
import time

from websockets.asyncio.server import ServerConnection, broadcast, serve

from commitcast.actors.bench.child import Report, listen_for_orders, report, run_child
from commitcast.actors.bench.crowd import allow_files
from commitcast.actors.bench.stream import agent_name, content_of
from commitcast.gateway import frames


def frame_of(size: int) -> bytes:
    """Return a `messages` frame of so many bytes, or of the fewest that one can have."""
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
    frame = frames.Messages(agent=agent, prev=0, last=1, items=[item])
    item.content += "." * max(0, size - len(frames.encode(frame)))
    return frames.encode(frame)


async def _serve(order: Report) -> None:
    allow_files(order["subscribers"])
    loop = asyncio.get_running_loop()
    sending: asyncio.Future[Report] = loop.create_future()
    connections: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=1) as server:
        port = server.sockets[0].getsockname()[1]
        listen_for_orders(lambda order: loop.call_soon_threadsafe(sending.set_result, order))
        report(url=f"ws://127.0.0.1:{port}/")
        wanted = await sending
        while len(connections) < order["subscribers"]:  # the last handshakes may not be through on this side
            await asyncio.sleep(0.01)
        frame = frame_of(wanted["bytes"])
        report(began=time.perf_counter_ns())
        for _ in range(wanted["frames"]):
            broadcast(connections, frame, text=True)
            await asyncio.sleep(0)
        await server.wait_closed()


def _work(order: Report) -> None:
    asyncio.run(_serve(order))


if __name__ == "__main__":
    run_child(_work)
