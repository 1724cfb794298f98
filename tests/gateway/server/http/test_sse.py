"""Event streams of the ASGI app over real HTTP: what a browser's EventSource sees, and how it comes back.

In both forms: with the gateway in this process, and behind a Unix socket for each request.
"""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from fastapi import FastAPI

from commitcast.actors import AgentHandle, AgentRuntime
from commitcast.gateway import Capability, Grant, Limits, Operation, StaticTokens
from commitcast.gateway.hub.encoding import PreparedFrame
from commitcast.gateway.protocol import decoding, frames
from commitcast.gateway.server.http import asgi
from commitcast.gateway.server.http.request import HttpResponse
from commitcast.gateway.server.http.sse import EventId, EventStream
from commitcast.gateway.server.sockets.websocket import WRITE_LIMIT_BYTES
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.store import PAGE_BYTES
from hosting import hosted
from subscribers import STREAM, Follower
from tunnels import FORMS, served
from waiting import TIMEOUT_S, wait_until

LARGE: Final = 16 * 1024 * 1024
PATH: Final = "/agents/v1/agents/a1/events"
ALL: Final = "/agents/v1/events"
ENDED: Final = {"completed", "failed", "terminated"}

Fields = dict[str, Any]
Headers = dict[str, str]

_form = FORMS[0]


@pytest.fixture(params=FORMS)
def both_forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with apps of either form."""
    monkeypatch.setitem(globals(), "_form", request.param)


class Event(NamedTuple):
    """One block of a stream."""

    type: str | None
    id: str | None
    data: str
    retry: int | None
    comment: str | None

    @property
    def fields(self) -> Fields:
        """Of the frame that it carries."""
        found: Fields = json.loads(self.data)
        return found


class Browser:
    """One request for a stream, read line by line."""

    def __init__(self, address: str, path: str = PATH, *, last: str | None = None, **headers: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        sent = headers if last is None else {"Last-Event-ID": last, **headers}
        self._connection.request("GET", path, headers=sent)
        self.response = self._connection.getresponse()
        self.status = self.response.status

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[Event]:
        lines: list[str] = []
        while line := self.response.readline():
            assert line.endswith(b"\n")
            if line != b"\n":
                lines.append(line.decode().removesuffix("\n"))
            elif lines:
                yield _event(lines)
                lines = []
        assert not lines, "an event was cut off"

    def until(self, type: str) -> Event:
        """Return the next event of a type."""
        return next(event for event in self if event.type == type)

    @property
    def error(self) -> str:
        """The code of the error that was answered."""
        code: str = json.loads(self.response.read())["error"]["code"]
        return code


def _event(lines: list[str]) -> Event:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        assert colon and name not in fields, f"not of an event: {line!r}"
        fields[name] = value.removeprefix(" ")
    retry = fields.get("retry")
    return Event(
        fields.get("event"), fields.get("id"), fields["data"], None if retry is None else int(retry), fields.get("")
    )


class Listener:
    """What a browser's page keeps over all its connections; fails on what breaks a promise."""

    def __init__(self) -> None:
        self.last: str | None = None
        self.follower: Follower | None = None
        self.statuses: list[str] = []
        self.contents: list[str] = []

    def take(self, event: Event) -> None:
        """Apply the client's rule to an event."""
        assert event.fields["type"] == event.type
        self.last = event.id or self.last
        if event.type == "subscribed":
            assert self.follower is None or event.fields["after"] == self.follower.cursor
            self.follower = Follower(event.fields["agent"], event.fields["after"], event.fields["head"])
        if event.type in STREAM:
            assert self.follower is not None
            frame = decoding.decode_server(event.data)
            assert frame is not None
            self.follower.take(frame)
        if isinstance(event.type, str) and event.type == "messages":
            self.contents += [item["content"] for item in event.fields["items"]]
        if event.type == "status":
            self.statuses.append(event.fields["status"])

    def listen(self, browser: Browser, most: int | None = None) -> "Listener":
        """Take all events; with a bound no more than that, and none that are live."""
        for count, event in enumerate(browser, 1):
            self.take(event)
            if most is not None and (count == most or event.type == "live"):
                break
        return self


def beside(runtime: AgentRuntime) -> FastAPI:
    """A host's app with the gateway mounted."""
    host = FastAPI()
    host.mount("/agents", asgi.app(served(runtime.gateway, _form)))
    return host


@contextmanager
def mounted(tmp_path: Path, **options: Any) -> Iterator[tuple[AgentRuntime, str]]:
    """A runtime and a host with its gateway. The runtime stops first, as the host waits for its streams."""
    runtime = AgentRuntime(tmp_path / "a.db", **{"listen": "asgi", **options}).start()
    try:
        with hosted(beside(runtime)) as address:
            try:
                yield runtime, address
            finally:
                runtime.stop()
    finally:
        runtime.stop()


def spoken(runtime: AgentRuntime, *contents: str, id: str = "a1", end: bool = False) -> AgentHandle:
    """Launch an agent that has said so much."""
    agent = runtime.launch(id=id)
    agent.start().get(TIMEOUT_S)
    said = [agent.emit(content) for content in contents]
    for each in said:
        each.get(TIMEOUT_S)
    if end:
        agent.complete().get(TIMEOUT_S)
    return agent


def epoch_of(runtime: AgentRuntime, agent: str = "a1") -> str:
    return runtime.store.resolve_cursor(agent, None).epoch


def nobody_is_left(runtime: AgentRuntime) -> None:
    """Wait until the gateway has forgotten everybody, also in its count for each address."""
    gateway = runtime.gateway
    assert gateway is not None
    wait_until(lambda: not gateway.core.connections and not gateway.core._from, "everybody to be forgotten")


@pytest.mark.usefixtures("both_forms")
class TestEvents:
    def test_each_event_is_a_frame_with_the_cursor_as_its_id(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "one", "two", end=True)
            epoch = epoch_of(runtime)

            with Browser(address) as browser:
                events = list(browser)

            assert [(event.type, event.id) for event in events] == [
                ("subscribed", f"{epoch}.0"),
                ("status", f"{epoch}.0"),
                ("messages", f"{epoch}.2"),
                ("status", f"{epoch}.2"),
                ("live", f"{epoch}.2.end"),
            ]
            assert [event.retry for event in events] == [1_000, None, None, None, None]
            assert [event.fields["type"] for event in events] == [event.type for event in events]

    def test_the_headers_keep_proxies_and_caches_from_interfering(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime)
            with Browser(address) as browser:
                headers = browser.response.headers
                assert browser.status == 200
                assert headers["Content-Type"] == "text/event-stream"
                assert headers["Cache-Control"] == "no-store"
                assert headers["X-Accel-Buffering"] == "no"
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Content-Length"] is None

    def test_content_of_any_kind_stays_on_its_line(self, tmp_path: Path) -> None:
        contents = ["a\nb\r\nc\rd", "\n\ndata: x\n\n", "üö\u2028\u2029\x85\U0001f600", "event: status", ""]
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, *contents, end=True)
            with Browser(address) as browser:
                assert Listener().listen(browser).contents == contents

    def test_a_message_of_sixteen_mebibytes_arrives(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "x" * LARGE, "after it", end=True)
            with Browser(address) as browser:
                assert [len(content) for content in Listener().listen(browser).contents] == [LARGE, 8]

    def test_after_tail_and_raw_are_as_in_a_subscription(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, "one", "two")
            agent.emit("three", raw=b"RAW").get(TIMEOUT_S)
            with Browser(address, f"{PATH}?after=1&raw=true") as late, Browser(address, f"{PATH}?after=tail") as tail:
                assert late.until("subscribed").fields["after"] == 1
                items = late.until("messages").fields["items"]
                assert [(item["content"], item.get("raw")) for item in items] == [("two", None), ("three", "RAW")]
                assert tail.until("subscribed").id == f"{epoch_of(runtime)}.3"
                tail.until("live")
                agent.emit("four").get(TIMEOUT_S)
                assert [item["content"] for item in tail.until("messages").fields["items"]] == ["four"]

    def test_heartbeats_come_with_a_comment_and_without_an_id(self, tmp_path: Path) -> None:
        with mounted(tmp_path, heartbeat_s=0.05) as (runtime, address):
            spoken(runtime, "one")
            with Browser(address) as browser:
                browser.until("live")
                beats = [browser.until("heartbeat") for _ in range(5)]  # more than a silent WebSocket would be given
                while beats[-1].fields["heads"] != {"a1": 1}:  # a beat whose read takes longer than it goes without
                    beats.append(browser.until("heartbeat"))
            assert {(beat.comment, beat.id) for beat in beats} == {("heartbeat", None)}

    def test_head_is_answered_with_the_headers_alone(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "one")
            connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
            connection.request("HEAD", PATH)
            response = connection.getresponse()
            assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
            assert response.read() == b""
            nobody_is_left(runtime)
            connection.close()


@pytest.mark.usefixtures("both_forms")
class TestTheEnd:
    def test_the_response_ends_with_the_agent(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, "one")
            with Browser(address) as browser:
                listener = Listener().listen(browser, 4)
                agent.emit("two")
                agent.complete()
                listener.listen(browser)
            assert listener.contents == ["one", "two"]
            assert listener.statuses == ["running", "completed"]
            assert listener.last == f"{epoch_of(runtime)}.2.end"
            nobody_is_left(runtime)

    def test_204_comes_only_to_who_has_heard_of_the_end_and_has_everything(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, "one", "two")
            epoch = epoch_of(runtime)
            for id in (f"{epoch}.2", f"{epoch}.2.end"):
                with Browser(address, last=id) as still_running:
                    assert still_running.status == 200
                    still_running.until("live")
            agent.complete().get(TIMEOUT_S)

            with Browser(address, last=f"{epoch}.1") as behind:
                assert Listener().listen(behind).contents == ["two"]
            with Browser(address, last=f"{epoch}.2") as without_status:
                listener = Listener().listen(without_status)
                assert (listener.contents, listener.statuses) == ([], ["completed"])
            with Browser(address, last=listener.last) as complete:
                assert (complete.status, complete.response.read()) == (204, b"")
            with Browser(address, f"{PATH}?after=2") as first_time:
                assert first_time.status == 200

    def test_what_is_said_after_the_end_is_still_sent(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, "one", end=True)
            agent.emit("late").get(TIMEOUT_S)
            with Browser(address, last=f"{epoch_of(runtime)}.1.end") as browser:
                listener = Listener().listen(browser)
            assert listener.contents == ["late"]
            with Browser(address, last=listener.last) as browser:
                assert browser.status == 204

    def test_a_runtime_that_stops_says_goodbye_and_when_to_come_back(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "one")
            with Browser(address, ALL) as browser:
                browser.until("live")
                stopping = threading.Thread(target=runtime.stop)
                stopping.start()
                *_, goodbye = browser
                stopping.join()
            assert goodbye.type == "goodbye"
            assert goodbye.fields["code"] == 4000
            assert goodbye.retry == goodbye.fields["reconnect_ms"] >= 200

    def test_a_host_that_shuts_down_first_leaves_nothing_in_the_gateway(self, tmp_path: Path) -> None:
        with AgentRuntime(tmp_path / "a.db", listen="asgi") as runtime:
            agent = spoken(runtime, "one")
            with hosted(beside(runtime), timeout_graceful_shutdown=1) as address:
                browser = Browser(address)
                browser.until("live")
            nobody_is_left(runtime)
            agent.emit("it goes on").get(TIMEOUT_S)
            browser.__exit__()

    def test_a_client_that_is_gone_is_forgotten(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "one")
            with Browser(address) as browser:
                browser.until("live")
            nobody_is_left(runtime)


@pytest.mark.usefixtures("both_forms")
class TestComingBack:
    def test_who_is_cut_off_after_any_event_gets_every_message_once_and_the_end(self, tmp_path: Path) -> None:
        contents = [f"{number} " + "x" * 30_000 for number in range(12)]  # three to a frame
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, *contents[:6])
            listener = Listener()

            for most in (1, 2, 3, 4, 2, 3, 1, 4):
                with Browser(address, last=listener.last) as browser:
                    listener.listen(browser, most)
            for content in contents[6:]:
                agent.emit(content).get(TIMEOUT_S)
            agent.complete().get(TIMEOUT_S)
            for most in (2, 3, 2, 3):
                with Browser(address, last=listener.last) as browser:
                    listener.listen(browser, most)
            while True:
                with Browser(address, last=listener.last) as browser:
                    if browser.status == 204:
                        break
                    listener.listen(browser)

            assert listener.contents == contents
            assert listener.statuses[-1] == "completed"

    def test_who_was_cut_off_between_the_last_message_and_the_end_hears_of_the_end(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, "one")
            with Browser(address) as browser:
                last = browser.until("messages").id
            agent.fail("it broke").get(TIMEOUT_S)

            with Browser(address, last=last) as browser:
                assert browser.until("status").fields["status"] == "failed"

    def test_where_one_stands_counts_for_more_than_after(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "one", "two", "three")
            for after in ("0", "3", "tail"):
                with Browser(address, f"{PATH}?after={after}", last="2") as browser:
                    assert [item["content"] for item in browser.until("messages").fields["items"]] == ["three"]

    @pytest.mark.parametrize(
        ("path", "last", "status", "code"),
        [
            (PATH, "other.1", 409, "stale_epoch"),
            (PATH, "2", 409, "ahead"),
            (f"{PATH}?after=2", None, 409, "ahead"),
            (PATH, "1.2.3", 400, "bad_request"),
            (PATH, "99999999999999999", 400, "bad_request"),
            (PATH, "one", 400, "bad_request"),
            (f"{PATH}?after=-1", None, 400, "bad_request"),
            (f"{PATH}?after=", None, 400, "bad_request"),
            ("/agents/v1/agents/nobody/events", None, 404, "not_found"),
            ("/agents/v1/agents/a%2Fb/events", None, 404, "not_found"),
        ],
    )
    def test_what_cannot_be_is_refused_before_any_event(
        self, tmp_path: Path, path: str, last: str | None, status: int, code: str
    ) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "one")
            with Browser(address, path, last=last) as browser:
                assert (browser.status, browser.error) == (status, code)
            nobody_is_left(runtime)


@pytest.mark.usefixtures("both_forms")
class TestAllAgents:
    def test_the_id_is_the_position_and_the_stream_goes_on_after_an_end(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            spoken(runtime, "one", end=True)
            listener = Listener()
            with Browser(address, ALL) as browser:
                listener.listen(browser, 3)
            epoch = runtime.store.position()[1]
            assert listener.last is not None and listener.follower is not None
            assert listener.last == f"{epoch}.{listener.follower.cursor}"

            with Browser(address, ALL, last=listener.last) as browser:
                while listener.statuses[-1:] != ["completed"]:
                    listener.listen(browser, 1)
                spoken(runtime, "two", id="a2", end=True)
                while listener.statuses.count("completed") < 2:
                    listener.listen(browser, 1)

            assert listener.contents == ["one", "two"]
            with Browser(address, ALL, last=listener.last) as browser:
                assert browser.status == 200


@pytest.mark.usefixtures("both_forms")
class TestRights:
    def test_a_stream_needs_a_token_with_the_right_to_read(self, tmp_path: Path) -> None:
        def grant(agent: str) -> Grant:
            return Grant(agent, (Capability(agent, frozenset({Operation.READ})),))

        tokens = {"all-all-all-all": grant("*"), "own-own-own-own": grant("a1"), "old-old-old-old": grant("a9")}
        with mounted(tmp_path, token=_Tokens(tokens)) as (runtime, address):
            spoken(runtime, "one")

            def answered(path: str, token: str) -> int:
                with Browser(address, path, Authorization=f"Bearer {token}") as browser:
                    return browser.status

            with Browser(address) as browser:
                assert (browser.status, browser.response.headers["WWW-Authenticate"]) == (401, "Bearer")
                assert b"Authorization: Bearer" in browser.response.read()
            assert answered(PATH, "wrong") == 401
            assert answered(PATH, "own-own-own-own") == 200
            assert answered(PATH, "old-old-old-old") == 404
            assert answered(ALL, "own-own-own-own") == 403
            assert answered(ALL, "all-all-all-all") == 200
            nobody_is_left(runtime)


class _Tokens:
    """A verifier by table."""

    def __init__(self, grants: dict[str, Grant]) -> None:
        self._grants = grants

    def verify(self, token: str) -> Grant:
        if token not in self._grants:
            return StaticTokens.single("some other token").verify(token)
        return self._grants[token]


@pytest.mark.usefixtures("both_forms")
class TestSlowReaders:
    def test_who_stops_reading_costs_bounded_memory_delays_nobody_and_is_dropped(self, tmp_path: Path) -> None:
        with mounted(tmp_path, limits=Limits(stall_timeout_s=1.5)) as (runtime, address):
            gateway = runtime.gateway
            assert gateway is not None
            agent = spoken(runtime, *["x" * 100_000] * 200)
            with Browser(address, f"{PATH}?after=tail") as quick:
                quick.until("live")  # first, for the slow one is dropped soon after it came
                with Browser(address) as slow:
                    wait_until(lambda: _is_anybody_paused(runtime), "the slow one to be paused")
                    agent.emit("in time").get(TIMEOUT_S)
                    assert quick.until("messages").fields["items"][0]["content"] == "in time"
                    assert _unsent(runtime) < WRITE_LIMIT_BYTES + 2 * PAGE_BYTES
                    wait_until(lambda: gateway.core.connections == 1, "the slow one to be dropped")
                    assert gateway.core.traffic.closes[4002] == 1
                    assert slow.status == 200

    @pytest.mark.sampled(1 / 2)
    def test_who_reads_slowly_but_reads_one_large_event_is_not_dropped(self, tmp_path: Path) -> None:
        with mounted(tmp_path, limits=Limits(stall_timeout_s=1.5)) as (runtime, address):
            gateway = runtime.gateway
            assert gateway is not None
            spoken(runtime, "x" * LARGE, end=True)
            with Browser(address) as slow:
                wait_until(lambda: _unsent(runtime) > WRITE_LIMIT_BYTES, "the event to be under way")
                paced = threading.Event()
                while _unsent(runtime):  # as long as two stall timeouts, on the machine where this was written
                    slow.response.read(512 * 1024)
                    paced.wait(0.2)
                assert slow.response.read().endswith(b"\n\n")
            assert gateway.core.traffic.closes[4002] == 0

    @pytest.mark.sampled(1 / 2)
    def test_a_hundred_streams_get_the_same(self, tmp_path: Path) -> None:
        with mounted(tmp_path) as (runtime, address):
            agent = spoken(runtime, "first")
            heard: list[list[str]] = []

            def watch() -> None:
                with Browser(address) as browser:
                    heard.append(Listener().listen(browser).contents)

            watching = [threading.Thread(target=watch) for _ in range(100)]
            for each in watching:
                each.start()
            contents = ["first"]
            for number in range(40):
                contents.append(agent.emit(str(number)).get(TIMEOUT_S).content)
            agent.complete().get(TIMEOUT_S)
            for each in watching:
                each.join()

            assert heard == [contents] * 100
            nobody_is_left(runtime)


def _is_anybody_paused(runtime: AgentRuntime) -> bool:
    assert runtime.gateway is not None
    return any(peer.subscriber.is_paused for peer in list(runtime.gateway.core._sessions))


def _unsent(runtime: AgentRuntime) -> int:
    assert runtime.gateway is not None
    return max((peer.unsent_bytes for peer in list(runtime.gateway.core._sessions)), default=0)


class TestEventIds:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("e.42", EventId(42, "e")),
            ("42", EventId(42, None, True)),
            ("e.42.end", EventId(42, "e", True)),
            ("a-b_c:d.0", EventId(0, "a-b_c:d")),
        ],
    )
    def test_an_id_says_where_a_client_stands(self, text: str, wanted: EventId) -> None:
        assert EventId.parse(text) == wanted
        if wanted.epoch is not None:
            assert str(wanted) == text

    @pytest.mark.parametrize("text", ["", ".", "e.", ".1", "e.1.2", "-1", "1e3", "e.٣", "e 1", f"e.{2**53}", "x" * 500])
    def test_everything_else_is_garbage(self, text: str) -> None:
        with pytest.raises(InvalidValueError, match="Last-Event-ID"):
            EventId.parse(text)


class TestStreams:
    def begun(self) -> EventStream:
        stream = EventStream("a1", None)
        subscribed = frames.Subscribed(agent="a1", epoch="e", after=0, head=0, first=1, status="running", record=None)
        assert isinstance(stream.take(PreparedFrame(subscribed)), bytes)
        return stream

    def test_an_agent_that_is_deleted_ends_the_stream(self) -> None:
        stream = self.begun()
        stream.take(PreparedFrame(frames.Error(agent="a1", code="gone", message="it was deleted", retry=False)))
        assert stream.is_over

    def test_word_of_a_refused_append_does_not(self) -> None:
        stream = self.begun()
        told = stream.take(PreparedFrame(frames.Error(agent="a1", code="unavailable", message="full", retry=True)))
        assert isinstance(told, bytes) and told.startswith(b"event: error\ndata: {") and told.endswith(b"}\n\n")
        assert not stream.is_over

    @pytest.mark.parametrize(
        ("code", "status"),
        [("gone", 410), ("token_expired", 401), ("rate_limited", 429), ("unavailable", 503), ("internal", 500)],
    )
    def test_a_refusal_becomes_a_status(self, code: str, status: int) -> None:
        answered = EventStream("a1", None).take(
            PreparedFrame(frames.Error(agent="a1", code=code, message="no", retry=False))
        )
        assert isinstance(answered, HttpResponse)
        assert answered.status == status
