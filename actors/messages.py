"""Every message between actors, in the order of the trip: the table of contents of the system.

An agent is launched, and then each message takes the same way:

    host or source ── Emit ──▶ AgentActor ── Append ──▶ DatabaseActor         one commit of what arrived meanwhile
    host's future  ◀────────── AgentActor ◀── Acknowledged ── DatabaseActor   it is on disk
                               AgentActor ── Committed ──▶ GatewayActor       it is cast to the subscribers

1. To create an agent: `CreateAgents` to the DatabaseActor, then `Created` to the new AgentActor.
2. From a host or a source to an AgentActor: `Start`, `Emit`, `Patch`, and the ends `Complete`, `Fail`, `Terminate`,
   `SourceEnded`.
3. From the runtime and the agent's own timers to an AgentActor: `RestartDue`, `EndingDue`, `RuntimeStopping`.
4. From an AgentActor to the DatabaseActor: `Append`, `ChangeStatus`, `UpdateAgent`.
5. Back to the AgentActor, once the transaction is committed: `Acknowledged`.
6. From an AgentActor to the GatewayActor: `Committed`, or a `Notice` of what could not be done. `Committed` alone is
   defined elsewhere, because only a store can make it (`persistence/records.py`).
"""

from typing import TYPE_CHECKING, Any

import msgspec

from commitcast.actors.sources.draft import Ending
from commitcast.persistence.records import AgentRecord, Committed
from commitcast.persistence.writes import AgentPatch, NewAgent, NewMessage, NewStatus

if TYPE_CHECKING:
    from commitcast.actors.source_state import AgentSource

# 1. A launch: to the DatabaseActor, then to the actor of the new agent.


class CreateAgents(msgspec.Struct, frozen=True):
    """Insert agents. To be asked: the reply is one `Outcome` for each."""

    agents: tuple[tuple[str, NewAgent], ...]


class Created(msgspec.Struct, frozen=True):
    """The agent was created: begin with it. Also for an actor that was made before its agent existed."""

    record: AgentRecord
    creation: Committed | None
    source: "AgentSource | None"


# 2. To an AgentActor, from its host or its source.


class Start(msgspec.Struct, frozen=True):
    """Become running."""


class Emit(msgspec.Struct, frozen=True, gc=False):
    """Store a message and cast it. The sender has acquired credit for it, which is released when it is answered."""

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
    """The source has ended and emits nothing more."""

    ending: Ending


# 3. To an AgentActor, from its own timers and from the runtime.


class RestartDue(msgspec.Struct, frozen=True):
    """Start the source again, if the agent still runs."""


class EndingDue(msgspec.Struct, frozen=True):
    """Try again to bring the agent to its end."""


class RuntimeStopping(msgspec.Struct, frozen=True):
    """The runtime stops: come to this end, unless the agent has ended."""

    ending: Terminate | Fail


# 4. From an AgentActor to the DatabaseActor.


class Append(msgspec.Struct, frozen=True, gc=False):
    """Store messages of one agent, in order."""

    agent: str
    actor: int
    """Number of the AgentActor that sent it and gets the acknowledgement."""
    generation: int
    """Rises when the agent has learnt of a refusal: writes sent before that are refused too."""
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


# 5. Back from the DatabaseActor to the AgentActor, once the transaction is committed.


class Acknowledged(msgspec.Struct, frozen=True, gc=False):
    """The outcome of an agent's oldest unanswered writes, one for each reply."""

    committed: Committed | None
    """What was stored; None if nothing was."""
    replies: list[Any]
    """One for each write: the record as stored, or the error with which it was refused."""
    actor: int
    """Number of the AgentActor that sent the writes. A later actor of the same agent does not wait for them."""


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


# 6. From an AgentActor to the GatewayActor: a `Committed`, or a notice.


class Notice(msgspec.Struct, frozen=True):
    """Something could not be done for an agent. Nothing was stored, so this is not a message."""

    agent: str
    code: str
    """One of the protocol's error codes."""
    message: str
    retry: bool = False


GatewayCommand = Committed | Notice
