"""What is on its way: answered oldest first, and nothing kept when nothing is."""

import pytest

from commitcast.actors.in_flight import InFlight
from commitcast.actors.kernel.mailbox import Envelope


def test_answers_belong_to_the_oldest_writes_in_order() -> None:
    in_flight = InFlight()
    envelopes = [Envelope(number) for number in range(4)]
    for envelope in envelopes[:3]:
        in_flight.add(envelope)

    answered = list(in_flight.answered(["a", "b"]))

    assert answered == [(envelopes[0], "a"), (envelopes[1], "b")]
    assert bool(in_flight)
    in_flight.add(envelopes[3])
    assert list(in_flight) == envelopes[2:]


def test_it_is_empty_again_after_the_last_answer() -> None:
    in_flight = InFlight()
    assert not in_flight
    in_flight.add(Envelope("a"))
    assert in_flight

    list(in_flight.answered(["a"]))

    assert not in_flight


def test_more_answers_than_writes_are_a_defect_that_shows() -> None:
    in_flight = InFlight()
    in_flight.add(Envelope("a"))

    with pytest.raises(IndexError):
        list(in_flight.answered(["a", "b"]))
