"""Plays a case against a client: acts as its server, and as the application that takes its messages.

The adapter starts the client's subscription, and shortens its reconnect delays, because a case expects it to reconnect
within seconds. Runs on the caller's event loop.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from cases import SUBPROTOCOL, Case, Fields
from matching import Captures, Mismatch, fill, match, shown, written_out
from scripted import UNASKED, Heard, ScriptedServer

TIMEOUT_S: Final = 5.0
"""For each thing that is to come. A client that passes needs milliseconds."""
QUIET_S: Final = 0.02
"""After the last step, for what a client should not do. A longer time finds more faults."""
_WELCOME: Final[Fields] = {
    "type": "welcome",
    "protocol": SUBPROTOCOL,
    "server": "conformance",
    "session": "5e55",
    "heartbeat_s": 15.0,
    "limits": {"subscriptions": 1024},
}


class ClientFailed(Exception):
    """The client failed for good, and reported that to its application with a code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Follower(Protocol):
    """One subscription of the client under test, as its application sees it."""

    async def take(self) -> Fields | None:
        """Wait for the next message and return it as an item; None at the end.

        Raises:
            ClientFailed: the client gave up for good.
        """

    async def standing(self) -> Fields:
        """Return `cursor`, `epoch`, `status` and, if there are such things, `skipped`."""

    async def close(self) -> None:
        """End it; a `take` that waits returns None."""


class ClientUnderTest(Protocol):
    """The methods of a client that the runner needs."""

    def follow(self, url: str, given: Fields) -> Follower:
        """Subscribe at a URL, with what a case is given: `agent`, `after`, `epoch`, `raw`, `window`, `slow`, `token`.

        `tokens` stands for a function that returns the first of them, then the next, and so on.
        """


async def run_client_case(case: Case, client: ClientUnderTest, *, timeout_s: float = TIMEOUT_S) -> None:
    """Play a case against a client.

    Args:
        case: one of `load_cases("client")`.
        client: what makes one.
        timeout_s: how long to wait for each thing that is to come.

    Raises:
        Mismatch: the client does not do what the case says; the error says at which step.
    """
    async with ScriptedServer() as server:
        follower = client.follow(server.url, case.given)
        playing = _Playing(server, follower, case.given.get("takes"), timeout_s)
        try:
            for number, step in enumerate(case.steps, 1):
                try:
                    await playing.play(step)
                except Mismatch as error:
                    raise Mismatch(f"{case.name}: step {number}, {next(iter(step))}: {error}") from error
            await playing.finish(case)
        finally:
            await follower.close()
            await playing.close()


class _Playing:
    def __init__(self, server: ScriptedServer, follower: Follower, takes: int | None, timeout_s: float) -> None:
        self._server = server
        self._follower = follower
        self._timeout_s = timeout_s
        self._captures: Captures = {}
        self._taken: list[Fields] = []
        self._seen = 0
        self._may_take = takes
        self._failed: ClientFailed | None = None
        self._is_over = False
        self._may_be_over = False
        self._taking = asyncio.create_task(self._take())
        self._more = asyncio.Event()

    async def _take(self) -> None:
        """Be the application: take what there is, but no more than it may."""
        try:
            while True:
                while self._may_take is not None and len(self._taken) >= self._may_take:
                    self._more.clear()
                    await self._more.wait()
                taken = await self._follower.take()
                if taken is None:
                    break
                self._taken.append(taken)
                self._server.news.set()
        except ClientFailed as error:
            self._failed = error
        self._is_over = True
        self._server.news.set()

    async def _wait(self, is_there: Callable[[], Any], what: str) -> None:
        server = self._server
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while not is_there() and server.failure is None:
                    server.news.clear()
                    await server.news.wait()
        if self._taking.done():
            self._taking.result()
        if server.failure is not None:
            raise server.failure
        if not is_there():
            heard = [] if server.heard is None else list(server.heard.frames)
            failed = "" if self._failed is None else f"; it failed with {self._failed.code}"
            raise Mismatch(f"{what} did not come; the client said {shown(heard)}{failed}")

    @property
    def _heard(self) -> Heard:
        if self._server.heard is None:
            raise Mismatch("there was no connection yet")
        return self._server.heard

    async def play(self, step: Fields) -> None:
        """Play a step."""
        ((action, of_it),) = step.items()
        match action:
            case "accept":
                await self._accept(of_it)
            case "refuse":
                await self._wait(lambda: self._server.asking, "a handshake")
                self._server.refuse(of_it["status"])
            case "expect":
                await self._expect(of_it)
            case "resubscribes":
                await self._resubscribes(of_it)
            case "send":
                for frame in of_it if isinstance(of_it, list) else [of_it]:
                    await self._heard.send(fill(frame, self._captures))
            case "close":
                await self._server.end(of_it["code"], of_it.get("reason", ""))
            case "cut":
                await self._server.end(None)
            case _:
                await self._on_application(action, of_it)

    async def _on_application(self, action: str, of_it: Any) -> None:
        match action:
            case "take":
                self._may_take = (self._may_take or 0) + of_it
                self._more.set()
            case "yields":
                await self._yields(of_it)
            case "ends":
                await self._over("the end")
                if self._failed is not None:
                    raise Mismatch(f"the client failed with {self._failed.code}")
                match(of_it, await self._follower.standing(), self._captures)
            case "fails":
                await self._over("the failure")
                match(of_it, {"code": None if self._failed is None else self._failed.code}, self._captures)
            case _:
                raise ValueError(f"a case says {action}, and nobody knows what that is")

    async def _over(self, what: str) -> None:
        await self._wait(lambda: self._is_over, what)
        self._may_be_over = True

    async def _accept(self, wish: Fields) -> None:
        await self._wait(lambda: self._server.asking, "a handshake")
        before = self._server.heard
        self._server.admit(wish.get("after_ms", 0))
        await self._wait(lambda: self._server.heard is not before, "a connection")
        await self._heard.send(_WELCOME | wish.get("welcome", {}))

    async def _expect(self, pattern: Fields) -> None:
        wanted = pattern["type"]
        await self._wait(lambda: self._next(wanted) is not None, shown(pattern))
        found = self._next(wanted)
        while wanted == "ack" and found is not None and _is_earlier(found, pattern):
            self._heard.frames.popleft()
            await self._wait(lambda: self._next(wanted) is not None, shown(pattern))
            found = self._next(wanted)
        match(pattern, found, self._captures)
        self._heard.frames.popleft()

    def _next(self, wanted: str) -> Fields | None:
        """Return the next frame that is not one of those that may come at any time."""
        frames = self._heard.frames
        while frames and frames[0]["type"] in UNASKED and frames[0]["type"] != wanted:
            frames.popleft()
        return frames[0] if frames else None

    async def _resubscribes(self, pattern: Fields) -> None:
        """On the connection that there is, or on another: a client may choose."""
        wanted = "subscribe"
        await self._wait(lambda: self._server.asking or self._next(wanted) is not None, shown(pattern))
        if self._server.asking:
            await self._accept({})
        await self._expect(pattern)

    async def _yields(self, patterns: list[Any]) -> None:
        """Compare with what the application was given since the last time; a number stands for a sequence."""
        patterns = written_out(patterns, lambda sequence: sequence)
        until = self._seen + len(patterns)
        await self._wait(lambda: len(self._taken) >= until or self._is_over, f"to be given {shown(patterns)}")
        given, self._seen = self._taken[self._seen :], len(self._taken)
        written = [{"sequence": each} if isinstance(each, int) else each for each in patterns]
        match(written, given, self._captures)

    async def finish(self, case: Case) -> None:
        """See that the client said and did nothing but what was expected."""
        if not self._may_be_over:
            await asyncio.sleep(QUIET_S)
        has_failed = self._failed is not None  # what it said before it heard of that is not judged
        left = (
            []
            if has_failed or self._server.heard is None
            else [frame for frame in self._heard.frames if frame["type"] not in UNASKED]
        )
        extra = self._taken[self._seen :]
        for what, found in (("said", left), ("gave out", extra), ("asked to come in", self._server.asking)):
            if found:
                raise Mismatch(f"{case.name}: at the end the client {what}, and was not to: {shown(list(found))}")
        if self._is_over and not self._may_be_over:
            raise Mismatch(f"{case.name}: at the end the client was through, and was not to be")
        if self._server.failure is not None:
            raise self._server.failure

    async def close(self) -> None:
        """Take nothing more."""
        self._taking.cancel()
        with suppress(asyncio.CancelledError):
            await self._taking


def _is_earlier(ack: Fields, pattern: Fields) -> bool:
    return any(ack["agent"].get(agent, 0) < cursor for agent, cursor in pattern["agent"].items())
