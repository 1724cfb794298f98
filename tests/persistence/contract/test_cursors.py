"""A cursor is valid in the run that gave it out and in all later ones, and in no other history."""

import pytest

from commitcast.persistence.errors import StaleEpochError
from commitcast.persistence.store import Store
from databases import Database
from stores import commit, new_agent, text


def cursor_of_a(store: Store) -> tuple[int, str]:
    """Where the log of agent a ends, as a subscriber would keep it."""
    standing = store.resolve_cursor("a", None)
    return standing.record.head, standing.epoch


class TestRestarts:
    def test_a_cursor_is_good_in_the_run_that_gave_it_out_and_in_all_later_ones(self, database: Database) -> None:
        with database.opened() as store:
            commit(store, "a", new_agent("first", "second"))
            of_one, of_all = cursor_of_a(store), store.position()

        for _ in range(3):
            with database.opened() as store:
                commit(store, "a", text("more"))

                assert store.resolve_cursor("a", *of_one).record.id == "a"
                assert store.position(*of_all)[0] > of_all[0]

    def test_each_run_gives_out_an_epoch_of_its_own(self, database: Database) -> None:
        seen = set()
        for number in range(3):
            with database.opened() as store:
                if number == 0:
                    commit(store, "a", new_agent())
                seen |= {cursor_of_a(store)[1], store.position()[1]}

        assert len(seen) == 6

    def test_a_cursor_beyond_what_its_run_reached_is_of_another_history(self, database: Database) -> None:
        with database.opened() as store:
            commit(store, "a", new_agent("first"))
            _, epoch = cursor_of_a(store)
            _, epoch_of_all = store.position()
        with database.opened() as store:
            commit(store, "a", text("second"))

            with pytest.raises(StaleEpochError):
                store.resolve_cursor("a", 2, epoch)
            with pytest.raises(StaleEpochError):
                store.position(3, epoch_of_all)


class TestEpochs:
    def test_the_tail_is_there_whatever_the_run(self, database: Database) -> None:
        with database.opened() as store:
            commit(store, "a", new_agent("first"))
            log, _, _ = cursor_of_a(store)[1].partition("-")

            assert store.resolve_cursor("a", None, f"{log}-unknown").position == 2

    @pytest.mark.parametrize("epoch", ["", "other", "other-run", "-", "e-unknown"])
    def test_one_that_was_never_given_out_is_refused(self, database: Database, epoch: str) -> None:
        with database.opened() as store:
            commit(store, "a", new_agent("first", epoch="e"))

            with pytest.raises(StaleEpochError):
                store.resolve_cursor("a", 1, epoch)

    def test_one_that_names_the_agent_alone_proves_the_agent(self, database: Database) -> None:
        with database.opened() as store:
            commit(store, "a", new_agent("first", epoch="e"))

            assert store.resolve_cursor("a", 1, "e").position == 2
