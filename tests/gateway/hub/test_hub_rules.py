"""What the hub promises beside the order of frames: shared encodings, bounded memory, and failures that stay alone."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from commitcast.gateway.hub import encoding
from commitcast.gateway.hub.hub import Drop, Hub, Read, Skip, Write
from commitcast.gateway.hub.log import ENTRY_BYTES, MAX_DEBT_S, QUIET_S, REST, AllAgentsLog, Ring, Rings, committed_size
from commitcast.gateway.hub.subscription import FRAME_BYTES, Subscriber, Subscription
from commitcast.gateway.protocol import frames
from commitcast.persistence.records import AgentDeletion, AgentStatus, Committed, MessageRecord
from commitcast.persistence.sqlite.store import SqliteStore
from commitcast.persistence.store import FeedPage, Head, entry_size
from commitcast.persistence.writes import Write as StoreWrite
from stores import COMPLETED, FAILED, INITIALIZING, RUNNING, change, commit, new_agent, of, opened, proof, text


class Peer:
    """A socket that keeps what is written."""

    def __init__(self) -> None:
        self.subscriber = Subscriber(self)
        self.written: list[bytes] = []

    @property
    def frames(self) -> list[dict[str, Any]]:
        """What was written, decoded."""
        return [json.loads(data) for data in self.written]

    def of_type(self, type: str) -> list[dict[str, Any]]:
        """What was written of a type."""
        return [frame for frame in self.frames if frame["type"] == type]


class Bench:
    """A hub over a store, with everything performed at once."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.hub = Hub()
        self.reads: list[Subscription] = []
        self.skips: list[Subscription] = []
        self.dropped: list[Subscription] = []
        self.now = 0.0

    def write(self, agent: str, *writes: StoreWrite) -> Committed:
        """Commit, and tell nobody."""
        return proof(commit(self.store, agent, *writes))

    def say(self, agent: str, *contents: str) -> Committed:
        """Commit messages, and tell the hub."""
        committed = self.write(agent, *map(text, contents))
        self.hub.publish(committed)
        return committed

    def peer(self, agent: str, after: int = 0, **options: Any) -> Peer:
        """Subscribe."""
        peer = Peer()
        self.subscribe(peer, agent, after, **options)
        return peer

    def subscribe(
        self,
        peer: Peer,
        agent: str,
        after: int = 0,
        *,
        raw: bool = False,
        window: int | None = None,
        slow: frames.SlowPolicy = "catch_up",
        epoch: str = "e",
    ) -> None:
        """Subscribe, as a session does."""
        position = after if agent == frames.ALL else self.store.resolve_cursor(agent, after).position
        self.hub.subscribe(
            Subscription(peer.subscriber, agent, after, position, epoch, raw=raw, window=window, slow=slow)
        )

    def pump(self, *, read: bool = True) -> None:
        """Perform everything; pages are read at once, or not at all."""
        self.now += 1
        self.hub.make_ready(self.now)
        for effect in self.hub.effects():
            if isinstance(effect, Write):
                effect.subscriber.peer.written.append(effect.frame.json)
            elif isinstance(effect, Skip):
                self.skips.append(effect.subscription)
            elif isinstance(effect, Drop):
                self.dropped.append(effect.subscription)
            else:
                self.reads.append(effect.subscription)
        if read and self.reads:
            reads, self.reads = self.reads, []
            for subscription in reads:
                self.answer(subscription)
            self.pump()

    def recheck(self) -> None:
        """Compare with the store, as a heartbeat does."""
        last, _ = self.store.position()
        self.hub.recheck({**self.store.heads(self.hub.agents), frames.ALL: Head(last, last)})

    def answer(self, subscription: Subscription, page: Any = None) -> None:
        """Give the hub a page."""
        if page is None and subscription.is_to_all:
            page = self.store.feed(subscription.position)
        elif page is None:
            page = self.store.entries(subscription.agent, subscription.cursor, subscription.position)
        for effect in self.hub.page(subscription, page):
            assert isinstance(effect, Write)
            effect.subscriber.peer.written.append(effect.frame.json)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with opened(":memory:") as store:
        for agent in "abc":
            commit(store, agent, new_agent())
        yield Bench(store)


class TestSharing:
    @pytest.mark.parametrize("agent", ["a", frames.ALL])
    def test_subscribers_at_the_same_cursor_are_given_the_same_bytes_object(self, bench: Bench, agent: str) -> None:
        after = bench.store.position()[0] if agent == frames.ALL else 0
        first, second, other = bench.peer(agent, after), bench.peer(agent, after), bench.peer(agent, after, raw=True)
        bench.pump()

        bench.hub.publish(bench.write("a", text("hello", raw=b"line")))
        bench.pump()

        assert first.of_type("messages")[0]["items"][0]["content"] == "hello"
        assert first.written[-1] is second.written[-1]
        assert "raw" not in first.of_type("messages")[0]["items"][0]
        assert other.of_type("messages")[0]["items"][0]["raw"] == "line"

    def test_a_batch_of_many_agents_is_one_messages_frame_to_a_subscriber_to_all(self, bench: Bench) -> None:
        peer = bench.peer(frames.ALL, bench.store.position()[0])
        bench.pump()

        for outcome in bench.store.commit([of(agent, text("x"), text("y")) for agent in "abc"]):
            bench.hub.publish(proof(outcome))
        bench.pump()

        (frame,) = peer.of_type("messages")
        assert [item["agent"] for item in frame["items"]] == ["a", "a", "b", "b", "c", "c"]
        assert frame["last"] - frame["prev"] == 6

    def test_a_frame_ends_with_the_item_that_passes_its_size_whatever_the_item_holds(self, bench: Bench) -> None:
        half = FRAME_BYTES // 2
        bench.write("a", text("x" * half), text("x" * half), text("x", metadata={"m": "x" * half * 2}))
        bench.write("a", *[text("x", raw=b"x" * half * 2)] * 2)
        plain, raw = bench.peer("a"), bench.peer("a", raw=True)

        bench.pump()

        assert [len(frame["items"]) for frame in plain.of_type("messages")] == [2, 1, 2]
        assert [len(frame["items"]) for frame in raw.of_type("messages")] == [2, 1, 1, 1]

    def test_a_frame_is_bounded_in_bytes_and_not_in_characters(self, bench: Bench) -> None:
        bench.write("a", *[text("字" * 1_000, metadata={"m": "字" * 500})] * 60)
        peer = bench.peer("a")

        bench.pump()

        sizes = [len(json.dumps(frame, ensure_ascii=False).encode()) for frame in peer.of_type("messages")]
        assert sum(sizes) > 60 * 4_500
        assert max(sizes) < FRAME_BYTES + 6_000 + ENTRY_BYTES * 16

    @pytest.mark.parametrize(
        "options",
        [
            {"content": "\x01" * 500},
            {"content": '"\\' * 250},
            {"content": "x", "raw": b"\x1b[1m" * 125},
            {"content": "x", "raw": b"\xff" * 500},
            {"content": "x", "metadata": {"m": "\x01" * 500}},
            {"content": "字" * 160},
            {"content": "😀" * 125},
            {"content": "\n" * 250},
            {"content": ""},
            {"content": "x", "role": "r" * 128},
        ],
        ids=["control", "quotes", "escape codes", "base64", "metadata", "CJK", "emoji", "newlines", "empty", "role"],
    )
    @pytest.mark.parametrize("log", ["a", frames.ALL])
    @pytest.mark.parametrize("is_live", [True, False], ids=["memory", "store"])
    def test_a_frame_is_bounded_as_it_is_encoded(
        self, bench: Bench, options: dict[str, Any], log: str, is_live: bool
    ) -> None:
        peer = bench.peer(log, raw=True)
        bench.pump()
        for _ in range(2):
            committed = bench.write("a", *[text(**options)] * 300)
            if is_live:
                bench.hub.publish(committed)
        if not is_live:
            peer = bench.peer(log, raw=True)
        bench.pump()

        sizes = [len(data) for data in peer.written]
        items = [item for frame in peer.of_type("messages") for item in frame["items"]]
        assert len([item for item in items if item["type"] == "assistant"]) == 600
        assert max(sizes) < FRAME_BYTES + encoding.ESCAPE_BYTES + 6_000

    def test_an_item_that_is_larger_than_a_frame_when_it_is_encoded_is_sent_alone(self, bench: Bench) -> None:
        bench.write("a", text("x"), text("\x01" * 20_000), text("\x01" * 20_000), text("x"))
        peer = bench.peer("a")

        bench.pump()

        assert [len(frame["items"]) for frame in peer.of_type("messages")] == [2, 1, 1]


def test_what_entries_count_for_is_bytes(bench: Bench) -> None:
    wide = "字" * 1_000
    created = bench.write(
        "wide", new_agent(prompt=wide, configuration_json=json.dumps({"a": wide}, ensure_ascii=False))
    )
    said = bench.write("wide", text(wide, metadata={"m": wide}), change(INITIALIZING, RUNNING))
    failed = bench.write("wide", change(RUNNING, FAILED, error_name=wide, error_message=wide, reason=wide))
    bench.write("b", change(INITIALIZING, RUNNING))
    ended = bench.write("b", change(RUNNING, COMPLETED, result_json=f'"{wide}"'))

    for committed, texts in ((created, 2), (said, 2), (failed, 3), (ended, 1)):
        size = committed_size(committed)
        assert 3_000 * texts <= size - ENTRY_BYTES * len(committed.entries) < 3_000 * texts + 100
        assert size == sum(ENTRY_BYTES + entry_size(entry) for entry in committed.entries)


class TestRing:
    def test_the_oldest_entries_are_dropped_and_the_start_moves_behind_them(self, bench: Bench) -> None:
        ring = Ring(bench.store.position()[0], "e", max_bytes=10 * ENTRY_BYTES)

        for number in range(25):
            committed = bench.write("a", text(str(number)))
            ring.extend(committed)
            assert ring.size <= 10 * ENTRY_BYTES
            assert [entry.position for entry in ring.entries] == list(range(ring.start + 1, ring.end + 1))

        assert ring.end == bench.store.position()[0]
        assert 4 <= len(ring.entries) < 10

    @pytest.mark.parametrize(
        "write",
        [
            text("x" * 5_000),
            text("ü" * 2_500),
            text("x", raw=b"x" * 5_000),
            text("x", metadata={"m": "x" * 5_000}),
            change(INITIALIZING, FAILED, error_message="x" * 5_000),
            change(INITIALIZING, FAILED, result_json='"' + "x" * 5_000 + '"'),
        ],
        ids=["content", "bytes", "raw", "metadata", "error", "result"],
    )
    def test_everything_that_an_entry_holds_counts(self, bench: Bench, write: StoreWrite) -> None:
        ring = Ring(0, "e", max_bytes=100_000)

        ring.extend(bench.write("a", write))

        assert ring.size >= ENTRY_BYTES + 5_000

    def test_a_prompt_and_a_configuration_count(self, bench: Bench) -> None:
        ring = Ring(0, "e", max_bytes=100_000)

        ring.extend(bench.write("d", new_agent("x", prompt="x" * 3_000, configuration_json='"' + "x" * 3_000 + '"')))

        assert ring.size >= 2 * ENTRY_BYTES + 6_000

    def test_the_frames_kept_beside_the_entries_are_bounded_too(self, bench: Bench) -> None:
        bench.hub = Hub(Rings(ring_bytes=64_000))
        keeper = bench.peer("a")
        bench.pump()
        bench.say("a", *["x" * 200] * 80)

        for after in range(80):
            bench.subscribe(keeper, "b", 0)
            peer = bench.peer("a", after)
            bench.pump()
            assert peer.of_type("messages")[-1]["last"] == 80
            bench.hub.disconnect(peer.subscriber)

        ring = bench.hub._rings.get("a")
        assert ring is not None
        assert sum(len(frame.json) for frame, _ in ring.frames.values() if frame is not None) <= 64_000

    def test_all_rings_are_bounded_together_and_who_lost_his_reads_the_store(self, bench: Bench) -> None:
        bench.hub = Hub(Rings(ring_bytes=10_000, all_bytes=12_000))
        peers = {agent: bench.peer(agent) for agent in "abc"}
        bench.pump()
        for peer in peers.values():
            peer.subscriber.pause()

        for _ in range(5):
            for agent in "abc":
                bench.say(agent, "x" * 1_000)
                assert bench.hub._rings.size <= 12_000
        for peer in peers.values():
            bench.hub.resume(peer.subscriber)
        bench.pump()

        assert all(peer.of_type("messages")[-1]["last"] == 5 for peer in peers.values())

    def test_nobody_subscribed_means_nothing_kept(self, bench: Bench) -> None:
        peer = bench.peer("a")
        bench.subscribe(peer, frames.ALL, bench.store.position()[0])
        bench.pump()
        bench.say("a", "x")

        bench.hub.disconnect(peer.subscriber)
        bench.say("a", "y")

        assert (bench.hub._rings.size, bench.hub._all_agents.size, bench.hub._all_agents.ring) == (0, 0, None)


class TestPaused:
    def test_a_paused_subscriber_gets_nothing_and_costs_nothing_beyond_the_ring(self, bench: Bench) -> None:
        bench.hub = Hub(Rings(ring_bytes=20_000), AllAgentsLog(max_bytes=20_000))
        peer, other = bench.peer("a"), bench.peer("a")
        bench.subscribe(peer, frames.ALL, bench.store.position()[0])
        bench.pump()
        peer.subscriber.pause()
        before = len(peer.written)

        for number in range(300):
            bench.say("a", "x" * 100 + str(number))
            bench.hub.notify("a", "internal", "refused", False)
            bench.pump()

        assert len(peer.written) == before
        assert bench.hub._rings.size <= 20_000 and bench.hub._all_agents.size <= 20_000
        assert bench.hub._notices == [] and bench.reads == []
        assert other.of_type("messages")[-1]["last"] == 300
        bench.hub.resume(peer.subscriber)
        bench.pump()
        assert [frame["last"] for frame in peer.of_type("messages") if frame["agent"] == "a"][-1] == 300

    def test_a_notice_reaches_each_connection_once_however_often_it_subscribed(self, bench: Bench) -> None:
        peer = bench.peer("a")
        bench.subscribe(peer, frames.ALL, 0)
        stranger = bench.peer("b")
        bench.pump()

        bench.hub.notify("a", "not_found", "refused", True)
        bench.pump()

        (notice,) = peer.of_type("error")
        assert notice == {"type": "error", "agent": "a", "code": "not_found", "message": "refused", "retry": True}
        assert stranger.of_type("error") == []


class TestWindow:
    @pytest.mark.parametrize("agent", ["a", frames.ALL])
    def test_the_server_goes_no_further_than_the_window_behind_what_was_acknowledged(
        self, bench: Bench, agent: str
    ) -> None:
        begin = bench.store.position()[0] if agent == frames.ALL else 0
        bench.write("a", *map(text, "stored"))  # read from a page
        peer = bench.peer(agent, begin, window=4)
        bench.pump()
        bench.say("a", *"live")  # taken from the ring

        seen = []
        for acked in range(begin, begin + 10):
            bench.hub.ack(peer.subscriber, agent, acked)
            bench.pump()
            seen.append(peer.of_type("messages")[-1]["last"] - begin)

        assert seen == [4, 5, 6, 7, 8, 9, 10, 10, 10, 10]
        assert "".join(item["content"] for frame in peer.of_type("messages") for item in frame["items"]) == "storedlive"

    def test_an_ack_beyond_what_was_sent_opens_no_more_than_the_window(self, bench: Bench) -> None:
        bench.write("a", *map(text, "0123456789"))
        peer = bench.peer("a", window=2)
        bench.pump()

        bench.hub.ack(peer.subscriber, "a", 1_000)
        bench.pump()

        assert peer.of_type("messages")[-1]["last"] == 4


class TestAll:
    def test_who_begins_in_the_past_is_live_as_soon_as_he_has_caught_up(self, bench: Bench) -> None:
        bench.write("a", *map(text, "before"))
        peer = bench.peer(frames.ALL, 0)
        bench.pump()

        bench.say("b", "now")
        bench.pump()

        assert peer.of_type("live")
        assert peer.of_type("messages")[-1]["items"][0]["content"] == "now"

    def test_a_commit_that_came_between_the_answer_and_the_first_page_delays_nothing(self, bench: Bench) -> None:
        begin = bench.store.position()[0]
        bench.write("a", text("missed"))  # nobody subscribed, so the hub was not told
        peer = bench.peer(frames.ALL, begin)
        bench.pump()

        bench.say("b", "now")
        bench.pump()

        contents = [item["content"] for frame in peer.of_type("messages") for item in frame["items"]]
        assert contents == ["missed", "now"]

    def test_a_cursor_inside_a_commit_delays_nothing(self, bench: Bench) -> None:
        late = bench.write("a", *map(text, "batch"))
        peer = bench.peer(frames.ALL, late.previous_position + 2)
        bench.pump()

        bench.hub.publish(late)
        bench.say("b", "now")
        bench.pump()

        contents = [item["content"] for frame in peer.of_type("messages") for item in frame["items"]]
        assert contents == ["t", "c", "h", "now"]

    def test_what_waits_for_a_commit_that_never_came_is_bounded(self, bench: Bench) -> None:
        bench.hub = Hub(Rings(), AllAgentsLog(max_bytes=20_000))
        peer = bench.peer(frames.ALL, bench.store.position()[0])
        bench.pump()
        bench.say("a", "before")
        bench.write("a", text("lost"))

        for _ in range(200):
            bench.hub.publish(bench.write("b", change(INITIALIZING, RUNNING)) if _ == 0 else bench.write("b", text("")))
            assert bench.hub._all_agents.size <= 2 * 20_000
        bench.pump()
        bench.hub.repair()
        bench.hub.repair()
        bench.pump()

        contents = [item["content"] for frame in peer.of_type("messages") for item in frame["items"]]
        assert contents == ["before", "lost", *[""] * 199]

    def test_entries_that_were_deleted_are_passed_over_with_an_empty_frame(self, bench: Bench) -> None:
        peer = bench.peer(frames.ALL, 0)
        bench.pump(read=False)
        deletion = AgentDeletion(agent="b", position=7, at="now")

        bench.answer(bench.reads.pop(), FeedPage([deletion], last=9, at_end=True))

        assert peer.frames == [
            {"type": "agent", "agent": "b", "event": "deleted", "prev": 0, "last": 7},
            {"type": "messages", "agent": "*", "prev": 7, "last": 9, "items": []},
        ]


class TestFailures:
    def fail(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, content: str) -> Callable[[], None]:
        """Make the frame of one message impossible; returns what ends that."""
        item = encoding.message_item

        def failing(record: MessageRecord, **options: Any) -> frames.Item:
            if record.content == content:
                raise MemoryError
            return item(record, **options)

        monkeypatch.setattr(encoding, "message_item", failing)
        return lambda: monkeypatch.setattr(encoding, "message_item", item)

    @pytest.mark.parametrize("stored_before", [True, False], ids=["page", "ring"])
    def test_a_frame_that_cannot_be_made_costs_nobody_else_theirs_and_is_tried_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stored_before: bool
    ) -> None:
        end = self.fail(bench, monkeypatch, "poison")
        if stored_before:
            bench.write("a", text("poison"))
        poisoned, other = bench.peer("a"), bench.peer("b")
        bench.pump()

        with caplog.at_level(logging.ERROR):
            if not stored_before:
                bench.say("a", "poison")
            bench.say("b", "fine")
            bench.pump()
        assert other.of_type("messages")[-1]["last"] == 1
        assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
        end()
        bench.recheck()
        bench.pump()

        assert poisoned.of_type("messages")[-1]["items"][0]["content"] == "poison"

    def test_a_page_that_cannot_be_read_is_asked_for_again_and_not_before_it_is_time(self, bench: Bench) -> None:
        bench.write("a", text("stored"))
        peer = bench.peer("a")
        bench.pump(read=False)

        for _ in range(3):
            bench.hub.page_failed(bench.reads.pop())
            bench.pump(read=False)
            assert bench.reads == []
            bench.hub.repair()
            bench.pump(read=False)

        bench.pump()
        assert peer.of_type("messages")[-1]["last"] == 1

    def test_a_page_for_a_subscription_that_was_ended_meanwhile_is_for_nobody(self, bench: Bench) -> None:
        bench.write("a", text("stored"))
        peer = bench.peer("a")
        bench.pump(read=False)
        bench.subscribe(peer, "a", 1)

        old = bench.reads.pop()
        bench.answer(old)
        bench.hub.page_failed(old)
        bench.pump()
        bench.hub.repair()
        bench.pump()

        assert peer.of_type("messages") == []
        assert peer.of_type("live") == [{"type": "live", "agent": "a", "sequence": 1}]

    def test_a_lost_last_status_is_found_by_the_next_recheck(self, bench: Bench) -> None:
        bench.hub.publish(bench.write("a", change(INITIALIZING, RUNNING), text("x")))
        peer = bench.peer("a")
        bench.pump()
        bench.write("a", change(RUNNING, COMPLETED))

        bench.recheck()
        bench.pump()

        assert [frame["status"] for frame in peer.of_type("status")] == ["running", "completed"]

    @pytest.mark.parametrize("status", [FAILED, RUNNING])
    def test_who_has_everything_reads_nothing_again(self, bench: Bench, status: AgentStatus) -> None:
        bench.write("a", text("x"), change(INITIALIZING, status))
        bench.peer("a")
        bench.pump()

        for _ in range(5):
            bench.recheck()
            bench.pump(read=False)

        assert bench.reads == []

    def test_has_caught_up_only_when_everybody_has_everything(self, bench: Bench) -> None:
        peer = bench.peer("a")
        assert not bench.hub.has_caught_up
        bench.pump(read=False)
        assert not bench.hub.has_caught_up
        bench.answer(bench.reads.pop())
        bench.pump()
        assert bench.hub.has_caught_up

        bench.say("a", "x")
        assert not bench.hub.has_caught_up
        peer.subscriber.pause()
        bench.pump()
        assert not bench.hub.has_caught_up
        bench.hub.resume(peer.subscriber)
        bench.pump()
        assert bench.hub.has_caught_up

    def test_reads_are_yielded_once_while_one_is_under_way(self, bench: Bench) -> None:
        bench.peer("a")
        bench.pump(read=False)

        bench.say("a", "x")
        bench.recheck()

        assert [effect for effect in bench.hub.effects() if isinstance(effect, Read)] == []


class TestFramesOfAllRings:
    def test_together_they_are_bounded_too(self, bench: Bench) -> None:
        bench.hub = Hub(Rings(ring_bytes=20_000, all_bytes=30_000))
        for agent in "abc":
            bench.peer(agent)
        bench.pump()

        for _ in range(3):
            for agent in "abc":
                bench.say(agent, "x" * 5_000)
                bench.pump()
                rings = bench.hub._rings
                assert rings.frames_size == sum(ring.frames_size for ring in rings._rings.values()) <= 30_000


class TestSlowSubscribers:
    def fall_behind(self, bench: Bench, agent: str, **options: Any) -> Peer:
        """Let a live subscriber's socket take nothing while more is said than the ring keeps, and then take more."""
        bench.hub = Hub(Rings(ring_bytes=20_000), AllAgentsLog(max_bytes=20_000))
        after = bench.store.position()[0] if agent == frames.ALL else 0
        peer, other = bench.peer(agent, after, **options), bench.peer(agent, after)
        bench.pump()
        peer.subscriber.pause()
        for number in range(100):
            bench.say("a", f"{number}" + "x" * 300)
            bench.pump()
        assert len(other.of_type("messages")) == 100
        bench.hub.resume(peer.subscriber)
        bench.pump(read=False)
        return peer

    @pytest.mark.parametrize("agent", ["a", frames.ALL])
    def test_one_that_asked_to_catch_up_is_given_everything(self, bench: Bench, agent: str) -> None:
        peer = self.fall_behind(bench, agent)
        while bench.reads:
            bench.answer(bench.reads.pop())
            bench.pump(read=False)

        assert sum(len(frame["items"]) for frame in peer.of_type("messages")) == 100
        assert not peer.of_type("gap")

    def test_one_that_asked_to_skip_is_told_of_the_gap_and_of_the_status_and_goes_on(self, bench: Bench) -> None:
        peer = self.fall_behind(bench, "a", slow="skip")
        (subscription,) = bench.skips
        bench.write("a", change(INITIALIZING, FAILED))
        position = bench.store.resolve_cursor("a", None).position
        for effect in bench.hub.skip(subscription, 100, position, "failed"):
            assert isinstance(effect, Write)
            peer.written.append(effect.frame.json)
        bench.pump()
        bench.say("a", "late")
        bench.pump()

        assert peer.of_type("gap") == [{"type": "gap", "agent": "a", "prev": 0, "last": 100, "status": "failed"}]
        (messages,) = peer.of_type("messages")
        assert (messages["prev"], messages["last"]) == (100, 101)
        assert not bench.reads

    def test_one_that_asked_to_be_closed_is_closed_once(self, bench: Bench) -> None:
        peer = self.fall_behind(bench, "a", slow="close")
        bench.say("a", "more")
        bench.pump()

        assert [subscription.subscriber for subscription in bench.dropped] == [peer.subscriber]
        assert not peer.of_type("messages")

    @pytest.mark.parametrize("slow", ["skip", "close"])
    def test_history_that_was_asked_for_is_never_skipped(self, bench: Bench, slow: frames.SlowPolicy) -> None:
        bench.hub = Hub(Rings(ring_bytes=20_000))
        bench.peer("a")
        bench.pump()
        for _ in range(100):
            bench.say("a", "x" * 300)

        peer = bench.peer("a", slow=slow)
        bench.pump()

        assert peer.of_type("messages")[-1]["last"] == 100
        assert not bench.skips and not bench.dropped

    @pytest.mark.parametrize("slow", ["skip", "close"])
    def test_one_that_reads_is_not_blamed_for_what_the_server_lost(self, bench: Bench, slow: frames.SlowPolicy) -> None:
        peer = bench.peer("a", slow=slow)
        bench.pump()
        for _ in range(3):
            lost = bench.write("a", text("lost"))
        bench.hub.mark_stale("a", lost.last_position)
        bench.say("a", "heard")
        bench.pump()

        assert peer.of_type("messages")[-1]["last"] == 4
        assert not bench.skips and not bench.dropped

    def test_a_closed_window_counts_as_slow(self, bench: Bench) -> None:
        bench.hub = Hub(Rings(ring_bytes=20_000))
        peer = bench.peer("a", window=1, slow="skip")
        bench.pump()
        for _ in range(100):
            bench.say("a", "x" * 300)
            bench.pump()
        assert len(peer.of_type("messages")) == 1

        bench.hub.ack(peer.subscriber, "a", 1)
        bench.pump()

        assert len(bench.skips) == 1


class TestRelease:
    def test_what_is_committed_waits_until_it_is_released(self, bench: Bench) -> None:
        peer = bench.peer("a")
        bench.pump()
        bench.say("a", "one")
        bench.say("a", "two")

        assert list(bench.hub.effects()) == []
        assert bench.hub.pacer.due and not bench.hub.has_caught_up
        assert list(bench.hub.make_ready(10.0)) == ["a"]
        bench.pump()

        (frame,) = peer.of_type("messages")
        assert len(frame["items"]) == 2

    def test_only_a_quiet_agent_is_released_while_sending_rests(self, bench: Bench) -> None:
        loud, quiet = bench.peer("a"), bench.peer("b")
        bench.pump()
        bench.say("a", "one")
        bench.hub.make_ready(10.0)
        bench.say("a", "two")
        bench.say("b", "first")

        bench.hub.pacer.spend(10.0, MAX_DEBT_S / REST)
        released = bench.hub.make_ready(10.0 + QUIET_S / 2)
        for effect in bench.hub.effects():
            assert isinstance(effect, Write)
            effect.subscriber.peer.written.append(effect.frame.json)

        assert list(released) == ["b"]
        assert len(quiet.of_type("messages")) == 1
        assert [item["content"] for frame in loud.of_type("messages") for item in frame["items"]] == ["one", "two"]
        assert bench.hub.pacer.due

    def test_the_oldest_commit_of_each_agent_is_told(self, bench: Bench) -> None:
        bench.peer("a")
        bench.pump()
        first = bench.say("a", "one")
        bench.say("a", "two")

        assert bench.hub.make_ready(1.0) == {"a": first.committed_ns}
        assert first.committed_ns > 0


def test_nothing_of_another_agent_with_the_same_id_is_given_from_the_ring(bench: Bench) -> None:
    peer = bench.peer("a", epoch="of the one before")
    bench.pump(read=False)

    bench.say("a", "hello")
    bench.pump(read=False)

    assert not peer.of_type("messages")
    assert bench.reads, "the page tells that it is another"
