"""What the runtime does for clients of the gateway: launch from a template, send, terminate. On the gateway's loop."""

import asyncio
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Final

from commitcast.actors.directory import Directory
from commitcast.actors.errors import TemplateFullError, TemplateNotFoundError
from commitcast.actors.handle import AgentHandle
from commitcast.actors.launching import Launch, Launcher
from commitcast.actors.templates import Template, checked_templates
from commitcast.persistence.errors import IdempotencyConflictError, IllegalTransitionError
from commitcast.persistence.records import AgentRecord, MessageRecord
from commitcast.persistence.store import Reader

_RANDOM_BYTES: Final = 8
"""At the end of an agent's id, twice as many characters."""


class RuntimeOperations:
    """Implements `AgentControl` of the gateway."""

    def __init__(
        self,
        templates: Mapping[str, Template],
        store: Reader,
        launcher: Callable[[], Launcher],
        directory: Directory,
        handle: Callable[[str], AgentHandle],
    ) -> None:
        """Make it.

        Args:
            templates: what may be launched, by name.
            store: to read from.
            launcher: returns the launcher of the running runtime.
            directory: of agents that have an actor.
            handle: returns the handle of an agent.
        """
        self._templates = checked_templates(templates)
        self._store = store
        self._launcher = launcher
        self._directory = directory
        self._handle = handle
        self._rooms = {name: _Room(name, template, directory) for name, template in self._templates.items()}

    async def launch(self, template: str, prompt: str, *, key: str | None, prefix: str) -> AgentRecord:
        """Launch an agent from a template."""
        found = self._templates.get(template)
        if found is None:
            raise TemplateNotFoundError(template)
        agent = f"{prefix}{template}-{secrets.token_hex(_RANDOM_BYTES)}"
        launch = Launch(found.source, found.type, prompt, found.configuration, agent, key, found.restart)
        room = self._rooms[template]
        if key is None or await asyncio.to_thread(self._store.launched, key) is None:  # else it is only asked for again
            room.check(prefix)
        room.launching[prefix] += 1
        try:
            launched = await self._launcher().launch(launch)
        finally:
            room.launching[prefix] -= 1
        if key is not None and launched[: -2 * _RANDOM_BYTES] != agent[: -2 * _RANDOM_BYTES]:
            raise IdempotencyConflictError(key, "agent")  # the store compares what was asked, and knows no templates
        room.at_work[prefix].add(launched)
        return await self._handle(launched).arecord()

    async def send(self, agent: str, content: str, *, key: str | None) -> MessageRecord:
        """Store a user's message and deliver it."""
        said = None if key is None else await asyncio.to_thread(self._store.keyed, agent, key)
        if said is not None and said.content == content:  # also if the agent has ended meanwhile, and takes no more
            return said
        return await self._handle(agent).asend(content, key=key)

    async def terminate(self, agent: str, reason: str | None) -> AgentRecord:
        """End an agent, or find it ended."""
        try:
            return await self._handle(agent).terminate(reason)
        except IllegalTransitionError:
            return await self._handle(agent).arecord()


class _Room:
    """How many agents of one template are at work, for each tenant and in all."""

    def __init__(self, name: str, template: Template, directory: Directory) -> None:
        self.at_work: defaultdict[str, set[str]] = defaultdict(set)
        """By the prefix of their ids, which is the tenant's; those that have ended meanwhile too."""
        self.launching: Counter[str] = Counter()
        """By the same, that are on their way to the disk."""
        self._name = name
        self._template = template
        self._directory = directory

    def check(self, prefix: str) -> None:
        """Check that another one may be launched.

        Raises:
            TemplateFullError: as many are at work as may be.
        """
        self._forget_ended()
        if self._count(prefix) >= self._template.max_running:
            raise TemplateFullError(self._name, self._template.max_running)
        if sum(map(self._count, {*self.at_work, *self.launching})) >= self._template.max_running_in_all:
            raise TemplateFullError(self._name, self._template.max_running_in_all, in_all=True)

    def _count(self, prefix: str) -> int:
        return len(self.at_work.get(prefix, ())) + self.launching[prefix]

    def _forget_ended(self) -> None:
        for prefix, agents in list(self.at_work.items()):
            agents -= {agent for agent in agents if agent not in self._directory}
            if not agents:
                del self.at_work[prefix]
        self.launching = +self.launching
