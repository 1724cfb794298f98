"""The Python client: every message exactly once, in order, whatever happens to the connection."""

import asyncio
import logging
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway import SubscriptionError, subscribe
from commitcast.gateway.client import reconnect
from commitcast.gateway.protocol import frames
from scripted_server import LOGGER, Answer, Fields, ScriptedServer, end, messages, say_everything, speaking
from waiting import TIMEOUT_S


@pytest.fixture(autouse=True)
def comes_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "BACKOFF_S", (0.005, 0.02))
    monkeypatch.setattr(reconnect, "QUICK_S", 0.005)


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
    """What follows is said while it is away, all in one commit, so that the disk's time counts for little."""
    each, cuts = 40, 10

    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            agent = await runtime.alaunch(id="a1")
            agent.start()
            seen: list[int] = []

            async def say_more(said: int) -> None:
                if said < each * cuts:
                    await asyncio.gather(*(agent.aemit("more") for _ in range(each)))
                else:
                    await agent.complete()

            saying = [asyncio.create_task(say_more(0))]
            async with subscribe(str(runtime.url), "a1") as subscription:
                async for message in subscription:
                    seen.append(message.sequence)
                    if message.sequence % each == each - 3:
                        await subscription.cut()
                        saying.append(asyncio.create_task(say_more(message.sequence + 3)))
            await asyncio.gather(*saying)
            assert seen == list(range(1, each * cuts + 1))
            assert subscription.reconnects == cuts
            assert subscription.status == "completed"

    in_time(scenario)


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


async def against(speak: Answer, **options: Any) -> tuple[list[int], list[Any], Any]:
    """Subscribe to such a server; return what was given out and the cursors asked for."""
    with speaking(speak, **options) as server:
        subscription = subscribe(server.url, "a1")
        seen = [message.sequence async for message in subscription]
        return seen, server.asked, subscription


def test_frames_that_are_lost_or_repeated_make_it_subscribe_again_after_its_cursor() -> None:
    def speak(server: ScriptedServer, frame: Fields) -> None:
        if len(server.asked) == 1:
            frames = [messages(0, 2), messages(4, 6)]  # 3 and 4 are lost
        elif len(server.asked) == 2:
            frames = [messages(2, 3), messages(2, 3)]  # 3 is repeated
        else:
            frames = [{"type": "of a later version"}, messages(3, 6), end(6)]
        server.say(*frames)

    async def scenario() -> None:
        seen, asked, _ = await against(speak)
        assert seen == [1, 2, 3, 4, 5, 6]
        assert asked == [0, 2, 3]

    in_time(scenario)


@pytest.mark.parametrize("log", ["a1", "*"])
def test_over_a_restart_a_cursor_goes_on_and_over_a_restored_backup_it_is_told(tmp_path: Path, log: str) -> None:
    path, backup = tmp_path / "a.db", tmp_path / "backup.db"

    async def speak(runtime: AgentRuntime, *words: str) -> None:
        agent = runtime.agent("a1") if runtime.agents() else await runtime.alaunch(id="a1")
        for word in words:
            await agent.aemit(word)

    async def listen(runtime: AgentRuntime, count: int, cursor: int, epoch: str | None) -> tuple[list[str], Any]:
        heard: list[str] = []
        async with subscribe(str(runtime.url), log, after=cursor, epoch=epoch) as subscription:
            async for message in subscription:
                heard.append(message.content)
                if len(heard) == count:
                    break
            return heard, (subscription.cursor, subscription.epoch)

    async def scenario() -> None:
        async with AgentRuntime(path, listen="127.0.0.1:0") as runtime:
            await speak(runtime, "one", "two")
            heard, early = await listen(runtime, 2, 0, None)
            assert heard == ["one", "two"]
        shutil.copy(path, backup)
        async with AgentRuntime(path, listen="127.0.0.1:0") as runtime:
            await speak(runtime, "lost", "lost too")
            heard, late = await listen(runtime, 2, *early)
            assert heard == ["lost", "lost too"]
        shutil.copy(backup, path)
        async with AgentRuntime(path, listen="127.0.0.1:0") as runtime:
            await speak(runtime, "three", "four", "five", "six")
            with pytest.raises(SubscriptionError) as refused:
                await listen(runtime, 1, *late)
            assert refused.value.error_code == "stale_epoch"
            heard, _ = await listen(runtime, 4, *early)
            assert heard == ["three", "four", "five", "six"]

    in_time(scenario)


def test_a_server_that_falls_silent_is_left_and_asked_again() -> None:
    def speak(server: ScriptedServer, frame: Fields) -> None:
        if len(server.asked) > 1:
            server.say(messages(0, 6))
            server.say(end(6))

    async def scenario() -> None:
        seen, asked, _ = await against(speak, heartbeat_s=0.02)
        assert (seen, asked) == ([1, 2, 3, 4, 5, 6], [0, 0])

    in_time(scenario)


@pytest.mark.parametrize(("code", "comes_back"), [(4000, True), (1011, True), (4500, False), (4504, False)])
def test_the_close_code_says_whether_to_come_back(code: int, comes_back: bool) -> None:
    def speak(server: ScriptedServer, frame: Fields) -> None:
        if len(server.asked) == 1:
            server.say({"type": "goodbye", "code": code, "reason": "x", "reconnect_ms": 1})
            server.close(code, "x")
        else:
            server.say(messages(0, 6))
            server.say(end(6))

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


# The token.


def test_the_token_is_in_no_log_record_even_if_everything_logs_debug(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with speaking(say_everything) as server:
            for name in ("", *logging.root.manager.loggerDict):
                caplog.set_level(logging.DEBUG, logger=name)
            logging.getLogger("websockets.client").debug("and this is recorded")
            assert [m.sequence async for m in subscribe(server.url, "a1", token="s3cr3t")] == [1, 2, 3, 4, 5, 6]
            assert server.tokens == ["Bearer s3cr3t"]

    in_time(scenario)

    records = [record for record in caplog.records if record.name != LOGGER]
    said = " ".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in records)
    assert "and this is recorded" in said
    assert "s3cr3t" not in said


def test_a_function_is_asked_for_a_token_and_again_when_the_server_refuses_it() -> None:
    given = iter(["old", "new", "never"])

    async def fetch() -> str:
        return next(given)

    async def scenario() -> None:
        with speaking(say_everything, accepted={"new"}) as server:
            assert [m.sequence async for m in subscribe(server.url, "a1", token=fetch)] == [1, 2, 3, 4, 5, 6]
            assert server.tokens == ["Bearer old", "Bearer new"]

    in_time(scenario)
    assert next(given) == "never"


def test_a_token_that_expires_in_the_middle_is_renewed_and_nothing_is_lost() -> None:
    def speak(server: ScriptedServer, frame: Fields) -> None:
        if len(server.asked) == 1:
            server.say(messages(0, 2))
            server.close(4001, "the token expired")
        else:
            say_everything(server, frame)

    async def scenario() -> None:
        given = iter(["first", "second"])
        with speaking(speak) as server:
            subscription = subscribe(server.url, "a1", token=lambda: next(given))
            assert [m.sequence async for m in subscription] == [1, 2, 3, 4, 5, 6]
            assert (server.tokens, server.asked) == (["Bearer first", "Bearer second"], [0, 2])

    in_time(scenario)


def test_a_text_that_is_refused_is_final_and_a_function_that_gives_two_such_as_well() -> None:
    async def scenario() -> None:
        with speaking(say_everything, accepted={"right"}) as server:
            for token in ("wrong", lambda: "wrong"):
                with pytest.raises(SubscriptionError) as refused:
                    await anext(aiter(subscribe(server.url, "a1", token=token)))
                assert refused.value.error_code == "unauthenticated"
            assert len(server.tokens) == 1 + 2

    in_time(scenario)


@pytest.mark.parametrize("failure", [OSError("no disk"), RuntimeError("no idea")])
def test_what_the_applications_own_functions_raise_is_not_taken_for_a_lost_connection(failure: Exception) -> None:
    def fail(*_: Any) -> str:
        raise failure

    async def scenario() -> None:
        with speaking(say_everything) as server:
            for subscription in (subscribe(server.url, "a1", token=fail), subscribe(server.url, "a1", on_cursor=fail)):
                with pytest.raises(type(failure)) as raised:
                    await anext(aiter(subscription))
                assert raised.value is failure
                assert subscription.reconnects == 0

    in_time(scenario)


# Cursor, window, memory.


def test_a_cursor_that_was_kept_continues_without_a_hole() -> None:
    async def scenario() -> None:
        with speaking(say_everything) as server:
            kept: list[tuple[int, str | None]] = []

            def keep(cursor: int, epoch: str | None) -> None:
                kept.append((cursor, epoch))

            async with subscribe(server.url, "a1", on_cursor=keep) as subscription:
                taken = [(await anext(aiter(subscription))).sequence for _ in range(3)]
            assert (taken, kept[-1]) == ([1, 2, 3], (0, "e"))  # the frame was not taken to its end

            after, epoch = kept[-1]
            async for message in subscribe(server.url, "a1", after=after, epoch=epoch, on_cursor=keep):
                taken.append(message.sequence)
            assert taken == [1, 2, 3, 1, 2, 3, 4, 5, 6]  # at least once
            assert kept[-1] == (6, "e")

    in_time(scenario)


def test_with_a_window_it_acknowledges_what_the_application_took() -> None:
    acks: list[Any] = []

    def speak(server: ScriptedServer, frame: Fields) -> None:
        assert frame["window"] == 4
        server.say(messages(0, 3))  # and no more before the third is acknowledged
        while acks != [{"a1": 2}, {"a1": 3}]:
            acks.append(server.hear()["agent"])
        server.say(messages(3, 6), end(6))

    async def scenario() -> None:
        with speaking(speak) as server:
            assert [m.sequence async for m in subscribe(server.url, "a1", window=4)] == [1, 2, 3, 4, 5, 6]

    in_time(scenario)
    assert acks == [{"a1": 2}, {"a1": 3}]


def test_a_window_bounds_what_the_real_server_sends_and_everything_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
            agent = await runtime.alaunch(lambda context: map(str, range(300)), id="a1")
            await agent.await_(TIMEOUT_S)
            for name in ("a1", "*"):
                async with subscribe(str(runtime.url), name, window=70) as subscription:
                    seen = [(await anext(aiter(subscription))).sequence for _ in range(300)]
                assert seen == list(range(1, 301))
                assert subscription.reconnects == 0

    in_time(scenario)


@pytest.mark.sampled(1 / 2)
def test_an_application_that_takes_nothing_makes_the_server_wait() -> None:
    count, progress = 400, threading.Event()
    sent: list[int] = []

    def speak(server: ScriptedServer, frame: Fields) -> None:
        for n in range(1, count + 1):
            big = messages(n - 1, n)
            big["items"][0]["content"] = "x" * 256 * 1024
            server.say(big)
            sent.append(n)
            progress.set()
        server.say(end(count))

    async def scenario() -> None:
        with speaking(speak) as server:
            async with subscribe(server.url, "a1") as subscription:
                seen = [(await anext(aiter(subscription))).sequence]
                while await asyncio.to_thread(progress.wait, 0.3):  # until the server waits for the client
                    progress.clear()
                assert len(sent) < count / 2
                seen += [message.sequence async for message in subscription]
            assert seen == list(range(1, count + 1))
            assert subscription.reconnects == 0

    in_time(scenario)


def test_leaving_in_the_middle_of_much_does_not_wait_for_the_rest() -> None:
    spoken = 0

    def speak(server: ScriptedServer, frame: Fields) -> None:
        nonlocal spoken
        for spoken in range(1, 100_001):
            server.say(messages(spoken - 1, spoken))

    async def scenario() -> None:
        with speaking(speak) as server:
            async with subscribe(server.url, "a1") as subscription:
                assert (await anext(aiter(subscription))).sequence == 1
            assert 1 <= spoken < 100_000

    in_time(scenario)


def test_what_the_server_announces_as_left_out_is_counted() -> None:
    def speak(server: ScriptedServer, frame: Fields) -> None:
        assert frame["slow"] == "skip"
        gap = {"type": "gap", "agent": "a1", "prev": 1, "last": 5, "status": "running"}
        server.say(messages(0, 1), gap, messages(5, 6), end(6))

    async def scenario() -> None:
        with speaking(speak) as server:
            subscription = subscribe(server.url, "a1", slow="skip")
            assert [m.sequence async for m in subscription] == [1, 6]
            assert (subscription.skipped, server.asked) == (4, [0])

    in_time(scenario)


def test_a_url_that_is_none_is_final() -> None:
    async def scenario() -> None:
        for url in ("http://127.0.0.1:1/", "ws://a..b:1/", f"ws://{'a' * 64}.invalid/"):
            with pytest.raises(SubscriptionError) as refused:
                await anext(aiter(subscribe(url, "a1")))
            assert refused.value.error_code == "bad_request"

    in_time(scenario)


def test_an_item_says_of_which_agent_it_is() -> None:
    async def scenario() -> None:
        with speaking(say_everything) as server:
            async with subscribe(server.url, "a1") as subscription:
                first = await anext(aiter(subscription))
            assert isinstance(first, frames.Item)
            assert first.agent == "a1"

    in_time(scenario)
