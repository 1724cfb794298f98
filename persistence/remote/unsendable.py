"""Writes that cannot be sent, because a value in them is of another type or cannot be encoded: each fails alone. Pure.

In place of such a write the server is sent one that it refuses, or that changes nothing. So it treats what follows as
it does behind any refused write, and only the reply is put right here.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from commitcast.persistence.errors import InvalidValueError, LinkError, RowRefusedError
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.remote.frames import LENGTH_BYTES, Commit, pack, unpack
from commitcast.persistence.writes import AgentPatch, AgentWrites, NewMessage, NewStatus, Outcome, Write

_NO_MESSAGE: Final = NewMessage("", None, "", "text", "", 0)
"""Its type is none."""
_NO_CHANGE: Final = NewStatus(previous=AgentStatus.COMPLETED, status=AgentStatus.INITIALIZING, at="")
"""Nothing follows an end."""
_NOTHING: Final = AgentPatch()


class _Place(NamedTuple):
    agent: int
    write: int
    error: RowRefusedError


class Replaced:
    """Work with other writes in place of those that cannot be sent."""

    def __init__(self, work: Sequence[AgentWrites]) -> None:
        self.work: list[AgentWrites] = []
        self._places: list[_Place] = []
        for number, agent in enumerate(work):
            if _cannot_be_sent(agent) is not None:
                agent = AgentWrites(
                    agent.agent, [self._sendable(number, agent, place) for place in range(len(agent.writes))]
                )
            self.work.append(agent)

    def _sendable(self, number: int, agent: AgentWrites, place: int) -> Write:
        write = agent.writes[place]
        error = _cannot_be_sent(AgentWrites(agent.agent, [write]))
        if error is None:
            return write
        why = RowRefusedError(f"a row of agent {agent.agent!r:.200} cannot be stored: {error}")
        self._places.append(_Place(number, place, why))
        return (
            _NO_MESSAGE if isinstance(write, NewMessage) else _NO_CHANGE if isinstance(write, NewStatus) else _NOTHING
        )

    @property
    def is_needed(self) -> bool:
        """Whether there are any."""
        return bool(self._places)

    def put_right(self, answer: list[Outcome] | Exception) -> list[Outcome] | Exception:
        """Return the answer to the work as it was."""
        if isinstance(answer, list):
            for place in self._places:
                answer[place.agent].replies[place.write] = place.error
        return answer


def _cannot_be_sent(agent: AgentWrites) -> Exception | None:
    try:
        unpack(memoryview(pack(Commit(0, 0, [agent])))[LENGTH_BYTES:])  # what it would be taken for there
    except (InvalidValueError, LinkError) as error:
        return error
    return None
