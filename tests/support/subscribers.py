"""Subscribers that speak the protocol by hand, and the client's rule as a judge of what they are told."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from commitcast.gateway.protocol import decoding, frames
from waiting import TIMEOUT_S

Fields = dict[str, Any]

STREAM: Final = {"messages", "gap", "live", "status", "agent"}


def raw_bytes(raw: Any) -> bytes | None:
    """Return the bytes that an item's `raw` stands for."""
    if raw is None:
        return None
    return raw.encode() if isinstance(raw, str) else base64.b64decode(raw["base64"])


class Follower:
    """What a client keeps of one subscription. Fails on the first frame that breaks a promise."""

    def __init__(self, agent: str, after: int, head: int = 0) -> None:
        self.agent = agent
        self.cursor = after
        self.items: list[frames.Item] = []
        self.changes: list[frames.Status] = []
        self.events: list[frames.Agent] = []
        self.gaps: list[frames.Gap] = []
        self.live_at: int | None = None
        self._head = head
        """What was stored when it began: it is not live before that."""

    @property
    def sequences(self) -> list[int]:
        """Of the messages, in the order in which they came."""
        return [item.sequence for item in self.items]

    @property
    def contents(self) -> list[str]:
        """Of the messages, in the order in which they came."""
        return [item.content for item in self.items]

    def take(self, frame: frames.ServerFrame) -> None:
        """Apply the client's rule."""
        match frame:
            case frames.Messages():
                self._on_messages(frame)
            case frames.Status() if self.agent == frames.ALL:
                self._move(frame.prev, frame.last)
                self.changes.append(frame)
            case frames.Status():
                assert frame.sequence == self.cursor, f"a status after {frame.sequence} came at {self.cursor}"
                self.changes.append(frame)
            case frames.Agent():
                self._move(frame.prev, frame.last)
                self.events.append(frame)
            case frames.Gap():
                assert self.live_at is not None, "a gap in what it had asked for"
                assert frame.prev == self.cursor <= frame.last
                self.cursor = frame.last
                self.gaps.append(frame)
            case frames.Live():
                assert self.live_at is None, "live twice"
                assert frame.sequence == self.cursor >= self._head, "live before it had caught up"
                self.live_at = self.cursor
            case _:
                raise AssertionError(f"not of a stream: {frame}")

    def _on_messages(self, frame: frames.Messages) -> None:
        before = self.cursor
        self._move(frame.prev, frame.last)
        if self.agent == frames.ALL:
            positions = [item.position or 0 for item in frame.items]
            assert positions == sorted(set(positions))
            assert all(before < position <= self.cursor for position in positions)
        else:
            assert [item.sequence for item in frame.items] == list(range(before + 1, self.cursor + 1))
        self.items += frame.items

    def _move(self, prev: int | None, last: int | None) -> None:
        assert prev == self.cursor, f"a frame begins after {prev} and the cursor is {self.cursor}"
        assert last is not None and last > self.cursor
        self.cursor = last


class Raw:
    """One connection to a server, frame by frame."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.welcome: Fields = {}
        self.followers: dict[str, Follower] = {}
        self.heartbeats: list[Fields] = []

    async def send(self, type: str, **fields: Any) -> None:
        """Send a frame."""
        await self.connection.send(json.dumps({"type": type, **fields}))

    async def receive(self) -> Fields:
        """Return the next frame that is no heartbeat, after the client's rule has been applied to it."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                data = await self.connection.recv()
                fields: Fields = json.loads(data)
                if fields["type"] == "heartbeat":
                    self.heartbeats.append(fields)
                    continue
                to_all = fields["type"] in ("status", "agent") and "prev" in fields
                log = frames.ALL if to_all else fields.get("agent", "")
                if fields["type"] in STREAM and (follower := self.followers.get(log)):
                    frame = decoding.decode_server(data)
                    assert frame is not None
                    follower.take(frame)
                return fields

    async def until(self, type: str, **wanted: Any) -> Fields:
        """Return the first frame of a type that has these fields; what comes before it is only followed."""
        while True:
            fields = await self.receive()
            if fields["type"] == type and wanted.items() <= fields.items():
                return fields

    async def ask(self, type: str, **fields: Any) -> Fields:
        """Send a frame and return the reply to it."""
        fields.setdefault("id", f"{type} {len(self.followers)}")
        await self.send(type, **fields)
        while True:
            reply = await self.receive()
            if reply.get("id") == fields["id"]:
                return reply

    async def subscribe(self, agent: str, **fields: Any) -> Follower:
        """Subscribe, and return what follows the stream from there."""
        reply = await self.ask("subscribe", agent=agent, **fields)
        assert reply["type"] == "subscribed", reply
        follower = self.followers[agent] = Follower(agent, reply["after"], reply["head"])
        return follower

    async def follow(self, agent: str, count: int) -> Follower:
        """Take frames until a subscription has that many messages."""
        follower = self.followers[agent]
        while len(follower.items) < count:
            await self.receive()
        return follower

    async def follow_to_end(self, agent: str, count: int) -> Follower:
        """Take frames until a subscription has that many messages and the agent's end."""
        follower = await self.follow(agent, count)
        while not any(change.status in ("completed", "failed", "terminated") for change in follower.changes):
            await self.receive()
        return follower

    async def still_works(self) -> None:
        """Assert that the connection answers."""
        assert (await self.ask("ping", id="still there?"))["type"] == "ok"

    async def closed(self) -> tuple[int, str]:
        """Take frames until the connection is closed; return code and reason."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as error:
            assert error.rcvd is not None, error
            return error.rcvd.code, error.rcvd.reason


@asynccontextmanager
async def raw(url: str | None, *, token: str | None = None, **options: Any) -> AsyncIterator[Raw]:
    """A connection that has been welcomed."""
    assert url is not None
    headers = dict(options.pop("headers", {}))
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with connect(
        url, compression=None, max_size=None, proxy=None, additional_headers=headers, ping_interval=None, **options
    ) as connection:
        subscriber = Raw(connection)
        subscriber.welcome = await subscriber.receive()
        assert subscriber.welcome["type"] == "welcome"
        yield subscriber
