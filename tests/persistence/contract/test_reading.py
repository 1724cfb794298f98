"""Reads in pages: whatever the cut, the pages laid end to end are the whole, with nothing twice and nothing missing."""

import pytest

from commitcast.persistence.errors import AgentNotFoundError, StoreClosedError
from commitcast.persistence.records import AgentDeletion, Entry, MessageRecord, StatusChange
from commitcast.persistence.store import MAX_PAGE_BYTES, Store, entry_size
from stores import (
    FAILED,
    INITIALIZING,
    RUNNING,
    change,
    commit,
    new_agent,
    of,
    text,
    told,
)

LIMITS = (1, 2, 3, 5, 256)
IDEOGRAPH = "\u5b57"
"""Three bytes in UTF-8."""


def all_entries(store: Store, agent: str, **bounds: int) -> list[Entry]:
    """Follow an agent page by page from its creation."""
    found: list[Entry] = []
    sequence, position = 0, store.resolve_cursor(agent, 0).position
    while True:
        page = store.entries(agent, sequence, position, **bounds)
        found += page.entries
        if page.at_end:
            assert store.entries(agent, sequence_of(found), found[-1].position).entries == []
            return found
        assert page.entries
        sequence, position = sequence_of(found), found[-1].position


def sequence_of(entries: list[Entry]) -> int:
    last = entries[-1]
    assert isinstance(last, (MessageRecord, StatusChange))
    return last.sequence


class TestMessages:
    @pytest.mark.parametrize("limit", LIMITS)
    def test_pages_of_any_limit_make_the_whole(self, busy: Store, limit: int) -> None:
        seen: list[MessageRecord] = []
        while page := busy.messages("b", after=seen[-1].sequence if seen else 0, limit=limit):
            assert len(page) <= limit
            seen += page

        assert told([*seen]) == [f"b{number}" for number in range(1, 9)]

    def test_a_page_ends_with_the_message_that_passes_the_limit_of_bytes(self, running: Store) -> None:
        commit(running, "a", *(text("x" * 40, raw="y" * 30, metadata={"n": "z" * 22}) for _ in range(6)))

        sizes = [len(running.messages("a", after=1, max_bytes=limit)) for limit in (1, 100, 101, 200, 201, 10_000)]

        assert sizes == [1, 1, 2, 2, 3, 6]

    def test_the_limit_is_of_bytes_and_not_of_characters(self, running: Store) -> None:
        commit(running, "a", *(text("\U0001f600" * 25) for _ in range(4)))

        assert len(running.messages("a", after=1, max_bytes=200)) == 2

    def test_a_message_larger_than_a_page_is_returned_alone(self, running: Store) -> None:
        commit(running, "a", text("small"), text("x" * 400_000), text("small"))

        assert [len(page) for page in (running.messages("a"), running.messages("a", after=2, limit=1))] == [3, 1]
        assert len(running.messages("a", after=2)[0].content) == 400_000
        assert len(running.messages("a", after=2)) == 1

    def test_a_page_beyond_the_end_is_empty(self, busy: Store) -> None:
        assert busy.messages("a", after=7) == busy.messages("a", after=10**12) == []

    def test_an_unknown_agent_is_an_error_in_every_read_of_one_agent(self, busy: Store) -> None:
        for read in (
            lambda: busy.messages("nobody"),
            lambda: busy.entries("nobody", 0, 0),
            lambda: busy.resolve_cursor("nobody", 0),
        ):
            with pytest.raises(AgentNotFoundError):
                read()
        assert busy.agent("nobody") is None


class TestEntries:
    @pytest.mark.parametrize("limit", LIMITS)
    @pytest.mark.parametrize("max_bytes", [1, 5, 10_000])
    def test_changes_of_status_stand_between_the_messages_for_every_cut(
        self, busy: Store, limit: int, max_bytes: int
    ) -> None:
        bounds = {"limit": limit, "max_bytes": max_bytes}

        assert told(all_entries(busy, "a", **bounds)) == [
            "a1",
            "a2",
            "running",
            "a3",
            "a4",
            "a5",
            "completed",
            "a6",
            "a7",
        ]
        assert told(all_entries(busy, "b", **bounds)) == ["running", *(f"b{n}" for n in range(1, 8)), "failed", "b8"]
        assert told(all_entries(busy, "c", **bounds)) == ["failed", "c1"]

    def test_an_end_carries_its_error_and_its_result(self, busy: Store) -> None:
        ends = {
            agent: [entry for entry in all_entries(busy, agent) if isinstance(entry, StatusChange)][-1]
            for agent in "ac"
        }

        assert (ends["a"].result_json, ends["a"].error_name) == ("42", None)
        assert (ends["c"].result_json, ends["c"].error_name, ends["c"].error_message) == (None, "E", "m")

    def test_from_every_cursor_exactly_the_rest_follows(self, busy: Store) -> None:
        whole = all_entries(busy, "a")

        for cut in range(1, len(whole)):
            rest: list[Entry] = []
            while len(rest) < len(whole) - cut:
                before = [*whole[:cut], *rest]
                rest += busy.entries("a", sequence_of(before), before[-1].position, limit=2).entries
            assert rest == whole[cut:]


class TestStanding:
    def test_a_subscriber_begins_after_its_message_and_hears_the_changes_that_follow_it(self, busy: Store) -> None:
        whole = all_entries(busy, "a")
        by_sequence = {entry.sequence: entry.position for entry in whole if isinstance(entry, MessageRecord)}

        for sequence, position in by_sequence.items():
            assert busy.resolve_cursor("a", sequence).position == position

    def test_from_the_beginning_it_begins_after_the_creation(self, busy: Store) -> None:
        standing = busy.resolve_cursor("a", 0)

        assert standing.position == standing.record.position
        assert standing.record == busy.agent("a")

    @pytest.mark.parametrize(("agent", "last"), [("a", "a7"), ("b", "b8"), ("c", "c1")])
    def test_at_the_tail_it_begins_after_the_last_entry(self, busy: Store, agent: str, last: str) -> None:
        standing = busy.resolve_cursor(agent, None)

        assert told(busy.entries(agent, standing.record.head - 1, standing.position - 1).entries) == [last]
        assert busy.entries(agent, standing.record.head, standing.position).entries == []

    def test_at_the_tail_after_a_change_of_status_it_begins_after_the_change(self, running: Store) -> None:
        assert running.resolve_cursor("a", None).position == 3
        assert running.resolve_cursor("a", 1).position == 2

    def test_beyond_the_head_it_begins_at_the_head(self, busy: Store) -> None:
        assert busy.resolve_cursor("b", 10**9).position == busy.resolve_cursor("b", 8).position


class TestFeed:
    @pytest.mark.parametrize("limit", [*LIMITS, 4, 7])
    @pytest.mark.parametrize("max_bytes", [1, 7, 10_000])
    def test_pages_of_any_limit_make_the_whole(self, busy: Store, limit: int, max_bytes: int) -> None:
        whole = busy.feed(0).entries
        seen: list[Entry] = []
        after, at_end = 0, False
        while not at_end:
            page = busy.feed(after, limit, max_bytes)
            assert page.last > after
            assert all(after < entry.position <= page.last for entry in page.entries)
            seen, after, at_end = [*seen, *page.entries], page.last, page.at_end

        assert seen == whole
        assert after == busy.position()[0] == 27

    def test_it_tells_everything_that_is_still_there_in_the_order_of_the_commits(self, busy: Store) -> None:
        page = busy.feed(0)

        positions = [entry.position for entry in page.entries]
        assert positions == [1, 2, *range(5, 28)]
        assert told(page.entries)[:6] == ["+a", "a1", "+b", "running", "a2", "running"]
        assert isinstance(page.entries[-1], AgentDeletion) and page.entries[-1].agent == "gone"
        assert (page.last, page.at_end) == (27, True)

    @pytest.mark.parametrize("limit", [1, 2, 3])
    def test_creations_and_changes_without_a_message_are_paged_too(self, store: Store, limit: int) -> None:
        store.commit([of(agent, new_agent()) for agent in "abcd"])
        store.commit([of(agent, change(INITIALIZING, RUNNING)) for agent in "abcd"])
        seen: list[int] = []

        while not seen or seen[-1] < 8:
            page = store.feed(seen[-1] if seen else 0, limit)
            assert page.at_end == (page.last == 8)
            seen += [entry.position for entry in page.entries]

        assert seen == list(range(1, 9))

    def test_from_every_position_exactly_the_rest_follows(self, busy: Store) -> None:
        whole = busy.feed(0).entries

        for after in range(28):
            assert busy.feed(after).entries == [entry for entry in whole if entry.position > after]

    def test_every_entry_is_the_one_that_its_agent_tells(self, busy: Store) -> None:
        feed = busy.feed(0).entries

        for agent in "abc":
            own = [e for e in feed if isinstance(e, (MessageRecord, StatusChange)) and e.agent == agent]
            assert own == all_entries(busy, agent)


class TestAgents:
    def test_agents_are_listed_by_creation_and_status(self, busy: Store) -> None:
        assert [record.id for record in busy.agents()] == ["a", "b", "c"]
        assert [record.id for record in busy.agents(status=FAILED)] == ["b", "c"]
        first = busy.agents(limit=1)[0]
        assert [record.id for record in busy.agents(after=first.position, limit=1)] == ["b"]

    def test_or_the_newest_first(self, busy: Store) -> None:
        assert [record.id for record in busy.agents(newest=True)] == ["c", "b", "a"]
        first = busy.agents(limit=1, newest=True)[0]
        assert [record.id for record in busy.agents(after=first.position, newest=True)] == ["b", "a"]
        assert [record.id for record in busy.agents(status=FAILED, newest=True)] == ["c", "b"]

    @pytest.mark.parametrize("newest", [False, True])
    def test_only_those_within_ranges_of_ids_when_asked_for(self, busy: Store, newest: bool) -> None:
        for id in ("org1:x", "org1_b", "org2:y", "org10:z"):
            commit(busy, id, new_agent())

        def found(*within: tuple[str, str], after: int = 0) -> set[str]:
            return {record.id for record in busy.agents(None, after, newest=newest, within=within)}

        assert found(("org1:", "org1:\x7f")) == {"org1:x"}
        assert found(("org1", "org1\x7f"), ("a", "a\x00")) == {"org1:x", "org1_b", "org10:z", "a"}
        assert found(("b", "b\x00"), ("b", "c")) == {"b"}
        assert found() == set()
        assert found(("", "\x7f")) == {record.id for record in busy.agents()}

    @pytest.mark.parametrize("newest", [False, True])
    def test_a_page_of_large_agents_is_shorter(self, busy: Store, newest: bool) -> None:
        for number in range(4):
            commit(busy, f"large-{number}", new_agent(prompt="x" * 600_000))

        found: list[str] = []
        pages = after = 0
        while page := busy.agents(after=after, newest=newest):
            assert sum(map(entry_size, page[:-1])) < MAX_PAGE_BYTES
            found += [record.id for record in page]
            after, pages = page[-1].position, pages + 1

        assert sorted(found) == ["a", "b", "c", *(f"large-{number}" for number in range(4))]
        assert pages > 1

    def test_a_page_of_everything_is_bounded_whatever_the_records_hold(self, busy: Store) -> None:
        first = busy.position()[0]
        for number in range(4):
            commit(busy, f"large-{number}", new_agent(prompt="x" * 300_000))
        for number in range(4):
            result = '"' + "x" * 300_000 + '"'
            commit(busy, f"large-{number}", change(INITIALIZING, FAILED, error_message="x" * 300_000))
            commit(busy, f"large-{number}", text(result))

        found: list[Entry] = []
        after = first
        while not (page := busy.feed(after)).at_end:
            assert sum(map(entry_size, page.entries)) < 5 * 300_000
            found += page.entries
            after = page.last
        found += page.entries

        assert [entry.position for entry in found] == list(range(first + 1, first + 13))

    @pytest.mark.parametrize("fact", ["prompt", "configuration_json"])
    def test_the_limit_of_a_page_of_agents_is_of_bytes(self, store: Store, fact: str) -> None:
        for number in range(4):
            commit(store, f"large-{number}", new_agent(**{fact: IDEOGRAPH * 200_000}))

        assert [len(store.agents()), len(store.agents(newest=True))] == [2, 2]

    @pytest.mark.parametrize("fact", ["reason", "error_message", "result_json"])
    def test_the_limit_of_a_page_of_changes_is_of_bytes(self, store: Store, fact: str) -> None:
        store.commit([of(agent, new_agent()) for agent in "abcd"])
        for agent in "abcd":
            commit(store, agent, change(INITIALIZING, FAILED, **{fact: IDEOGRAPH * 40}))

        assert [entry.position for entry in store.feed(4, max_bytes=200).entries] == [5, 6]

    def test_an_agent_is_found_by_the_key_of_its_launch(self, busy: Store) -> None:
        commit(busy, "keyed", new_agent(idempotency_key="k"))

        found = busy.launched("k")

        assert found is not None and found.id == "keyed"
        assert busy.launched("another") is None

    def test_a_message_is_found_by_its_key(self, busy: Store) -> None:
        commit(busy, "a", text("said", key="k"))

        found = busy.keyed("a", "k")

        assert found is not None and found.content == "said"
        assert busy.keyed("a", "another") is busy.keyed("b", "k") is busy.keyed("nobody", "k") is None

    def test_heads_are_of_those_that_exist(self, busy: Store) -> None:
        heads = busy.heads(["a", "nobody", "c", "gone"])

        assert {agent: head.sequence for agent, head in heads.items()} == {"a": 7, "c": 1}
        assert all(head.position == all_entries(busy, agent)[-1].position for agent, head in heads.items())


def test_a_closed_store_says_so(busy: Store) -> None:
    busy.close()

    with pytest.raises(StoreClosedError):
        busy.agents()
