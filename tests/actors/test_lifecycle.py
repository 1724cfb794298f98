"""The lifecycle table, and that the schema says the same."""

import itertools
import re
from importlib import resources

import pytest

from commitcast.actors.lifecycle import TRANSITIONS, check_transition
from commitcast.persistence import AgentStatus, IllegalTransitionError

PAIRS = list(itertools.product(AgentStatus, AgentStatus))


@pytest.mark.parametrize(("previous", "status"), PAIRS)
def test_a_step_is_allowed_exactly_if_the_table_has_it(previous: AgentStatus, status: AgentStatus) -> None:
    if status in TRANSITIONS[previous]:
        check_transition("a", previous, status)
    else:
        with pytest.raises(IllegalTransitionError, match=f"is {previous} and cannot become {status}"):
            check_transition("a", previous, status)


def test_nothing_follows_a_terminal_status_and_every_other_can_fail() -> None:
    for status in AgentStatus:
        assert status.is_terminal == (not TRANSITIONS[status])
        assert status.is_terminal or AgentStatus.FAILED in TRANSITIONS[status]


def test_the_schema_allows_the_same_steps() -> None:
    schema = resources.files("commitcast.persistence.sqlite.schema").joinpath("0001_initial.sql").read_text("utf-8")

    in_schema = set(re.findall(r"'(\w+)>(\w+)'", schema))

    assert in_schema == {(previous, status) for previous in TRANSITIONS for status in TRANSITIONS[previous]}
