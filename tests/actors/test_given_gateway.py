"""A host's own actor in the gateway's place: refused if it is none, and missed when it ends."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pykka
import pytest

from commitcast.actors import AgentRuntime
from commitcast.actors.errors import GatewayStoppedError
from commitcast.actors.messages import Notice
from commitcast.actors.testing import MockGateway, MockGatewayError, Probe
from commitcast.persistence import InvalidValueError
from commitcast.persistence.records import Committed
from waiting import TIMEOUT_S, wait_until


class Hears(pykka.ThreadingActor):
    """An ordinary Pykka actor, which fails at the n-th thing that it is told."""

    def __init__(self, heard: list[Any], fails_at: int = 0) -> None:
        super().__init__()
        self._heard = heard
        self._fails_at = fails_at

    def on_receive(self, message: Any) -> None:
        """Note it."""
        assert isinstance(message, Committed | Notice)
        self._heard.append(message)
        if len(self._heard) == self._fails_at:
            raise LookupError("enough")


class IsNoRef:
    ref = "neither"


def contents(heard: list[Any]) -> list[str]:
    return [message.content for told in heard if isinstance(told, Committed) for message in told.messages]


def test_an_ordinary_actor_receives_what_was_committed_and_what_could_not_be_done(tmp_path: Path) -> None:
    """A host's `pykka.ThreadingActor`, with Pykka's own ref and inbox and nothing of ours."""
    heard: list[Any] = []
    ref = Hears.start(heard)
    try:
        with AgentRuntime(tmp_path / "a.db", gateway=ref) as runtime:
            agent = runtime.launch()
            agent.emit("hello").get(TIMEOUT_S)
            agent.start().get(TIMEOUT_S)
            runtime.emit("nobody", "x").exception(TIMEOUT_S)
            wait_until(lambda: len(heard) >= 4, "it to be told")
            assert runtime.failure is None
    finally:
        ref.stop()

    assert [type(told) for told in heard] == [Committed, Committed, Committed, Notice, Committed]
    assert contents(heard) == ["hello"]
    assert [change.status for told in heard if isinstance(told, Committed) for change in told.changes] == [
        "running",
        "terminated",
    ]
    assert heard[3].agent == "nobody"
    assert runtime.failure is None  # it ended after the runtime


@pytest.mark.parametrize("wrong", [print, "gateway", object(), IsNoRef(), Hears])
def test_what_is_no_ref_is_refused_before_anything_is_opened(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"gateway must be an actor's ref .* or a MockGateway, not"):
        AgentRuntime(tmp_path / "a.db", gateway=wrong)
    assert not list(tmp_path.iterdir())


def test_a_double_may_be_given_itself(tmp_path: Path) -> None:
    gateway = MockGateway()
    with AgentRuntime(tmp_path / "a.db", gateway=gateway) as runtime:
        runtime.launch().emit("hello").get(TIMEOUT_S)
        assert [message.content for message in gateway.wait_for_messages(1)] == ["hello"]
    gateway.stop()


def test_any_probe_may_be_given_itself(tmp_path: Path) -> None:
    gateway = Probe()
    with AgentRuntime(tmp_path / "a.db", gateway=gateway) as runtime:
        runtime.launch()
        assert gateway.expect(Committed).messages == ()
    gateway.stop()


@pytest.mark.parametrize("make", [lambda: Hears.start([]), lambda: MockGateway().ref], ids=["pykka", "ours"])
def test_one_that_has_stopped_is_refused_before_anything_is_opened(
    tmp_path: Path, make: Callable[[], pykka.ActorRef[Any]]
) -> None:
    stopped, stops_later = make(), make()
    stopped.stop()
    runtime = AgentRuntime(tmp_path / "a.db", gateway=stops_later)
    stops_later.stop()

    with pytest.raises(GatewayStoppedError, match="is not alive: start another"):
        AgentRuntime(tmp_path / "a.db", gateway=stopped)
    with pytest.raises(GatewayStoppedError):
        runtime.start()
    assert not list(tmp_path.iterdir())


def check_missed(runtime: AgentRuntime, caplog: pytest.LogCaptureFixture, kind: type[Exception]) -> None:
    """Let an agent speak to a gateway that is gone, and look how that is told."""
    agent = runtime.launch()
    for number in range(3):
        agent.emit(f"{number}").get(TIMEOUT_S)

    wait_until(lambda: runtime.stats().dead_letters >= 3, "dead letters", show=runtime.stats)
    assert isinstance(runtime.failure, kind)
    letters = runtime.stats().latest_dead_letters
    assert {(letter.actor, letter.message) for letter in letters} == {("gateway", "Committed")}
    (found,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "so stored messages reach no gateway" in found.getMessage()
    assert [message.content for message in agent.messages()] == ["0", "1", "2"]


def test_one_of_ours_that_fails_is_missed_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gateway = MockGateway()
    gateway.fail_on(1)
    with AgentRuntime(tmp_path / "a.db", gateway=gateway.ref) as runtime:
        runtime.launch()
        wait_until(lambda: runtime.failure, "it to be missed")
        check_missed(runtime, caplog, MockGatewayError)


def test_an_ordinary_actor_that_fails_is_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ref = Hears.start([], fails_at=1)
    with AgentRuntime(tmp_path / "a.db", gateway=ref) as runtime:
        runtime.launch()
        wait_until(lambda: not ref.is_alive(), "it to fail")
        check_missed(runtime, caplog, GatewayStoppedError)


def test_one_that_its_host_stops_too_early_is_missed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ref = Hears.start([])
    with AgentRuntime(tmp_path / "a.db", gateway=ref) as runtime:
        ref.stop()
        check_missed(runtime, caplog, GatewayStoppedError)


def test_it_is_missed_though_nothing_is_said_after_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ref = Hears.start([])
    with AgentRuntime(tmp_path / "a.db", gateway=ref) as runtime:
        ref.stop()

    assert isinstance(runtime.failure, GatewayStoppedError)
    assert [record for record in caplog.records if record.levelno == logging.CRITICAL]


def test_many_threads_that_find_it_gone_say_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ref = Hears.start([])
    with AgentRuntime(tmp_path / "a.db", gateway=ref) as runtime:
        ref.stop()
        looking = [threading.Thread(target=lambda: runtime.failure) for _ in range(8)]
        for thread in looking:
            thread.start()
        for thread in looking:
            thread.join(TIMEOUT_S)

    assert len([record for record in caplog.records if record.levelno == logging.CRITICAL]) == 1
