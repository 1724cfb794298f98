"""The bare writer: what it writes is what the product would have written."""

from pathlib import Path

from bare_sqlite import BareWriter
from commitcast.persistence import SqliteStore, verify

AGENTS = ["a", "b", "c"]


def content(agent: str, sequence: int) -> str:
    return f"{agent} says {sequence}"


def test_a_commit_for_each_message_writes_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "x.db"

    with BareWriter(path, AGENTS, content) as writer:
        durations = writer.commit_each(writer.rows(7), at_most_s=60)

    report = verify(path)
    assert report.is_sound, report.problems
    assert (report.agents, report.messages, len(durations)) == (3, 7, 7)
    assert all(duration > 0 for duration in durations)


def test_commits_of_many_messages_write_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "x.db"

    with BareWriter(path, AGENTS, content) as writer:
        assert writer.commit_batches(writer.rows(100), size=32) > 0
        assert writer.commit_batches(writer.rows(11), size=32) > 0
        writer.end_agents()

    report = verify(path)
    assert report.is_sound, report.problems
    assert (report.messages, report.transitions, report.notes) == (111, 3, [])


def test_rows_that_there_was_no_time_for_leave_no_hole(tmp_path: Path) -> None:
    path = tmp_path / "x.db"

    with BareWriter(path, AGENTS, content) as writer:
        assert len(writer.commit_each(writer.rows(50), at_most_s=0)) == 1
        writer.commit_batches(writer.rows(4))

    report = verify(path)
    assert report.is_sound, report.problems
    assert report.messages == 5


def test_the_store_reads_it_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with BareWriter(path, AGENTS, content) as writer:
        writer.commit_batches(writer.rows(5))
    store = SqliteStore(path)

    store.open()
    found = [message.content for message in store.messages("a")]
    position = store.position()[0]
    store.close()

    assert found == ["a says 1", "a says 2"]
    assert position == 8
