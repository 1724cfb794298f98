"""Launching: a request is checked, made durable, and only then given an actor and its source to run."""

import asyncio
import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pykka

from commitcast.actors import messages
from commitcast.actors.database import BATCH_ROWS, DatabaseActor
from commitcast.actors.directory import Directory
from commitcast.actors.errors import RuntimeStoppedError
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.supervision import RestartPolicy
from commitcast.actors.source_state import AgentSource
from commitcast.actors.sources.runner import RunServices, Source, SourceRunner, check_source
from commitcast.persistence.clock import now
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentRecord, Committed
from commitcast.persistence.writes import (
    MAX_MESSAGE_BYTES,
    NewAgent,
    NewMessage,
    Outcome,
    check_agent_id,
    check_name,
    encode_json,
    encode_text,
    new_message,
)


class Launch:
    """One agent to be created."""

    def __init__(
        self,
        source: Source | None,
        type: str | None,
        prompt: str,
        configuration: dict[str, Any] | None,
        id: str | None,
        idempotency_key: str | None,
        restart: RestartPolicy | str = "never",
    ) -> None:
        """Check the request. See `AgentRuntime.launch`."""
        self.source = None if source is None else check_source(source)
        self.restart = RestartPolicy.of(restart)
        self.agent = str(uuid.uuid4()) if id is None else check_agent_id(id)
        self._type = check_name(type or getattr(source, "type", None) or "agent", "type") or "agent"
        if len(encode_text(prompt, "prompt")) > MAX_MESSAGE_BYTES:
            raise InvalidValueError(f"the prompt has more than {MAX_MESSAGE_BYTES:,} bytes: put it into a file")
        self._prompt = prompt
        if configuration is not None and not isinstance(configuration, dict):
            raise InvalidValueError(f"configuration must be a dict, not {configuration.__class__.__name__}")
        self._configuration_json = encode_json(configuration or {}, "configuration")
        self._idempotency_key = check_name(idempotency_key, "idempotency_key")

    def new_agent(self, created_at: str) -> NewAgent:
        """Return the agent to be inserted, with its prompt as the first message unless its source echoes it."""
        prompt: tuple[NewMessage, ...] = ()
        if self._prompt and not getattr(self.source, "echoes_prompt", False):
            prompt = (new_message(self._prompt, created_at=created_at, type="user", role="user"),)
        return NewAgent(
            epoch=secrets.token_hex(8),
            type=self._type,
            created_at=created_at,
            prompt=self._prompt,
            configuration_json=self._configuration_json,
            idempotency_key=self._idempotency_key,
            messages=prompt,
        )


class Launcher:
    """Creates agents in the store, then starts their actors."""

    def __init__(
        self,
        database: pykka.ActorRef[DatabaseActor],
        directory: Directory,
        runs: RunServices,
        loop: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        """Make a launcher.

        Args:
            database: the writer.
            directory: of the agents' actors.
            runs: what the runs of sources work with.
            loop: returns the loop for async sources of hosts that have none.
        """
        self._database = database
        self._directory = directory
        self._runs = runs
        self._loop = loop

    def create(self, launches: list[Launch]) -> Future[list[Outcome]]:
        """Ask for the agents to be inserted; the future is complete when they are on disk."""
        if not (self._directory.is_open and self._database.is_alive()):
            return Future.failed(RuntimeStoppedError())
        agents = tuple((launch.agent, launch.new_agent(now())) for launch in launches)
        future: Future[list[Outcome]] = self._database.ask(messages.CreateAgents(agents), block=False)  # type: ignore[assignment]
        return future

    def launch(self, launch: Launch, loop: asyncio.AbstractEventLoop | None = None) -> Future[str]:
        """Create one agent and start its actor, also if the caller goes away; the future is of its id. See `begin`."""
        return self.create([launch]).map(lambda outcomes: self.begin([launch], outcomes, loop)[0])

    def launch_many(self, count: int, type: str, ids: Sequence[str] | None) -> list[str]:
        """Create agents without a source, many to a commit, and start their actors; return their ids. Blocks.

        Raises:
            InvalidValueError: there are not `count` different ids.
            CommitcastError: see `begin`.
        """
        names = list(ids) if ids is not None else [str(uuid.uuid4()) for _ in range(count)]
        if len(names) != count or len(set(names)) != count:
            raise InvalidValueError(f"launch_many needs {count} different ids, not {len(set(names))}")
        launches = [Launch(None, type, "", None, name, None) for name in names]
        created = [self.create(launches[start : start + BATCH_ROWS]) for start in range(0, count, BATCH_ROWS)]
        return self.begin(launches, [outcome for future in created for outcome in future.get()])

    def begin(
        self, launches: list[Launch], outcomes: list[Outcome], loop: asyncio.AbstractEventLoop | None = None
    ) -> list[str]:
        """Start the actors of the agents that were inserted, and return the ids.

        Args:
            launches: as given to `create`.
            outcomes: of their creation.
            loop: where their async sources run; None is the runtime's own.

        Raises:
            CommitcastError: the first refusal; the actors of the others are started.
        """
        refused: Exception | None = None
        agents: list[str] = []
        for launch, outcome in zip(launches, outcomes, strict=True):
            record = outcome.replies[0]
            if isinstance(record, AgentRecord):
                if outcome.committed is not None:  # else it existed already, under the same idempotency key
                    self._begin(launch, record, outcome.committed, loop)
                agents.append(record.id)
            elif isinstance(record, Exception):
                refused = refused or record
        if refused is not None:
            raise refused
        return agents

    def _begin(
        self, launch: Launch, record: AgentRecord, committed: Committed, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        source = None
        if launch.source is not None:
            choose = self._loop if loop is None else lambda: loop
            source = AgentSource(SourceRunner(launch.source, record, self._runs, choose), launch.restart)
        self._directory.add(record.id, messages.Created(record, committed, source))
