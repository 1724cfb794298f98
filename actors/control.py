"""Carries out the requests of the gateway's clients: launch from a template, send, terminate. On the gateway's loop."""

import asyncio
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

from commitcast.actors.directory import Directory
from commitcast.actors.errors import TemplateFullError, TemplateNotFoundError
from commitcast.actors.handle import AgentHandle
from commitcast.actors.launching import Launch
from commitcast.actors.system import ActorSystem
from commitcast.actors.templates import Template
from commitcast.persistence.errors import IdempotencyConflictError, IllegalTransitionError
from commitcast.persistence.records import AgentRecord, MessageRecord

_RANDOM_BYTES: Final = 8
"""At the end of an agent's id, twice as many characters."""


class RuntimeControl:
    """Implements the gateway's `AgentControl`."""

    def __init__(self, templates: Mapping[str, Template], system: ActorSystem) -> None:
        """Make it.

        Args:
            templates: what may be launched, by name; checked.
            system: the actors of the runtime.
        """
        self._templates = templates
        self._system = system
        self._quotas = {name: _Quota(name, template, system.directory) for name, template in templates.items()}

    async def launch(self, template: str, prompt: str, *, key: str | None, prefix: str) -> AgentRecord:
        """Launch an agent from a template."""
        chosen = self._templates.get(template)
        if chosen is None:
            raise TemplateNotFoundError(template)
        agent = f"{prefix}{template}-{secrets.token_hex(_RANDOM_BYTES)}"
        launch = Launch(chosen.source, chosen.type, prompt, chosen.configuration, agent, key, chosen.restart)
        quota = self._quotas[template]
        if key is None or await asyncio.to_thread(self._system.reader.launched, key) is None:  # else it is a repeat
            quota.check(prefix)
        quota.launching[prefix] += 1
        try:
            launched = await self._system.launcher.launch(launch)
        finally:
            quota.launching[prefix] -= 1
        if key is not None and launched[: -2 * _RANDOM_BYTES] != agent[: -2 * _RANDOM_BYTES]:
            raise IdempotencyConflictError(key, "agent")  # the store compares the request, and does not know templates
        quota.at_work[prefix].add(launched)
        return await self._handle(launched).arecord()

    async def send(self, agent: str, content: str, *, key: str | None) -> MessageRecord:
        """Store a user's message and deliver it."""
        stored = None if key is None else await asyncio.to_thread(self._system.reader.keyed, agent, key)
        if stored is not None and stored.content == content:  # also if the agent has ended meanwhile
            return stored
        return await self._handle(agent).asend(content, key=key)

    async def terminate(self, agent: str, reason: str | None) -> AgentRecord:
        """End an agent, or find it ended."""
        try:
            return await self._handle(agent).terminate(reason)
        except IllegalTransitionError:
            return await self._handle(agent).arecord()

    def _handle(self, agent: str) -> AgentHandle:
        return AgentHandle(agent, self._system)


class _Quota:
    """How many agents of one template are at work, for each tenant and in all."""

    def __init__(self, name: str, template: Template, directory: Directory) -> None:
        self.at_work: defaultdict[str, set[str]] = defaultdict(set)
        """By the prefix of their ids, which is the tenant's; also agents that have ended meanwhile."""
        self.launching: Counter[str] = Counter()
        """By the same, agents that are being created."""
        self._name = name
        self._template = template
        self._directory = directory

    def check(self, prefix: str) -> None:
        """Check that one more agent may be launched.

        Raises:
            TemplateFullError: the limit is reached.
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
            agents -= {agent for agent in agents if not self._directory.is_at_work(agent)}
            if not agents:
                del self.at_work[prefix]
        self.launching = +self.launching
