"""The life cycle of an agent as a table. Pure. The schema's CHECK and the documents' diagram say the same (tested)."""

from typing import Final

from commitcast.persistence.errors import IllegalTransitionError
from commitcast.persistence.records import AgentStatus

_I, _R = AgentStatus.INITIALIZING, AgentStatus.RUNNING
_C, _F, _T = AgentStatus.COMPLETED, AgentStatus.FAILED, AgentStatus.TERMINATED

TRANSITIONS: Final[dict[AgentStatus, frozenset[AgentStatus]]] = {
    _I: frozenset({_R, _F, _T}),
    _R: frozenset({_C, _F, _T}),
    _C: frozenset(),
    _F: frozenset(),
    _T: frozenset(),
}
"""From each status to those that may follow it."""


def check_transition(agent: str, previous: AgentStatus, status: AgentStatus) -> None:
    """Raise unless the table allows the step.

    Raises:
        IllegalTransitionError: it does not.
    """
    if status not in TRANSITIONS[previous]:
        raise IllegalTransitionError(agent, previous, status)
