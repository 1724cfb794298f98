"""Many commands that are stopped together: by one look for all, with one grace for all, within one limit."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from commitcast.actors.errors import SourceCancelledError
from commitcast.actors.sources.processes import registry as module
from commitcast.actors.sources.processes.process import Program, start_process
from commitcast.actors.sources.processes.registry import Processes, is_at_work, kill_at_once
from commitcast.persistence.recovery.census import Census
from shells import STUBBORN, Child, is_alive, read_line
from waiting import TIMEOUT_S, wait_until


@pytest.fixture
def commands() -> Iterator["Commands"]:
    commands = Commands()
    yield commands
    commands.end()


class Commands(Processes):
    """The commands of a test, reaped at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Child] = []

    def shell(self, script: str, epoch: str | None = None) -> Child:
        """Start a script and return when it has printed a line."""
        name = f"{os.getpid()}-{id(self)}-{len(self.started)}" if epoch is None else epoch
        child = self.start(Program(["/bin/sh", "-c", script], "agent", name))
        self.started.append(child)
        read_line(child)
        return child

    def end(self) -> None:
        self.stop(kill_by=0)
        assert self.wait(TIMEOUT_S)
        for child in self.started:
            self.reap(child)
            for stream in filter(None, (child.stdout, child.stderr)):
                stream.close()


def test_all_are_told_at_once_and_share_one_grace(commands: Commands) -> None:
    children = [commands.shell(STUBBORN) for _ in range(8)]
    obedient = commands.shell("echo; exec sleep 60")
    began = time.monotonic()

    commands.stop(kill_by=began + 0.5)

    assert commands.wait(TIMEOUT_S)
    assert 0.5 <= time.monotonic() - began < 0.5 * len(children)
    assert [commands.reap(child) for child in (*children, obedient)] == [-signal.SIGKILL] * 8 + [-signal.SIGTERM]


def test_many_agents_are_looked_for_in_one_reading_of_proc(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(20):
        commands.shell("echo; exec sleep 60")
    readings: list[int] = []
    listdir = os.listdir

    def read(path: str) -> list[str]:
        readings.append(1)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", read)

    commands.stop(kill_by=time.monotonic() + TIMEOUT_S)

    assert commands.wait(TIMEOUT_S)
    assert len(readings) < 20


def test_a_grace_that_is_longer_than_the_stop_ends_with_it(commands: Commands) -> None:
    child = commands.shell(STUBBORN)
    ended = threading.Event()
    commands.terminate(child.pid, 1000, ended.set)

    commands.stop(kill_by=time.monotonic() + 0.1)

    assert ended.wait(TIMEOUT_S)
    assert commands.reap(child) == -signal.SIGKILL


def test_what_is_told_to_end_after_the_stop_ends_with_it(commands: Commands) -> None:
    child = commands.shell(STUBBORN)
    commands.stop(kill_by=time.monotonic() + 0.1)

    ending = commands.terminate(child.pid, 1000, lambda: None)

    wait_until(lambda: ending.is_over, "its end")
    assert commands.reap(child) == -signal.SIGKILL


def test_after_the_stop_nothing_is_started(commands: Commands) -> None:
    commands.stop(kill_by=0)

    with pytest.raises(SourceCancelledError):
        commands.shell("echo")
    assert not commands.started


def test_a_command_that_is_started_while_all_are_stopped_is_stopped_too(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_late(*arguments: Any, **options: Any) -> Child:
        child = start_process(*arguments, **options)
        commands.stop(kill_by=time.monotonic() + TIMEOUT_S)
        return child

    monkeypatch.setattr(module, "start_process", start_late)

    child = commands.start(Program(["/bin/sleep", "60"], "agent", "late"))
    commands.started.append(child)

    assert commands.wait(TIMEOUT_S)
    assert commands.reap(child) == -signal.SIGTERM


def test_a_command_is_at_work_until_it_is_reaped(commands: Commands) -> None:
    child = commands.shell("echo; exec sleep 60", epoch="the-epoch")
    assert is_at_work("the-epoch") and len(commands) == 1

    commands.stop(kill_by=0)
    assert commands.wait(TIMEOUT_S)
    assert is_at_work("the-epoch")
    commands.reap(child)

    assert not is_at_work("the-epoch") and len(commands) == 0


def test_where_no_thread_can_be_started_they_are_stopped_on_the_callers(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = commands.shell("echo; exec sleep 60")

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        commands.stop(kill_by=time.monotonic() + TIMEOUT_S)

    assert commands.wait(0)
    assert commands.reap(child) == -signal.SIGTERM


def test_while_proc_cannot_be_read_the_groups_are_stopped_and_the_rest_when_it_can(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = commands.shell("setsid sleep 60 >/dev/null 2>&1 & echo; wait")
    monkeypatch.setattr(Census, "try_take", lambda: None)
    commands.stop(kill_by=time.monotonic() + TIMEOUT_S)
    wait_until(lambda: not is_alive(child.pid), "the command to end")
    assert not commands.wait(0)

    monkeypatch.undo()

    assert commands.wait(TIMEOUT_S)


def test_a_mistake_in_looking_keeps_nobody_waiting(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    child = commands.shell("echo; exec sleep 60")
    failed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: failed.set())

    def fail() -> Census:
        raise LookupError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(Census, "try_take", fail)
        ending = commands.terminate(child.pid, TIMEOUT_S, lambda: None)
        assert failed.wait(TIMEOUT_S)

    assert (ending.is_over, ending.left) == (True, [child.pid])
    child.kill()


def test_what_is_about_to_exit_kills_all_at_once_and_what_has_left_the_session_too(commands: Commands) -> None:
    child = commands.shell(f'setsid sh -c "{STUBBORN}" </dev/null & {STUBBORN}')
    read_line(child)
    family = Census.take().family(next(iter(commands._running.values())), child.pid)
    assert len({process.session for process in family.values()}) == 2

    kill_at_once()

    for process in family.values():
        wait_until(lambda pid=process.pid: not is_alive(pid), "it to be gone")  # type: ignore[misc]
