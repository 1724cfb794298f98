"""The states of a subscription: every one can be reached, and what is missed is never forgotten."""

import pytest

from commitcast.gateway.hub.subscription import (
    _DELIVERY_TRANSITIONS,
    _READ_TRANSITIONS,
    DeliveryEvent,
    DeliveryState,
    ReadEvent,
    ReadState,
    Subscriber,
    Subscription,
)


def subscription(window: int | None = None) -> Subscription:
    subscriber = Subscriber(None)
    made = subscriber.subscriptions["a"] = Subscription(subscriber, "a", 0, 0, "e", window=window)
    return made


def test_the_tables_name_every_state_and_reach_it_from_the_first() -> None:
    reached = {ReadState.BEHIND} | {state for row in _READ_TRANSITIONS.values() for state in row.values()}
    delivered = {state for row in _DELIVERY_TRANSITIONS.values() for state in row.values()}

    assert reached == set(_READ_TRANSITIONS) == set(ReadState)
    assert delivered == set(_DELIVERY_TRANSITIONS) == set(DeliveryState)
    assert all(set(row) == set(DeliveryEvent) for row in _DELIVERY_TRANSITIONS.values())


@pytest.mark.parametrize("state", ReadState)
def test_what_is_missed_in_any_state_leaves_nothing_at_the_head_after_the_read_under_way(state: ReadState) -> None:
    one = subscription()
    one.read_state = state

    one.note(ReadEvent.MISS)
    if ReadEvent.READ_ALL in _READ_TRANSITIONS[one.read_state]:
        one.note(ReadEvent.READ_ALL)

    assert not one.at_store_head


def test_a_page_is_asked_for_once_at_a_time() -> None:
    one = subscription()
    one.note(ReadEvent.ASK)

    assert not one.is_ready
    with pytest.raises(KeyError):
        one.note(ReadEvent.ASK)


def test_it_is_slow_only_if_its_subscriber_held_it_back_since_it_had_everything() -> None:
    one = subscription(window=2)

    one.subscriber.pause()
    assert not one.is_slow, "it has never had everything"
    assert one.catch_up()
    assert one.is_live and not one.is_slow
    one.subscriber.pause()
    assert one.is_slow
    assert not one.catch_up(), "not for the first time"
    assert not one.is_slow


def test_credit_is_what_is_left_of_the_window() -> None:
    one = subscription(window=3)

    one.cursor = 2
    assert (one.credit, one.window_exhausted, one.is_ready) == (1, False, True)
    one.cursor = 3
    assert (one.credit, one.window_exhausted, one.is_ready) == (0, True, False)
    one.acked = 1
    assert (one.credit, one.window_exhausted) == (1, False)
