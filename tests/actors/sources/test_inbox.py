"""An agent's inbox: first in, first out, bounded, and ended with the agent."""

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from commitcast.actors import AgentContext, AgentRuntime, AgentStatus
from commitcast.actors.errors import InboxFullError, InputRefusedError, SourceCancelledError
from commitcast.actors.sources.inbox import Inbox
from commitcast.gateway.server.requests import refusal_of
from commitcast.persistence import IdempotencyConflictError, MessageRecord
from waiting import TIMEOUT_S, wait_until


def put(inbox: Inbox, *texts: str) -> list[bool]:
    """Send texts, and return which of them had a place."""
    taken = []
    for text in texts:
        taken.append(inbox.reserve(len(text)))
        if taken[-1]:
            inbox.settle(text, len(text))
    return taken


class TestTaking:
    def test_texts_come_in_order_and_then_there_are_none(self) -> None:
        inbox = Inbox("a")
        put(inbox, "one", "two")

        assert (inbox.qsize(), inbox.empty()) == (2, False)
        assert [inbox.get(), inbox.get_nowait()] == ["one", "two"]
        assert (inbox.qsize(), inbox.empty()) == (0, True)
        with pytest.raises(queue.Empty):
            inbox.get_nowait()
        with pytest.raises(queue.Empty):
            inbox.get(timeout=0.01)
        with pytest.raises(ValueError, match="non-negative"):
            inbox.get(timeout=-1)

    def test_the_end_wakes_everybody_and_keeps_nothing(self) -> None:
        inbox = Inbox("a", limit_messages=1)
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                inbox.get()
            except SourceCancelledError as error:
                ended.append(error)

        waiting = [threading.Thread(target=wait) for _ in range(3)]
        for thread in waiting:
            thread.start()
        wait_until(lambda: len(inbox._waiting) == 3, "all to wait")

        inbox.end()
        for thread in waiting:
            thread.join(TIMEOUT_S)

        assert len({id(error) for error in ended}) == 3
        assert put(inbox, "too late", "and this") == [True, True]  # their places are given back
        assert inbox.qsize() == 0
        with pytest.raises(SourceCancelledError):
            inbox.get_nowait()

    def test_each_text_wakes_one_that_takes_it(self) -> None:
        inbox = Inbox("a")
        taken: queue.SimpleQueue[str] = queue.SimpleQueue()
        waiting = [threading.Thread(target=lambda: taken.put(inbox.get())) for _ in range(4)]
        for thread in waiting:
            thread.start()

        put(inbox, "1", "2", "3", "4")

        assert sorted(taken.get(timeout=TIMEOUT_S) for _ in waiting) == ["1", "2", "3", "4"]
        for thread in waiting:
            thread.join(TIMEOUT_S)


class TestBounds:
    def test_it_holds_so_many_messages(self) -> None:
        inbox = Inbox("a", limit_messages=2)

        assert put(inbox, "1", "2", "3") == [True, True, False]
        inbox.get()
        assert put(inbox, "3", "4") == [True, False]

    def test_it_holds_so_many_bytes_and_one_text_however_large(self) -> None:
        inbox = Inbox("a", limit_bytes=10)

        assert put(inbox, "x" * 100, "y") == [True, False]
        inbox.get()
        assert put(inbox, "x" * 4, "y" * 6, "z") == [True, True, False]

    def test_a_place_is_kept_from_before_the_text_is_stored_and_given_back_if_it_is_not(self) -> None:
        inbox = Inbox("a", limit_messages=1)

        assert inbox.reserve(1)
        assert not inbox.reserve(1)
        inbox.settle(None, 1)
        assert inbox.reserve(1)


class TestInARuntime:
    def test_send_is_refused_when_the_source_takes_nothing_and_nothing_of_it_is_stored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Inbox.__init__, "__kwdefaults__", {"limit_messages": 3, "limit_bytes": 1_000})
        may_take = threading.Event()

        def source(context: AgentContext) -> Iterator[str]:
            yield "ready"
            may_take.wait(TIMEOUT_S)
            while (text := context.inbox.get()) != "end":
                yield f"took {text}"

        with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = runtime.launch(source)
            next(iter(agent.follow()))
            for text in ("1", "2", "3"):
                agent.send(text).get(TIMEOUT_S)
            with pytest.raises(InboxFullError, match="is full: send this again") as refused:
                agent.send("4").get(TIMEOUT_S)
            with pytest.raises(InboxFullError):
                asyncio.run(send_on_a_loop(runtime, agent.id))
            assert agent.record().head == 4
            assert runtime.stats().unacknowledged_messages == 0
            may_take.set()
            wait_until(lambda: agent.record().head == 7, "the source to have taken them")
            agent.send("end").get(TIMEOUT_S)
            assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED

        told = refusal_of(refused.value)
        assert (told.code, told.retry) == ("limit", True)

    def test_its_bound_counts_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Inbox.__init__, "__kwdefaults__", {"limit_messages": 10, "limit_bytes": 1_000})
        may_take = threading.Event()

        def source(context: AgentContext) -> list[str]:
            may_take.wait(TIMEOUT_S)
            return [context.receive()]

        with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = runtime.launch(source)
            agent.send("字" * 300).get(TIMEOUT_S)
            with pytest.raises(InboxFullError):
                agent.send("字" * 34).get(TIMEOUT_S)
            agent.send("x" * 100).get(TIMEOUT_S)
            may_take.set()
            assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED

    def test_a_source_that_waits_for_its_inbox_ends_with_its_agent(self, agent_runtime: AgentRuntime) -> None:
        ended = threading.Event()

        def source(context: AgentContext) -> Iterator[str]:
            yield "ready"
            try:
                context.inbox.get()
            finally:
                ended.set()

        agent = agent_runtime.launch(source)
        next(iter(agent.follow()))

        assert agent.terminate().get(TIMEOUT_S).status is AgentStatus.TERMINATED
        assert ended.wait(TIMEOUT_S)

    def test_an_async_source_may_wait_for_it_on_a_thread(self, tmp_path: Path) -> None:
        async def source(context: AgentContext) -> AsyncIterator[str]:
            yield "ready"
            yield await asyncio.to_thread(context.inbox.get)

        async def host() -> None:
            async with AgentRuntime(tmp_path / "a.db") as runtime:
                spoken_to, ended = await runtime.alaunch(source), await runtime.alaunch(source)
                await spoken_to.asend("hello")
                await ended.terminate()
                assert (await spoken_to.await_(TIMEOUT_S)).status is AgentStatus.COMPLETED
                assert (await ended.await_(TIMEOUT_S)).status is AgentStatus.TERMINATED
                assert "hello" in [message.content for message in spoken_to.messages()]

        asyncio.run(asyncio.wait_for(host(), 3 * TIMEOUT_S))

    def test_an_async_source_that_would_block_its_loop_is_told_what_to_do(self, agent_runtime: AgentRuntime) -> None:
        async def source(context: AgentContext) -> str:
            return context.inbox.get()

        record = agent_runtime.launch(source).wait(TIMEOUT_S)

        assert record.error_name == "LoopWouldBlockError"
        assert "use `await context.receive()`" in (record.error_message or "")

    def test_a_client_is_told_that_it_is_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Inbox.__init__, "__kwdefaults__", {"limit_messages": 1, "limit_bytes": 1_000})

        def source(context: AgentContext) -> None:
            context.cancelled.wait(TIMEOUT_S)

        with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", token="secret") as runtime:
            agent = runtime.launch(source)
            assert runtime.url is not None
            token = {"Authorization": "Bearer secret"}
            protocol = [Subprotocol("commitcast.v1.json")]
            with connect(runtime.url, subprotocols=protocol, additional_headers=token) as client:
                for number in (1, 2):
                    client.send(json.dumps({"type": "send", "id": number, "agent": agent.id, "content": "text"}))
                frames = [json.loads(client.recv(TIMEOUT_S)) for _ in range(3)]

        answers = {frame.get("id"): frame for frame in frames}
        assert answers[1]["type"] == "ok"
        assert (answers[2]["type"], answers[2]["code"], answers[2]["retry"]) == ("error", "limit", True)
        assert "is full: send this again" in answers[2]["message"]

    def test_a_stop_does_not_wait_for_one_that_waits_for_its_inbox(self, tmp_path: Path) -> None:
        ended = threading.Event()

        def source(context: AgentContext) -> str:
            try:
                return context.inbox.get()
            finally:
                ended.set()

        runtime = AgentRuntime(tmp_path / "a.db", stop_timeout_s=100 * TIMEOUT_S).start()
        agent = runtime.launch(source)
        wait_until(lambda: agent.record().status is AgentStatus.RUNNING, "it to run")
        stopping = threading.Thread(target=runtime.stop, daemon=True)
        stopping.start()
        stopping.join(TIMEOUT_S)

        assert not stopping.is_alive()
        assert ended.is_set()


class TestRepeats:
    """A text that comes again under its key is stored once, heard once, and answered with the same record."""

    def test_a_source_hears_it_once_in_whatever_way_it_comes_again(self, tmp_path: Path) -> None:
        heard: list[str] = []

        def source(context: AgentContext) -> None:
            while (text := context.inbox.get()) != "end":
                heard.append(text)

        with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = runtime.launch(source)
            at_once = [agent.send("one", key="k1") for _ in range(3)]
            first = at_once[0].get(TIMEOUT_S)
            asked_later = agent.send("one", key="k1").get(TIMEOUT_S)
            among_others = [
                agent.send("two"),
                agent.send("one", key="k1"),
                agent.send("three", key="k3"),
                agent.send("three", key="k3"),
                agent.send("end"),
            ]
            assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
            records = [future.get(TIMEOUT_S) for future in (*at_once, *among_others)]

        assert heard == ["one", "two", "three"]
        assert [record.sequence for record in records] == [1, 1, 1, 2, 1, 3, 3, 4]
        assert asked_later == first

    @pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "async"])
    def test_it_is_answered_though_the_inbox_is_full_or_the_agent_has_ended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_async: bool
    ) -> None:
        monkeypatch.setattr(Inbox.__init__, "__kwdefaults__", {"limit_messages": 1, "limit_bytes": 1_000})

        def source(context: AgentContext) -> None:
            context.cancelled.wait(TIMEOUT_S)

        with AgentRuntime(tmp_path / "a.db") as runtime:
            agent = runtime.launch(source)

            def send(text: str, key: str) -> MessageRecord:
                if is_async:
                    return asyncio.run(send_under_key(runtime, agent.id, text, key))
                return agent.send(text, key=key).get(TIMEOUT_S)

            first = send("text", "k")

            assert send("text", "k") == first
            with pytest.raises(IdempotencyConflictError):
                send("another", "k")
            with pytest.raises(InboxFullError):
                send("text", "another")
            agent.terminate().get(TIMEOUT_S)
            assert send("text", "k") == first
            with pytest.raises(InputRefusedError):
                send("text", "another")
            assert runtime.stats().unacknowledged_messages == 0


async def send_under_key(runtime: AgentRuntime, agent: str, text: str, key: str) -> MessageRecord:
    return await runtime.agent(agent).asend(text, key=key)


async def send_on_a_loop(runtime: AgentRuntime, agent: str) -> None:
    await runtime.agent(agent).asend("5")
