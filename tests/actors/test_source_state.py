"""What an agent knows of its source: which run it is in, how it ended, and whether there is another."""

import pytest

from commitcast.actors.kernel.supervision import RestartPolicy
from commitcast.actors.source_state import ENDINGS_TRIED, AgentSource
from commitcast.actors.sources.draft import Ending
from commitcast.actors.sources.inbox import Inbox
from commitcast.actors.sources.runner import SourceRunner
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.writes import NewMessage

FAILED = Ending(status=AgentStatus.FAILED, error_name="OSError", error_message="no")


class Run(SourceRunner):
    """One run of a source that does nothing; all runs of it share what they note."""

    has_processes = False

    def __init__(self, notes: list[str], run: int = 0, inbox: Inbox | None = None) -> None:
        self.takes_input = True
        self.notes = notes
        self.run = run
        self.inbox = Inbox("a") if inbox is None else inbox

    def start(self) -> None:
        self.notes.append(f"start {self.run}")

    def cancel(self) -> None:
        self.notes.append(f"cancel {self.run}")

    def last_words(self) -> list[NewMessage]:
        self.notes.append(f"last words of {self.run}")
        return []

    def again(self) -> "Run":
        return Run(self.notes, self.run + 1, self.inbox)


def source(policy: RestartPolicy | None = None) -> tuple[AgentSource, list[str]]:
    notes: list[str] = []
    return AgentSource(Run(notes), policy or RestartPolicy(intensity=2, period_s=100, backoff_s=1)), notes


def test_it_runs_again_after_each_failure_and_everything_goes_to_the_newest_run() -> None:
    made, notes = source()

    made.start()
    delays = [made.ended(FAILED, 0)]
    assert not made.is_running and made.ending is None
    made.renew()
    made.start()
    assert made.keep_place("a", 5) is None
    made.inbox.settle("hello", 5)
    delays.append(made.ended(FAILED, 1))
    made.renew()
    made.start()
    made.cancel()

    assert delays == [1, 2]
    assert made.is_running and made.restarts == 2
    assert notes == ["start 0", "start 1", "start 2", "cancel 2"]
    assert made.inbox.get_nowait() == "hello"


def test_the_limit_settles_the_last_error() -> None:
    made, _ = source(RestartPolicy(intensity=1, period_s=100))
    made.start()
    made.ended(FAILED, 0)
    made.renew()
    made.start()
    last = Ending(status=AgentStatus.FAILED, error_name="LastError", error_message="the last")

    assert made.ended(last, 1) is None

    assert made.ending is last and made.has_failed and not made.is_running


@pytest.mark.parametrize("status", [AgentStatus.COMPLETED, AgentStatus.TERMINATED])
def test_an_end_that_is_no_failure_is_settled_at_once(status: AgentStatus) -> None:
    made, _ = source()
    made.start()

    assert made.ended(Ending(status=status), 0) is None

    assert made.ending == Ending(status=status) and not made.has_failed


@pytest.mark.parametrize("said_of_itself", [Ending(), FAILED], ids=["completed", "failed"])
def test_what_was_refused_settles_the_failure_whatever_it_says_of_itself_later(said_of_itself: Ending) -> None:
    made, notes = source()
    made.start()
    made.lost(LookupError("the database said no"))
    made.lost(OSError("the second"))

    assert made.ended(said_of_itself, 0) is None

    assert made.ending is not None and made.has_failed and made.restarts == 0
    assert (made.ending.error_name, made.ending.error_message) == ("LookupError", "the database said no")
    assert notes == ["start 0", "cancel 0", "cancel 0"]


def test_what_was_refused_after_its_end_makes_a_failure_of_it() -> None:
    made, _ = source()
    made.start()
    made.ended(Ending(), 0)

    made.lost(LookupError("the database said no"))

    assert made.has_failed


def test_its_end_is_tried_a_few_times_and_then_rests_once() -> None:
    made, _ = source()

    tries = [made.may_try_ending() for _ in range(2 * (ENDINGS_TRIED + 1))]

    assert tries == 2 * [*[True] * ENDINGS_TRIED, False]
