"""Every message between actors, in the order of the trip: the table of contents of the system.

host or source -> AgentActor -> DatabaseActor -> AgentActor -> GatewayActor. Each class says what its receiver is to do
or is told. `Committed` alone is defined elsewhere, because only a store can make it (`persistence/records.py`).
"""

from typing import Any

import msgspec

from commitcast.actors.source_state import AgentSource
from commitcast.actors.sources.draft import Ending
from commitcast.persistence.records import AgentRecord, Committed
from commitcast.persistence.writes import AgentPatch, NewAgent, NewMessage, NewStatus

# A launch: to the DatabaseActor, then to the actor of the new agent.


class CreateAgents(msgspec.Struct, frozen=True):
    """Insert agents. To be asked: the reply is one `Outcome` for each."""

    agents: tuple[tuple[str, NewAgent], ...]


class Created(msgspec.Struct, frozen=True):
    """The agent that this actor was made for while it was unknown exists now."""

    record: AgentRecord
    creation: Committed | None
    source: AgentSource | None


# To an AgentActor, from its host or its source.


class Start(msgspec.Struct, frozen=True):
    """Become running."""


class Emit(msgspec.Struct, frozen=True, gc=False):
    """Store a message and send it to the subscribers. Its place at the bound is given back when it is answered."""

    message: NewMessage
    from_source: bool = False
    for_source: bool = False
    """A text for the source's inbox, put there once it is committed."""


class Patch(msgspec.Struct, frozen=True):
    """Store facts learnt about the agent."""

    patch: AgentPatch


class Complete(msgspec.Struct, frozen=True):
    """Become completed."""

    result_json: str | None = None


class Fail(msgspec.Struct, frozen=True):
    """Become failed."""

    error_name: str
    error_message: str
    result_json: str | None = None


class Terminate(msgspec.Struct, frozen=True):
    """Become terminated, and make the source stop."""

    reason: str | None = None


class SourceEnded(msgspec.Struct, frozen=True):
    """The source has nothing more to say."""

    ending: Ending


# To an AgentActor, from the runtime and from its own timers.


class RestartDue(msgspec.Struct, frozen=True):
    """Start the source again, if the agent still runs."""


class EndingDue(msgspec.Struct, frozen=True):
    """Try again to bring the agent to its end."""


class RuntimeStopping(msgspec.Struct, frozen=True):
    """The runtime stops: come to this end, if you have not come to one."""

    ending: Terminate | Fail


# From an AgentActor to the DatabaseActor.


class Append(msgspec.Struct, frozen=True, gc=False):
    """Store messages of one agent, in order."""

    agent: str
    actor: int
    """Number of the AgentActor that sent it and is told."""
    generation: int
    """Rises when the agent has learnt of a refusal: what it sent before that is refused too."""
    messages: list[NewMessage]
    size: int
    """Bytes of all of them."""


class ChangeStatus(msgspec.Struct, frozen=True, gc=False):
    """Apply a change of status, if the agent still has the status that it starts from."""

    agent: str
    actor: int
    generation: int
    change: NewStatus


class UpdateAgent(msgspec.Struct, frozen=True, gc=False):
    """Store facts learnt about an agent."""

    agent: str
    actor: int
    generation: int
    patch: AgentPatch


DatabaseCommand = CreateAgents | Append | ChangeStatus | UpdateAgent


# Back from the DatabaseActor to the AgentActor, once the transaction is committed.


class Acknowledged(msgspec.Struct, frozen=True, gc=False):
    """What became of an agent's oldest unanswered writes, as many as there are replies. Sent to its AgentActor."""

    committed: Committed | None
    replies: list[Any]
    """One for each write: the record as stored, or why it was refused."""
    actor: int
    """Who sent them. An actor that was made later for the same agent has not waited for them."""


AgentCommand = (
    Created
    | Start
    | Emit
    | Patch
    | Complete
    | Fail
    | Terminate
    | SourceEnded
    | RestartDue
    | EndingDue
    | RuntimeStopping
    | Acknowledged
)


# From an AgentActor to the GatewayActor: a `Committed`, or a notice.


class Notice(msgspec.Struct, frozen=True):
    """Something could not be done for an agent. Nothing was stored, so this is no message."""

    agent: str
    code: str
    """One of the protocol's error codes."""
    message: str
    retry: bool = False


GatewayCommand = Committed | Notice
