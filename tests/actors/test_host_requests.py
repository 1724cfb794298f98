"""What the server asks of a runtime for its clients: each request is answered once, whatever the host's code does."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from by_hand import agent_record
from commitcast.actors import host_requests
from commitcast.actors.errors import RuntimeStoppedError
from commitcast.actors.host_requests import HostRequests
from commitcast.gateway.server.access import verifying
from commitcast.gateway.server.access.auth import Grant, Verifier
from commitcast.gateway.server.access.verifying import Verification
from commitcast.gateway.server.errors import TokenError, VerifierUnavailableError
from commitcast.gateway.server.metrics import Metric, counter
from commitcast.persistence.errors import AgentNotFoundError, CommitcastError, HostError, InvalidValueError
from commitcast.persistence.records import AgentRecord, MessageRecord
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import Answer, Ask, Frame, pack, unpack
from commitcast.persistence.remote.values import unpack_record
from hostile import READ, allowed
from stores import AT
from waiting import TIMEOUT_S, wait_until

SECRET: Final = "S3cr3t-Tok3n"
GRANT: Final = allowed("somebody", ("a-*", [READ]), expires_at=12.5)


class Control:
    """Does what clients ask for. Implements `AgentControl`."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.does: Callable[[], Any] = lambda: None
        self.begun = threading.Event()
        self.cancelled = threading.Event()

    async def launch(self, template: str, prompt: str, *, key: str | None, prefix: str) -> AgentRecord:
        """Launch."""
        self.calls.append(("launch", template, prompt, key, prefix))
        self.does()
        return agent_record("a")

    async def send(self, agent: str, content: str, *, key: str | None) -> MessageRecord:
        """Send."""
        self.calls.append(("send", agent, content, key))
        self.does()
        return _message(agent, content, key)

    async def terminate(self, agent: str, reason: str | None) -> AgentRecord:
        """Terminate, some time."""
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


class Numbers:
    """The metrics of a runtime."""

    def collect(self) -> list[Metric]:
        """Return them."""
        return [counter("commitcast_things_total", "Things.", 3.0)]


class Server:
    """The other end of the connection."""

    def __init__(self) -> None:
        self.control = Control()
        self.answers: queue.Queue[Answer] = queue.Queue()
        self.requests = self.serve(None)

    def serve(self, verifier: Verifier | None) -> HostRequests:
        """Return the requests of a runtime."""
        verification = None if verifier is None else Verification(verifier)
        self.requests = HostRequests(lambda: self.control, verification, Numbers(), self.send)
        return self.requests

    def send(self, frame: Frame) -> None:
        """Take an answer."""
        answer = unpack(memoryview(pack(frame))[4:])
        assert isinstance(answer, Answer)
        self.answers.put(answer)

    def ask(self, id: int, method: str, *arguments: Any) -> None:
        """Ask for something."""
        self.requests.perform(Ask(id, method, list(arguments)))

    def answer(self, id: int) -> Any:
        """Return the next answer, or raise it."""
        answer = self.answers.get(timeout=TIMEOUT_S)
        assert answer.id == id
        if answer.failure is not None:
            raise error_of(answer.failure, HostError)
        return answer.value


class Checks:
    """A verifier."""

    def __init__(self, check: Callable[[str], Any]) -> None:
        self.verify = check


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.requests.stop()
    assert server.answers.empty()


def test_a_client_launches_and_sends(server: Server) -> None:
    server.ask(1, "launch", "coder", "go", "key", "a-")
    assert unpack_record(server.answer(1)) == agent_record("a")

    server.ask(2, "send", "a", "hi", None)
    assert unpack_record(server.answer(2)) == _message("a", "hi", None)
    assert server.control.calls == [("launch", "coder", "go", "key", "a-"), ("send", "a", "hi", None)]


def test_metrics_are_told(server: Server) -> None:
    server.ask(1, "metrics")

    assert msgspec.convert(server.answer(1), list[Metric]) == Numbers().collect()


def test_what_is_no_request_is_refused(server: Server) -> None:
    for id, ask in enumerate([("metrics", "x"), ("fly",), ("send", "a"), ("verify", "token")]):
        server.ask(id, *ask)
        with pytest.raises(CommitcastError):
            server.answer(id)


def test_an_error_is_the_answer(server: Server) -> None:
    def refuse() -> None:
        raise AgentNotFoundError("a")

    server.control.does = refuse
    server.ask(1, "send", "a", "hi", None)

    with pytest.raises(AgentNotFoundError) as caught:
        server.answer(1)
    assert caught.value.agent == "a"


@pytest.mark.parametrize("error", [ValueError("what"), KeyboardInterrupt(), SystemExit(3), RecursionError()])
def test_whatever_the_code_of_the_host_raises_is_answered_and_the_next_request_is_too(
    server: Server, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def fail() -> None:
        server.control.does = lambda: None
        raise error

    server.control.does = fail
    for id in (1, 2):
        server.ask(id, "send", "a", "hi", None)

    with pytest.raises(HostError, match=type(error).__name__):
        server.answer(1)
    server.answer(2)
    assert [record.getMessage() for record in caplog.records] == ["a request of the server failed: send"]


def test_an_answer_that_cannot_be_sent_is_answered_with_why(server: Server) -> None:
    server.serve(Checks(lambda token: Grant("\ud800", ())))
    server.ask(1, "verify", "token")

    with pytest.raises(InvalidValueError, match="cannot be sent"):
        server.answer(1)


def test_a_stop_answers_what_is_under_way(server: Server) -> None:
    server.ask(1, "terminate", "a", None)
    assert server.control.begun.wait(TIMEOUT_S)

    server.requests.stop()

    with pytest.raises(RuntimeStoppedError):
        server.answer(1)
    assert server.control.cancelled.is_set()


def test_a_stop_answers_what_has_not_begun(server: Server) -> None:
    go_on = threading.Event()
    server.control.does = lambda: go_on.wait(TIMEOUT_S)  # it blocks the loop
    for id in (1, 2):
        server.ask(id, "send", "a", "hi", None)
    wait_until(lambda: server.control.calls, "the first")
    stopping = threading.Thread(target=server.requests.stop)
    stopping.start()
    wait_until(lambda: server.requests._has_stopped, "the stop")
    go_on.set()
    stopping.join()

    answers = {server.answers.get(timeout=TIMEOUT_S).id for _ in range(2)}
    assert answers == {1, 2}


def test_code_that_does_not_end_keeps_no_request_without_an_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(host_requests, "STOP_S", 0.05)
    go_on = threading.Event()
    server.control.does = lambda: go_on.wait(TIMEOUT_S)  # it blocks the loop
    server.ask(1, "send", "a", "hi", None)
    wait_until(lambda: server.control.calls, "the request")

    server.requests.stop()

    with pytest.raises(RuntimeStoppedError):
        server.answer(1)
    assert "is left running" in caplog.text
    go_on.set()


def test_what_is_asked_after_the_stop_is_refused_and_starts_no_thread(server: Server) -> None:
    server.ask(1, "send", "a", "hi", None)
    server.answer(1)
    server.requests.stop()
    before = threading.active_count()

    server.ask(2, "send", "a", "hi", None)

    with pytest.raises(RuntimeStoppedError):
        server.answer(2)
    assert threading.active_count() == before


def test_without_a_thread_a_request_fails_and_not_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        server.ask(1, "send", "a", "hi", None)

    with pytest.raises(HostError, match="can't start new thread"):
        server.answer(1)
    server.ask(2, "send", "a", "hi", None)
    server.answer(2)


class TestTokens:
    def test_one_is_verified_at_once_or_later(self, server: Server) -> None:
        async def later(token: str) -> Grant:
            await asyncio.sleep(0)
            return GRANT

        for id, check in enumerate([lambda token: GRANT, later]):
            server.serve(Checks(check))
            server.ask(id, "verify", SECRET)
            assert msgspec.convert(server.answer(id), Grant) == GRANT
            server.requests.stop()

    def test_one_that_is_not_accepted(self, server: Server) -> None:
        def refuse(token: str) -> Grant:
            raise TokenError("ask for a new one")

        server.serve(Checks(refuse))
        server.ask(1, "verify", SECRET)

        with pytest.raises(TokenError, match="ask for a new one"):
            server.answer(1)

    @pytest.mark.parametrize(
        "error", [ValueError(f"no such key: {SECRET}"), KeyboardInterrupt(SECRET), SystemExit(SECRET)]
    )
    @pytest.mark.parametrize("is_awaited", [True, False])
    def test_a_verifier_that_fails_is_logged_once_and_never_with_a_token(
        self, server: Server, caplog: pytest.LogCaptureFixture, error: BaseException, is_awaited: bool
    ) -> None:
        async def fail_later(token: str) -> Grant:
            raise error

        def fail(token: str) -> Grant:
            raise error

        server.serve(Checks(fail_later if is_awaited else fail))
        for id in range(3):
            server.ask(id, "verify", SECRET)
            with pytest.raises(VerifierUnavailableError):
                server.answer(id)

        (record,) = caplog.records
        assert "the verifier failed" in record.getMessage()
        assert SECRET not in logging.Formatter("%(message)s").format(record) + repr(record.__dict__)

    def test_what_is_no_grant_accepts_nobody(self, server: Server) -> None:
        server.serve(Checks(lambda token: True))
        server.ask(1, "verify", SECRET)

        with pytest.raises(VerifierUnavailableError):
            server.answer(1)

    def test_a_late_verifier_is_cancelled(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verifying, "VERIFY_TIMEOUT_S", 0.01)
        verifier, cancelled = _forever()
        server.serve(verifier)
        server.ask(1, "verify", SECRET)

        with pytest.raises(VerifierUnavailableError):
            server.answer(1)
        assert cancelled.wait(TIMEOUT_S)

    def test_one_that_nobody_waits_for_any_more_is_cancelled(self, server: Server) -> None:
        verifier, cancelled = _forever()
        server.serve(verifier)
        server.ask(1, "verify", SECRET)
        server.ask(2, "metrics")
        server.answer(2)  # so the first has begun

        server.requests.withdraw(1)

        assert cancelled.wait(TIMEOUT_S)

    def test_one_that_nobody_waits_for_before_it_has_begun_is_cancelled(self, server: Server) -> None:
        checked: list[str] = []
        server.serve(Checks(checked.append))
        begun, go_on = threading.Event(), threading.Event()

        def block_the_loop() -> None:
            begun.set()
            go_on.wait(TIMEOUT_S)

        server.control.does = block_the_loop
        server.ask(1, "send", "a", "hi", None)
        assert begun.wait(TIMEOUT_S)
        server.ask(2, "verify", SECRET)
        server.requests.withdraw(2)
        go_on.set()

        server.answer(1)
        server.ask(3, "metrics")
        server.answer(3)
        assert checked == []

    def test_what_is_withdrawn_after_its_answer_is_no_harm(self, server: Server) -> None:
        server.serve(Checks(lambda token: GRANT))
        server.ask(1, "verify", SECRET)
        server.answer(1)

        server.requests.withdraw(1)
        server.requests.stop()
        server.requests.withdraw(1)

    def test_a_launch_that_nobody_waits_for_any_more_goes_on(self, server: Server) -> None:
        server.ask(1, "terminate", "a", None)
        assert server.control.begun.wait(TIMEOUT_S)

        server.requests.withdraw(1)

        server.ask(2, "metrics")
        server.answer(2)
        assert not server.control.cancelled.is_set()


def _message(agent: str, content: str, key: str | None) -> MessageRecord:
    return MessageRecord(agent, 1, 2, "text", "user", content, "text", AT, key=key)


def _forever() -> tuple[Checks, threading.Event]:
    cancelled = threading.Event()

    async def wait(token: str) -> Grant:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    return Checks(wait), cancelled
