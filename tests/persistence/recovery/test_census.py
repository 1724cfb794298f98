"""Whose each process is: decided from what one reading of /proc found."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.persistence.recovery import census
from commitcast.persistence.recovery.census import (
    Census,
    Owner,
    Process,
    outer_agents,
    read_owners,
    read_process,
)
from shells import EPOCH, Children, read_line
from waiting import wait_until

LEADER = 100


def marked(*epochs: str) -> tuple[Owner, ...]:
    return tuple(Owner(f"agent of {epoch}", epoch, "runtime") for epoch in epochs)


def made(pid: int, parent: int = 1, leader: int | None = None, **options: Any) -> Process:
    """A process in the group and session of `leader`, or leading its own."""
    leader = pid if leader is None else leader
    facts: dict[str, Any] = {"group": leader, "session": leader, "started": str(pid), "is_alive": True}
    return Process(pid=pid, parent=parent, **{**facts, **options})


def family(*processes: Process, leader: int | None = None, known: Iterator[tuple[int, str]] | Any = ()) -> set[int]:
    return set(Census(processes).family("e", leader, known))


@pytest.mark.parametrize(
    "process",
    [
        made(200, owners=marked("e")),
        made(200, owners=marked("inner", "e")),
        made(200, leader=LEADER),
        made(200, leader=LEADER, session=7),
        made(200, group=7, session=LEADER),
        made(200, parent=LEADER),
        made(200, parent=LEADER, is_alive=False),
    ],
    ids=["epoch", "outer epoch", "group and session", "group", "session", "child", "zombie"],
)
def test_a_process_belongs_to_the_agent_by(process: Process) -> None:
    assert family(made(LEADER), process, leader=LEADER) == {LEADER, 200}


@pytest.mark.parametrize(
    "process",
    [made(200), made(200, owners=marked("other")), made(200, owners=marked("e2")), made(200, leader=1), made(200, 7)],
    ids=["nothing", "another epoch", "an epoch that begins like it", "another group", "another parent"],
)
def test_a_process_does_not_belong_to_the_agent_by(process: Process) -> None:
    assert family(made(LEADER), process, leader=LEADER) == {LEADER}


def test_what_is_in_the_session_of_one_that_belongs_or_descends_from_it_belongs() -> None:
    tool = made(200, owners=marked("e"))
    of_the_tool = [made(201, leader=200), made(202, parent=201), made(203, parent=202)]

    assert family(tool, *of_the_tool, made(204)) == {200, 201, 202, 203}


def test_what_was_seen_to_belong_belongs_as_long_as_it_is_the_same_process() -> None:
    assert family(made(200), known=[(200, "200")]) == {200}
    assert family(made(200), known=[(200, "199")]) == set()
    assert family(known=[(200, "200")]) == set()


def test_this_process_and_its_ancestors_never_belong_whatever_they_are_marked_with() -> None:
    us, shell, terminal = os.getpid(), 300, 301
    line = [
        made(us, shell, owners=marked("e")),
        made(shell, terminal, owners=marked("e")),
        made(terminal, owners=marked("e")),
    ]

    assert family(*line, made(1, 0, owners=marked("e")), made(302, shell, owners=marked("e"))) == {302}


@pytest.mark.parametrize(
    ("environment", "owners"),
    [
        (b"", ()),
        (b"COMMITCAST_AGENT=a\0", ()),
        (b"COMMITCAST_EPOCH=\0COMMITCAST_AGENT=a\0", ()),
        (b"X=COMMITCAST_EPOCH=e\0", ()),
        (b"COMMITCAST_EPOCH=e\0", (("", "e", ""),)),
        (b"A=1\0COMMITCAST_EPOCH=e\0COMMITCAST_AGENT=a\0COMMITCAST_RUNTIME=4:5:b:6", (("a", "e", "4:5:b:6"),)),
        (b"COMMITCAST_EPOCH=e\0COMMITCAST_OUTER=b=f=4:5:b:6 junk c==\0", (("", "e", ""), ("b", "f", "4:5:b:6"))),
        (b"COMMITCAST_EPOCH=\xff\0\xfe=\xfd\0", (("", "\N{REPLACEMENT CHARACTER}", ""),)),
    ],
)
def test_an_environment_names_its_agents(environment: bytes, owners: tuple[Any, ...]) -> None:
    assert read_owners(environment) == owners


def test_the_outer_agents_of_a_command_are_those_of_the_program_that_starts_it() -> None:
    inner = {"COMMITCAST_AGENT": "a", "COMMITCAST_EPOCH": "e", "COMMITCAST_RUNTIME": "1:2:b:3"}

    outer = outer_agents({**inner, "COMMITCAST_OUTER": "b=f=1:1:b:1"})

    assert outer == "a=e=1:2:b:3 b=f=1:1:b:1"
    assert outer_agents({}) == ""


@pytest.mark.parametrize("runtime", ["", "1:x:b:3", "1"])
def test_a_runtime_that_does_not_name_its_number_has_none(runtime: str) -> None:
    assert Owner("a", "e", runtime).runtime_pid is None


def test_a_real_census_finds_a_real_child_with_its_mark(children: Children) -> None:
    child = children.shell("echo; exec sleep 60")

    found = Census.take().processes[child.pid]

    assert (found.parent, found.group, found.session, found.is_alive) == (os.getpid(), child.pid, child.pid, True)
    assert found.owners[0].epoch == EPOCH
    assert found == read_process(child.pid, with_owners=True)


def test_an_environment_of_any_size_is_read(children: Children) -> None:
    child = children.shell("echo; exec sleep 60", AAA="x" * 100_000, ZZZ="x" * 100_000)

    found = read_process(child.pid, with_owners=True)

    assert found is not None and found.owners


def test_a_census_that_cannot_be_taken_is_none_and_says_why_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)

    assert Census.try_take() is None
    with pytest.raises(OSError, match="Too many"):
        Census.take()


def test_a_process_that_has_gone_is_nobody_and_the_census_is_not_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [*filter(str.isdigit, os.listdir("/proc")), str(2**22 + 1)]
    assert not Path(f"/proc/{listed[-1]}").exists()
    monkeypatch.setattr(os, "listdir", lambda _: listed)

    census = Census.take()

    assert not census.is_settled
    assert 2**22 + 1 not in census.processes


def test_a_fork_is_one_until_it_executes_a_program(children: Children) -> None:
    child = children.start("/bin/sh", "-c", "(echo; while :; do :; done) & echo; exec sleep 60")
    assert (read_line(child), read_line(child)) == (b"\n", b"\n")

    wait_until(lambda: _forks(child.pid) == [False, True], "the command to execute", show=lambda: _forks(child.pid))


def _forks(group: int) -> list[bool]:
    """Whether each process of a group is a fork, the oldest first."""
    return [process.is_fork for process in sorted(Census.take().in_group(group))]


@pytest.mark.parametrize(("flags", "is_fork"), [(0x40, True), (0x400040, True), (0x400000, False), (0x200040, False)])
def test_a_fork_is_told_by_its_flags_and_a_kernel_thread_is_none(
    monkeypatch: pytest.MonkeyPatch, flags: int, is_fork: bool
) -> None:
    stat = f"7 (x) S 1 7 7 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 99 0".encode()
    monkeypatch.setattr(census, "_read", lambda _: stat)

    found = read_process(7)

    assert found is not None and (found.started, found.is_fork) == ("99", is_fork)


def test_a_program_that_shows_no_environment_leaves_the_census_unsettled(children: Children) -> None:
    bare = children.shell("exec env -i sh -c 'echo; sleep 60; :'")

    census = Census.take()

    assert census.processes[bare.pid].is_blank
    assert not census.is_settled
