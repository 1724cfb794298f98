"""The table of a client's connection: what it lists, and that a subscription follows it."""

import pytest

from commitcast.gateway.client.states import RECEIVING, TRANSITIONS, Event, State


def test_every_state_has_a_row_and_every_state_and_event_is_used() -> None:
    targets = {state for row in TRANSITIONS.values() for state in row.values()}

    assert set(TRANSITIONS) == set(State) == targets
    assert {event for row in TRANSITIONS.values() for event in row} == set(Event)


@pytest.mark.parametrize("state", [state for state in State if state is not State.ENDED])
def test_a_loss_is_possible_everywhere_but_at_the_end(state: State) -> None:
    assert TRANSITIONS[state][Event.LOSS] is State.DISCONNECTED
    assert TRANSITIONS[state][Event.CONNECT] is State.CONNECTING


def test_nothing_leads_out_of_the_end_and_only_a_stream_leads_into_it() -> None:
    assert TRANSITIONS[State.ENDED] == {}
    assert {state for state, row in TRANSITIONS.items() if Event.END in row} == RECEIVING


def test_the_way_of_a_subscription_that_goes_well() -> None:
    state, way = State.DISCONNECTED, []
    for event in (Event.CONNECT, Event.WELCOME, Event.SUBSCRIBED, Event.LIVE, Event.GAP, Event.SUBSCRIBED, Event.END):
        state = TRANSITIONS[state][event]
        way.append(state.name)

    assert way == ["CONNECTING", "SUBSCRIBING", "BEHIND", "LIVE", "SUBSCRIBING", "BEHIND", "ENDED"]
