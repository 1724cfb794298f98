"""What an agent's actor can be told. Beside the actor, because those who send them must not need it."""

import msgspec

from commitcast.actors.agent_source import AgentSource
from commitcast.actors.database import Acknowledged
from commitcast.actors.sources.draft import Ending
from commitcast.persistence.records import AgentRecord, Committed
from commitcast.persistence.writes import AgentPatch, NewMessage


class Emit(msgspec.Struct, frozen=True, gc=False):
    """Store a message and send it to the subscribers. Its place at the bound is given back when it is answered."""

    message: NewMessage
    from_source: bool = False
    for_source: bool = False
    """A text for the source's inbox, put there once it is committed."""


class Start(msgspec.Struct, frozen=True):
    """Become running."""


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


class Created(msgspec.Struct, frozen=True):
    """The agent that this actor was made for while it was unknown exists now."""

    record: AgentRecord
    creation: Committed | None
    source: AgentSource | None


class Patch(msgspec.Struct, frozen=True):
    """Store facts learnt about the agent."""

    patch: AgentPatch


class SourceEnded(msgspec.Struct, frozen=True):
    """The source has nothing more to say."""

    ending: Ending


class RestartDue(msgspec.Struct, frozen=True):
    """Start the source again, if the agent still runs."""


class RuntimeStopping(msgspec.Struct, frozen=True):
    """The runtime stops: come to this end, if you have not come to one."""

    ending: Terminate | Fail


class EndingDue(msgspec.Struct, frozen=True):
    """Try again to bring the agent to its end."""


AgentCommand = (
    Emit
    | Start
    | Complete
    | Fail
    | Terminate
    | Created
    | Patch
    | SourceEnded
    | RestartDue
    | RuntimeStopping
    | EndingDue
    | Acknowledged
)
