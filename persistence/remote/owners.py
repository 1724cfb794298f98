"""Which host each agent at work belongs to. Kept by the server for all hosts, and by each host for its own. Pure.

An agent belongs to the host that has created it, until its end is committed. One thread notes; any may read.
"""

from typing import Any

from commitcast.persistence.writes import AgentWrites, Outcome

Owner = Any
"""A host; compared by identity."""


class Owners:
    """The host of each agent that is at work."""

    def __init__(self) -> None:
        self._of: dict[str, Owner] = {}
        self._agents: dict[Owner, set[str]] = {}

    def of(self, agent: str) -> Owner | None:
        """Return the host of an agent; None if it is not at work."""
        return self._of.get(agent)

    def agents(self, owner: Owner) -> set[str]:
        """Return the agents at work of a host."""
        return set(self._agents.get(owner, ()))

    def may_write(self, owner: Owner, agent: str) -> bool:
        """Whether a host may write to an agent: it is its own, or not at work."""
        return self._of.get(agent, owner) is owner

    def note(self, owner: Owner, agent: AgentWrites, outcome: Outcome) -> None:
        """Take note of what was committed: an agent that was created, or has ended."""
        committed = outcome.committed
        if committed is None or agent.only_plain_messages():
            return
        if committed.created is not None:
            self._of[agent.agent] = owner
            self._agents.setdefault(owner, set()).add(agent.agent)
        if any(change.status.is_terminal for change in committed.changes):
            self._forget(agent.agent)

    def _forget(self, agent: str) -> None:
        owner = self._of.pop(agent, None)
        agents = self._agents.get(owner)
        if agents is not None:
            agents.discard(agent)
            if not agents:
                del self._agents[owner]
