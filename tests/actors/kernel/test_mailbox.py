"""The mailbox by itself: in order, bounded for ordinary messages, waking once, and without a gap at its end."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from by_hand import HandDispatcher
from commitcast.actors.kernel.actor import Actor
from commitcast.actors.kernel.mailbox import (
    CLOSED,
    DETACHED,
    IDLE,
    SCHEDULED,
    STOPPING,
    TRANSITIONS,
    Empty,
    Envelope,
    Mailbox,
    State,
)
from waiting import TIMEOUT_S


class NotingDispatcher(HandDispatcher):
    """Notes which way an actor is woken."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls
        self.on_schedule = lambda _: calls.append("schedule")

    def try_run_inline(self, actor: Actor) -> None:
        self.calls.append("run inline")


class Owner(Actor):
    """Notes what is asked of it."""

    def __init__(self, limit_messages: int | None = None) -> None:
        self.calls: list[str] = []
        super().__init__("owner", NotingDispatcher(self.calls))
        self.actor_inbox = Mailbox(limit_messages)

    def drain_closed_mailbox(self) -> None:
        self.calls.append("drain")
        self.actor_inbox.get(False)


def attached(limit_messages: int | None = None) -> tuple[Mailbox, Owner]:
    owner = Owner(limit_messages)
    owner.actor_inbox.attach(owner)
    return owner.actor_inbox, owner


def held(mailbox: Mailbox) -> list[Any]:
    found = []
    while not mailbox.empty():
        found.append(mailbox.get(False).message)
    return found


def test_at_the_limit_an_ordinary_message_is_refused_and_what_waits_is_untouched() -> None:
    mailbox, _ = attached(2)

    accepted = [mailbox.put(Envelope(number), bounded=True) for number in range(4)]

    assert accepted == [True, True, False, False]
    assert mailbox.qsize() == 2
    assert held(mailbox) == [0, 1]


def test_a_control_message_passes_the_limit_and_keeps_its_place() -> None:
    mailbox, _ = attached(1)

    mailbox.put(Envelope("before"), bounded=True)
    mailbox.put(Envelope("stop"))

    assert not mailbox.put(Envelope("after"), bounded=True)
    assert held(mailbox) == ["before", "stop"]


def test_there_is_room_again_when_one_was_taken() -> None:
    mailbox, _ = attached(1)
    mailbox.put(Envelope("first"), bounded=True)
    mailbox.get(False)

    assert mailbox.put(Envelope("second"), bounded=True)


def test_taking_from_an_empty_mailbox_raises() -> None:
    mailbox, _ = attached()

    with pytest.raises(Empty):
        mailbox.get(False)


def test_nobody_is_woken_before_it_has_an_owner_and_then_at_once_for_what_waits() -> None:
    owner = Owner()
    mailbox = owner.actor_inbox
    mailbox.put(Envelope("early"))

    assert owner.calls == []
    mailbox.attach(owner)

    assert owner.calls == ["schedule"]


def test_the_owner_is_woken_once_for_many_messages_and_again_after_its_turn() -> None:
    mailbox, owner = attached()

    for number in range(10):
        mailbox.put(Envelope(number))
    assert owner.calls == ["schedule"]

    held(mailbox)
    mailbox.turn_ended()
    assert owner.calls == ["schedule"]
    mailbox.put(Envelope("next"), inline=True)

    assert owner.calls == ["schedule", "run inline"]


def test_what_came_during_the_last_moment_of_a_turn_wakes_the_owner_again() -> None:
    mailbox, owner = attached()
    mailbox.put(Envelope("first"))
    mailbox.get(False)

    mailbox.put(Envelope("came during the turn"))
    mailbox.turn_ended()

    assert owner.calls == ["schedule", "schedule"]


@pytest.mark.parametrize("bounded", [True, False])
def test_what_is_put_into_a_closed_mailbox_is_answered_by_its_sender(bounded: bool) -> None:
    mailbox, owner = attached()
    mailbox.put(Envelope("its stop"))
    mailbox.get(False)
    mailbox.stop()
    mailbox.close(owner)

    mailbox.put(Envelope("too late"), bounded=bounded)

    assert owner.calls == ["schedule", "drain"]
    assert mailbox.empty()


def test_many_senders_keep_their_order_and_pass_the_limit_by_their_number_at_most() -> None:
    mailbox, _ = attached(1_000)

    def send(sender: int) -> list[int]:
        return [number for number in range(500) if mailbox.put(Envelope((sender, number)), bounded=True)]

    with ThreadPoolExecutor(4) as pool:
        accepted = list(pool.map(send, range(4), timeout=TIMEOUT_S))

    found = held(mailbox)
    assert 1_000 <= len(found) <= 1_003
    for sender in range(4):
        assert [number for who, number in found if who == sender] == accepted[sender]


class TestTheStates:
    def test_a_life_leads_through_all_of_them(self) -> None:
        owner, successor = Owner(), Owner()
        mailbox = owner.actor_inbox
        states = [mailbox.state]

        mailbox.attach(owner)
        states.append(mailbox.state)
        mailbox.put(Envelope("one"))
        states.append(mailbox.state)
        mailbox.detach()
        states.append(mailbox.state)
        mailbox.attach(successor)
        states.append(mailbox.state)
        mailbox.get(False)
        mailbox.turn_ended()
        states.append(mailbox.state)
        mailbox.put(Envelope("stop"))
        mailbox.stop()
        states.append(mailbox.state)
        mailbox.close(successor)
        states.append(mailbox.state)

        assert states == [DETACHED, IDLE, SCHEDULED, DETACHED, SCHEDULED, IDLE, STOPPING, CLOSED]
        assert (owner.calls, successor.calls) == (["schedule"], ["schedule", "schedule"])

    def test_while_detached_or_stopping_messages_wait_and_wake_nobody(self) -> None:
        mailbox, owner = attached()
        mailbox.put(Envelope("fails"))
        mailbox.get(False)
        mailbox.detach()
        mailbox.put(Envelope("for the successor"), inline=True)
        mailbox.stop()
        mailbox.put(Envelope("for nobody"), inline=True)

        assert owner.calls == ["schedule"]
        assert held(mailbox) == ["for the successor", "for nobody"]

    @pytest.mark.parametrize("event", ["attach", "detach", "stop", "close"])
    @pytest.mark.parametrize("state", [state for state in State if state is not IDLE])
    def test_a_change_that_is_not_in_the_table_is_a_defect(self, event: str, state: State) -> None:
        mailbox = Mailbox()
        mailbox._state = state
        if (event, state) in TRANSITIONS:
            mailbox._change(event)
            assert mailbox._state is TRANSITIONS[event, state]
        else:
            with pytest.raises(KeyError):
                mailbox._change(event)
