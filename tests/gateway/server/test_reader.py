"""Pages that are kept for a moment: only history, not for long, and not too much."""

import pytest

from commitcast.gateway.hub.log import ENTRY_BYTES, FORMS
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
    size = (1 + FORMS) * (ENTRY_BYTES + 1_000)
    pages = PageCache(max_bytes=3 * size)

    for cursor in range(5):
        pages.put(("a", cursor, cursor), page, now=0.0)

    assert [pages.get(("a", cursor, cursor), now=0.0) is not None for cursor in range(5)] == [False] * 2 + [True] * 3
    assert pages.size == 3 * size
