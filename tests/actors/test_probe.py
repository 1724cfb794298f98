"""A probe keeps what it receives, and it is expected in order, by a real clock and by a virtual one."""

import threading

import pytest

from commitcast.actors.testing import Probe, SeededDispatcher


def test_what_it_receives_is_expected_one_by_one_and_asks_are_answered() -> None:
    probe = Probe(answer=42)

    def tell() -> None:
        for message in ("a", 1):
            probe.ref.tell(message)

    threading.Thread(target=tell).start()

    assert probe.expect(str) == "a"
    assert probe.expect(int) == 1
    assert probe.ref.ask("b", timeout=5) == 42
    with pytest.raises(AssertionError, match="expected a int, but received 'b'"):
        probe.expect(int)
    probe.expect_no_message(0)
    probe.stop()


def test_by_a_virtual_clock_patience_takes_no_time() -> None:
    with SeededDispatcher(seed=1) as dispatcher:
        probe = Probe(dispatcher=dispatcher)
        dispatcher.call_later(3_600, lambda: probe.ref.tell("an hour later"))

        probe.expect_no_message(3_599)
        with pytest.raises(AssertionError, match=r"received nothing for 0\.5 s"):
            probe.expect(str, 0.5)
        assert probe.expect(str, 10) == "an hour later"
        assert dispatcher.now() == 3_600
        probe.stop()


def test_something_where_nothing_was_expected_is_shown() -> None:
    with SeededDispatcher(seed=1) as dispatcher:
        probe = Probe(dispatcher=dispatcher)
        probe.ref.tell("unexpected")

        with pytest.raises(AssertionError, match="received 'unexpected'"):
            probe.expect_no_message(1)
        probe.stop()


def test_it_keeps_what_was_expected_too() -> None:
    with SeededDispatcher(seed=1) as dispatcher:
        probe = Probe(dispatcher=dispatcher)
        probe.ref.tell("a")
        probe.ref.tell("b")

        assert probe.expect(str) == "a"
        probe.wait_until(lambda: len(probe.received) == 2, "both")

        assert probe.received == ("a", "b")
        assert probe.expect(str) == "b"
        probe.stop()


def test_a_wait_is_of_one_deadline_however_many_messages_come() -> None:
    with SeededDispatcher(seed=1) as dispatcher:
        probe = Probe(dispatcher=dispatcher)
        for second in range(1, 100):
            dispatcher.call_later(second, lambda: probe.ref.tell("not yet"))

        with pytest.raises(TimeoutError, match=r"waited 2 s for the last; received \['not yet', 'not yet'\]"):
            probe.wait_until(lambda: len(probe.received) == 99, "the last", 2)

        assert dispatcher.now() == 2
        probe.stop()


def test_the_old_name_of_its_timeout_goes_on_working_and_warns() -> None:
    with SeededDispatcher(seed=1) as dispatcher:
        probe = Probe(dispatcher=dispatcher)

        with (
            pytest.warns(DeprecationWarning, match="'timeout_s' of expect\\(\\) is now called 'timeout'"),
            pytest.raises(AssertionError, match="nothing for 3 s"),
        ):
            probe.expect(str, timeout_s=3)

        assert dispatcher.now() == 3
        probe.stop()
