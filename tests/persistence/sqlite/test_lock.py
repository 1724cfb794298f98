"""The lock file: who has it is known from its note, which only the holder writes."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from commitcast.persistence.errors import StoreLockedError
from commitcast.persistence.sqlite import lock as locks
from commitcast.persistence.sqlite.lock import NOTE_BYTES, FileLock, holder_of, refuse_if_locked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agents.db"


def note_of(path: Path) -> str:
    holder = holder_of(path)
    assert holder is not None
    return holder.note


def test_one_that_does_not_get_it_leaves_the_note_as_it_is(path: Path) -> None:
    lock = FileLock(path, "starting")
    lock.announce("/run/user/1000/commitcast-x/hosts")

    with pytest.raises(StoreLockedError):
        FileLock(path)

    assert note_of(path) == "/run/user/1000/commitcast-x/hosts"
    lock.announce("ending")
    assert note_of(path) == "ending"
    lock.close()
    assert holder_of(path) is None


def test_an_ordered_end_leaves_no_note_and_the_room_for_the_next(path: Path) -> None:
    FileLock(path, "/run/user/1000/commitcast-x/hosts").close()

    file = path.with_name("agents.db.lock")
    assert file.read_text() == "\n" * NOTE_BYTES
    lock = FileLock(path)
    assert (lock.note_found, file.stat().st_size) == ("", NOTE_BYTES)
    lock.close()


def test_a_note_that_is_left_behind_is_found(path: Path) -> None:
    path.with_name("agents.db.lock").write_text("1234567\n/run/user/1000/commitcast-x/hosts\n")

    lock = FileLock(path)

    assert lock.note_found == "/run/user/1000/commitcast-x/hosts"
    lock.close()


@pytest.mark.parametrize("take", [FileLock, refuse_if_locked], ids=["take", "look"])
def test_one_without_a_note_is_about_to_release_it_and_is_waited_for(
    path: Path, take: Callable[[Path], FileLock | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock(path)
    path.with_name("agents.db.lock").write_text("")
    looks: list[float] = []

    def release(pause_s: float) -> None:
        looks.append(pause_s)
        if len(looks) == 3:
            lock.close()

    monkeypatch.setattr(time, "sleep", release)
    taken = take(path)

    assert len(looks) == 3
    if taken is not None:
        taken.close()


@pytest.mark.parametrize("take", [FileLock, refuse_if_locked], ids=["take", "look"])
def test_one_that_stays_without_a_note_is_refused_in_the_end(
    path: Path, take: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock(path)
    path.with_name("agents.db.lock").write_text("")
    monkeypatch.setattr(locks, "SHARED_LOCK_WAIT_S", 0.01)

    with pytest.raises(StoreLockedError, match="an unknown process has it open"):
        take(path)
    lock.close()
