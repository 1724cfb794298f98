"""The Python client: every message exactly once, in order, whatever happens to the connection."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from commitcast.actors import AgentRuntime
from commitcast.gateway import SubscriptionError, client, subscribe
from waiting import TIMEOUT_S

Speak = Callable[[ServerConnection, dict[str, Any], int], Awaitable[None]]


@pytest.fixture(autouse=True)
def comes_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_S", (0.005, 0.02))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def in_time(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await scenario()

    asyncio.run(bounded())


def test_cut_again_and_again_it_gives_every_message_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            agent = await runtime.alaunch(id="a1")
            agent.start()
            seen: list[int] = []
            async with subscribe(str(runtime.url), "a1") as subscription:
                emitting = asyncio.create_task(_emit(agent, 400))
                async for message in subscription:
                    seen.append(message.sequence)
                    if message.sequence % 37 == 0:
                        await subscription.cut()
                await emitting
            assert seen == list(range(1, 401))
            assert subscription.reconnects >= 5
            assert subscription.status == "completed"

    in_time(scenario)


async def _emit(agent: Any, count: int) -> None:
    for number in range(count):
        await agent.aemit(str(number))
    await agent.complete()


def test_it_goes_on_after_a_restart_of_the_server_on_the_same_port(tmp_path: Path) -> None:
    port = free_port()

    async def scenario() -> None:
        seen: list[str] = []

        async def collect() -> None:
            async for message in subscribe(f"ws://127.0.0.1:{port}/v1/ws", "a1"):
                seen.append(message.content)

        async with AgentRuntime(tmp_path / "a.db", listen=f"127.0.0.1:{port}") as first:
            await (await first.alaunch(id="a1")).aemit("before")
            collecting = asyncio.create_task(collect())
            while seen != ["before"]:
                await asyncio.sleep(0)
            collecting_is_over = collecting.done()
        async with AgentRuntime(tmp_path / "a.db", listen=f"127.0.0.1:{port}"):
            await collecting
        assert not collecting_is_over
        assert seen == ["before"]

    in_time(scenario)


def items(*sequences: int) -> list[dict[str, Any]]:
    return [
        {"sequence": n, "type": "assistant", "role": None, "content": str(n), "content_type": "text", "metadata": None}
        | {"created_at": "2026-01-01T00:00:00.000000Z"}
        for n in sequences
    ]


def messages(prev: int, *sequences: int) -> dict[str, Any]:
    return {"type": "messages", "agent": "a1", "prev": prev, "last": sequences[-1], "items": items(*sequences)}


END = {"type": "status", "agent": "a1", "status": "completed", "previous": "running", "at": "x"}


async def against(speak: Speak, **options: Any) -> tuple[list[int], list[Any], Any]:
    """Subscribe to a server that says what the test wants; return what was given out and the cursors asked for."""
    asked: list[Any] = []

    async def handle(connection: ServerConnection) -> None:
        await connection.send(
            json.dumps(
                {"type": "welcome", "protocol": "commitcast.v1.json", "server": "test", "session": "s"}
                | {"heartbeat_s": options.get("heartbeat_s", 15.0), "limits": {}}
            )
        )
        async for data in connection:
            frame = json.loads(data)
            asked.append(frame["after"])
            subscribed = {"type": "subscribed", "id": 1, "agent": "a1", "epoch": "e", "after": frame["after"]}
            await connection.send(json.dumps(subscribed | {"head": 6, "first": 1, "status": "running", "record": None}))
            await speak(connection, frame, len(asked))

    async with serve(handle, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        subscription = subscribe(f"ws://127.0.0.1:{port}/v1/ws", "a1")
        seen = [message.sequence async for message in subscription]
        return seen, asked, subscription


def test_frames_that_are_lost_or_repeated_make_it_subscribe_again_after_its_cursor() -> None:
    async def speak(connection: ServerConnection, frame: dict[str, Any], turn: int) -> None:
        if turn == 1:
            frames = [messages(0, 1, 2), messages(4, 5, 6)]  # 3 and 4 are lost
        elif turn == 2:
            frames = [messages(2, 3), messages(2, 3)]  # 3 is repeated
        else:
            frames = [{"type": "of a later version"}, messages(3, 4, 5, 6), END | {"sequence": 6}]
        for said in frames:
            await connection.send(json.dumps(said))

    async def scenario() -> None:
        seen, asked, _ = await against(speak)
        assert seen == [1, 2, 3, 4, 5, 6]
        assert asked == [0, 2, 3]

    in_time(scenario)


def test_a_server_that_falls_silent_is_left_and_asked_again() -> None:
    async def speak(connection: ServerConnection, frame: dict[str, Any], turn: int) -> None:
        if turn > 1:
            await connection.send(json.dumps(messages(0, 1, 2, 3, 4, 5, 6)))
            await connection.send(json.dumps(END | {"sequence": 6}))

    async def scenario() -> None:
        seen, asked, _ = await against(speak, heartbeat_s=0.02)
        assert (seen, asked) == ([1, 2, 3, 4, 5, 6], [0, 0])

    in_time(scenario)


@pytest.mark.parametrize(("code", "comes_back"), [(4000, True), (1011, True), (4500, False), (4504, False)])
def test_the_close_code_says_whether_to_come_back(code: int, comes_back: bool) -> None:
    async def speak(connection: ServerConnection, frame: dict[str, Any], turn: int) -> None:
        if turn == 1:
            await connection.send(json.dumps({"type": "goodbye", "code": code, "reason": "x", "reconnect_ms": 1}))
            await connection.close(code, "x")
        else:
            await connection.send(json.dumps(messages(0, 1, 2, 3, 4, 5, 6)))
            await connection.send(json.dumps(END | {"sequence": 6}))

    async def scenario() -> None:
        if comes_back:
            assert (await against(speak))[0] == [1, 2, 3, 4, 5, 6]
        else:
            with pytest.raises(SubscriptionError):
                await against(speak)

    in_time(scenario)


def test_an_unknown_agent_or_a_cursor_beyond_the_head_is_final(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            await runtime.alaunch(id="a1")
            for agent, after, code in (("nobody", 0, "not_found"), ("a1", 5, "ahead")):
                with pytest.raises(SubscriptionError) as refused:
                    async for _ in subscribe(str(runtime.url), agent, after=after):
                        pass
                assert refused.value.error_code == code

    in_time(scenario)


def test_the_cursor_is_that_of_the_last_message_given_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            agent = await runtime.alaunch(lambda context: map(str, range(100)), id="a1")
            await agent.await_(TIMEOUT_S)
            async with subscribe(str(runtime.url), "a1") as subscription:
                async for message in subscription:
                    if message.sequence == 42:
                        break
                assert subscription.cursor == 42
            rest = [m.sequence async for m in subscribe(str(runtime.url), "a1", after=subscription.cursor)]
            assert rest == list(range(43, 101))

    in_time(scenario)


def test_what_was_stored_after_the_end_is_given_to_who_comes_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            agent = await runtime.alaunch(lambda context: "said", id="a1")
            await agent.await_(TIMEOUT_S)
            await agent.aemit("late")
            assert [m.content async for m in subscribe(str(runtime.url), "a1")] == ["said", "late"]

    in_time(scenario)


def test_all_agents_and_the_tail(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            first, second = await runtime.alaunch(id="a"), await runtime.alaunch(id="b")
            await first.aemit("old")
            async with subscribe(str(runtime.url), "*") as every, subscribe(str(runtime.url), "*", after="tail") as new:
                got = [anext(aiter(every)), asyncio.ensure_future(anext(aiter(new)))]
                assert (await got[0]).content == "old"
                while new.status is None and new.cursor == 0:
                    await asyncio.sleep(0)
                await second.aemit("new")
                newest = await got[1]
                assert (newest.agent, newest.content) == ("b", "new")
                following = await anext(aiter(every))
                assert (following.agent, following.content) == ("b", "new")
                assert following.position == newest.position

    in_time(scenario)
