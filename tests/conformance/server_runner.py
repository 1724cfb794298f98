"""Plays a case against a server: opens connections, sends frames, and checks the frames that it receives.

The adapter starts the server and lets its agents emit messages; `command.CommandServer` is the adapter for a server
that another program runs. Runs on the caller's event loop.
"""

import asyncio
import base64
import itertools
from contextlib import suppress
from typing import Any, Final, Protocol, runtime_checkable

from cases import Case, Fields
from kept import check_kept
from link import Link, expect_refused, expect_stranger, open_link
from matching import Captures, Mismatch, fill, written_out

TIMEOUT_S: Final = 5.0
"""For each thing that is to come. A server that passes needs milliseconds."""


class ServerUnderTest(Protocol):
    """The methods of a server that the runner needs. Each call returns once its effect is durable, or done."""

    async def make(self, given: Fields) -> str:
        """Start a server with what a case is given; return the URL of its WebSocket."""

    async def create(self, agent: Fields) -> None:
        """Create an agent, with the fields of `given.agents`."""

    async def say(self, agent: str, message: Fields) -> None:
        """Have an agent say something."""

    async def complete(self, agent: str, result: Any) -> None:
        """Have an agent end well."""

    async def fail(self, agent: str, name: str, message: str) -> None:
        """Have an agent fail."""

    async def delete(self, agent: str) -> None:
        """Delete an agent with all its messages, as the server's owner."""

    async def stop(self) -> None:
        """Stop in order. Idempotent; called at the end of each case too."""

    async def restart(self) -> str:
        """Stop in order and start again with the same store; return the URL."""

    async def start_over(self) -> str:
        """Stop in order and start again with an empty store; return the URL."""


@runtime_checkable
class KillableServer(ServerUnderTest, Protocol):
    """A server for the cases that need `kill`."""

    async def kill(self) -> str:
        """Kill it at once, without a word to it, and start it again with the same store; return the URL.

        A call that is still waiting for an answer raises ConnectionError.
        """


async def run_server_case(case: Case, server: ServerUnderTest, *, timeout_s: float = TIMEOUT_S) -> None:
    """Play a case against a server.

    Args:
        case: one of `load_cases("server")`.
        server: a new one, for this case alone.
        timeout_s: how long to wait for each thing that is to come.

    Raises:
        Mismatch: the server does not do what the case says; the error says at which step.
    """
    playing = _Playing(server, timeout_s)
    try:
        playing.url = await server.make(case.given)
        for number, step in enumerate(case.steps, 1):
            try:
                await playing.play(step)
            except Mismatch as error:
                raise Mismatch(f"{case.name}: step {number}, {list(step)[-1]}: {error}") from error
        await playing.finish(case)
    finally:
        await playing.close()
        await server.stop()


class _Playing:
    def __init__(self, server: ServerUnderTest, timeout_s: float) -> None:
        self.url = ""
        self._server = server
        self._timeout_s = timeout_s
        self._links: dict[str, Link] = {}
        self._captures: Captures = {}

    async def play(self, step: Fields) -> None:
        """Play a step."""
        ((action, of_it),) = ((name, value) for name, value in step.items() if name != "on")
        on = step.get("on", "main")
        if action == "connect":
            self._links[on] = await open_link(self.url, of_it, self._captures, self._timeout_s)
        elif action == "expect_refused":
            await expect_refused(self.url, of_it)
        elif action == "expect_stranger":
            await expect_stranger(self.url, of_it, self._timeout_s)
        elif action == "kill":
            await self._kill(on, of_it)
        elif on in self._links and action in _OF_LINK:
            await self._on_link(self._links[on], action, of_it)
        else:
            await self._on_server(action, of_it)

    async def _on_link(self, link: Link, action: str, of_it: Any) -> None:
        match action:
            case "send":
                await link.send(fill(of_it, self._captures))
            case "send_often":
                for _ in range(of_it["times"]):
                    await link.send(of_it["frame"])
            case "send_text":
                text = fill(of_it, self._captures)
                await link.send_data("".join(text) if isinstance(text, list) else text)
            case "send_binary":
                await link.send_data(base64.b64decode(of_it))
            case "expect":
                await link.expect(of_it)
            case "stream":
                await link.stream(
                    of_it["agent"], written_out(of_it["entries"], lambda sequence: {"item": {"sequence": sequence}})
                )
            case "expect_none":
                await link.expect_none()
            case "expect_close":
                await link.expect_close(of_it)
            case "cut":
                await link.cut()
            case "keeps":
                await check_kept(self.url, link.streams[of_it["agent"]], self._timeout_s)

    async def _on_server(self, action: str, of_it: Any) -> None:
        server = self._server
        match action:
            case "create":
                await server.create(of_it)
            case "say":
                await server.say(of_it["agent"], fill({k: v for k, v in of_it.items() if k != "agent"}, {}))
            case "complete":
                await server.complete(of_it["agent"], of_it.get("result"))
            case "fail":
                await server.fail(of_it["agent"], of_it["name"], of_it["message"])
            case "delete":
                await server.delete(of_it["agent"])
            case "stop":
                await server.stop()
            case "restart":
                self.url = await server.restart()
            case "start_over":
                self.url = await server.start_over()
            case _:
                raise ValueError(f"a case says {action}, and nobody knows what that is")

    async def _kill(self, on: str, of_it: Fields) -> None:
        """Kill the server, perhaps while agents emit: as soon as that many messages came."""
        server = self._server
        if not isinstance(server, KillableServer):
            raise TypeError("this case kills the server, which its adapter cannot: leave out what needs `kill`")
        saying = asyncio.create_task(_say_on(server, of_it.get("saying", [])))
        try:
            await self._links[on].until_given(of_it.get("after", 0))
            self.url = await server.kill()
        finally:
            saying.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await saying
        for link in self._links.values():
            await link.lose()

    async def finish(self, case: Case) -> None:
        """See that nothing came but what was expected."""
        for name, link in self._links.items():
            try:
                await link.finish()
            except Mismatch as error:
                raise Mismatch(f"{case.name}: at the end, on {name}: {error}") from error

    async def close(self) -> None:
        """End all connections."""
        for link in self._links.values():
            await link.close()


async def _say_on(server: ServerUnderTest, agents: list[str]) -> None:
    """Have agents say one message after another, in turns, until the server is gone."""
    for number, agent in enumerate(itertools.cycle(agents), 1):
        await server.say(agent, {"content": str(number)})


_OF_LINK: Final = frozenset(
    {
        "send",
        "send_often",
        "send_text",
        "send_binary",
        "expect",
        "stream",
        "expect_none",
        "expect_close",
        "cut",
        "keeps",
    }
)
