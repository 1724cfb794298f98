"""A runtime proves and copies its own database while agents speak."""

import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from commitcast.actors import AgentHandle, AgentRuntime
from commitcast.actors.errors import WouldBlockError
from commitcast.persistence.errors import StoreClosedError, StorePathError
from commitcast.persistence.sqlite.verify import verify
from repeating import repeating
from stores import by_hand
from waiting import TIMEOUT_S, wait_until


def speaking(agent: AgentHandle) -> AbstractContextManager[None]:
    """Let an agent speak without a pause, on another thread."""
    return repeating(lambda number: agent.emit(f"{number}").get(TIMEOUT_S))


def test_it_is_proved_while_agents_speak_and_they_go_on_meanwhile(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch()
        runtime.launch().emit("x" * 100_000).get(TIMEOUT_S)
        seen: list[int] = []

        def wait_for_more(done: int, of: int) -> None:
            if not seen:  # held here, in the midst of it: the writer is not
                head = agent.record().head
                wait_until(lambda: agent.record().head > head + 3, "the agent to go on")
            seen.append(of)

        with speaking(agent):
            wait_until(lambda: agent.record().head > 10, "some messages")
            report = runtime.verify(progress=wait_for_more)

        assert report.is_sound and report.agents == 2 and report.messages > 10
        assert seen
        assert runtime.verify(deep=True).notes == []
        assert runtime.failure is None
    assert verify(tmp_path / "a.db").is_sound


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db") as runtime:
        runtime.launch().emit("hello").get(TIMEOUT_S)
    with by_hand(tmp_path / "a.db") as connection:
        connection.execute("UPDATE agent_messages SET content = 'hullo'")

    with AgentRuntime(tmp_path / "a.db") as runtime:
        (problem,) = runtime.verify().problems
        assert "changed since it was stored" in problem


def test_a_copy_that_is_made_while_agents_speak_is_whole_and_a_runtime_of_its_own(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch()
        heads: list[int] = []

        def wait_for_more(*_: int) -> None:
            if not heads:
                head = agent.record().head
                wait_until(lambda: agent.record().head > head + 3, "the agent to go on")
            heads.append(agent.record().head)

        with speaking(agent):
            wait_until(lambda: agent.record().head > 10, "some messages")
            before = agent.record().head
            runtime.backup(copy, wait_for_more)
        after = agent.record().head
        with pytest.raises(StorePathError, match="exists already"):
            runtime.backup(copy)

    assert verify(copy).is_sound
    assert before <= verify(copy).messages <= after
    with AgentRuntime(copy) as again:
        assert again.agent(agent.id).emit("and on").get(TIMEOUT_S).sequence == verify(copy).messages


def test_neither_is_done_where_it_would_keep_the_writer_from_writing(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    is_called = threading.Event()

    with AgentRuntime(tmp_path / "a.db") as runtime:

        def call(_: object) -> None:
            for attempt in (runtime.verify, lambda: runtime.backup(tmp_path / "copy.db")):
                try:
                    attempt()
                except WouldBlockError as error:
                    errors.append(error)
            is_called.set()

        agent = runtime.launch()
        hold = threading.Event()
        first = agent.emit("first")
        first.add_done_callback(lambda _: hold.wait(TIMEOUT_S))
        asked = agent.emit("second")
        asked.add_done_callback(call)
        hold.set()
        assert is_called.wait(TIMEOUT_S)

    assert len(errors) == 2


def test_a_runtime_that_is_stopped_can_be_proved_but_not_copied(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db") as runtime:
        runtime.launch()

    assert runtime.verify().agents == 1
    with pytest.raises(StoreClosedError):
        runtime.backup(tmp_path / "copy.db")


def test_one_in_memory_is_proved_by_its_copy(tmp_path: Path) -> None:
    with AgentRuntime(":memory:") as runtime:
        runtime.launch().emit("hello").get(TIMEOUT_S)
        with pytest.raises(StorePathError, match="verify a backup instead"):
            runtime.verify()
        runtime.backup(tmp_path / "copy.db")

    assert verify(tmp_path / "copy.db").messages == 1
