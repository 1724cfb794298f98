"""The client's half of the protocol, fed with frames: no sockets, no clocks, no chance."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from commitcast.gateway import SubscriptionError, subscribe, subscribe_blocking
from commitcast.gateway.client import protocol, reconnect
from commitcast.gateway.client.protocol import SubscriptionProtocol, SubscriptionState
from commitcast.gateway.client.reconnect import ConnectionLost, ReconnectPolicy, closed
from commitcast.gateway.client.states import State
from commitcast.gateway.protocol import frames
from commitcast.persistence.errors import InvalidValueError

HEARTBEAT_S = 15.0
WELCOME = frames.Welcome(protocol="p", server="s", session="x", heartbeat_s=HEARTBEAT_S, limits={})


def item(sequence: int, **fields: Any) -> frames.Item:
    return frames.Item(
        sequence, "assistant", None, str(sequence), "text", None, "2026-01-01T00:00:00.000000Z", **fields
    )


def messages(prev: int, last: int) -> frames.Messages:
    return frames.Messages(agent="a", prev=prev, last=last, items=[item(n) for n in range(prev + 1, last + 1)])


def subscribed(after: int = 0, id: int = 1, **fields: Any) -> frames.Subscribed:
    known: dict[str, Any] = {"epoch": "e", "head": 0, "status": "running"} | fields
    return frames.Subscribed(id=id, agent="a", after=after, first=1, record=None, **known)


def status(sequence: int, now: str = "completed") -> frames.Status:
    return frames.Status(agent="a", status=now, previous="running", sequence=sequence, at="t")


def error(code: str, id: int | None = 1, retry: bool = False) -> frames.Error:
    return frames.Error(id=id, code=code, message="no", retry=retry)


class Client:
    """A subscription whose application takes everything at once."""

    def __init__(self, agent: str = "a", after: protocol.After = 0, epoch: str | None = None, **options: Any) -> None:
        self.subscription = SubscriptionState(after, epoch)
        self.told: list[tuple[int, str | None]] = []
        tell = lambda cursor, epoch: self.told.append((cursor, epoch))  # noqa: E731
        self.now = 0.0
        options |= {"on_cursor": tell, "clock": lambda: self.now}
        self.protocol = SubscriptionProtocol(self.subscription, agent, after=after, **options)
        self.protocol.connect()
        self.items: list[int] = []
        self.sent: list[frames.ClientFrame] = []

    def hear(self, *heard: frames.ServerFrame | None) -> "Client":
        for frame in heard:
            for said in self.protocol.receive(frame):
                if isinstance(said, frames.Item):
                    self.items.append(said.sequence)
                else:
                    self.sent.append(said)
        return self

    @property
    def asked(self) -> list[Any]:
        """The cursors that it subscribed after."""
        return [frame.after for frame in self.sent if isinstance(frame, frames.Subscribe)]

    @property
    def acknowledged(self) -> list[dict[str, int]]:
        return [frame.agent for frame in self.sent if isinstance(frame, frames.Ack)]


# The client's rule.


def test_frames_that_join_the_cursor_are_given_out() -> None:
    client = Client().hear(WELCOME, subscribed(), messages(0, 2), messages(2, 3), status(3))

    assert client.items == [1, 2, 3]
    assert client.protocol.is_over
    assert client.subscription.ending == status(3)


BACKWARDS = frames.Messages(agent="a", prev=2, last=1, items=[])


@pytest.mark.parametrize("wrong", [messages(3, 4), messages(0, 2), messages(1, 2), BACKWARDS])
def test_a_frame_that_does_not_join_is_not_given_out_but_subscribed_again_after_the_cursor(
    wrong: frames.Messages,
) -> None:
    client = Client().hear(WELCOME, subscribed(), messages(0, 2), wrong)

    assert (client.items, client.asked) == ([1, 2], [0, 2])
    client.hear(messages(2, 3))  # it belongs to the subscription before
    assert client.items == [1, 2]
    client.hear(subscribed(2, id=2), messages(2, 3))
    assert client.items == [1, 2, 3]


def test_nothing_is_taken_before_the_reply_to_the_newest_subscribe() -> None:
    client = Client().hear(WELCOME, messages(0, 1), status(0), subscribed(0, id=7), messages(0, 1))

    assert client.items == []


def test_what_does_not_join_twice_at_one_cursor_costs_the_connection() -> None:
    client = Client().hear(WELCOME, subscribed(), messages(5, 6), subscribed(id=2))

    with pytest.raises(ConnectionLost) as lost:
        client.hear(messages(5, 6))

    assert not lost.value.is_final


def test_a_stream_that_begins_elsewhere_is_not_taken() -> None:
    client = Client(after=4).hear(WELCOME, subscribed(3), messages(3, 4))

    assert (client.items, client.asked) == ([], [4, 4])


def test_the_tail_begins_where_the_server_says_and_is_asked_for_by_number_from_then_on() -> None:
    client = Client(after="tail").hear(WELCOME, subscribed(7), messages(7, 8))
    client.protocol.connect()
    client.hear(WELCOME)

    assert (client.items, client.asked) == ([8], ["tail", 8])


def test_a_connection_that_is_lost_inside_a_frame_is_resumed_inside_of_it() -> None:
    client = Client().hear(WELCOME, subscribed())
    taking = client.protocol.receive(messages(0, 4))
    given = [next(taking), next(taking)]
    client.protocol.connect()
    client.hear(WELCOME)

    assert [said.sequence for said in given if isinstance(said, frames.Item)] == [1, 2]
    assert client.asked == [0, 2]


def test_an_unknown_frame_is_ignored() -> None:
    assert Client().hear(WELCOME, subscribed(), None, messages(0, 1)).items == [1]


def test_on_all_agents_the_cursor_is_the_position_and_every_frame_must_join() -> None:
    client = Client("*").hear(
        WELCOME,
        subscribed(status=None),
        frames.Agent(agent="b", event="created", prev=0, last=1),
        frames.Messages(agent="*", prev=1, last=4, items=[item(1, agent="b", position=3)]),
        frames.Status(agent="b", status="completed", previous="running", sequence=1, at="t", prev=4, last=5),
    )

    assert (client.items, client.subscription.cursor) == ([1], 5)
    assert client.subscription.status is None
    assert not client.protocol.is_over
    client.hear(frames.Agent(agent="b", event="deleted", prev=6, last=7))
    assert client.asked == [0, 5]


# The epoch, the end, the lost tail.


def test_the_epoch_is_that_of_the_last_subscribed() -> None:
    client = Client().hear(WELCOME, subscribed(epoch="e1"))
    client.protocol.connect()
    client.hear(WELCOME)

    asked = client.sent[-1]
    assert isinstance(asked, frames.Subscribe)
    assert asked.epoch == "e1"
    client.hear(subscribed(epoch="e2"))  # the server has looked at the cursor, and goes on in a run of its own
    client.protocol.connect()
    client.hear(WELCOME)
    asked = client.sent[-1]
    assert isinstance(asked, frames.Subscribe)
    assert asked.epoch == "e2"


def test_the_end_waits_for_the_messages_before_it_and_for_those_that_were_there_when_it_began() -> None:
    client = Client().hear(WELCOME, subscribed(head=3), messages(0, 1), status(2))
    assert not client.protocol.is_over
    client.hear(messages(1, 2))
    assert not client.protocol.is_over
    assert client.hear(messages(2, 3)).protocol.is_over


def test_an_agent_that_had_ended_before_is_over_when_caught_up() -> None:
    client = Client(after=2).hear(WELCOME, subscribed(2, status="failed", head=2))

    assert client.hear(frames.Live(agent="a", sequence=2)).protocol.is_over
    assert Client().hear(WELCOME, subscribed(), frames.Live(agent="a", sequence=0)).protocol.is_over is False


def test_a_store_that_stays_ahead_for_a_heartbeat_shows_a_lost_tail() -> None:
    ahead = frames.Heartbeat(heads={"a": 5})
    client = Client().hear(WELCOME, subscribed(), messages(0, 2), ahead, messages(2, 3), ahead)
    assert client.asked == [0]  # something came meanwhile

    client.hear(ahead)

    assert client.asked == [0, 3]


def test_a_heartbeat_at_the_cursor_clears_the_doubt() -> None:
    ahead, level = frames.Heartbeat(heads={"a": 5}), frames.Heartbeat(heads={"a": 0})

    assert Client().hear(WELCOME, subscribed(), ahead, level, ahead).asked == [0]


def test_silence_of_three_heartbeats_is_a_loss() -> None:
    client = Client()
    assert client.protocol.receive_timeout_s == protocol.SILENCE_S
    client.hear(WELCOME, subscribed())

    assert client.protocol.receive_timeout_s == 3 * HEARTBEAT_S
    with pytest.raises(ConnectionLost, match="sent nothing for 45 seconds"):
        list(client.protocol.on_silence())


def test_an_announced_gap_moves_the_cursor_and_is_counted() -> None:
    client = Client(slow="skip").hear(WELCOME, subscribed(), messages(0, 2))
    client.hear(frames.Gap(agent="a", prev=2, last=9, status="running"), messages(9, 10))

    assert (client.items, client.subscription.skipped, client.asked) == ([1, 2, 10], 7, [0])
    assert not client.protocol.is_over
    client.hear(frames.Gap(agent="a", prev=10, last=12, status="failed"))
    assert (client.subscription.status, client.subscription.skipped) == ("failed", 9)
    assert client.protocol.is_over


def test_a_gap_that_does_not_join_is_not_believed() -> None:
    client = Client(slow="skip").hear(WELCOME, subscribed(), frames.Gap(agent="a", prev=2, last=9))

    assert (client.asked, client.subscription.skipped) == ([0, 0], 0)


# What is sent.


def test_it_subscribes_when_it_is_welcomed_and_says_hello_first_only_if_asked_to() -> None:
    needs_hello = frames.Welcome(protocol="p", server="s", session="x", heartbeat_s=1.0, limits={}, needs_hello=True)

    assert [type(frame) for frame in Client(token="t").hear(WELCOME).sent] == [frames.Subscribe]
    greeted = Client(token="t").hear(needs_hello).sent
    assert [type(frame) for frame in greeted] == [frames.Hello, frames.Subscribe]
    assert greeted[0] == frames.Hello(id="hello", token="t")
    with pytest.raises(ConnectionLost) as lost:
        Client().hear(needs_hello)
    assert (lost.value.code, lost.value.is_final) == ("unauthenticated", True)


def test_what_was_wished_for_is_in_every_subscribe() -> None:
    client = Client(raw=True, window=8, slow="skip").hear(WELCOME)

    assert client.sent == [frames.Subscribe(id=1, agent="a", after=0, raw=True, window=8, slow="skip")]


@pytest.mark.parametrize("make", [subscribe, subscribe_blocking])
@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("slow", ["Skip", "", None, 1]),
        ("after", ["Tail", "5", -1, 2**53, True, 1.5]),
        ("window", [0, "8", 2**53, True]),
    ],
)
def test_a_choice_that_there_is_not_is_refused_before_anything_connects(
    make: Callable[..., Any], option: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(InvalidValueError, match=rf"^{option} must be [^\n]*, not "):
            make("ws://127.0.0.1:1/v1/ws", "a", **{option: value})


def test_half_of_the_window_is_acknowledged_at_once_and_less_when_idle() -> None:
    client = Client(window=4).hear(WELCOME, subscribed(), messages(0, 1))
    assert client.acknowledged == []
    assert client.protocol.receive_timeout_s == protocol.ACK_S
    client.hear(messages(1, 2))
    assert client.acknowledged == [{"a": 2}]
    assert client.protocol.receive_timeout_s == 3 * HEARTBEAT_S

    client.hear(messages(2, 3))
    client.sent += client.protocol.on_silence()

    assert client.acknowledged == [{"a": 2}, {"a": 3}]


def test_acknowledgements_keep_their_distance() -> None:
    client = Client(window=2).hear(WELCOME, subscribed())

    for sequence in range(60):  # thirty a second, for two seconds
        client.now = sequence / 30
        client.hear(messages(sequence, sequence + 1))

    assert 15 <= len(client.acknowledged) <= 20
    assert client.protocol.receive_timeout_s == protocol.ACK_S  # and what is left follows when nothing comes


def test_only_what_the_application_took_is_acknowledged() -> None:
    client = Client(window=2).hear(WELCOME, subscribed())

    taking = client.protocol.receive(messages(0, 2))

    assert isinstance(next(taking), frames.Item)
    assert next(taking) == frames.Ack(agent={"a": 1})  # it asked for the second, so it has the first


def test_what_was_skipped_by_the_cursor_at_the_beginning_needs_no_acknowledgement() -> None:
    beginnings: tuple[protocol.After, ...] = (100, "tail")
    for after in beginnings:
        client = Client(after=after, window=4).hear(WELCOME, subscribed(100), messages(100, 101))
        assert client.acknowledged == []


def test_without_a_window_nothing_is_acknowledged() -> None:
    assert Client().hear(WELCOME, subscribed(), messages(0, 500)).acknowledged == []


def test_the_cursor_is_told_when_everything_of_a_frame_was_taken() -> None:
    client = Client().hear(WELCOME, subscribed())
    taking = client.protocol.receive(messages(0, 2))

    assert [next(taking), next(taking)]
    assert client.told == [(0, "e")]  # the epoch is news
    assert next(taking, None) is None
    assert client.told == [(0, "e"), (2, "e")]
    client.hear(frames.Heartbeat(heads={"a": 2}), messages(2, 2))
    assert client.told == [(0, "e"), (2, "e")]


# Coming back.


@pytest.mark.parametrize(
    ("heard", "code", "is_final"),
    [
        (error("not_found"), "not_found", True),
        (error("stale_epoch"), "stale_epoch", True),
        (error("of_a_later_version"), "of_a_later_version", True),
        (error("unavailable", retry=True), "unavailable", False),
        (error("internal", retry=True), "internal", False),
        (error("gone", id=None), "gone", True),
        (frames.Goodbye(code=4000, reason="x"), "4000", False),
        (frames.Goodbye(code=4500, reason="x"), "4500", True),
        (frames.Goodbye(code=1009, reason="x"), "too_large", True),
    ],
)
def test_errors_and_goodbyes_say_whether_to_come_back(heard: frames.ServerFrame, code: str, is_final: bool) -> None:
    client = Client().hear(WELCOME)

    with pytest.raises(ConnectionLost) as lost:
        client.hear(heard)

    assert (lost.value.code, lost.value.is_final) == (code, is_final)
    if is_final:
        with pytest.raises(SubscriptionError) as refused:
            client.protocol.next_delay(lost.value, 0.5)
        assert refused.value.error_code == code
    else:
        client.protocol.next_delay(lost.value, 0.5)
        assert client.subscription.reconnects == 1


def test_an_error_about_something_else_ends_nothing() -> None:
    client = Client().hear(WELCOME, subscribed(), error("bad_request", id=None), error("not_found", id=9))

    assert client.hear(messages(0, 1)).items == [1]


def waits(policy: ReconnectPolicy, count: int, jitter: float = 1.0) -> list[float]:
    return [policy.delay_after(ConnectionLost("x"), jitter) for _ in range(count)]


def test_waits_double_from_the_first_to_the_longest_and_are_drawn_from_zero() -> None:
    assert waits(ReconnectPolicy(None), 8) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    assert waits(ReconnectPolicy(None), 3, jitter=0.0) == [0.0, 0.0, 0.0]
    assert waits(ReconnectPolicy(None), 40)[-1] == 20.0


def test_the_first_wait_after_a_connection_that_brought_something_is_quick() -> None:
    client = Client().hear(WELCOME, subscribed())
    assert waits(client.protocol.policy, 2) == [0.5, 1.0]  # to be let in is not yet to have been given something
    client.hear(messages(0, 1))
    assert waits(client.protocol.policy, 2) == [reconnect.QUICK_S, 0.5]
    client.hear(frames.Heartbeat(heads={"a": 1}))
    assert waits(client.protocol.policy, 1) == [reconnect.QUICK_S]


@pytest.mark.parametrize(("reconnect_ms", "wait_s"), [(1500, 1.5), (0, 0.0), (-5, 0.0), (10**12, 300.0)])
def test_a_goodbye_says_how_long_to_stay_away(reconnect_ms: int, wait_s: float) -> None:
    assert ReconnectPolicy(None).delay_after(closed(4000, "x", reconnect_ms), 1.0) == wait_s


# The state of the connection.


def test_the_state_shows_where_the_connection_is() -> None:
    client = Client()
    states = [client.protocol.state]
    for frame in (WELCOME, subscribed(), frames.Live(agent="a", sequence=0)):
        states.append(client.hear(frame).protocol.state)
    client.protocol.next_delay(ConnectionLost("x"), 0.0)
    states.append(client.protocol.state)
    client.protocol.connect()
    states.append(client.hear(WELCOME, subscribed(), status(0)).protocol.state)

    assert [state.name for state in states] == ["CONNECTING", "SUBSCRIBING", "BEHIND", "LIVE", "DISCONNECTED", "ENDED"]


def test_a_frame_that_the_state_does_not_expect_changes_nothing() -> None:
    client = Client().hear(WELCOME, subscribed(), WELCOME, subscribed(), messages(0, 2))

    assert (client.items, client.asked, client.protocol.state) == ([1, 2], [0], State.BEHIND)


# The token.


def refuse(policy: ReconnectPolicy, code: str) -> bool:
    """Whether it comes back after its token was refused."""
    try:
        policy.delay_after(ConnectionLost("no", code), 0.0)
    except ConnectionLost:
        return False
    return True


def test_a_text_that_is_refused_is_final_and_one_that_expired_is_tried_once_more() -> None:
    assert not refuse(ReconnectPolicy("t"), "unauthenticated")
    expired = ReconnectPolicy("t")
    assert refuse(expired, "token_expired")
    assert expired.token == "t"
    assert not refuse(expired, "token_expired")


@pytest.mark.parametrize("code", ["unauthenticated", "token_expired"])
def test_a_function_is_asked_again_once_and_then_it_is_final(code: str) -> None:
    policy = ReconnectPolicy(lambda: "fresh")
    assert policy.token_function is not None
    policy.token = "first"
    assert policy.token_function is None
    assert refuse(policy, code)
    assert policy.token_function is not None
    policy.token = "second"
    assert not refuse(policy, code)


def test_a_token_that_was_taken_meanwhile_may_be_refused_again() -> None:
    client = Client(token=lambda: "t")
    for _ in range(3):
        client.protocol.connect()
        client.hear(WELCOME, subscribed())
        assert refuse(client.protocol.policy, "token_expired")


@pytest.mark.parametrize("code", [4001, 4501])
def test_the_close_codes_of_tokens_are_refusals_of_the_token(code: int) -> None:
    policy = ReconnectPolicy(lambda: "t")
    policy.token = "old"

    policy.delay_after(closed(code, "x"), 0.0)

    assert policy.token is None


@pytest.mark.parametrize("token", ["t\r\nX-Evil: 1", "", " ", "schlüssel", "a\tb"])
def test_what_cannot_stand_in_a_header_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(ConnectionLost) as lost:
        _ = ReconnectPolicy(token).headers

    assert lost.value.is_final
    assert not token.strip() or token not in str(lost.value)
    assert ReconnectPolicy("abc").headers == {"Authorization": "Bearer abc"}
    assert ReconnectPolicy(None).headers == {}


# Whatever the network does.


class Server:
    """A model: an agent's log, sent in frames of some size, over a network that fails in the order given."""

    def __init__(self, length: int, sizes: list[int], faults: list[str]) -> None:
        self.length = length
        self.faults = deque(faults)
        self._sizes = sizes
        self._wire: deque[frames.ServerFrame] = deque()
        self._cursor = self._acked = 0
        self._window: int | None = None
        self._beats = 0
        self._said_end = True

    def connect(self) -> None:
        self._wire = deque([WELCOME])
        self._said_end, self._beats = True, 0

    def take(self, frame: frames.ClientFrame) -> None:
        if isinstance(frame, frames.Ack):
            self._acked = max(self._acked, min(frame.agent["a"], self._cursor))
        else:
            assert isinstance(frame, frames.Subscribe)
            assert isinstance(frame.after, int)
            assert isinstance(frame.id, int)
            self._cursor = self._acked = frame.after
            self._window, self._said_end = frame.window, False
            self._wire.append(subscribed(frame.after, frame.id, head=self.length))
        self._pump()

    def _pump(self) -> None:
        while self._cursor < self.length and self._room > 0 and not self._said_end:
            size = min(self._sizes[self._cursor % len(self._sizes)], self._room)
            last = min(self._cursor + size, self.length)
            self._send(messages(self._cursor, last))
            self._cursor = last
        if self._cursor == self.length and not self._said_end:
            self._said_end = True
            self._send(status(self.length))

    @property
    def _room(self) -> int:
        return self.length if self._window is None else self._window - self._cursor + self._acked

    def _send(self, frame: frames.ServerFrame) -> None:
        match self.faults.popleft() if self.faults else "deliver":
            case "lose":
                pass
            case "repeat":
                self._wire.extend((frame, frame))
            case "overtake":
                self._wire.appendleft(frame)
            case "cut":
                self._wire.append(frames.Goodbye(code=1006, reason="cut"))
            case _:
                self._wire.append(frame)

    def say(self) -> frames.ServerFrame | None:
        """The next frame; heartbeats when there is none; in the end silence."""
        if self._wire:
            return self._wire.popleft()
        self._beats += 1
        return frames.Heartbeat(heads={"a": self.length}) if self._beats < 5 else None


def converse(client: SubscriptionProtocol, server: Server) -> Iterator[int]:
    """One connection, as the two clients hold it."""
    client.connect()
    server.connect()
    while not client.is_over:
        heard = server.say() if client.receive_timeout_s != protocol.ACK_S or server._wire else None
        for said in client.on_silence() if heard is None else client.receive(heard):
            if isinstance(said, frames.Item):
                yield said.sequence
            elif server.faults and server.faults[0] == "refuse" and server.faults.popleft():
                raise ConnectionLost("it could not be sent")
            else:
                server.take(said)


@given(
    length=st.integers(0, 30),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    faults=st.lists(st.sampled_from(["deliver", "lose", "repeat", "overtake", "cut", "refuse"]), max_size=40),
    window=st.none() | st.integers(1, 9),
)
@example(length=17, sizes=[5], faults=[*["deliver"] * 3, "lose", *["deliver"] * 3, "refuse"], window=5)
def test_whatever_the_network_does_every_item_is_given_out_once_and_in_order(
    length: int, sizes: list[int], faults: list[str], window: int | None
) -> None:
    told: list[int] = []
    subscription = SubscriptionState(0, None)
    tell = lambda cursor, _: told.append(cursor)  # noqa: E731
    client = SubscriptionProtocol(
        subscription, "a", window=window, on_cursor=tell, clock=itertools.count(0, 0.04).__next__
    )
    server = Server(length, sizes, faults)
    seen: list[int] = []

    while not client.is_over:
        try:
            for sequence in converse(client, server):
                seen.append(sequence)
        except ConnectionLost as lost:
            assert client.next_delay(lost, 0.0) == 0.0
        assert subscription.reconnects <= 2 * len(faults) + 1

    assert seen == list(range(1, length + 1))
    assert subscription.cursor == length
    assert told == sorted(told)
    assert told[-1:] == [length] or length == 0
