"""One connection of the runner to a server: sends frames, and waits for frames. Runs on the runner's loop."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from cases import SUBPROTOCOL, Fields
from lanes import Lanes, Stream
from matching import Captures, Mismatch, match, matches, shown

QUIET_S: Final = 0.02
"""Between the pings that show that nothing more comes: a server may still be reading when it answers the first. A
longer time finds more faults, and a shorter one none that is not there."""
_BEARER: Final = "commitcast.bearer."
_WELCOME: Final[Fields] = {
    "type": "welcome",
    "protocol": SUBPROTOCOL,
    "server": {"$any": "text"},
    "session": {"$any": "text"},
    "heartbeat_s": {"$any": "number"},
    "limits": {"$any": "object"},
}


class Link:
    """A connection that was welcomed. Made by `open_link`."""

    def __init__(self, connection: ClientConnection, captures: Captures, timeout_s: float) -> None:
        self.connection = connection
        self._captures = captures
        self._timeout_s = timeout_s
        self._lanes = Lanes()
        self._news = asyncio.Event()
        self._failure: Exception | None = None
        self._pings = 0
        self._is_over = False
        self._may_be_over = False
        self._reader = asyncio.create_task(self._read())

    @property
    def streams(self) -> dict[str, Stream]:
        """Its subscriptions."""
        return self._lanes.streams

    async def _read(self) -> None:
        try:
            async for data in self.connection:
                self._lanes.take(_frame(data))
                self._news.set()
        except ConnectionClosed:
            pass
        except Exception as error:  # whatever the server said wrong, the step that waits shall say so
            self._failure = Mismatch(f"a frame lacks something: {error!r}") if isinstance(error, LookupError) else error
        self._is_over = True
        self._news.set()

    async def _wait(self, is_there: Callable[[], object], what: str) -> None:
        found: object = None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                while not (found := is_there()) and self._failure is None and not self._is_over:
                    self._news.clear()
                    await self._news.wait()
        if self._failure is not None:
            raise self._failure
        if not found:
            how = f"closed with {self.connection.close_code}" if self._is_over else "open"
            came = shown(self._lanes.left)
            raise Mismatch(f"{what} did not come; the connection is {how}, and this came: {came}")

    async def send(self, frame: Any) -> None:
        """Send a frame, or any JSON."""
        self._lanes.asked(frame)
        await self.send_data(json.dumps(frame, ensure_ascii=False))

    async def send_data(self, data: str | bytes) -> None:
        """Send text or bytes; that the server has closed meanwhile is told by the next step."""
        with suppress(ConnectionClosed):
            await self.connection.send(data)

    async def expect(self, pattern: Fields) -> None:
        """Take the next frame of a lane, which must match; of heartbeats, the first that does."""
        lane = self._lanes.lane_of(pattern)
        if pattern["type"] == "heartbeat":
            await self._wait(lambda: self._has(lane, pattern), f"a heartbeat like {shown(pattern)}")
            return
        await self._wait(lambda: lane, shown(pattern))
        frame = lane.popleft()
        try:
            match(pattern, frame, self._captures)
        except Mismatch as error:
            raise Mismatch(f"{error}; this came: {shown(frame)}") from error

    def _has(self, lane: deque[Fields], pattern: Fields) -> bool:
        while lane:
            if matches(pattern, lane.popleft(), self._captures):
                return True
        return False

    async def stream(self, agent: str, entries: list[Fields]) -> None:
        """Take the next entries of a subscription, which must match, one by one."""
        for pattern in entries:
            await self._wait(lambda: self._lanes.entries_of(agent), f"of {agent}: {shown(pattern)}")
            match(pattern, self._lanes.entries_of(agent).popleft(), self._captures)

    async def until_live(self, agent: str) -> list[Fields]:
        """Wait until a subscription is live; return all that came of it."""
        await self._wait(lambda: self._lanes.streams[agent].is_live, f"live, of {agent},")
        return self._lanes.streams[agent].heard

    async def until_given(self, messages: int) -> None:
        """Wait until that many messages came, over all subscriptions."""
        await self._wait(
            lambda: sum(stream.items for stream in self.streams.values()) >= messages, f"{messages} messages"
        )

    async def expect_none(self) -> None:
        """See that two pings are answered, and that nothing else has come but what was expected."""
        await self._ping()
        await asyncio.sleep(QUIET_S)
        await self._ping()
        if self._lanes.left:
            raise Mismatch(f"this was not expected: {shown(self._lanes.left)}")

    async def _ping(self) -> None:
        self._pings += 1
        id = f"is that all? {self._pings}"
        await self.send({"type": "ping", "id": id})
        lane = self._lanes.replies.setdefault(id, deque())
        await self._wait(lambda: lane, "the answer to a ping")
        del self._lanes.replies[id]

    async def expect_close(self, pattern: Fields) -> None:
        """Wait until the server has closed; what it said before must match, and its code must be the close code."""
        await self._wait(lambda: self._is_over, "a close")
        self._may_be_over = True
        goodbye = self._lanes.goodbye
        if goodbye is None:
            raise Mismatch(f"it was closed with {self.connection.close_code}, and without a goodbye before it")
        match(pattern | {"code": self.connection.close_code}, goodbye, self._captures)
        match(pattern, goodbye, self._captures)
        left = [frame for frame in self._lanes.left if frame is not goodbye and not _is_general(frame)]
        if left:
            raise Mismatch(f"this was not expected before the close: {shown(left)}")

    async def finish(self) -> None:
        """See that nothing has come but what was expected, and no close."""
        if not self._may_be_over:
            await self.expect_none()

    async def lose(self) -> None:
        """Read what is still on its way from a server that is gone."""
        self._may_be_over = True
        await self._wait(lambda: self._is_over, "the end of the connection to a server that is gone")

    async def cut(self) -> None:
        """Be gone without a word."""
        self._may_be_over = True
        self.connection.transport.abort()
        await self._reader

    async def close(self) -> None:
        """End it as a client does that has what it wanted."""
        await self.connection.close()
        await self._reader


def _is_general(frame: Fields) -> bool:
    """Whether it is an error about the connection: a server may say so before the goodbye."""
    return frame.get("type") == "error" and frame.get("id") is None and frame.get("agent") is None


def _frame(data: str | bytes) -> Fields:
    if isinstance(data, bytes):
        raise Mismatch("a binary frame came")
    try:
        frame = json.loads(data)
    except ValueError as error:
        raise Mismatch(f"no JSON came: {shown(data)}") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise Mismatch(f"no object with a type came: {shown(data)}")
    return frame


def _offer(url: str, wish: Fields) -> connect:
    token, by, offered = wish.get("token"), wish.get("by", "header"), wish.get("offers", [SUBPROTOCOL])
    headers = dict(wish.get("headers", {}))
    url += wish.get("query", "")
    if token is not None and by == "header":
        headers["Authorization"] = f"Bearer {token}"
    elif token is not None:
        offered = [*offered, f"{_BEARER}{token}"]
    protocols = [Subprotocol(each) for each in offered] or None
    options: dict[str, Any] = {"compression": None, "max_size": None, "ping_interval": None, "proxy": None}
    return connect(url, additional_headers=headers, subprotocols=protocols, close_timeout=1, **options)


async def open_link(url: str, wish: Fields, captures: Captures, timeout_s: float) -> Link:
    """Connect as a case wishes, and take the welcome."""
    connection = await _offer(url, wish)
    link = Link(connection, captures, timeout_s)
    match(wish.get("subprotocol", SUBPROTOCOL), connection.subprotocol, captures)
    await link.expect(_WELCOME | wish.get("welcome", {}))
    return link


async def expect_refused(url: str, wish: Fields) -> None:
    """See that a handshake is refused."""
    try:
        connection = await _offer(url, wish)
    except InvalidHandshake:
        return
    await connection.close()
    raise Mismatch("the connection was accepted")


async def expect_stranger(url: str, wish: Fields, timeout_s: float) -> None:
    """See that a handshake is refused, or that its caller is not known by it and has to say hello."""
    try:
        link = await open_link(url, wish | {"welcome": {"needs_hello": True}}, {}, timeout_s)
    except InvalidHandshake:
        return
    await link.close()
