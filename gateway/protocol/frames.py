"""The wire protocol `commitcast.v1.json` as types: one JSON object in each text frame, whose `type` names its kind.

The only place where frames are encoded; `decoding` decodes them. Pure. Clients ignore fields and types that they do not
know; the server ignores unknown fields and refuses unknown types. Numbers stay below 2^53.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

SUBPROTOCOL: Final = "commitcast.v1.json"
PATH: Final = "/v1/ws"
"""The path of the WebSocket."""
ALL: Final = "*"
"""In place of an agent's id: all agents. The cursor is then the position."""
MAX_CONTROL_BYTES: Final = 64 * 1024
"""The limit of a frame that carries no content."""
MAX_CONTENT_BYTES: Final = 1024 * 1024
MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
"""The limit of any frame; a larger one closes the connection with 1009."""

MAX_NUMBER: Final = 2**53 - 1
"""The largest integer that JavaScript represents exactly."""

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""Makes a repeated request harmless: the client chooses a new one for each request that is not a repetition."""
FrameId = Annotated[int, msgspec.Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)] | str | None
Cursor = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
"""A sequence or a position, as a client may give it."""


SlowPolicy = Literal["catch_up", "skip", "close"]
"""If a subscriber falls behind: read what it lacks from the store, continue at the head after a `gap`, or close."""


class _Client(msgspec.Struct, tag_field="type", kw_only=True):
    id: FrameId = None
    """Chosen by the client; echoed in the reply."""


class Hello(_Client, kw_only=True, tag="hello"):
    """Authenticate, or renew the token before it expires."""

    token: str | None = None
    """Needed if the server demands one and the handshake had none."""
    client: str | None = None
    """Name and version of the program; nothing depends on it."""

    def __repr__(self) -> str:
        """Show everything but the token."""
        return f"Hello(id={self.id!r}, client={self.client!r})"


class Subscribe(_Client, kw_only=True, tag="subscribe"):
    """Receive an agent's messages after a cursor, then live. A second one for the same agent replaces the first."""

    agent: str
    """An id, or `"*"` for all agents."""
    after: Cursor | Literal["tail"] = 0
    """The cursor: the client's last sequence, 0 for none; on `"*"` a position. `"tail"`: the current head."""
    epoch: str | None = None
    """The epoch of the cursor; if the log has another, the subscription is refused with `stale_epoch`."""
    raw: bool = False
    """Whether items include the producer's lines."""
    window: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)] | None = None
    """How many messages (on `"*"`: positions) may be unacknowledged; without it there is no limit."""
    slow: SlowPolicy = "catch_up"
    """What the server does when the messages that a slow subscriber lacks are no longer in memory."""


class Unsubscribe(_Client, kw_only=True, tag="unsubscribe"):
    """End the subscription to an agent."""

    agent: str


class Ack(_Client, kw_only=True, tag="ack"):
    """Acknowledge messages up to a cursor, which opens the window."""

    agent: dict[str, Cursor] = {}
    """The new cursor of each agent."""


class Ping(_Client, kw_only=True, tag="ping"):
    """Ask the server to answer, to check the connection."""


class Launch(_Client, kw_only=True, tag="launch"):
    """Launch an agent from a template of the server's owner. A repetition with the same `key` launches nothing."""

    template: str
    """The template's name, which the owner chose."""
    prompt: str = ""
    """The agent's prompt; at most 1 MiB. It becomes message 1, unless it is empty."""
    key: Key | None = None
    """Makes a repetition harmless: the client chooses a new one for each request that is not a repetition."""


class Send(_Client, kw_only=True, tag="send"):
    """Send a durable user message to an agent. A repetition with the same `key` stores nothing."""

    agent: str
    content: str
    """At most 1 MiB."""
    key: Key | None = None
    """As in `launch`."""


class Terminate(_Client, kw_only=True, tag="terminate"):
    """End an agent. If it has ended, the reply has its status, so a repetition needs no key."""

    agent: str
    reason: str | None = None
    """Stored and sent with the change of status."""
    key: Key | None = None


ClientFrame = Hello | Subscribe | Unsubscribe | Ack | Ping | Launch | Send | Terminate


class Item(msgspec.Struct, omit_defaults=True):
    """One message inside a `messages` frame."""

    sequence: int
    """1, 2, 3 … for each agent, without gaps or repeats."""
    type: str
    """`assistant`, `user`, `system`, `error`, `tool` or `response`."""
    role: str | None
    """Who speaks, in the words of the producer."""
    content: str
    """Always text, also if it is a JSON document."""
    content_type: str
    """`text` or `json`: how to interpret `content`."""
    metadata: Any
    """An object, or null."""
    created_at: str
    """RFC 3339, in UTC, with microseconds, as all times here. Order by `sequence`: clocks can be set back."""
    raw: Any = None
    """The producer's line: text, or `{"base64": …}` if it is not UTF-8; only if the client asked for `raw`."""
    agent: str | None = None
    """Only on a subscription to all agents, as is `position`."""
    position: int | None = None
    """In the order of commits over all agents."""


class AgentView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An agent as subscribers see it: without its process, and without configuration values that may be secret."""

    id: str
    epoch: str
    """Random: it distinguishes the agent from a later one with the same id."""
    type: str
    """What kind of agent it is, for example `claude-code`."""
    status: str
    """`initializing`, `running`, `completed`, `failed` or `terminated`."""
    head: int
    """The sequence of its last message, 0 if it has none."""
    prompt: str
    created_at: str
    started_at: str | None = None
    completed_at: str | None = None
    """When it ended, with any terminal status."""
    error: "ErrorView | None" = None
    """Only if it failed."""
    result: Any = None
    """The result that it completed with."""
    configuration: dict[str, Any] = {}


class ErrorView(msgspec.Struct, kw_only=True):
    """Why an agent failed."""

    name: str | None
    message: str | None


class _Server(msgspec.Struct, tag_field="type", kw_only=True, omit_defaults=True):
    pass


class Welcome(_Server, kw_only=True, tag="welcome"):
    """The first frame on every connection."""

    protocol: str
    server: str
    session: str
    """Random; it names the connection in the server's log and is not a credential."""
    heartbeat_s: float
    """Seconds between heartbeats."""
    limits: dict[str, int]
    """What the server accepts; each name has the unit."""
    needs_hello: bool = False
    """A `hello` with a token must come first, within `limits.hello_timeout_ms`."""


class Subscribed(_Server, kw_only=True, tag="subscribed"):
    """The reply to `subscribe`; everything after it belongs to the new subscription."""

    id: FrameId = None
    agent: str
    epoch: str
    """Send it with the cursor when subscribing again."""
    after: int
    """Where the stream begins: the client's cursor is now this."""
    head: int
    """The last sequence that is stored; on `"*"` a position."""
    first: int
    """The oldest sequence that is kept."""
    status: str | None
    """The agent's status now; null on `"*"`, as is `record`."""
    record: AgentView | None


class Messages(_Server, kw_only=True, tag="messages"):
    """Everything in (prev, last]."""

    agent: str
    prev: int
    """Must equal the client's cursor; else something is missing or repeated."""
    last: int
    """The client's cursor after this frame."""
    items: list[Item]


class Gap(_Server, kw_only=True, tag="gap"):
    """Everything in (prev, last] is left out, since the subscriber is slow and asked to skip. The cursor is now `last`.

    It is in the store, and can be read from there.
    """

    agent: str
    prev: int
    last: int
    status: str | None = None
    """The agent's status now: changes of status are left out too. Null on `"*"`."""


class Live(_Server, kw_only=True, tag="live"):
    """Caught up: what follows is new. Once for each subscription."""

    agent: str
    sequence: int
    """The cursor."""


class Status(_Server, kw_only=True, tag="status"):
    """A change of status, after the message `sequence`."""

    agent: str
    status: str
    previous: str
    sequence: int
    """The sequence of the last message before it, 0 if there is none."""
    at: str
    error: ErrorView | None = None
    result: Any = None
    reason: str | None = None
    """The reason that was given, for example with `terminate`."""
    prev: int | None = None
    """Positions, only on a subscription to all agents, as is `last`."""
    last: int | None = None


class Agent(_Server, kw_only=True, tag="agent"):
    """An agent was created or deleted; `updated` is reserved. Only on a subscription to all agents."""

    agent: str
    event: Literal["created", "updated", "deleted"]
    record: AgentView | None = None
    prev: int
    last: int


class Ok(_Server, kw_only=True, tag="ok"):
    """The request was done; if it stored something, that is on disk."""

    id: FrameId = None
    agent: str | None = None
    """The agent that was launched, sent to or ended."""
    sequence: int | None = None
    """The sequence of the message that was sent."""
    status: str | None = None
    """The status of the agent that was launched or ended."""
    expires_at: str | None = None
    """When the token of this `hello` expires, RFC 3339."""


class Error(_Server, kw_only=True, tag="error"):
    """The request was refused, and why. Without an `id` it is about `agent`: for example, an append was refused."""

    id: FrameId = None
    agent: str | None = None
    code: str
    """One of the error codes; a later version may have more."""
    message: str
    """For people; the wording may change."""
    retry: bool
    """Whether the same request may be done later."""
    first: int | None = None
    """With `gone`: the oldest sequence that is kept, if any."""
    head: int | None = None
    """With `ahead`: the last sequence that is stored."""


class Heartbeat(_Server, kw_only=True, tag="heartbeat"):
    """The heads of this connection's subscriptions, from the store: a head above the cursor shows a loss."""

    heads: dict[str, int]


class Goodbye(_Server, kw_only=True, tag="goodbye"):
    """The server is going to close the connection, and why. It comes before every close that the server begins."""

    code: int
    """The close code that follows."""
    reason: str
    reconnect_ms: int | None = None
    """Milliseconds to wait before reconnecting; different for each connection."""


ServerFrame = Welcome | Subscribed | Messages | Gap | Live | Status | Agent | Ok | Error | Heartbeat | Goodbye

encode: Final = msgspec.json.Encoder().encode
"""Return any frame as UTF-8 JSON."""
