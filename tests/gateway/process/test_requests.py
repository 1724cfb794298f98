"""What a host asks of the server: each request is answered once, and what is wrong with one harms no other host."""

from pathlib import Path
from typing import Any

import pytest

from commitcast.actors.errors import InputRefusedError
from commitcast.gateway.process import requests as module
from commitcast.persistence.errors import (
    AgentLeftError,
    AgentNotFoundError,
    CommitcastError,
    HostError,
    InvalidValueError,
    ServerError,
    StoreReadTimeoutError,
)
from commitcast.persistence.records import AgentRecord
from commitcast.persistence.remote.failures import error_of, failure_of
from commitcast.persistence.remote.frames import Answer, Ask, Commit, Failure, Frame, Log, News, Progress, Stored, Watch
from commitcast.persistence.remote.values import LONG, READS
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.writes import AgentWrites
from listening_server import Listening
from speaking import SpeakingHost
from stores import FAILED, INITIALIZING, RUNNING, change, new_agent, of, text
from waiting import wait_until


class Talking:
    """A host, with its requests and batches in few words."""

    def __init__(self, host: SpeakingHost) -> None:
        self.host = host
        self.news: list[Frame] = []
        """What came that was no answer."""
        self._numbers = 0
        self._batches = 0

    def send(self, frame: Frame) -> None:
        self.host.requests.send(frame)

    def next(self, kind: type[Any]) -> Any:
        """The next frame of a kind; others before it are kept."""
        while not isinstance(frame := self.host.requests.receive(), kind):
            self.news.append(frame)
        return frame

    def begin(self, method: str, *arguments: Any, timeout: float | None = None) -> int:
        """Send a request; return its number."""
        self._numbers += 1
        self.send(Ask(self._numbers, method, list(arguments), timeout))
        return self._numbers

    def ask(self, method: str, *arguments: Any, timeout: float | None = None) -> Answer:
        """Send a request and return its answer."""
        number = self.begin(method, *arguments, timeout=timeout)
        answer: Answer = self.next(Answer)
        assert answer.id == number
        return answer

    def error(self, method: str, *arguments: Any, timeout: float | None = None) -> CommitcastError:
        """Send a request and return the error that is the answer."""
        failure = self.ask(method, *arguments, timeout=timeout).failure
        assert failure is not None
        return error_of(failure)

    def write(self, *work: AgentWrites) -> Stored:
        """Send a batch and return its answer."""
        self._batches += 1
        self.host.commits.send(Commit(self._batches, self._batches - 1, list(work)))
        answer = self.host.commits.receive()
        assert isinstance(answer, Stored)
        return answer

    def is_cut(self) -> bool:
        """Whether the server has ended the connection."""
        try:
            while True:
                self.host.requests.receive()
        except (EOFError, ConnectionResetError):
            return True


@pytest.fixture
def one(listening: Listening) -> Talking:
    """A host with an agent at work, of one message."""
    one = Talking(listening.host())
    one.write(of("a", new_agent("prompt"), change(INITIALIZING, RUNNING)))
    return one


@pytest.fixture
def two(listening: Listening, one: Talking) -> Talking:
    return Talking(listening.host())


class TestReads:
    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            ("agent", ["a"]),
            ("launched", ["k"]),
            ("agents", ["running", 0, 10, False, None]),
            ("agents", [None, 0, 10, True, [["a", "b"]]]),
            ("messages", ["a", 0, 256, 1_000]),
            ("keyed", ["a", "k"]),
            ("resolve_cursor", ["a", None, None]),
            ("entries", ["a", 0, 0, 256, 1_000]),
            ("feed", [0, 256, 1_000]),
            ("heads", [["a", "ghost"]]),
            ("position", [None, None]),
        ],
    )
    def test_each_is_that_of_the_store(
        self, listening: Listening, one: Talking, method: str, arguments: list[Any]
    ) -> None:
        result = READS[method].unpack(one.ask(method, *arguments).value)

        store = listening.server.store
        if method == "agents":
            status, after, limit, newest, within = arguments
            assert result == store.agents(status, after, limit, newest=newest, within=within)
        else:
            assert result == getattr(store, method)(*arguments)

    def test_an_error_of_the_store_is_the_answer(self, one: Talking) -> None:
        error = one.error("messages", "ghost", 0, 256, 1_000)

        assert isinstance(error, AgentNotFoundError) and error.agent == "ghost"

    def test_one_that_may_not_wait_longer_gives_up(self, listening: Listening, one: Talking) -> None:
        store = listening.server.store
        assert isinstance(store, SqliteStore)
        with store._pool.gate.writing():  # a commit that takes long
            assert isinstance(one.error("agent", "a", timeout=0.02), StoreReadTimeoutError)
        assert one.ask("agent", "a", timeout=0.02).failure is None

    def test_a_defect_in_one_is_its_answer_and_is_logged_and_the_host_goes_on(self, one: Talking) -> None:
        error = one.error("messages", "a", "no number", 256, 1_000)

        assert type(error) is ServerError
        assert READS["agent"].unpack(one.ask("agent", "a").value).id == "a"
        assert any(isinstance(line, Log) and "a request of the process" in line.text for line in one.news)

    def test_an_answer_that_cannot_be_sent_is_an_error_in_its_place(
        self, one: Talking, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(READS, "agent", READS["agent"]._replace(pack=lambda record: 2**70))

        assert isinstance(one.error("agent", "a"), InvalidValueError)

    @pytest.mark.parametrize("method", ["commit", "", "close", "__init__", "x" * 1_000])
    def test_what_is_no_request_cuts_the_host_and_no_other(self, one: Talking, two: Talking, method: str) -> None:
        one.begin(method)

        assert one.is_cut()
        assert two.ask("position", None, None).failure is None

    def test_a_host_with_too_many_is_cut(self, one: Talking, two: Talking, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_REQUESTS", 3)
        two.write(of("b", new_agent()))
        for _ in range(4):
            one.begin("forward", "terminate", "b", None)  # whose host does not answer

        assert one.is_cut()
        assert two.ask("position", None, None).failure is None


class TestLongRequests:
    def test_a_verification_tells_how_far_it_is(self, one: Talking) -> None:
        report = LONG["verify"].unpack(one.ask("verify", True).value)

        assert report.is_sound and report.agents == 1
        assert any(isinstance(frame, Progress) for frame in one.news)

    def test_a_backup_is_a_copy(self, one: Talking, tmp_path: Path) -> None:
        one.ask("backup", str(tmp_path / "copy.db"))
        assert (tmp_path / "copy.db").stat().st_size > 0

        assert "exists" in str(one.error("backup", str(tmp_path / "copy.db")))


class TestOtherHosts:
    def test_what_only_the_host_of_an_agent_can_do_it_is_asked_for(self, one: Talking, two: Talking) -> None:
        number = two.begin("forward", "send", "a", "hello", None)
        asked = one.next(Ask)
        assert (asked.method, asked.arguments) == ("send", ["a", "hello", None])

        one.send(Answer(asked.id, [0, "a", 2]))
        assert two.next(Answer) == Answer(number, [0, "a", 2])

    def test_its_error_has_its_class_where_that_is_loaded(self, one: Talking, two: Talking) -> None:
        """Not in the server, which only passes it on."""
        two.begin("forward", "send", "a", "hello", None)
        failure = failure_of(InputRefusedError("a", "is busy"))
        unknown = Failure("not.loaded.there:Error", [], {}, "it says why", "conflict", True)
        for each in (failure, unknown):
            one.send(Answer(one.next(Ask).id, failure=each))
            assert two.next(Answer).failure == each
            two.begin("forward", "send", "a", "hello", None)

    @pytest.mark.parametrize("agent", ["ghost", "ended"])
    def test_an_agent_that_is_at_work_nowhere_has_just_ended(self, one: Talking, two: Talking, agent: str) -> None:
        one.write(of("ended", new_agent(), change(INITIALIZING, FAILED)))

        error = two.error("forward", "terminate", agent, None)

        assert isinstance(error, AgentLeftError) and error.agent == agent and error.retryable

    def test_what_a_host_was_asked_when_it_left_is_answered(self, one: Talking, two: Talking) -> None:
        two.begin("forward", "terminate", "a", None)
        one.next(Ask)
        one.host.close()

        failure = two.next(Answer).failure
        error = error_of(failure)
        assert isinstance(error, HostError) and error.retryable and "has just ended" in str(error)

    def test_a_host_that_watches_an_agent_is_told_of_its_commits_and_its_end(self, one: Talking, two: Talking) -> None:
        two.send(Watch("a", True))
        two.ask("position", None, None)
        one.write(of("a", text("x")), of("b", new_agent()))
        one.write(of("a", change(RUNNING, FAILED)))

        assert [two.next(News) for _ in range(2)] == [News("a", False), News("a", True)]
        two.send(Watch("a", False))
        two.ask("position", None, None)
        one.write(of("a", text("late")))
        two.ask("position", None, None)
        assert not any(isinstance(frame, News) for frame in two.news)

    def test_the_agents_of_a_host_that_is_gone_are_told_as_ended_to_those_who_watch(
        self, one: Talking, two: Talking
    ) -> None:
        two.send(Watch("a", True))
        two.ask("position", None, None)
        one.host.close()

        assert two.next(News) == News("a", True)
        record: AgentRecord = READS["agent"].unpack(two.ask("agent", "a").value)
        assert (record.status, record.error_name) == (FAILED, "Interrupted")

    def test_nothing_is_kept_of_a_host_that_is_gone(self, listening: Listening, one: Talking, two: Talking) -> None:
        two.send(Watch("a", True))
        two.ask("position", None, None)
        two.host.close()

        wait_until(lambda: len(listening.server.hosts) == 1, "it to be brought to its end")
        assert listening.server._watches == {}
        one.write(of("a", text("x")))


class TestItsDoor:
    def test_there_is_one(self, one: Talking) -> None:
        first = one.ask("open_door", {"listen": "127.0.0.1:0"})
        assert first.value["address"].startswith("127.0.0.1:") and first.value["url"].startswith("ws://")

        assert isinstance(one.error("open_door", {"listen": "127.0.0.1:0"}), InvalidValueError)
        assert one.ask("accept").failure is None
        assert one.ask("close_door", 0.0).failure is None
        assert isinstance(one.error("accept"), InvalidValueError)

    @pytest.mark.parametrize("settings", [{}, {"listen": 5}, None])
    def test_settings_that_are_none_are_refused(self, one: Talking, settings: Any) -> None:
        assert isinstance(one.error("open_door", settings), ServerError)
        assert one.ask("position", None, None).failure is None
