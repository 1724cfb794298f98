"""The client's half of the protocol: frames in, items and replies out.

Owns the cursor, the client's rule and the acknowledgements. Pure: sockets, clocks and random numbers stay with `client`
and `blocking`, so that both keep the same promises.
`receive` is a generator on purpose: what it does behind a `yield` happens when the application asks for the next item,
and that is when an item counts as taken.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final, Literal

import msgspec

from commitcast.gateway.client.reconnect import HELLO, OF_TOKEN, AsyncToken, Comeback, Lost, closed, greeting
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode, SubscriptionError
from commitcast.persistence.records import AgentStatus

logger: Final = logging.getLogger(__name__)

SILENCE_S: Final = 60.0
"""How long nothing may come before the server has said how often its heart beats; then it is three beats."""
ACK_S: Final = 0.1
"""Between acknowledgements, each of which the server counts as a request: of half a window, and of less when idle."""

OnCursor = Callable[[int, str | None], object]
After = int | Literal["tail"]

_WITHDRAWN: Final = frozenset({ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN})
"""Of an error that answers nothing: the right to read is gone, and with it the subscription."""
_TERMINAL: Final = frozenset(status.value for status in AgentStatus if status.is_terminal)


class _GapError(Exception):
    """The next frame does not join the cursor: subscribe again after it."""


class Standing:
    """Where a subscription stands.

    Attributes:
        cursor: of the last message given out; give it as `after` to continue in another process.
        epoch: of the agent that the cursor belongs to; give it too, and a relaunched id is refused.
        status: of the agent as last heard; None before the first answer.
        ending: the `status` frame of the agent's end, once it came; not if it was skipped.
        record: the agent as of the last subscribing.
        reconnects: how often it came back.
        skipped: how many messages (on `"*"`: positions) were left out, which only `slow="skip"` allows.
    """

    def __init__(self, after: After, epoch: str | None) -> None:
        self.cursor = after if isinstance(after, int) else 0
        self.epoch = epoch
        self.status: str | None = None
        self.ending: frames.Status | None = None
        self.record: frames.AgentView | None = None
        self.reconnects = 0
        self.skipped = 0


class Following:
    """One subscription, over as many connections as it takes."""

    def __init__(
        self,
        standing: Standing,
        agent: str,
        *,
        after: After = 0,
        raw: bool = False,
        token: AsyncToken = None,
        window: int | None = None,
        slow: frames.SlowPolicy = "catch_up",
        on_cursor: OnCursor | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.comeback = Comeback(token)
        self.is_over = False
        """Whether the agent has ended and everything was given out."""
        self._standing = standing
        self._wish = frames.Subscribe(agent=agent, after=after, raw=raw, window=window, slow=slow)
        self._is_tail = after == "tail"
        self._subscribes = 0
        self._is_subscribed = False
        self._acked = 0
        self._acked_at = -ACK_S
        self._clock = clock
        self._half = ((window or 0) + 1) // 2
        self._head = 0
        self._doubted: int | None = None
        self._mended: int | None = None
        self._silence_s = SILENCE_S
        self._on_cursor = on_cursor
        self._told = (standing.cursor, standing.epoch)

    def connected(self) -> None:
        """Begin with a new connection."""
        self._subscribes = 0
        self._is_subscribed = False
        self._mended = None
        self._silence_s = SILENCE_S

    def come_back(self, lost: Lost, chance: float) -> float:
        """Return how many seconds to wait before connecting again; see `Comeback.wait_s`.

        Raises:
            SubscriptionError: the server refused for good.
        """
        try:
            wait_s = self.comeback.wait_s(lost, chance)
        except Lost:
            raise SubscriptionError(lost.code, str(lost)) from lost
        self._standing.reconnects += 1
        return wait_s

    @property
    def wait_s(self) -> float:
        """How long to wait for the next frame before `on_silence`."""
        return ACK_S if self._owes(1) else self._silence_s

    def on_silence(self) -> Iterator[frames.ClientFrame]:
        """Acknowledge what was taken.

        Raises:
            Lost: there is nothing to acknowledge: the silence is the server's.
        """
        if not self._owes(1):
            raise Lost(f"nothing came for {self._silence_s:g} seconds")
        yield self._ack()

    def receive(self, frame: frames.ServerFrame | None) -> Iterator[frames.Item | frames.ClientFrame]:
        """Yield what a frame brings: items to give out, and frames to send.

        Raises:
            Lost: the connection is of no more use.
        """
        try:
            yield from self._on_frame(frame)
        except _GapError as gap:
            yield self._mend(gap)
        yield from self._ack_in_time()
        told = self._standing.cursor, self._standing.epoch
        if self._on_cursor is not None and told != self._told:
            self._on_cursor(*told)
        self._told = told

    def _on_frame(self, frame: frames.ServerFrame | None) -> Iterator[frames.Item | frames.ClientFrame]:
        match frame:
            case frames.Welcome():
                self._silence_s = frame.heartbeat_s * 3
                yield from greeting(frame, self.comeback.token)
                yield self._subscribe()
            case frames.Goodbye():
                raise closed(frame.code, frame.reason, frame.reconnect_ms)
            case frames.Error():
                self._on_error(frame)
            case frames.Subscribed() if frame.id == self._subscribes:
                self._on_subscribed(frame)
            case frames.Messages() if self._is_subscribed:
                yield from self._on_messages(frame)
            case _ if self._is_subscribed:
                self._on_event(frame)

    def _on_event(self, frame: frames.ServerFrame | None) -> None:
        match frame:
            case frames.Gap():
                self._on_gap(frame)
            case frames.Status() if self._wish.agent != frames.ALL:
                self._on_status(frame)
            case frames.Status() | frames.Agent():
                self._standing.cursor = self._join(frame.prev, frame.last)
            case frames.Heartbeat():
                self._on_heartbeat(frame)
            case frames.Live():
                self.is_over = self._standing.status in _TERMINAL

    def _on_error(self, frame: frames.Error) -> None:
        is_ended = frame.code == ErrorCode.GONE or (
            frame.id is None and frame.agent == self._wish.agent and frame.code in _WITHDRAWN
        )
        if frame.id in (self._subscribes, HELLO) or frame.code in OF_TOKEN or is_ended:
            raise Lost(frame.message, frame.code, is_final=not frame.retry)
        logger.info("the server says: %s", frame.message)

    def _on_subscribed(self, frame: frames.Subscribed) -> None:
        standing = self._standing
        if not self._is_tail:
            self._join(frame.after, frame.after)
        self._is_tail = False
        self._is_subscribed = True
        self._acked = standing.cursor = frame.after
        self._head = frame.head
        self.comeback.accepted()
        standing.epoch, standing.status, standing.record = frame.epoch, frame.status, frame.record

    def _on_messages(self, frame: frames.Messages) -> Iterator[frames.Item | frames.ClientFrame]:
        """Move the cursor item by item: if the connection is lost half-way, the rest must come again."""
        last = self._join(frame.prev, frame.last)
        for item in frame.items:
            item.agent = item.agent or frame.agent
            self._standing.cursor = item.sequence if item.position is None else item.position
            yield item
            yield from self._ack_in_time()
        self._standing.cursor = last
        self._end()

    def _on_gap(self, frame: frames.Gap) -> None:
        standing = self._standing
        standing.cursor = self._join(frame.prev, frame.last)
        standing.skipped += frame.last - frame.prev
        standing.status = frame.status or standing.status
        self.is_over = standing.status in _TERMINAL
        logger.info("left out for slowness: what is in (%s, %s]", frame.prev, frame.last)

    def _on_status(self, frame: frames.Status) -> None:
        self._standing.status = frame.status
        if frame.status in _TERMINAL:
            self._standing.ending = frame
            self._end()

    def _end(self) -> None:
        """What was stored after the end is given out too, if it was there when this began."""
        ending = self._standing.ending
        if ending is not None:
            self.is_over = self._standing.cursor >= max(ending.sequence, self._head)

    def _on_heartbeat(self, frame: frames.Heartbeat) -> None:
        """Doubt the stream if the store is ahead: what is missing may be on its way, but not for a whole heartbeat."""
        self.comeback.worked()
        cursor = self._standing.cursor
        is_behind = frame.heads.get(self._wish.agent, 0) > cursor
        if is_behind and self._doubted == cursor:
            raise _GapError(f"nothing came for a heartbeat, the store is ahead and the cursor is {cursor}")
        self._doubted = cursor if is_behind else None

    def _join(self, prev: int | None, last: int | None) -> int:
        """Return where a frame ends, if it begins at the cursor."""
        if prev != self._standing.cursor or last is None or last < prev:
            raise _GapError(f"a frame covers ({prev}, {last}] and the cursor is {self._standing.cursor}")
        if last > prev:
            self.comeback.worked()
        return last

    def _mend(self, gap: _GapError) -> frames.Subscribe:
        """Subscribe again after the cursor; if that does not help, better on another connection."""
        if self._mended == self._standing.cursor:
            raise Lost(str(gap)) from gap
        logger.info("subscribing again: %s", gap)
        self._mended = self._standing.cursor
        return self._subscribe()

    def _subscribe(self) -> frames.Subscribe:
        self._subscribes += 1
        self._is_subscribed = False
        self._doubted = None
        self._acked = self._standing.cursor
        after: After = "tail" if self._is_tail else self._standing.cursor
        return msgspec.structs.replace(self._wish, id=self._subscribes, after=after, epoch=self._standing.epoch)

    def _owes(self, at_least: int) -> bool:
        """Whether that many were taken and not acknowledged. Nobody counts without a window."""
        return self._wish.window is not None and self._standing.cursor - self._acked >= at_least

    def _ack_in_time(self) -> Iterator[frames.Ack]:
        if self._owes(self._half) and self._clock() - self._acked_at >= ACK_S:
            yield self._ack()

    def _ack(self) -> frames.Ack:
        self._acked, self._acked_at = self._standing.cursor, self._clock()
        return frames.Ack(agent={self._wish.agent: self._acked})
