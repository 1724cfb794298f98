"""Our server, as the conformance suite needs it: in this process, or in one that a runner can kill.

    python tests/conformance/play.py -- python tests/conformance/our_server.py

plays the suite against it from outside, as against a foreign server: the program below is an example of what
such a server needs.
"""

import argparse
import asyncio
import base64
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from cases import Fields
from commitcast.actors import AgentContext, AgentRuntime, Template
from commitcast.gateway import Capability, Grant, Limits, Permission, TokenError
from matching import fill


def echo(context: AgentContext) -> Iterator[str]:
    """Say what it was asked, and be done."""
    yield f"was asked: {context.prompt}"


def waits(context: AgentContext) -> Iterator[str]:
    """Say nothing until it is ended."""
    context.cancelled.wait()
    yield from ()


TEMPLATES: Final = {"echo": echo, "waits": waits}
DELETED_AT: Final = "2026-01-02T03:04:05.000006Z"


class OurServer:
    """A runtime with its gateway, on a file."""

    def __init__(self, folder: Path) -> None:
        """Name an empty folder for its files."""
        self._paths = (folder / f"{number}.db" for number in itertools.count())
        self._path = next(self._paths)
        self._options: dict[str, Any] = {}
        self._runtime: AgentRuntime | None = None

    async def make(self, given: Fields) -> str:
        """Start it, and let its agents be as given."""
        callers = given.get("callers")
        self._options = {
            "token": Callers(callers) if callers else None,
            "templates": {name: Template(TEMPLATES[name]) for name in given.get("templates", ())},
            "limits": Limits(**given.get("limits", {})),
            "heartbeat_s": given.get("heartbeat_s", 15.0),
        }
        url = await self._start()
        for agent in given.get("agents", ()):
            await self.create(agent)
        return url

    async def _start(self) -> str:
        self._runtime = AgentRuntime(self._path, listen="127.0.0.1:0", **self._options)
        await asyncio.to_thread(self._runtime.start)
        return str(self._runtime.url)

    @property
    def runtime(self) -> AgentRuntime:
        """That is running."""
        assert self._runtime is not None
        return self._runtime

    async def create(self, agent: Fields) -> None:
        """Create an agent, and let it live as far as it says."""
        id, status = agent["id"], agent.get("status", "running")
        handle = await self.runtime.alaunch(id=id, type=agent.get("type"), prompt=agent.get("prompt", ""))
        if status == "initializing":
            return
        await handle.start()
        for message in agent.get("messages", ()):
            await self.say(id, fill(message, {}))
        if status == "completed":
            await self.complete(id, agent.get("result"))
        elif status == "failed":
            await self.fail(id, **agent["error"])
        for message in agent.get("late", ()):
            await self.say(id, message)

    async def say(self, agent: str, message: Fields) -> None:
        """Store a message, or as many as it says."""
        handle = self.runtime.agent(agent)
        if "count" in message:
            await asyncio.gather(*(handle.aemit(str(number)) for number in range(1, message["count"] + 1)))
            return
        raw = message.get("raw")
        if isinstance(raw, dict):
            raw = base64.b64decode(raw["base64"])
        options: dict[str, Any] = message | {"raw": raw}
        await handle.aemit(**options)

    async def complete(self, agent: str, result: Any) -> None:
        """End an agent well."""
        await self.runtime.agent(agent).complete(result)

    async def fail(self, agent: str, name: str, message: str) -> None:
        """Let an agent fail."""
        await self.runtime.agent(agent).fail(message, name=name)

    async def delete(self, agent: str) -> None:
        """Do what will delete agents: take the rows away, and note at which position that was."""
        connection = apsw.Connection(str(self._path))
        connection.set_busy_timeout(1000)
        connection.execute("PRAGMA foreign_keys = ON")
        with connection:
            connection.execute("DELETE FROM agents WHERE id = ?; UPDATE positions SET last = last + 1", (agent,))
            connection.execute("INSERT INTO agent_deletions SELECT last, ?, ? FROM positions", (agent, DELETED_AT))
        connection.close()

    async def stop(self) -> None:
        """Stop it."""
        if self._runtime is not None:
            await asyncio.to_thread(self._runtime.stop)

    async def restart(self) -> str:
        """Stop it and start it again, on the same file."""
        await self.stop()
        return await self._start()

    async def start_over(self) -> str:
        """Stop it and start it again, on a new file."""
        self._path = next(self._paths)
        return await self.restart()


class Callers:
    """A verifier of the tokens that a case accepts."""

    def __init__(self, callers: Fields) -> None:
        """Take the `callers` of a case."""
        self._grants = {token: grant_of(token, facts) for token, facts in callers.items()}

    def verify(self, token: str) -> Grant:
        """Return the grant of a token."""
        if token not in self._grants:
            raise TokenError("this token is not accepted")
        return self._grants[token]


def grant_of(token: str, facts: Fields) -> Grant:
    """Return the rights of a token of a case."""
    rights = tuple(Capability(agent, frozenset(map(Permission, operations))) for agent, operations in facts["rights"])
    expires_in_s = facts.get("expires_in_s")
    return Grant(token, rights, None if expires_in_s is None else time.time() + expires_in_s)


class Program:
    """Runs the server, and carries out the runner's commands."""

    server: OurServer

    async def do(self, what: str, asked: Fields) -> Fields:
        """Do it, and return the answer."""
        match what:
            case "start":
                self.server = OurServer(Path(asked["folder"]))
                return {"url": await self.server.make(asked["given"])}
            case "create":
                await self.server.create(asked)
            case "say":
                await self.server.say(asked.pop("agent"), asked)
            case "complete":
                await self.server.complete(asked["agent"], asked.get("result"))
            case "fail":
                await self.server.fail(**asked)
            case "delete":
                await self.server.delete(asked["agent"])
            case "stop":
                await self.server.stop()
            case _:
                raise ValueError(f"nobody knows how to {what}")
        return {}


def main() -> None:
    """Answer each line with one, until there are no more."""
    argparse.ArgumentParser(description="Serve the conformance suite: commands in, answers out.").parse_args()
    program = Program()
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            asked = json.loads(line)
            answer = runner.run(program.do(asked.pop("do"), asked))
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
