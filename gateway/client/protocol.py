"""The client's half of the protocol, without I/O: frames in, items and replies out.

Owns the cursor, the state of the connection, the rules for gaps and the acknowledgements. Pure: sockets, clocks and
random numbers stay with `asyncio` and `blocking`, so that both keep the same promises.
`receive` is a generator on purpose: the code behind a `yield` runs when the application asks for the next item, and
only then does an item count as taken.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, get_args

import msgspec

from commitcast.gateway.client.reconnect import (
    HELLO,
    OF_TOKEN,
    AsyncToken,
    ConnectionLost,
    ReconnectPolicy,
    closed,
    greeting,
)
from commitcast.gateway.client.states import RECEIVING, TRANSITIONS, Event, State
from commitcast.gateway.protocol import frames
from commitcast.gateway.protocol.errors import ErrorCode, SubscriptionError
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentStatus

logger: Final = logging.getLogger(__name__)

SILENCE_S: Final = 60.0
"""The limit of silence before `welcome` has named the heartbeat; from then on it is three heartbeats."""
ACK_S: Final = 0.1
"""The least time between acknowledgements, each of which the server counts as a request. One is sent when half a window
was taken, or less and nothing comes."""

OnCursor = Callable[[int, str | None], object]
After = int | Literal["tail"]

_WITHDRAWN: Final = frozenset({ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN})
"""Codes of an error without a request: the right to read was withdrawn, so the subscription is over."""
_TERMINAL: Final = frozenset(status.value for status in AgentStatus if status.is_terminal)


class _GapError(Exception):
    """The next frame does not join the cursor: subscribe again after it."""


class SubscriptionState:
    """What an application sees of a subscription.

    Attributes:
        cursor: of the last message given out; give it as `after` to continue in another process.
        epoch: of the agent that the cursor belongs to; give it too, and a relaunched id is refused.
        status: of the agent, as last received; None before the first reply.
        ending: the `status` frame of the agent's end, once it was received; None if it was skipped.
        record: the agent as of the last `subscribed`.
        reconnects: how often the connection was made again.
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


class SubscriptionProtocol:
    """One subscription, over as many connections as it takes."""

    def __init__(
        self,
        subscription: SubscriptionState,
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
        _check_choices(after, window, slow)
        self.policy = ReconnectPolicy(token)
        self.state = State.DISCONNECTED
        self._subscription = subscription
        self._request = frames.Subscribe(agent=agent, after=after, raw=raw, window=window, slow=slow)
        self._is_tail = after == "tail"
        """Whether there is no cursor yet: the first reply brings it."""
        self._subscribes = 0
        self._acked = 0
        self._acked_at = -ACK_S
        self._clock = clock
        self._half_window = ((window or 0) + 1) // 2
        self._head = 0
        self._cursor_in_doubt: int | None = None
        """The cursor at the last heartbeat, if the store was ahead of it."""
        self._mended_cursor: int | None = None
        """The cursor of the last gap on this connection."""
        self._silence_s = SILENCE_S
        self._on_cursor = on_cursor
        self._reported = (subscription.cursor, subscription.epoch)

    @property
    def is_over(self) -> bool:
        """Whether the agent has ended and everything was given out."""
        return self.state is State.ENDED

    def connect(self) -> None:
        """Begin with a new connection."""
        self._move(Event.CONNECT)
        self._subscribes = 0
        self._mended_cursor = None
        self._silence_s = SILENCE_S

    def next_delay(self, lost: ConnectionLost, jitter: float) -> float:
        """Return the seconds to wait before connecting again; see `ReconnectPolicy.delay_after`.

        Raises:
            SubscriptionError: the server refused for good.
        """
        self._move(Event.LOSS)
        try:
            delay_s = self.policy.delay_after(lost, jitter)
        except ConnectionLost:
            raise SubscriptionError(lost.code, str(lost)) from lost
        self._subscription.reconnects += 1
        return delay_s

    def _move(self, event: Event) -> bool:
        """Follow the table; return whether it lists the event for this state."""
        state = TRANSITIONS[self.state].get(event)
        self.state = state or self.state
        return state is not None

    @property
    def receive_timeout_s(self) -> float:
        """The seconds to wait for the next frame before `on_silence`."""
        return ACK_S if self._owes(1) else self._silence_s

    def on_silence(self) -> Iterator[frames.ClientFrame]:
        """Acknowledge what was taken.

        Raises:
            ConnectionLost: there is nothing to acknowledge, so the server is silent for too long.
        """
        if not self._owes(1):
            raise ConnectionLost(f"the server sent nothing for {self._silence_s:g} seconds")
        yield self._ack()

    def receive(self, frame: frames.ServerFrame | None) -> Iterator[frames.Item | frames.ClientFrame]:
        """Yield what a frame brings: items to give out, and frames to send.

        Raises:
            ConnectionLost: the connection cannot be used any more.
        """
        try:
            yield from self._on_frame(frame)
        except _GapError as gap:
            yield self._mend(gap)
        place = self._subscription.cursor, self._subscription.epoch
        if self._on_cursor is not None and place != self._reported:
            self._on_cursor(*place)  # before the ack, which may fail to be sent, and this was perhaps the last frame
        self._reported = place
        yield from self._ack_in_time()

    def _on_frame(self, frame: frames.ServerFrame | None) -> Iterator[frames.Item | frames.ClientFrame]:
        match frame:
            case frames.Welcome() if self._move(Event.WELCOME):
                self._silence_s = frame.heartbeat_s * 3
                yield from greeting(frame, self.policy.token)
                yield self._subscribe()
            case frames.Goodbye():
                raise closed(frame.code, frame.reason, frame.reconnect_ms)
            case frames.Error():
                self._on_error(frame)
            case frames.Subscribed() if frame.id == self._subscribes and self._move(Event.SUBSCRIBED):
                self._on_subscribed(frame)
            case frames.Messages() if self.state in RECEIVING:
                yield from self._on_messages(frame)
            case _ if self.state in RECEIVING:
                self._on_event(frame)

    def _on_event(self, frame: frames.ServerFrame | None) -> None:
        match frame:
            case frames.Gap():
                self._on_gap(frame)
            case frames.Status() if self._request.agent != frames.ALL:
                self._on_status(frame)
            case frames.Status() | frames.Agent():
                self._subscription.cursor = self._join(frame.prev, frame.last)
            case frames.Heartbeat():
                self._on_heartbeat(frame)
            case frames.Live():
                self._move(Event.END if self._subscription.status in _TERMINAL else Event.LIVE)

    def _on_error(self, frame: frames.Error) -> None:
        is_ended = frame.code == ErrorCode.GONE or (
            frame.id is None and frame.agent == self._request.agent and frame.code in _WITHDRAWN
        )
        if frame.id in (self._subscribes, HELLO) or frame.code in OF_TOKEN or is_ended:
            raise ConnectionLost(frame.message, frame.code, is_final=not frame.retry)
        logger.info("the server reports: %s", frame.message)

    def _on_subscribed(self, frame: frames.Subscribed) -> None:
        subscription = self._subscription
        if not self._is_tail:
            self._join(frame.after, frame.after)
        self._is_tail = False
        self._acked = subscription.cursor = frame.after
        self._head = frame.head
        self.policy.token_accepted()
        subscription.epoch, subscription.status, subscription.record = frame.epoch, frame.status, frame.record

    def _on_messages(self, frame: frames.Messages) -> Iterator[frames.Item | frames.ClientFrame]:
        """Move the cursor item by item: if the connection is lost half-way, the rest must be sent again."""
        last = self._join(frame.prev, frame.last)
        for item in frame.items:
            item.agent = item.agent or frame.agent
            self._subscription.cursor = item.sequence if item.position is None else item.position
            yield item
            yield from self._ack_in_time()
        self._subscription.cursor = last
        self._end()

    def _on_gap(self, frame: frames.Gap) -> None:
        subscription = self._subscription
        subscription.cursor = self._join(frame.prev, frame.last)
        subscription.skipped += frame.last - frame.prev
        subscription.status = frame.status or subscription.status
        if subscription.status in _TERMINAL:
            self._move(Event.END)
        logger.info("the server skipped (%s, %s]: this client is too slow", frame.prev, frame.last)

    def _on_status(self, frame: frames.Status) -> None:
        self._subscription.status = frame.status
        if frame.status in _TERMINAL:
            self._subscription.ending = frame
            self._end()

    def _end(self) -> None:
        """End after the messages that were stored behind the agent's end, if they were there at the `subscribe`."""
        ending = self._subscription.ending
        if ending is not None and self._subscription.cursor >= max(ending.sequence, self._head):
            self._move(Event.END)

    def _on_heartbeat(self, frame: frames.Heartbeat) -> None:
        """Suspect a gap if the store is ahead: what is missing may be under way, but not for a whole heartbeat."""
        self.policy.made_progress()
        cursor = self._subscription.cursor
        is_behind = frame.heads.get(self._request.agent, 0) > cursor
        if is_behind and self._cursor_in_doubt == cursor:
            raise _GapError(f"no messages came for a heartbeat, but the store is ahead of the cursor {cursor}")
        self._cursor_in_doubt = cursor if is_behind else None

    def _join(self, prev: int | None, last: int | None) -> int:
        """Return where a frame ends, if it begins at the cursor."""
        if prev != self._subscription.cursor or last is None or last < prev:
            raise _GapError(f"a frame covers ({prev}, {last}] but the cursor is {self._subscription.cursor}")
        if last > prev:
            self.policy.made_progress()
        return last

    def _mend(self, gap: _GapError) -> frames.Subscribe:
        """Subscribe again after the cursor; the second time at one cursor, on another connection."""
        if self._mended_cursor == self._subscription.cursor:
            raise ConnectionLost(str(gap)) from gap
        logger.info("subscribing again: %s", gap)
        self._move(Event.GAP)
        self._mended_cursor = self._subscription.cursor
        return self._subscribe()

    def _subscribe(self) -> frames.Subscribe:
        self._subscribes += 1
        self._cursor_in_doubt = None
        self._acked = self._subscription.cursor
        after: After = "tail" if self._is_tail else self._subscription.cursor
        return msgspec.structs.replace(self._request, id=self._subscribes, after=after, epoch=self._subscription.epoch)

    def _owes(self, at_least: int) -> bool:
        """Return whether that many were taken and not acknowledged. Without a window nothing is acknowledged."""
        return self._request.window is not None and self._subscription.cursor - self._acked >= at_least

    def _ack_in_time(self) -> Iterator[frames.Ack]:
        if self._owes(self._half_window) and self._clock() - self._acked_at >= ACK_S:
            yield self._ack()

    def _ack(self) -> frames.Ack:
        self._acked, self._acked_at = self._subscription.cursor, self._clock()
        return frames.Ack(agent={self._request.agent: self._acked})


def _check_choices(after: Any, window: Any, slow: Any) -> None:
    """Check what the server would refuse only once there is a connection. Raises `InvalidValueError`."""
    if after != "tail" and not _is_whole(after, 0):
        raise InvalidValueError(
            f'after must be "tail" or a whole number from 0 to {frames.MAX_NUMBER}, not {after!r:.80}'
        )
    if window is not None and not _is_whole(window, 1):
        raise InvalidValueError(f"window must be a whole number from 1 to {frames.MAX_NUMBER}, not {window!r:.80}")
    if slow not in get_args(frames.SlowPolicy):
        raise InvalidValueError(f"slow must be one of {', '.join(get_args(frames.SlowPolicy))}, not {slow!r:.80}")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= frames.MAX_NUMBER
