"""What the runtime does for clients of the gateway: launch from a template, send, terminate. On the gateway's loop."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping

from commitcast.actors.directory import Directory
from commitcast.actors.errors import TemplateFullError, TemplateNotFoundError
from commitcast.actors.handle import AgentHandle
from commitcast.actors.launching import Launch, Launcher
from commitcast.actors.templates import Template, checked_templates
from commitcast.persistence.errors import IllegalTransitionError
from commitcast.persistence.records import AgentRecord, MessageRecord
from commitcast.persistence.store import Store


class RuntimeOperations:
    """Implements `gateway.operations.Operations`."""

    def __init__(
        self,
        templates: Mapping[str, Template],
        store: Store,
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
        self._at_work: dict[str, set[str]] = {name: set() for name in self._templates}
        self._launching: Counter[str] = Counter()

    async def launch(self, template: str, prompt: str, *, key: str | None, prefix: str) -> AgentRecord:
        """Launch an agent from a template."""
        found = self._templates.get(template)
        if found is None:
            raise TemplateNotFoundError(template)
        agent = f"{prefix}{template}-{secrets.token_hex(8)}"
        launch = Launch(found.source, found.type, prompt, found.configuration, agent, key, found.restart)
        if key is None or await asyncio.to_thread(self._store.launched, key) is None:  # else it is only asked for again
            self._check_room(template, found.max_running)
        self._launching[template] += 1
        try:
            launched = await self._launcher().launch(launch)
        finally:
            self._launching[template] -= 1
        self._at_work[template].add(launched)
        return await self._handle(launched).arecord()

    def _check_room(self, template: str, most: int) -> None:
        at_work = self._at_work[template]
        at_work -= {agent for agent in at_work if agent not in self._directory}
        if len(at_work) + self._launching[template] >= most:
            raise TemplateFullError(template, most)

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
