"""The host of `streams`: a program with one event loop, in which agents speak, as an embedding program has them.

Reports where subscribers connect, waits for the order to begin, and reports what the load has cost this process.
"""

import asyncio
import resource
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from child import FOLDER, Report, listen_for_orders, report, run_child
from commitcast.actors.errors import BackpressureError
from commitcast.actors.handle import AgentHandle
from commitcast.actors.runtime import AgentRuntime
from commitcast.actors.sources.context import AgentContext
from stream_check import agent_name
from stream_control import LENGTH, ControlWriter, Said, WriterThread, send
from stream_pace import TOKEN, Load, moments

Say = Callable[[int, float], Awaitable[object] | None]
"""Takes the number of an agent, and when it says a token."""


class Host:
    """One load. See `Ways` in `streams`."""

    def __init__(self, order: Report) -> None:
        self.path = Path(order["path"])
        self.agents: int = order["agents"]
        self.tokens: int = order["tokens"]
        self.host_us: float = order["host_us"]
        self.journal_mode: str = order["journal_mode"]
        self.server: str | None = order["server"]
        self.load = Load()
        self.commits = 0
        self._go = threading.Event()
        listen_for_orders(lambda _: self._go.set())

    async def begin(self, **facts: Any) -> None:
        """Say that everything is ready, and wait for the order to begin."""
        report(ready=True, **facts)
        await asyncio.to_thread(self._go.wait)

    def finish(self) -> None:
        """Report what the load has cost."""
        report(commits=self.commits, **self.load.report())

    async def speak(self, say: Say) -> None:
        """Let every agent say its tokens."""
        await asyncio.gather(*(self._speak_as(agent, say) for agent in range(self.agents)))

    async def _speak_as(self, agent: int, say: Say) -> None:
        async for at in moments(agent, self.tokens, self.host_us):
            if (waiting := say(agent, at)) is not None:
                await waiting

    # By hand.

    async def control(self) -> None:
        """Have a thread write what is said."""
        said: deque[float] = deque()

        def committed(count: int) -> None:
            now = time.monotonic()
            self.load.lags_s.extend(now - said.popleft() for _ in range(count))

        with WriterThread(ControlWriter(self.path, self.agents, self.journal_mode), committed) as writer:

            def say(agent: int, at: float) -> None:
                said.append(at)
                writer.say((agent, TOKEN))

            await self.begin()
            async with self.load:
                await self.speak(say)
            self.commits = writer.commits

    async def control_process(self) -> None:
        """Have another process write what is said: batches by a pipe, one at a time."""
        order = {"path": str(self.path), "agents": self.agents, "journal_mode": self.journal_mode}
        command = [sys.executable, str(FOLDER / "stream_control.py"), msgspec.json.encode(order).decode()]
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert writer.stdin is not None and writer.stdout is not None
        writer.stdout.readline()
        loop, encode = asyncio.get_running_loop(), msgspec.msgpack.Encoder().encode
        said: deque[float] = deque()
        waiting: list[Said] = []
        is_busy = False

        def flush() -> None:
            nonlocal is_busy
            if waiting and not is_busy:
                is_busy = True
                send(writer.stdin, encode(waiting))  # type: ignore[arg-type]  # checked above
                waiting.clear()
                self.commits += 1

        def answered() -> None:
            nonlocal is_busy
            count = LENGTH.unpack(writer.stdout.read(LENGTH.size))[0]  # type: ignore[union-attr]  # checked above
            is_busy = False
            flush()
            now = time.monotonic()
            self.load.lags_s.extend(now - said.popleft() for _ in range(count))

        def say(agent: int, at: float) -> None:
            said.append(at)
            waiting.append((agent, TOKEN))
            if not is_busy and len(waiting) == 1:
                loop.call_soon(flush)

        loop.add_reader(writer.stdout.fileno(), answered)
        await self.begin()
        async with self.load:
            await self.speak(say)
            while said:
                await asyncio.sleep(0.001)
        loop.remove_reader(writer.stdout.fileno())
        writer.stdin.close()
        writer.wait()
        self.load.cpu_s += sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    # By the product.

    async def product(self, way: str) -> None:
        """Have a runtime store what is said, and read it as `streams.WAYS` says."""
        options: Any = {"journal_mode": self.journal_mode, "server": self.server}
        async with AgentRuntime(self.path, listen="127.0.0.1:0", **options) as runtime:
            self.load.beside = getattr(runtime.store, "server_pid", None)
            if way in ("emit", "subscriber"):
                await self._emit(runtime)
                if way == "subscriber":  # it may not have heard everything: the parent ends this process
                    self.finish()
                    await asyncio.Event().wait()
            else:
                await self._sources(runtime, way)

    async def _emit(self, runtime: AgentRuntime) -> None:
        names = [agent_name(index) for index in range(self.agents)]
        handles: list[AgentHandle] = await asyncio.to_thread(runtime.launch_many, self.agents, ids=names)
        for handle in handles:
            await handle.start()
        await self.begin(url=runtime.url)
        before = runtime.stats().commits
        async with self.load:
            await self.speak(lambda agent, at: self._emit_one(handles[agent], at))
            for completed in [handle.complete() for handle in handles]:
                await completed
        self.commits = runtime.stats().commits - before

    def _emit_one(self, handle: AgentHandle, at: float) -> Awaitable[object] | None:
        text = f"{at:.6f} {TOKEN}"
        try:
            future = handle.emit(text)
        except BackpressureError:
            return self._emit_late(handle, text, at)
        future.add_done_callback(lambda _: self.load.lags_s.append(time.monotonic() - at))
        return None

    async def _emit_late(self, handle: AgentHandle, text: str, at: float) -> None:
        await handle.aemit(text)
        self.load.lags_s.append(time.monotonic() - at)

    async def _sources(self, runtime: AgentRuntime, way: str) -> None:
        begun, running = asyncio.Event(), {agent_name(index) for index in range(self.agents)}
        self._over = asyncio.Event()

        async def source(context: AgentContext) -> AsyncIterator[str]:
            await begun.wait()
            async for at in moments(int(context.id.rpartition("-")[2]), self.tokens, self.host_us):
                yield f"{at:.6f} {TOKEN}"
            running.discard(context.id)
            if not running:
                self._over.set()

        handles = [await runtime.alaunch(source, id=agent_name(index)) for index in range(self.agents)]
        reading = [asyncio.create_task(self._read(handle, way)) for handle in handles]
        await self.begin(url=runtime.url)
        before = runtime.stats().commits
        async with self.load:
            begun.set()
            await asyncio.gather(*reading)
        self.commits = runtime.stats().commits - before

    async def _read(self, handle: AgentHandle, way: str) -> None:
        if way == "follow":
            async for message in handle.afollow():
                self.load.lags_s.append(time.monotonic() - float(message.content.split()[0]))
        elif way == "wait":
            await handle.await_()
        else:
            await self._over.wait()


async def _run(order: Report) -> None:
    host = Host(order)
    if order["way"] == "control":
        await host.control()
    elif order["way"] == "control_process":
        await host.control_process()
    else:
        await host.product(order["way"])
    host.finish()


def _work(order: Report) -> None:
    asyncio.run(_run(order))


if __name__ == "__main__":
    run_child(_work)
