"""What holds of the life of every agent, whatever has happened to it."""

from collections.abc import Iterable, Sequence

from commitcast.actors.lifecycle import TRANSITIONS
from commitcast.persistence.records import AgentStatus, MessageRecord, StatusChange


def status_after(changes: Iterable[StatusChange], kept: Sequence[MessageRecord]) -> AgentStatus:
    """Follow the changes of one agent, each of which must be allowed and behind the messages before it.

    Args:
        changes: in the order in which they were cast.
        kept: all messages of the agent.

    Returns:
        Its last status.
    """
    status = AgentStatus.INITIALIZING
    for change in changes:
        assert change.previous is status and change.status in TRANSITIONS[status]
        assert change.sequence == len([message for message in kept if message.position < change.position])
        status = change.status
    return status
