"""The acceptance tests of the system: real database, real actors, and the mock gateway actor in the gateway's place."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from commitcast.actors import AgentHandle, AgentRuntime, AgentStatus
from commitcast.actors.testing import MockGateway
from commitcast.persistence.errors import (
    AgentNotFoundError,
    IllegalTransitionError,
    NotStoredError,
    StoreReadOnlyError,
)
from commitcast.persistence.records import Committed
from commitcast.persistence.sqlite.store import SqliteStore
from stores import reader_value
from waiting import wait_until

pytestmark = pytest.mark.both_forms

SECONDS = 10.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agents.db"


@pytest.fixture
def agent(agent_runtime: AgentRuntime) -> AgentHandle:
    return agent_runtime.launch()


def emit_all(agent: AgentHandle, contents: list[str]) -> list[int]:
    futures = [agent.emit(content) for content in contents]
    return [future.get(SECONDS).sequence for future in futures]


def contents_of(agent: AgentHandle) -> list[str]:
    return [message.content for message in agent.messages()]


class TestTokenFlow:
    def test_each_token_is_saved_and_reaches_the_gateway_once_with_its_stored_sequence(
        self, agent: AgentHandle, mock_gateway: MockGateway
    ) -> None:
        tokens = ["The ", "quick ", "brown ", "fox"]

        emit_all(agent, tokens)

        told = mock_gateway.wait_for_messages(4)
        assert contents_of(agent) == tokens
        assert list(told) == agent.messages()

    def test_ten_messages_are_numbered_one_to_ten(self, agent: AgentHandle) -> None:
        assert emit_all(agent, [f"message {number}" for number in range(10)]) == list(range(1, 11))

    @pytest.mark.own_process("its gateway")
    def test_every_message_is_committed_before_the_gateway_is_told(self, path: Path) -> None:
        seen: list[tuple[int, int]] = []  # what the gateway was told, and what another connection had read by then

        def look(told: object) -> None:
            if isinstance(told, Committed) and told.messages:
                count = other.execute("SELECT count(*) FROM agent_messages").get
                seen.append((told.last, count))

        gateway = MockGateway(on_receive=look)
        with AgentRuntime(path, gateway=gateway.ref) as runtime:
            other = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            other.set_busy_timeout(5_000)
            agent = runtime.launch()
            for number in range(20):
                agent.emit(str(number))
            gateway.wait_for_messages(20)
            gateway.stop()
            other.close()

        assert seen
        assert all(stored >= told for told, stored in seen)

    def test_fifty_emits_from_fifty_threads_lose_nothing_and_number_one_to_fifty(self, agent: AgentHandle) -> None:
        barrier = threading.Barrier(50)

        def emit(number: int) -> int:
            barrier.wait(SECONDS)
            return agent.emit(f"token {number}").get(SECONDS).sequence

        with ThreadPoolExecutor(50) as pool:
            sequences = list(pool.map(emit, range(50)))

        assert sorted(sequences) == list(range(1, 51))
        assert sorted(contents_of(agent)) == sorted(f"token {number}" for number in range(50))


class TestStatusWithMessages:
    def test_messages_survive_initializing_to_running(self, agent: AgentHandle) -> None:
        emit_all(agent, ["a", "b"])

        record = agent.start().get(SECONDS)

        assert record.status is AgentStatus.RUNNING
        assert record.started_at is not None
        assert contents_of(agent) == ["a", "b"]

    def test_five_messages_survive_completed_and_completed_at_is_set(self, agent: AgentHandle) -> None:
        agent.start()
        emit_all(agent, list("abcde"))

        record = agent.complete().get(SECONDS)

        assert record is not None
        assert record.status is AgentStatus.COMPLETED
        assert record.completed_at is not None
        assert contents_of(agent) == list("abcde")

    def test_messages_survive_failed_and_the_errors_message_and_name_are_kept(self, agent: AgentHandle) -> None:
        agent.start()
        emit_all(agent, ["a", "b"])

        agent.fail(ValueError("the model is gone")).get(SECONDS)

        record = agent.record()
        assert (record.status, record.error_name, record.error_message) == (
            AgentStatus.FAILED,
            "ValueError",
            "the model is gone",
        )
        assert contents_of(agent) == ["a", "b"]

    def test_three_messages_survive_terminated(self, agent: AgentHandle) -> None:
        agent.start()
        emit_all(agent, list("abc"))

        assert agent.terminate("enough").get(SECONDS).status is AgentStatus.TERMINATED
        assert contents_of(agent) == list("abc")

    def test_a_whole_life_with_a_message_after_completion_numbers_one_to_four(self, agent: AgentHandle) -> None:
        sequences = emit_all(agent, ["starting"])
        agent.start()
        sequences += emit_all(agent, ["working", "still working"])
        agent.complete().get(SECONDS)
        sequences += emit_all(agent, ["late tool result"])

        assert sequences == [1, 2, 3, 4]
        assert agent.record().status is AgentStatus.COMPLETED
        assert [message.sequence for message in agent.messages()] == [1, 2, 3, 4]


class TestAgents:
    def test_two_agents_do_not_mix_and_each_starts_at_one(self, agent_runtime: AgentRuntime) -> None:
        first, second = agent_runtime.launch(), agent_runtime.launch()

        assert emit_all(first, ["a1", "a2", "a3"]) == [1, 2, 3]
        assert emit_all(second, ["b1", "b2"]) == [1, 2]
        assert contents_of(first) == ["a1", "a2", "a3"]
        assert contents_of(second) == ["b1", "b2"]

    def test_three_agents_stream_five_messages_each_at_once_each_in_order(
        self, agent_runtime: AgentRuntime, mock_gateway: MockGateway
    ) -> None:
        agents = [agent_runtime.launch() for _ in range(3)]

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda agent: emit_all(agent, [f"{agent.id} {n}" for n in range(5)]), agents))

        told = mock_gateway.wait_for_messages(15)
        for agent in agents:
            expected = [f"{agent.id} {number}" for number in range(5)]
            assert contents_of(agent) == expected
            assert [message.content for message in told if message.agent == agent.id] == expected


class TestDatabase:
    def test_a_message_is_readable_at_once_by_a_second_connection(self, agent_runtime: AgentRuntime) -> None:
        agent = agent_runtime.launch()
        agent.emit("hello").get(SECONDS)

        other = apsw.Connection(agent_runtime.store.name, flags=apsw.SQLITE_OPEN_READONLY)
        other.set_busy_timeout(5_000)

        assert other.execute("SELECT content FROM agent_messages").get == "hello"
        other.close()

    @pytest.mark.own_process("its store")
    @pytest.mark.parametrize(("memory", "mode"), [(False, "delete"), (True, "memory")])
    def test_the_journal_mode_is_delete_in_a_file_and_memory_in_memory(
        self, path: Path, memory: bool, mode: str
    ) -> None:
        with AgentRuntime(":memory:" if memory else path) as runtime:
            assert isinstance(runtime.store, SqliteStore)
            assert reader_value(runtime.store, "PRAGMA journal_mode") == mode
            agent = runtime.launch()
            assert emit_all(agent, ["kept"]) == [1]
            assert contents_of(agent) == ["kept"]

    @pytest.mark.own_process("its store")
    def test_foreign_keys_are_on_and_synchronous_is_extra(self, agent_runtime: AgentRuntime) -> None:
        assert isinstance(agent_runtime.store, SqliteStore)
        assert reader_value(agent_runtime.store, "PRAGMA foreign_keys") == 1
        assert reader_value(agent_runtime.store, "PRAGMA synchronous") == 3

    @pytest.mark.own_process("its store")
    def test_saving_for_an_unknown_agent_is_refused_by_the_foreign_key(self, agent_runtime: AgentRuntime) -> None:
        error = agent_runtime.emit("nobody", "hello").exception(SECONDS)

        assert isinstance(error, AgentNotFoundError)
        assert isinstance(error.__cause__, apsw.ConstraintError)
        assert "FOREIGN KEY" in str(error.__cause__)


class TestEnds:
    def test_complete_saves_completed_and_completed_at_and_tells_the_gateway(
        self, agent: AgentHandle, mock_gateway: MockGateway
    ) -> None:
        agent.start()

        agent.complete({"answer": 42}).get(SECONDS)

        record = agent.record()
        assert record.status is AgentStatus.COMPLETED
        assert record.completed_at is not None
        assert record.result == {"answer": 42}
        assert mock_gateway.wait_for_status(agent.id, "completed").at == record.completed_at

    def test_fail_saves_failed_with_message_and_name_and_tells_the_gateway(
        self, agent: AgentHandle, mock_gateway: MockGateway
    ) -> None:
        agent.start()

        agent.fail("no more credit", name="CreditError").get(SECONDS)

        record = agent.record()
        assert (record.status, record.error_name, record.error_message) == (
            AgentStatus.FAILED,
            "CreditError",
            "no more credit",
        )
        change = mock_gateway.wait_for_status(agent.id, "failed")
        assert (change.error_name, change.error_message) == ("CreditError", "no more credit")

    @pytest.mark.parametrize("end", ["complete", "fail"])
    def test_an_end_for_an_unknown_agent_warns_does_not_raise_and_still_tells_the_gateway(
        self, agent_runtime: AgentRuntime, mock_gateway: MockGateway, caplog: pytest.LogCaptureFixture, end: str
    ) -> None:
        ends: dict[str, Callable[[], Any]] = {
            "complete": lambda: agent_runtime.complete("nobody"),
            "fail": lambda: agent_runtime.fail("nobody", "why"),
        }

        assert ends[end]().get(SECONDS) is None

        assert any(entry.levelname == "WARNING" and "'nobody'" in entry.getMessage() for entry in caplog.records)
        notices = mock_gateway.wait_for(1)
        assert [(notice.agent, notice.code) for notice in mock_gateway.notices] == [("nobody", "not_found")], notices


class TestErrors:
    def test_emit_for_an_unknown_agent_raises_an_error_naming_it_and_the_gateway_gets_a_notice(
        self, agent_runtime: AgentRuntime, mock_gateway: MockGateway
    ) -> None:
        with pytest.raises(AgentNotFoundError, match="nobody"):
            agent_runtime.emit("nobody", "hello").get(SECONDS)

        mock_gateway.wait_for(1)
        assert [(notice.agent, notice.code) for notice in mock_gateway.notices] == [("nobody", "not_found")]
        assert mock_gateway.messages == ()

    @pytest.mark.own_process("its store")
    def test_a_database_error_reaches_the_caller_as_the_stores_own_and_the_gateway_is_told_of_no_message(
        self, agent_runtime: AgentRuntime, agent: AgentHandle, mock_gateway: MockGateway
    ) -> None:
        intruder = apsw.Connection(agent_runtime.store.name)
        intruder.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON agent_messages"
            " BEGIN SELECT raise(ABORT, 'refused by a trigger'); END"
        )
        intruder.close()

        error = agent.emit("hello").exception(SECONDS)

        assert isinstance(error, NotStoredError)
        assert isinstance(error.__cause__, apsw.Error)
        assert "refused by a trigger" in str(error.__cause__)
        mock_gateway.wait_until(lambda: bool(mock_gateway.notices), "a notice")
        assert mock_gateway.messages == ()
        assert agent.messages() == []


class TestFields:
    def test_nested_metadata_comes_back_equal(self, agent: AgentHandle) -> None:
        metadata = {
            "usage": {"tokens": [1, 2.5, None, True]},
            "model": "m",
            "big": 2**70,
            "deep": {"a": {"b": {"c": "ü"}}},
        }

        assert agent.emit("x", metadata=metadata).get(SECONDS).metadata == metadata
        assert agent.messages()[0].metadata == metadata

    def test_raw_comes_back_byte_for_byte(self, agent: AgentHandle) -> None:
        raw = bytes(range(256)) + b'{"not": json'

        agent.emit("x", raw=raw).get(SECONDS)

        assert agent.messages()[0].raw == raw


class TestWhatTheOriginNeverTested:
    @pytest.mark.parametrize(
        "content",
        [
            "",
            "42",
            "true",
            "null",
            '{"a": 1}',
            "\x00 nul \x00",
            "Grüße 👩‍👩‍👧 𝔘𝔫𝔦 \U0010ffff",
            "\r\n\t",
            "x" * 1_000_000,
        ],
        ids=["empty", "number", "true", "null", "json", "nul", "astral", "white", "million"],
    )
    def test_text_comes_back_as_the_same_text(
        self, agent: AgentHandle, mock_gateway: MockGateway, content: str
    ) -> None:
        assert agent.emit(content).get(SECONDS).content == content
        stored = agent.messages()[0]
        assert (stored.content, stored.content_type) == (content, "text")
        assert mock_gateway.wait_for_messages(1)[0].content == content

    def test_null_metadata_and_an_empty_one_are_told_apart(self, agent: AgentHandle) -> None:
        agent.emit("none", metadata=None)
        agent.emit("empty", metadata={}).get(SECONDS)

        assert [message.metadata for message in agent.messages()] == [None, {}]

    def test_raw_that_is_invalid_json_or_utf8_is_kept(self, agent: AgentHandle) -> None:
        agent.emit("a", raw='{"broken": ')
        agent.emit("b", raw=b"\xff\xfe").get(SECONDS)

        assert [message.raw for message in agent.messages()] == [b'{"broken": ', b"\xff\xfe"]

    def test_a_json_object_is_marked_as_json_and_decodes_equal(self, agent: AgentHandle) -> None:
        agent.emit({"tool": "ls", "args": [1, "2"]}).get(SECONDS)

        message = agent.messages()[0]
        assert message.content_type == "json"
        assert message.json() == json.loads(message.content) == {"tool": "ls", "args": [1, "2"]}

    @pytest.mark.parametrize(
        "arguments",
        [
            {"content": "lone \ud800"},
            {"content": "x", "metadata": {"nan": float("nan")}},
            {"content": "x", "metadata": {"when": object()}},
            {"content": "x", "metadata": {1: "key"}},
            {"content": "x", "type": "whisper"},
            {"content": 42},
            {"content": "x", "role": "\ud800"},
        ],
        ids=["surrogate", "nan", "object", "key", "type", "number", "role"],
    )
    def test_what_cannot_be_stored_is_refused_by_the_future_with_one_sentence_and_takes_no_number(
        self, agent: AgentHandle, arguments: dict[str, Any]
    ) -> None:
        error = agent.emit(**arguments).exception(SECONDS)

        assert isinstance(error, ValueError)
        assert "\n" not in str(error)
        assert agent.emit("next").get(SECONDS).sequence == 1

    def test_a_message_of_sixteen_mebibytes_is_kept_whole(self, agent: AgentHandle, mock_gateway: MockGateway) -> None:
        content = "0123456789abcdef" * (1024 * 1024)

        assert agent.emit(content).get(SECONDS).sequence == 1
        assert agent.messages()[0].content == content
        assert mock_gateway.wait_for_messages(1)[0].content == content

    def test_a_prompt_of_a_mebibyte_is_message_one_of_type_user(self, agent_runtime: AgentRuntime) -> None:
        prompt = "please " * 150_000

        agent = agent_runtime.launch(prompt=prompt)

        message = agent.messages()[0]
        assert (message.sequence, message.type, message.content) == (1, "user", prompt)
        assert agent.record().prompt == prompt

    def test_of_concurrent_status_changes_exactly_one_wins(self, agent: AgentHandle) -> None:
        agent.start().get(SECONDS)
        barrier = threading.Barrier(16)

        def end(number: int) -> BaseException | None:
            barrier.wait(SECONDS)
            ends = (agent.complete, lambda: agent.fail("x"), agent.terminate)
            return ends[number % 3]().exception(SECONDS)

        with ThreadPoolExecutor(16) as pool:
            errors = list(pool.map(end, range(16)))

        assert errors.count(None) == 1
        assert all(isinstance(error, IllegalTransitionError) for error in errors if error is not None)
        assert agent.record().status.is_terminal

    @pytest.mark.own_process("its store")
    def test_a_connection_that_fails_is_one_clear_error(self, tmp_path: Path) -> None:
        with pytest.raises(StoreReadOnlyError, match="there is no folder"):
            AgentRuntime(tmp_path / "missing" / "agents.db").start()

    @pytest.mark.own_process("its store")
    def test_a_database_that_another_program_holds_locked_keeps_the_message_waiting(
        self, agent_runtime: AgentRuntime, agent: AgentHandle, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert isinstance(agent_runtime.store, SqliteStore)
        assert agent_runtime.store._writer is not None
        agent_runtime.store._writer.set_busy_timeout(20)
        intruder = apsw.Connection(agent_runtime.store.name)
        intruder.execute("BEGIN IMMEDIATE")

        future = agent.emit("waits")
        wait_until(lambda: "another program has locked the database" in caplog.text, "the store to meet the lock")
        assert not future.done()
        intruder.execute("ROLLBACK")
        intruder.close()

        assert future.get(SECONDS).sequence == 1
        assert agent.emit("stored").get(SECONDS).sequence == 2

    def test_a_full_disk_keeps_the_message_waiting_until_there_is_space(
        self,
        agent_runtime: AgentRuntime,
        agent: AgentHandle,
        mock_gateway: MockGateway,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store = agent_runtime.store
        assert isinstance(store, SqliteStore)
        assert store._writer is not None
        agent.emit("before").get(SECONDS)
        mock_gateway.wait_for_messages(1)
        pages = reader_value(store, "PRAGMA page_count")
        store._writer.pragma("max_page_count", pages)

        future = agent.emit("y" * 200_000)
        wait_until(lambda: "disk is full" in caplog.text, "the store to meet the full disk")
        assert not future.done()
        assert len(mock_gateway.messages) == 1
        store._writer.pragma("max_page_count", 1_000_000)

        assert future.get(SECONDS).sequence == 2
        assert mock_gateway.wait_for_messages(2)[1].content == "y" * 200_000

    def test_a_thousand_messages_are_paged_without_hole_or_repeat(self, agent: AgentHandle) -> None:
        emit_all(agent, [f"message {number}" for number in range(1_000)])

        seen: list[int] = []
        while page := agent.messages(after=seen[-1] if seen else 0, limit=64):
            assert len(page) <= 64
            seen += [message.sequence for message in page]

        assert seen == list(range(1, 1_001))
