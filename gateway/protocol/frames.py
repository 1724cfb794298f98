"""The wire protocol `commitcast.v1.json` as types: one JSON object in each text frame, whose `type` names its kind.

The only place where frames are encoded; `decoding` decodes them. Pure. Clients ignore fields and types that they do not
know; the server ignores unknown fields and refuses unknown types. Numbers stay below 2^53.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

SUBPROTOCOL: Final = "commitcast.v1.json"
PATH: Final = "/v1/ws"
"""Of the WebSocket."""
ALL: Final = "*"
"""In place of an agent's id: all agents. The cursor is then the position."""
MAX_CONTROL_BYTES: Final = 64 * 1024
"""Of a frame that carries no content."""
MAX_CONTENT_BYTES: Final = 1024 * 1024
MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
"""Of any frame; a larger one closes the connection with 1009."""

MAX_NUMBER: Final = 2**53 - 1
"""The largest integer that JavaScript represents exactly."""

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""Makes a repeated request harmless: the client chooses a new one for each request that is not a repetition."""
FrameId = Annotated[int, msgspec.Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)] | str | None
Cursor = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
"""A sequence or a position, as a client may give it."""


SlowPolicy = Literal["catch_up", "skip", "close"]
"""Of a subscriber that falls behind: read what it lacks from the store, go on at the head after a `gap`, or close."""


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
    """Get everything of an agent after a cursor, and go on live. Again for the same agent, it replaces the first."""

    agent: str
    """An id, or `"*"` for all agents."""
    after: Cursor | Literal["tail"] = 0
    """The cursor: the last sequence that one has, 0 for none; on `"*"` a position. `"tail"` is the head as it is."""
    epoch: str | None = None
    """That the cursor belongs to; of another one the subscription is refused with `stale_epoch`."""
    raw: bool = False
    """Whether items carry the producers' lines."""
    window: Annotated[int, msgspec.Meta(ge=1, le=MAX_NUMBER)] | None = None
    """How many messages (on `"*"`: positions) may be unacknowledged; without it there is no such bound."""
    slow: SlowPolicy = "catch_up"
    """What is done when the subscriber is so slow that what it lacks is no longer in memory."""


class Unsubscribe(_Client, kw_only=True, tag="unsubscribe"):
    """Get nothing more of an agent."""

    agent: str


class Ack(_Client, kw_only=True, tag="ack"):
    """Say up to where was processed; it opens the window."""

    agent: dict[str, Cursor] = {}
    """The cursor of each agent of which there is news."""


class Ping(_Client, kw_only=True, tag="ping"):
    """Ask whether the server is there."""


class Launch(_Client, kw_only=True, tag="launch"):
    """Launch an agent from a template of the server's owner. The same `key` again launches nothing again."""

    template: str
    """The name that the owner gave it."""
    prompt: str = ""
    """What the agent is asked; at most 1 MiB. It becomes message 1, unless it is empty."""
    key: Key | None = None
    """Makes it harmless to repeat; chosen by the client, once for each thing that it wants done."""


class Send(_Client, kw_only=True, tag="send"):
    """Send a durable user message to an agent. The same `key` again stores nothing again."""

    agent: str
    content: str
    """At most 1 MiB."""
    key: Key | None = None
    """As in `launch`."""


class Terminate(_Client, kw_only=True, tag="terminate"):
    """End an agent. Of one that has ended the reply tells how: so it needs no key to be repeated."""

    agent: str
    reason: str | None = None
    """Kept with the change of status, and told with it."""
    key: Key | None = None


ClientFrame = Hello | Subscribe | Unsubscribe | Ack | Ping | Launch | Send | Terminate


class Item(msgspec.Struct, omit_defaults=True):
    """One message inside a `messages` frame."""

    sequence: int
    """1, 2, 3 … for each agent, without hole or repeat."""
    type: str
    """`assistant`, `user`, `system`, `error`, `tool` or `response`."""
    role: str | None
    """Who speaks, in the words of the producer."""
    content: str
    """Always text, also if it is a JSON document."""
    content_type: str
    """`text` or `json`: what `content` is to be read as."""
    metadata: Any
    """An object, or null."""
    created_at: str
    """RFC 3339, in UTC, with microseconds; as are all times here. `sequence` orders messages: clocks are set back."""
    raw: Any = None
    """The producer's line. Text, or `{"base64": …}` if it is not UTF-8; only if it was subscribed to."""
    agent: str | None = None
    """Only on a subscription to all agents, as is `position`."""
    position: int | None = None
    """In the order of commits over all agents."""


class AgentView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An agent as subscribers see it: without its process, and without what in its configuration may be secret."""

    id: str
    epoch: str
    """Random: it tells the agent from a later one of the same id."""
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
    """When it ended, however it did."""
    error: "ErrorView | None" = None
    """Only if it failed."""
    result: Any = None
    """What it completed with."""
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
    """Random; it names the connection in the server's log and is no credential."""
    heartbeat_s: float
    """Seconds between heartbeats."""
    limits: dict[str, int]
    """What the server takes; a name says the unit."""
    needs_hello: bool = False
    """A `hello` with a token must come first, within `limits.hello_timeout_ms`."""


class Subscribed(_Server, kw_only=True, tag="subscribed"):
    """The reply to `subscribe`; everything after it belongs to the new subscription."""

    id: FrameId = None
    agent: str
    epoch: str
    """To be given with the cursor when one subscribes again."""
    after: int
    """Where the stream begins: the cursor is now this."""
    head: int
    """The last that is stored; on `"*"` a position."""
    first: int
    """The oldest that is kept."""
    status: str | None
    """Of the agent now; null on `"*"`, as is `record`."""
    record: AgentView | None


class Messages(_Server, kw_only=True, tag="messages"):
    """Everything in (prev, last]."""

    agent: str
    prev: int
    """Must be the cursor; else something is missing or repeated."""
    last: int
    """Is the cursor after it."""
    items: list[Item]


class Gap(_Server, kw_only=True, tag="gap"):
    """Everything in (prev, last] is left out for a subscriber that is slow and asked to skip; the cursor is now `last`.

    It is in the store, and can be read from there.
    """

    agent: str
    prev: int
    last: int
    status: str | None = None
    """Of the agent now: changes of status are left out too. Null on `"*"`."""


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
    """Of the last message before it, 0 if there is none."""
    at: str
    error: ErrorView | None = None
    result: Any = None
    reason: str | None = None
    """That was given, for example with `terminate`."""
    prev: int | None = None
    """Positions, only on a subscription to all agents, as is `last`."""
    last: int | None = None


class Agent(_Server, kw_only=True, tag="agent"):
    """An agent was created or deleted; `updated` is for later. Only on a subscription to all agents."""

    agent: str
    event: Literal["created", "updated", "deleted"]
    record: AgentView | None = None
    prev: int
    last: int


class Ok(_Server, kw_only=True, tag="ok"):
    """Done, and if something was stored, it is on disk."""

    id: FrameId = None
    agent: str | None = None
    """That was launched, sent to or ended."""
    sequence: int | None = None
    """Of the message that was sent."""
    status: str | None = None
    """Of the agent that was launched or ended."""
    expires_at: str | None = None
    """When the token of this `hello` expires, RFC 3339."""


class Error(_Server, kw_only=True, tag="error"):
    """Not done, and why. Without an `id` it is about `agent`: for example, an append was refused."""

    id: FrameId = None
    agent: str | None = None
    code: str
    """One of the error codes; a later version may have more."""
    message: str
    """For people; the wording may change."""
    retry: bool
    """Whether the same request may be done later."""
    first: int | None = None
    """With `gone`: the oldest that is kept, if anything is."""
    head: int | None = None
    """With `ahead`: the last that is stored."""


class Heartbeat(_Server, kw_only=True, tag="heartbeat"):
    """The heads of this connection's subscriptions, from the store: one above the cursor shows a lost tail."""

    heads: dict[str, int]


class Goodbye(_Server, kw_only=True, tag="goodbye"):
    """The server is going to close the connection, and why. It comes before every close that the server begins."""

    code: int
    """The close code that follows."""
    reason: str
    reconnect_ms: int | None = None
    """Milliseconds to wait before coming back; each connection gets another number."""


ServerFrame = Welcome | Subscribed | Messages | Gap | Live | Status | Agent | Ok | Error | Heartbeat | Goodbye

encode: Final = msgspec.json.Encoder().encode
"""Return any frame as UTF-8 JSON."""
