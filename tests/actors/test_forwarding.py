"""Requests to other runtimes: a bounded number under way, each answered once, and none holds up the others for good."""

from typing import Any

import pytest

from by_hand import agent_record
from commitcast.actors import forwarding
from commitcast.actors.errors import MailboxFullError
from commitcast.actors.forwarding import UNDER_WAY, Forwarder
from commitcast.persistence.errors import InvalidValueError, ServerError, ServerLostError
from commitcast.persistence.remote.asking import Asking
from commitcast.persistence.remote.frames import Answer, Ask, Frame, pack
from commitcast.persistence.remote.values import pack_record


class Sent:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.asking = Asking(self._send, ServerError)
        self.forwarder = Forwarder(self.asking.ask)
        self.answers: dict[str, list[Any]] = {}

    def _send(self, frame: Frame) -> None:
        pack(frame)
        assert isinstance(frame, Ask) and frame.method == "forward"
        self.asks.append(frame)

    def forward(self, agent: str, *arguments: Any) -> None:
        self.forwarder.forward("terminate", [agent, *arguments], self.answers.setdefault(agent, []).append)

    def answer(self, ask: Ask) -> None:
        self.asking.on_answer(Answer(ask.id, pack_record(agent_record(ask.arguments[1]))))


@pytest.fixture
def sent() -> Sent:
    return Sent()


def test_a_bounded_number_is_under_way_and_the_others_follow_in_order(sent: Sent) -> None:
    agents = [str(number) for number in range(UNDER_WAY + 3)]
    for agent in agents:
        sent.forward(agent, "enough")
    assert [ask.arguments for ask in sent.asks] == [["terminate", agent, "enough"] for agent in agents[:UNDER_WAY]]

    sent.answer(sent.asks[5])
    assert sent.asks[-1].arguments[1] == agents[UNDER_WAY] and len(sent.asks) == UNDER_WAY + 1
    while len(sent.asks) < len(agents):
        sent.answer(sent.asks[len(sent.asks) - UNDER_WAY])
    assert [ask.arguments[1] for ask in sent.asks] == agents
    assert sent.answers["5"] == [agent_record("5")]


def test_beyond_what_may_wait_a_request_is_refused(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "WAITING", 2)
    for number in range(UNDER_WAY + 3):
        sent.forward(str(number))

    (refusal,) = sent.answers[str(UNDER_WAY + 2)]
    assert isinstance(refusal, MailboxFullError) and all(not answers for answers in [*sent.answers.values()][:-1])


def test_beyond_the_bytes_that_may_wait_too(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "WAITING_BYTES", 1_000)
    for number in range(UNDER_WAY):
        sent.forward(str(number))
    sent.forward("large", "x" * 1_000)
    sent.forward("last")

    assert sent.answers["large"] == [] and isinstance(sent.answers["last"][0], MailboxFullError)
    sent.answer(sent.asks[0])
    sent.forward("last")
    assert len(sent.answers["last"]) == 1  # it waits now


def test_one_that_cannot_be_sent_is_answered_and_those_behind_it_are_sent(sent: Sent) -> None:
    for _ in range(UNDER_WAY + 1):
        sent.forward("wrong", 2**70)
    sent.forward("right")

    assert [type(answer) for answer in sent.answers["wrong"]] == [InvalidValueError] * (UNDER_WAY + 1)
    assert [ask.arguments[1] for ask in sent.asks] == ["right"]


def test_when_the_server_is_lost_all_are_answered(sent: Sent) -> None:
    for number in range(UNDER_WAY + 100):
        sent.forward(str(number))
    sent.asking.lose(ServerLostError("a.db"))

    assert all(isinstance(answer, ServerLostError) for (answer,) in sent.answers.values())
    assert len(sent.answers) == UNDER_WAY + 100
