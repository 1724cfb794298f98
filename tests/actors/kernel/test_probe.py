"""The probe: what it hears is expected in order, by a real clock and by a virtual one."""

import threading

import pytest

from commitcast.actors.testing import Probe, SeededDispatcher


def test_what_it_hears_is_expected_one_by_one_and_asks_are_answered() -> None:
    probe = Probe(answer=42)

    def tell() -> None:
        for message in ("a", 1):
            probe.ref.tell(message)

    threading.Thread(target=tell).start()

    assert probe.expect(str) == "a"
    assert probe.expect(int) == 1
    assert probe.ref.ask("b", timeout=5) == 42
    with pytest.raises(AssertionError, match="expected a int, and heard 'b'"):
        probe.expect(int)
    probe.expect_no_message(0)
    probe.stop()


def test_by_a_virtual_clock_patience_takes_no_time() -> None:
    with SeededDispatcher(seed=1) as dispatcher:
        probe = Probe(dispatcher=dispatcher)
        dispatcher.call_later(3_600, lambda: probe.ref.tell("an hour later"))

        probe.expect_no_message(3_599)
        with pytest.raises(AssertionError, match=r"heard nothing for 0\.5 s"):
            probe.expect(str, 0.5)
        assert probe.expect(str, 10) == "an hour later"
        assert dispatcher.now() == 3_600
        probe.stop()


def test_something_where_nothing_was_expected_is_shown() -> None:
    with SeededDispatcher(seed=1) as dispatcher:
        probe = Probe(dispatcher=dispatcher)
        probe.ref.tell("unexpected")

        with pytest.raises(AssertionError, match="heard 'unexpected'"):
            probe.expect_no_message(1)
        probe.stop()
