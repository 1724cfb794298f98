"""The conformance suite, played against our own server and our own clients; and proof that its cases can fail."""

import asyncio
import base64
import copy
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
import pytest

from commitcast.actors import AgentRuntime, Template
from commitcast.actors.sources.context import AgentContext
from commitcast.gateway import (
    BlockingSubscription,
    Limits,
    Subscription,
    SubscriptionError,
    comeback,
    frames,
    subscribe,
    subscribe_blocking,
)
from commitcast.gateway.auth import Grant, Operation
from commitcast.gateway.conformance import (
    Case,
    ClientFailed,
    ClientUnderTest,
    Fields,
    Mismatch,
    load_cases,
    run_client_case,
    run_server_case,
)
from commitcast.gateway.conformance.matching import fill
from hostile import Passes, allowed
from stores import AT
from waiting import SLOWNESS

ROOT: Final = Path(__file__).parents[2]
TIMEOUT_S: Final = 5.0 * SLOWNESS
MUTANT_TIMEOUT_S: Final = 0.3 * SLOWNESS
"""For what a changed case waits for in vain."""
SERVER: Final = load_cases("server")
CLIENT: Final = load_cases("client")
EXPECTING: Final = {"expect", "stream", "expect_close", "yields", "resubscribes"}
"""Steps without which something is left over at the end."""


# Our server.


def echo(context: AgentContext) -> Iterator[str]:
    """Say what it was asked, and be done."""
    yield f"was asked: {context.prompt}"


def waits(context: AgentContext) -> Iterator[str]:
    """Say nothing until it is ended."""
    context.cancelled.wait()
    yield from ()


TEMPLATES: Final = {"echo": echo, "waits": waits}


class OurServer:
    """A runtime with its gateway, on a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "a.db"
        self._options: dict[str, Any] = {}
        self._runtime: AgentRuntime | None = None

    async def make(self, given: Fields) -> str:
        """Start it, and let its agents be as given."""
        callers = given.get("callers")
        self._options = {
            "token": Passes(**{token: grant_of(token, rights) for token, rights in callers.items()})
            if callers
            else None,
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
        await handle.aemit(**{"type": "assistant"} | message | {"raw": raw})

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
            connection.execute("INSERT INTO agent_deletions SELECT last, ?, ? FROM positions", (agent, AT))
        connection.close()

    async def stop(self) -> None:
        """Stop it."""
        if self._runtime is not None:
            await asyncio.to_thread(self._runtime.stop)

    async def restart(self) -> str:
        """Stop it and start it again, on the same file."""
        await self.stop()
        return await self._start()


def grant_of(token: str, facts: Fields) -> Grant:
    rights = [(agent, [Operation(each) for each in operations]) for agent, operations in facts["rights"]]
    expires_in_s = facts.get("expires_in_s")
    return allowed(token, *rights, expires_at=None if expires_in_s is None else time.time() + expires_in_s)


@pytest.mark.parametrize("case", SERVER, ids=lambda case: case.name)
def test_our_server_passes(tmp_path: Path, case: Case, request: pytest.FixtureRequest) -> None:
    expect_defect(case, request)
    asyncio.run(run_server_case(case, OurServer(tmp_path), timeout_s=TIMEOUT_S))


# Our clients.


@pytest.fixture
def comes_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comeback, "BACKOFF_S", (0.005, 0.02))
    monkeypatch.setattr(comeback, "QUICK_S", 0.005)


def options_of(given: Fields) -> Fields:
    """The arguments of `subscribe` for what a case gives."""
    options = {name: given[name] for name in ("after", "epoch", "raw", "window", "slow", "token") if name in given}
    if "tokens" in given:
        options["token"] = iter(given["tokens"]).__next__
    return options


def fields_of(item: frames.Item) -> Fields:
    """A message as it stood on the wire."""
    fields: Fields = msgspec.to_builtins(item)
    return fields


class OurFollower:
    """What both of our clients have in common."""

    def __init__(self, subscription: Subscription | BlockingSubscription) -> None:
        self._subscription = subscription

    async def standing(self) -> Fields:
        """Return where it stands."""
        of = self._subscription
        return {"cursor": of.cursor, "epoch": of.epoch, "status": of.status, "skipped": of.skipped}


class AsyncFollower(OurFollower):
    """The asynchronous client."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription)
        self._items = aiter(subscription)
        self._ending = subscription.aclose
        self._taking: asyncio.Task[Any] | None = None

    async def take(self) -> Fields | None:
        """Return the next message."""
        self._taking = asyncio.ensure_future(anext(self._items))
        try:
            return fields_of(await self._taking)
        except StopAsyncIteration:
            return None
        except SubscriptionError as error:
            raise ClientFailed(str(error.error_code)) from error

    async def close(self) -> None:
        """End it."""
        if self._taking is not None and not self._taking.done():
            self._taking.cancel()
            await asyncio.wait([self._taking])
        await self._ending()


class BlockingFollower(OurFollower):
    """The client for plain threads."""

    def __init__(self, subscription: BlockingSubscription) -> None:
        super().__init__(subscription)
        self._items = iter(subscription)
        self._ending = subscription.close

    async def take(self) -> Fields | None:
        """Return the next message."""
        try:
            item = await asyncio.to_thread(next, self._items, None)
        except SubscriptionError as error:
            raise ClientFailed(str(error.error_code)) from error
        return None if item is None else fields_of(item)

    async def close(self) -> None:
        """End it."""
        await asyncio.to_thread(self._ending)


class AsyncClient:
    """Makes the asynchronous client."""

    def follow(self, url: str, given: Fields) -> AsyncFollower:
        """Subscribe."""
        return AsyncFollower(subscribe(url, given["agent"], **options_of(given)))


class BlockingClient:
    """Makes the client for plain threads."""

    def follow(self, url: str, given: Fields) -> BlockingFollower:
        """Subscribe."""
        return BlockingFollower(subscribe_blocking(url, given["agent"], **options_of(given)))


@pytest.mark.parametrize("client", [AsyncClient(), BlockingClient()], ids=["async", "blocking"])
@pytest.mark.parametrize("case", CLIENT, ids=lambda case: case.name)
@pytest.mark.usefixtures("comes_back_at_once")
def test_our_clients_pass(case: Case, client: ClientUnderTest, request: pytest.FixtureRequest) -> None:
    expect_defect(case, request)
    asyncio.run(run_client_case(case, client, timeout_s=TIMEOUT_S))


def expect_defect(case: Case, request: pytest.FixtureRequest) -> None:
    if case.known_defect is not None:
        request.node.add_marker(pytest.mark.xfail(reason=case.known_defect, raises=Mismatch, strict=False))


# The cases themselves.


def mutants(case: Case) -> Iterator[Case]:
    """The case with one expectation left out, and with one changed, for each."""
    for number, step in enumerate(case.steps):
        if EXPECTING & set(step):
            without = [*case.steps[:number], *case.steps[number + 1 :]]
            yield msgspec.structs.replace(case, steps=without)
            changed = copy.deepcopy(case.steps)
            if spoil(changed[number][next(iter(EXPECTING & set(step)))]):
                yield msgspec.structs.replace(case, steps=changed)


def spoil(pattern: Any) -> bool:
    """Change the last value in a pattern; return whether there was one."""
    places = reversed(list(pattern.items()) if isinstance(pattern, dict) else list(enumerate(pattern)))
    for place, value in places:
        if isinstance(value, dict | list):
            if spoil(value):
                return True
        elif not str(place).startswith("$"):
            pattern[place] = f"not {value}" if isinstance(value, str) else -7 if value is None else value + 1_000
            return True
    return False


async def survivors(case: Case, play: Callable[[Case], Awaitable[None]]) -> list[list[Fields]]:
    """The steps of each mutant that nothing is found wrong with."""
    left = []
    for mutant in mutants(case):
        try:
            await play(mutant)
        except Mismatch:
            continue
        left.append(mutant.steps)
    return left


@pytest.mark.parametrize("case", SERVER[::9], ids=lambda case: case.name)
def test_a_server_case_fails_without_each_expectation_and_with_each_one_changed(tmp_path: Path, case: Case) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())

    async def play(mutant: Case) -> None:
        folder = next(folders)
        folder.mkdir()
        await run_server_case(mutant, OurServer(folder), timeout_s=MUTANT_TIMEOUT_S)

    assert asyncio.run(survivors(case, play)) == []


@pytest.mark.parametrize("case", CLIENT[::7], ids=lambda case: case.name)
@pytest.mark.usefixtures("comes_back_at_once")
def test_a_client_case_fails_without_each_expectation_and_with_each_one_changed(case: Case) -> None:
    async def play(mutant: Case) -> None:
        await run_client_case(mutant, AsyncClient(), timeout_s=MUTANT_TIMEOUT_S)

    assert asyncio.run(survivors(case, play)) == []
