"""The receiver's check: what is as it was emitted passes, and nothing else."""

from typing import Any

import pytest

from benchmark_errors import WrongDataError
from commitcast.gateway.protocol import frames
from stream_check import SharedCheck, Span, StreamCheck, content_of, joined


def item(agent: str, sequence: int, **changed: Any) -> frames.Item:
    fields: dict[str, Any] = {
        "sequence": sequence,
        "type": "assistant",
        "role": None,
        "content": content_of(agent, sequence),
        "content_type": "text",
        "metadata": None,
        "created_at": "2000-01-01T00:00:00.000000Z",
        "agent": agent,
    }
    return frames.Item(**fields | changed)


def messages(prev: int, *items: frames.Item) -> frames.Messages:
    return frames.Messages(agent=frames.ALL, prev=prev, last=prev + len(items), items=list(items))


def completed(agent: str, sequence: int, prev: int) -> frames.Status:
    return frames.Status(
        agent=agent, status="completed", previous="running", sequence=sequence, at="", prev=prev, last=prev + 1
    )


@pytest.fixture
def check() -> StreamCheck:
    """A check that has been given the first message of two agents."""
    check = StreamCheck(frames.ALL)
    check.take(messages(0, item("a", 1), item("b", 1)))
    return check


def test_what_follows_in_order_is_counted(check: StreamCheck) -> None:
    check.take(messages(2, item("b", 2), item("a", 2)))
    check.take(completed("a", 2, prev=4))

    assert check.messages == 4
    assert check.cursor == 5
    assert check.statuses == {"completed": 1}


def test_one_agent_is_followed_by_its_sequences() -> None:
    check = StreamCheck("a", after=3)
    items = [item("a", 4), item("a", 5)]
    for one in items:
        one.agent = None  # as it is on a subscription to one agent

    check.take(frames.Messages(agent="a", prev=3, last=5, items=items))

    assert (check.messages, check.cursor) == (2, 5)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (messages(2, item("a", 3)), "message 3 of agent a and not message 2"),
        (messages(2, item("a", 1)), "message 1 of agent a and not message 2"),
        (messages(2, item("c", 2)), "message 2 of agent c and not message 1"),
        (messages(2, item("a", 2, content="other")), "with the content 'other'"),
        (messages(2, item("a", 2, content=content_of("b", 2))), "with the content"),
        (messages(3, item("a", 2)), "stands at 2 and was given what follows 3"),
        (messages(0, item("a", 1), item("b", 1)), "stands at 2 and was given what follows 0"),
        (completed("a", 2, prev=2), "became completed after message 2, and had been given 1"),
        (completed("a", 1, prev=1), "stands at 2 and was given what follows 1"),
        (frames.Error(code="internal", message="no more", retry=False), "no more"),
    ],
    ids=[
        "gap",
        "repeat",
        "unknown-agent",
        "content",
        "content-of-another",
        "missing-frame",
        "repeated-frame",
        "status-before-its-message",
        "status-repeated",
        "error",
    ],
)
def test_what_is_wrong_is_found(check: StreamCheck, wrong: frames.ServerFrame, why: str) -> None:
    with pytest.raises(WrongDataError, match=why):
        check.take(wrong)


def test_a_frame_that_many_are_given_is_checked_for_each_of_them() -> None:
    stamped = item("a", 4, metadata={"label": "x", "emitted_ns": 7})
    data = frames.encode(frames.Messages(agent="a", prev=3, last=4, items=[stamped]))
    check = SharedCheck()

    spans = [check.take(data), check.take(data)]

    assert spans == [Span(3, 4, (("x", 7),))] * 2
    assert joined(3, Span(3, 4, ())) == 4
    with pytest.raises(WrongDataError, match="stands at 4 and was given what follows 3"):
        joined(4, Span(3, 4, ()))


def test_contents_that_are_filled_up_are_checked_to_the_last_byte() -> None:
    full = frames.encode(
        frames.Messages(agent="a", prev=0, last=1, items=[item("a", 1, content=content_of("a", 1, 64))])
    )

    assert SharedCheck(64).take(full) == Span(0, 1, ())
    with pytest.raises(WrongDataError, match="with the content"):
        SharedCheck(65).take(full)


def test_a_refusal_for_good_is_wrong_and_one_for_now_is_not() -> None:
    refusals = [frames.encode(frames.Error(code="internal", message="no more", retry=retry)) for retry in (True, False)]

    assert SharedCheck().take(refusals[0]) is None
    with pytest.raises(WrongDataError, match="no more"):
        SharedCheck().take(refusals[1])
