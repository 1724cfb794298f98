"""The subscriber of `streams`: to all agents, in a process of its own; it takes how old each token is when heard."""

import asyncio
import time

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from child import Report, report, run_child
from commitcast.gateway.protocol import decoding, frames
from stream_pace import percentiles_ms


async def _listen(order: Report) -> None:
    lags_s: list[float] = []
    async with connect(
        order["url"], subprotocols=[Subprotocol(frames.SUBPROTOCOL)], compression=None, max_size=None, proxy=None
    ) as connection:
        await connection.send(frames.encode(frames.Subscribe(id=1, agent=frames.ALL, after=0)).decode())
        while len(lags_s) < order["messages"]:
            frame = decoding.decode_server(await connection.recv(decode=False))
            if isinstance(frame, frames.Live):
                report(ready=True)
                began = time.process_time()
            elif isinstance(frame, frames.Messages):
                now = time.monotonic()
                texts = (item.content for item in frame.items if isinstance(item, frames.Item))
                lags_s += [now - float(text.split()[0]) for text in texts if isinstance(text, str)]
    report(lags_ms=percentiles_ms(lags_s), cpu_s=time.process_time() - began, timed=len(lags_s))


def _work(order: Report) -> None:
    asyncio.run(_listen(order))


if __name__ == "__main__":
    run_child(_work)
