"""Connections that are slow on purpose are dropped at a deadline, in whatever state they are."""

import asyncio
import ssl
from pathlib import Path
from typing import Final

from certificates import write_certificate
from commitcast.actors import AgentRuntime
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.tls import server_context
from hostile import (
    opened,
    play,
    request,
    server_of,
    spoken,
    wire,
)
from waiting import wait_until

SECRET: Final = "S3cr3t-Tok3n"


class TestSlowloris:
    LIMITS: Final = Limits(handshake_timeout_s=0.2, answer_timeout_s=0.2, hello_timeout_s=0.1)

    def test_who_asks_for_nothing_is_dropped(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as enemy:
                assert await enemy.is_dropped() == b""

        play(tmp_path, scenario, limits=self.LIMITS)

    def test_who_sends_headers_drop_by_drop_is_dropped(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as enemy:
                await enemy.send(b"GET /v1/agents HTTP/1.1\r\n")
                dropped = asyncio.create_task(enemy.is_dropped())
                while not dropped.done():
                    await enemy.send(b"X-More: and more\r\n")
                    await asyncio.wait([dropped], timeout=0.02)
                assert b"200" not in dropped.result()

        play(tmp_path, scenario, limits=self.LIMITS)

    def test_headers_without_end_are_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as enemy:
                await enemy.send(request(runtime, "/v1/ws", [("X-More", "and more")] * 1_000))
                assert (await enemy.is_dropped())[:12] in (b"HTTP/1.1 431", b"")
            async with wire(runtime) as enemy:
                await enemy.send(b"GET /" + b"x" * 100_000)
                assert (await enemy.is_dropped())[:12] in (b"HTTP/1.1 414", b"")

        play(tmp_path, scenario)

    def test_who_says_anything_but_hello_is_closed_in_time(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as enemy:
                farewell = asyncio.create_task(enemy.farewell())
                while not farewell.done():
                    await enemy.say("ping")
                    await asyncio.wait([farewell], timeout=0.01)
                goodbye, code = farewell.result()
                assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4507, 4507)

        play(tmp_path, scenario, limits=self.LIMITS, token=SECRET)

    def test_who_never_makes_the_handshake_of_tls_is_dropped(self, tmp_path: Path) -> None:
        tls = server_context(*write_certificate(tmp_path))

        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as enemy:
                assert await enemy.is_dropped() == b""
            async with wire(runtime, ssl=ssl._create_unverified_context(), server_hostname="localhost") as half:
                assert await half.is_dropped() == b""

        play(tmp_path, scenario, limits=self.LIMITS, tls=tls)

    def test_who_never_reads_an_answer_is_dropped(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await spoken(runtime, "a", 20, text="x" * 50_000)
            async with wire(runtime, receive_buffer=4_096) as enemy:
                enemy.stop_reading()
                await enemy.send(request(runtime, "/v1/agents/a/messages"))
                counts = server_of(runtime).core._from
                await asyncio.to_thread(wait_until, lambda: counts, "the connection to be there")
                await asyncio.to_thread(wait_until, lambda: not counts, "the connection to be gone")

        play(tmp_path, scenario, limits=self.LIMITS)
