"""Pages that are kept for a moment: only history, not for long, and not too much."""

from typing import Any

import pytest

from commitcast.gateway.hub.encoding import next_frame
from commitcast.gateway.hub.log import ENTRY_BYTES, FORMS, frame_size
from commitcast.gateway.hub.redaction import Redactor
from commitcast.gateway.hub.subscription import Subscriber, Subscription
from commitcast.gateway.server.reader import KEPT_S, PageCache
from commitcast.persistence.store import AgentPage
from stores import commit, new_agent, opened, proof, text


@pytest.fixture(scope="module")
def page() -> AgentPage:
    with opened(":memory:") as store:
        proof(commit(store, "a", new_agent("x")))
        return AgentPage(proof(commit(store, "a", text("y" * 1_000))).entries, at_end=False, epoch="e")  # type: ignore[arg-type]


KEY = ("a", 0, 0)


def test_history_is_kept_for_those_who_ask_a_moment_later(page: AgentPage) -> None:
    pages = PageCache()

    shared = pages.put(KEY, page, now=0.0)

    assert pages.get(KEY, now=KEPT_S) is shared
    assert pages.get(KEY, now=KEPT_S + 0.1) is None
    assert pages.size == 0


def test_a_page_with_which_the_log_ended_is_not_kept(page: AgentPage) -> None:
    pages = PageCache()

    pages.put(KEY, AgentPage(page.entries, at_end=True, epoch="e"), now=0.0)

    assert pages.get(KEY, now=0.0) is None


def test_the_oldest_go_when_there_are_too_many(page: AgentPage) -> None:
    size = ENTRY_BYTES + 1_000
    pages = PageCache(max_bytes=3 * size)

    for cursor in range(5):
        pages.put(("a", cursor, cursor), page, now=0.0)

    assert [pages.get(("a", cursor, cursor), now=0.0) is not None for cursor in range(5)] == [False] * 2 + [True] * 3
    assert pages.size == 3 * size


@pytest.mark.parametrize("content", ["\x01" * 1_000, '"' * 1_000, "y" * 1_000, "字" * 300])
def test_the_frames_of_a_page_count_as_they_are_encoded(content: str) -> None:
    with opened(":memory:") as store:
        proof(commit(store, "a", new_agent("x")))
        entries: Any = proof(commit(store, "a", text(content))).entries
    pages = PageCache(max_bytes=2 * FORMS * 1_000)
    shared = pages.put(KEY, AgentPage(entries, at_end=False, epoch="e"), now=0.0)
    subscription = Subscription(Subscriber(None), "a", 0, 0, "e")

    frame = next_frame(subscription, entries, 0, Redactor())
    shared.frames[subscription.frame_key] = frame

    pages.recount(shared, now=0.0)

    assert frame[0] is not None
    size = frame_size(frame) + shared.entries_size
    assert size > FORMS * len(frame[0].json) + 1_000
    is_larger = size > 2 * FORMS * 1_000
    assert is_larger == (content[0] in '\x01"')
    assert (pages.get(KEY, now=0.0) is None) == is_larger
    assert pages.size == (0 if is_larger else size)
