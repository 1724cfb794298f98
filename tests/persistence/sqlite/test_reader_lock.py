"""A page read ends its transaction whatever it leaves unread: else its lock keeps commits and checkpoints waiting."""

from pathlib import Path

import apsw

from commitcast.persistence.sqlite.store import SqliteStore
from stores import commit, new_agent, text


def test_a_query_that_is_not_read_to_its_end_keeps_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "agents.db"
    store = SqliteStore(path)
    store.open()
    commit(store, "a", new_agent("first"), *(text("next") for _ in range(100)))

    with store._pool.snapshot() as connection:
        rows = connection.execute("SELECT * FROM agent_messages")
        next(rows)

    other = apsw.Connection(str(path))
    other.execute("BEGIN EXCLUSIVE; ROLLBACK")
    other.close()
    store.close()
