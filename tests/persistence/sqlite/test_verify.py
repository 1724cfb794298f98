"""Every promise is broken by hand once, and `verify` names it; a sound file is sound, also while it is written."""

import re
import threading
import tracemalloc
from pathlib import Path

import pytest

from commitcast.actors import AgentRuntime
from commitcast.persistence import store as store_module
from commitcast.persistence.errors import StoreCorruptError, StoreOpenError
from commitcast.persistence.sqlite import verify as module
from commitcast.persistence.sqlite.verify import verify
from commitcast.persistence.store import Report
from stores import (
    AT,
    COMPLETED,
    INITIALIZING,
    RUNNING,
    by_hand,
    change,
    commit,
    new_agent,
    of,
    opened,
    problems,
    text,
)
from waiting import TIMEOUT_S

pytestmark = pytest.mark.both_modes

# Positions 1 to 8 and 12 are of `a`: created, one, running, two, three, four, five, completed, late.
# Positions 9 to 11 are of `b`: created, one, running; it was left behind.


@pytest.fixture(scope="session")
def lives(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("lives") / "lives.db"
    with opened(path) as store:
        commit(store, "a", new_agent("one", epoch="a"), change(INITIALIZING, RUNNING))
        commit(store, "a", *(text(word, raw=word.upper(), metadata={"n": 1}) for word in ("two", "three", "four")))
        commit(store, "a", text("five"), change(RUNNING, COMPLETED))
        store.commit([of("b", new_agent("b one", epoch="b"), change(INITIALIZING, RUNNING)), of("a", text("late"))])
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path, lives: bytes) -> Path:
    path = tmp_path / "agents.db"
    path.write_bytes(lives)
    return path


def damage(path: Path, *statements: str) -> None:
    """Do what no program of ours would do, behind the back of every constraint."""
    with by_hand(path) as connection:
        connection.pragma("foreign_keys", "off")
        connection.pragma("ignore_check_constraints", "on")
        for statement in statements:
            connection.execute(statement)


MESSAGE = "(position, agent_key, sequence_number, type, content, content_type, created_at, checksum)"
STEP = '(position, agent_key, "from", "to", after_sequence, at)'
DAMAGES: dict[str, tuple[list[str], str]] = {
    "a message missing in the middle": (
        ["DELETE FROM agent_messages WHERE content = 'three'"],
        "agent 'a' has no message 3 before message 4",
    ),
    "the tail missing": (
        ["DELETE FROM agent_messages WHERE content = 'late'"],
        "agent 'a' should have 6 messages, but ends at 5",
    ),
    "all messages missing": (
        ["DELETE FROM agent_messages WHERE agent_key = 1"],
        "agent 'a' should have 6 messages, but ends at 0",
    ),
    "a message beyond the head": (
        ["UPDATE agents SET head = 5 WHERE id = 'a'"],
        "agent 'a' has messages beyond its head 5",
    ),
    "changed content": (
        ["UPDATE agent_messages SET content = 'thrEe' WHERE content = 'three'"],
        "message 3 of agent 'a' was changed since it was stored",
    ),
    "content that is no text": (
        ["UPDATE agent_messages SET content = CAST(x'746872e565' AS TEXT) WHERE content = 'three'"],
        "message 3 of agent 'a' was changed since it was stored",
    ),
    "changed raw": (
        ["UPDATE agent_messages SET raw = x'00' WHERE content = 'three'"],
        "message 3 of agent 'a' was changed since it was stored",
    ),
    "changed metadata": (
        ["UPDATE agent_messages SET metadata = NULL WHERE content = 'three'"],
        "message 3 of agent 'a' was changed since it was stored",
    ),
    "a changed time": (
        [f"UPDATE agent_messages SET created_at = '{AT}x' WHERE content = 'three'"],
        "message 3 of agent 'a' was changed since it was stored",
    ),
    "a message of another agent": (
        ["UPDATE agent_messages SET agent_key = 9, sequence_number = 2 WHERE content = 'late'"],
        "agent 'b' has messages beyond its head 1",
    ),
    "an overlapping position": (
        ["UPDATE agent_transitions SET position = 5 WHERE \"to\" = 'completed'"],
        "position 5 is both in agent_messages and in agent_transitions",
    ),
    "a position beyond the counter": (
        ["UPDATE positions SET last = 11"],
        "agent_messages has position 12, but the counter is at 11",
    ),
    "missing positions": (
        ["UPDATE positions SET last = 15"],
        "15 positions were assigned, but only 12 exist: 3 are missing, the first is 13",
    ),
    "a hole in the positions": (
        ["UPDATE agent_messages SET position = 20 WHERE content = 'late'", "UPDATE positions SET last = 20"],
        "20 positions were assigned, but only 12 exist: 8 are missing, the first is 12",
    ),
    "a run that began after the end": (
        ["UPDATE runs SET began = 13"],
        "run 1 began at position 13, before the previous run or after the end",
    ),
    "no counter": (["DELETE FROM positions"], "the counter of positions is missing"),
    "positions in another order than the sequences": (
        [
            "UPDATE agent_messages SET position = 100 WHERE content = 'three'",
            "UPDATE agent_messages SET position = 5 WHERE content = 'four'",
            "UPDATE agent_messages SET position = 6 WHERE content = 'three'",
        ],
        "agent 'a' has message 4 at a position before that of the previous message",
    ),
    "a message twice": (
        ["UPDATE agent_messages SET sequence_number = 5 WHERE content = 'late'"],
        "agent 'a' has message 5 twice",
    ),
    "a way back to another message": (
        ["UPDATE agent_messages SET back = 2 WHERE content = 'three'"],
        "message 3 of agent 'a' does not lead back to the one before it",
    ),
    "a tail that is another message": (
        ["UPDATE agents SET tail = 6 WHERE id = 'a'"],
        "agent 'a' does not lead to its last message, 6",
    ),
    "a step at a message that has none": (
        ["INSERT INTO agent_steps VALUES (1, 3, 5, '1')"],
        "agent 'a' has 6 messages, but other steps",
    ),
    "a status unlike the last step": (
        ["UPDATE agents SET status = 'failed' WHERE id = 'a'"],
        "agent 'a' is failed, but its last change was to completed",
    ),
    "a status that is none": (
        ["UPDATE agents SET status = 'asleep' WHERE id = 'a'"],
        "agent 'a' is asleep, but its last change was to completed",
    ),
    "a step after an end": (
        [f"INSERT INTO agent_transitions {STEP} VALUES (14, 1, 'completed', 'failed', 6, '{AT}')"],
        "agent 'a' had ended as completed, but then became failed",
    ),
    "a step from another status": (
        ["UPDATE agent_transitions SET \"from\" = 'initializing' WHERE \"to\" = 'completed'"],
        "agent 'a' changed from initializing to completed while it was running",
    ),
    "a missing step": (
        ["DELETE FROM agent_transitions WHERE agent_key = 1 AND \"to\" = 'running'"],
        "agent 'a' changed from running to completed while it was initializing",
    ),
    "a step after a message that is not there": (
        ["UPDATE agent_transitions SET after_sequence = 9 WHERE \"to\" = 'completed'"],
        "agent 'a' became completed after message 9, but has only 6",
    ),
    "a step before the message that it follows": (
        ["UPDATE agent_transitions SET after_sequence = 6 WHERE \"to\" = 'completed'"],
        "agent 'a' became completed out of order with message 6",
    ),
    "a step after the message that follows it": (
        ["UPDATE agent_transitions SET after_sequence = 3 WHERE \"to\" = 'completed'"],
        "agent 'a' became completed out of order with message 3",
    ),
    "a message of no agent": (
        [f"INSERT INTO agent_messages {MESSAGE} VALUES (14, 77, 1, 'user', '', 'text', '{AT}', 0)"],
        "row 14 of agent_messages refers to a missing row of agents",
    ),
    "a step of no agent": (
        [f"INSERT INTO agent_transitions {STEP} VALUES (14, 77, 'initializing', 'running', 0, '{AT}')"],
        "row 14 of agent_transitions refers to a missing row of agents",
    ),
    "a type that the schema forbids": (
        ["UPDATE agent_messages SET type = 'whisper' WHERE content = 'three'"],
        "SQLite: CHECK constraint failed in agent_messages",
    ),
    "an id that is no text": (
        ["UPDATE agents SET id = CAST(x'ff' AS TEXT) WHERE id = 'b'"],
        "an agent or a change of status holds bytes that are not text (",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_was_broken_is_named(path: Path, what: str) -> None:
    statements, sentence = DAMAGES[what]
    damage(path, *statements)

    report = verify(path)

    assert any(sentence in problem for problem in report.problems), report.problems
    assert not report.is_sound
    assert not any("\n" in problem for problem in report.problems)


def test_a_sound_file_is_sound(path: Path) -> None:
    report = verify(path)

    assert report == Report(
        str(path),
        agents=2,
        messages=7,
        transitions=3,
        position=12,
        notes=["a crash left 1 agents unfinished: the next start fails them"],
    )


def test_a_byte_that_the_disk_flipped_within_a_row_is_found_although_sqlite_sees_nothing(path: Path) -> None:
    file = path.read_bytes()
    place = file.index(b"three")
    path.write_bytes(file[:place] + b"thr\xe5e" + file[place + 5 :])

    with by_hand(path) as connection:
        assert connection.pragma("integrity_check") == "ok"
    assert problems(path) == ["message 3 of agent 'a' was changed since it was stored"]


def test_a_damaged_page_is_one_error_or_a_problem(path: Path) -> None:
    file = bytearray(path.read_bytes())
    leaf = next(page for page in range(4096, len(file), 4096) if b"three" in file[page : page + 4096])
    file[leaf : leaf + 8] = b"\xff" * 8
    path.write_bytes(file)

    found = verify(path).problems

    assert found and all(problem.startswith("SQLite: ") and "\n" not in problem for problem in found)


def test_a_file_that_cannot_be_opened_is_one_error(path: Path) -> None:
    file = path.read_bytes()
    path.write_bytes(file[:100] + b"\xff" * 8 + file[108:])

    with pytest.raises(StoreCorruptError):
        verify(path)
    with pytest.raises(StoreOpenError, match="there is no such file"):
        verify(path.with_name("missing.db"))


def test_a_thousand_problems_are_listed_and_the_others_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_PROBLEMS", 3)
    damage(path, "UPDATE agent_messages SET checksum = checksum + 1")

    report = verify(path)

    assert (len(report.problems), report.more_problems) == (3, 4)


@pytest.mark.parametrize("page", [1, 2, 3])
def test_the_size_of_its_pages_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(module, "PAGE_ROWS", page)
    monkeypatch.setattr(module, "PAGE_BYTES", page)

    assert verify(path).messages == 7
    damage(
        path,
        *DAMAGES["content that is no text"][0],
        *DAMAGES["a message missing in the middle"][0],
        *DAMAGES["an overlapping position"][0],
    )
    assert len(problems(path)) >= 3


def delete(path: Path, agent: str) -> None:
    with by_hand(path) as connection:
        connection.pragma("foreign_keys", "on")
        connection.execute("DELETE FROM agents WHERE id = ?; UPDATE positions SET last = last + 1", (agent,))
        connection.execute("INSERT INTO agent_deletions SELECT last, ?, ? FROM positions", (agent, AT))


def test_what_was_deleted_with_its_agent_is_not_missed(path: Path) -> None:
    delete(path, "a")

    assert problems(path) == []


def test_it_does_not_change_the_file(path: Path) -> None:
    before = path.read_bytes(), path.stat().st_mtime_ns

    verify(path, deep=True)

    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_progress_rises_to_everything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_ROWS", 2)
    monkeypatch.setattr(module, "MAX_HOLD_S", 0)
    told: list[tuple[int, int]] = []

    verify(path, progress=lambda done, of: told.append((done, of)))

    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({done for done, _ in told}) > 3
    assert {of for _, of in told} == {12}
    assert told[-1] == (12, 12)


def test_progress_of_a_small_file_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HOLD_S", TIMEOUT_S)
    told: list[tuple[int, int]] = []

    verify(path, progress=lambda done, of: told.append((done, of)))

    assert told == [(12, 12)]


@pytest.mark.parametrize("part", ["content", "metadata", "raw"])
def test_what_is_read_at_once_is_bounded_in_bytes(tmp_path: Path, part: str) -> None:
    large = "\u5b57" * 400_000  # 1.2 MB in UTF-8, 0.8 in Python
    message = (
        text(large) if part == "content" else text(metadata={"n": large}) if part == "metadata" else text(raw=large)
    )
    with opened(tmp_path / "large.db") as store:
        commit(store, "a", new_agent(), *[message] * 20)
    tracemalloc.start()
    try:
        assert verify(tmp_path / "large.db").messages == 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 5 * 1.2e6, "one message, and what its check needs"


class TestBesideARuntime:
    def test_it_says_what_it_did_not_check_and_checks_it_when_asked(self, path: Path) -> None:
        with opened(path):
            plain, deep = verify(path), verify(path, deep=True)

        assert plain.is_sound and deep.is_sound
        assert [note for note in plain.notes if "--deep" in note] == plain.notes != []
        assert deep.notes == []

    def test_a_commit_can_be_made_between_any_two_of_its_steps(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PAGE_ROWS", 2)
        monkeypatch.setattr(module, "MAX_HOLD_S", 0)
        with opened(path) as store:
            assert store._writer is not None
            store._writer.set_busy_timeout(1)
            store.abandon_waiting()  # a commit that meets a reader is an error

            report = verify(path, progress=lambda *_: commit(store, "b", text("more")))

            assert report.is_sound, report.problems
            assert store.position()[0] >= 16

    @pytest.mark.parametrize("agent", ["a", "b"])
    def test_an_agent_that_is_deleted_meanwhile_is_no_problem(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, agent: str
    ) -> None:
        monkeypatch.setattr(module, "PAGE_ROWS", 2)
        monkeypatch.setattr(module, "MAX_HOLD_S", 0)
        deleted: list[str] = []

        def delete_once(done: int, _: int) -> None:
            if done > 0 and not deleted:  # in the middle of the messages of `a`
                delete(path, agent)
                deleted.append(agent)

        with opened(path):
            assert verify(path, progress=delete_once).problems == []
        assert deleted == [agent]

    def test_it_raises_no_false_alarm_while_a_runtime_appends_and_keeps_no_commit_waiting(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            agents = [runtime.launch() for _ in range(3)]
            is_over, has_begun = threading.Event(), threading.Event()
            stored = 0

            def append() -> None:
                nonlocal stored
                while not is_over.is_set():
                    futures = [agent.emit("x" * 50) for agent in agents for _ in range(20)]
                    stored += len([future.get(TIMEOUT_S) for future in futures])
                    has_begun.set()

            appending = threading.Thread(target=append)
            appending.start()
            try:
                assert has_begun.wait(TIMEOUT_S)
                for _ in range(5):
                    before = stored
                    assert verify(path).problems == []
                    while stored == before and appending.is_alive():  # it goes on
                        has_begun.clear()
                        assert has_begun.wait(TIMEOUT_S)
            finally:
                is_over.set()
                appending.join(TIMEOUT_S)
            assert verify(path, deep=True).problems == []
        assert problems(path) == []


def test_everything_that_it_can_say_is_said_here() -> None:
    source = Path(str(module.__file__)).read_text("utf-8")
    sentences = re.findall(r'add\(\s*f?"([^"]+)"', source)
    said = " ".join(sentence for _, sentence in DAMAGES.values())

    assert len(sentences) > 10
    for sentence in sentences:
        pieces = [piece.strip() for piece in re.split(r"\{[^}]*\}", sentence) if len(piece.strip()) > 3]
        assert all(piece in said for piece in pieces) or "SQLite" in sentence, sentence


def test_a_check_of_the_structure_gives_way_to_a_runtime_that_starts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS_BETWEEN_PROBES", 1)
    answers = iter([False])  # at the start nobody has it; then somebody does
    monkeypatch.setattr(module, "is_locked", lambda _: next(answers, True))

    report = verify(path)

    assert report.is_sound
    assert report.messages == 7
    assert any("structures were not checked" in note for note in report.notes)


def test_a_link_to_a_live_file_is_known_as_live(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)

    with opened(path):
        assert any("structures were not checked" in note for note in verify(link).notes)
