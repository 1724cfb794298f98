"""The mailbox by itself: in order, bounded for ordinary messages, waking once, and without a gap at its end."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from commitcast.actors.kernel.mailbox import Empty, Envelope, Mailbox
from waiting import TIMEOUT_S


class Owner:
    """Counts what it is asked to do."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.calls: list[str] = []

    def wake(self) -> None:
        self.calls.append("wake")

    def wake_here(self) -> None:
        self.calls.append("wake here")

    def answer_late(self) -> None:
        self.calls.append("answer late")
        self.mailbox.get(False)


def opened(limit_messages: int | None = None) -> tuple[Mailbox, Owner]:
    mailbox = Mailbox(limit_messages)
    owner = Owner(mailbox)
    mailbox.open(owner)
    return mailbox, owner


def held(mailbox: Mailbox) -> list[Any]:
    found = []
    while not mailbox.empty():
        found.append(mailbox.get(False).message)
    return found


def test_at_the_limit_an_ordinary_message_is_refused_and_what_waits_is_untouched() -> None:
    mailbox, _ = opened(2)

    accepted = [mailbox.offer(Envelope(number)) for number in range(4)]

    assert accepted == [True, True, False, False]
    assert mailbox.qsize() == 2
    assert held(mailbox) == [0, 1]


def test_a_control_message_passes_the_limit_and_keeps_its_place() -> None:
    mailbox, _ = opened(1)

    mailbox.offer(Envelope("before"))
    mailbox.put(Envelope("stop"))

    assert not mailbox.offer(Envelope("after"))
    assert held(mailbox) == ["before", "stop"]


def test_there_is_room_again_when_one_was_taken() -> None:
    mailbox, _ = opened(1)
    mailbox.offer(Envelope("first"))
    mailbox.get(False)

    assert mailbox.offer(Envelope("second"))


def test_taking_from_an_empty_mailbox_raises() -> None:
    mailbox, _ = opened()

    with pytest.raises(Empty):
        mailbox.get(False)


def test_nobody_is_woken_before_it_is_open_and_then_at_once_for_what_waits() -> None:
    mailbox = Mailbox()
    owner = Owner(mailbox)
    mailbox.put(Envelope("early"))

    assert owner.calls == []
    mailbox.open(owner)

    assert owner.calls == ["wake"]


def test_the_owner_is_woken_once_for_many_messages_and_again_after_its_turn() -> None:
    mailbox, owner = opened()

    for number in range(10):
        mailbox.put(Envelope(number))
    assert owner.calls == ["wake"]

    held(mailbox)
    mailbox.turn_ended()
    assert owner.calls == ["wake"]
    mailbox.put(Envelope("next"), here=True)

    assert owner.calls == ["wake", "wake here"]


def test_what_came_during_the_last_moment_of_a_turn_wakes_the_owner_again() -> None:
    mailbox, owner = opened()
    mailbox.put(Envelope("first"))
    mailbox.get(False)

    mailbox.put(Envelope("came during the turn"))
    mailbox.turn_ended()

    assert owner.calls == ["wake", "wake"]


@pytest.mark.parametrize("way", ["put", "offer"])
def test_what_is_put_into_a_closed_mailbox_is_answered_by_whoever_puts_it(way: str) -> None:
    mailbox, owner = opened()
    mailbox.is_closed = True

    getattr(mailbox, way)(Envelope("too late"))

    assert owner.calls == ["answer late"]
    assert mailbox.empty()


def test_many_senders_keep_their_order_and_pass_the_limit_by_their_number_at_most() -> None:
    mailbox, _ = opened(1_000)

    def send(sender: int) -> list[int]:
        return [number for number in range(500) if mailbox.offer(Envelope((sender, number)))]

    with ThreadPoolExecutor(4) as pool:
        accepted = list(pool.map(send, range(4), timeout=TIMEOUT_S))

    found = held(mailbox)
    assert 1_000 <= len(found) <= 1_003
    for sender in range(4):
        assert [number for who, number in found if who == sender] == accepted[sender]
