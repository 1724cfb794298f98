"""Starting and attaching: many at once, while a server ends, over what earlier ones have left, and what is refused."""

import errno
import os
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Never

import pytest

from commands import is_alive
from commitcast.actors import AgentRuntime
from commitcast.persistence.errors import (
    CommitcastError,
    ServerStartError,
    SettingsConflictError,
    StoreLockedError,
    StoreOpenError,
)
from commitcast.persistence.remote import attaching, connections, spawning
from commitcast.persistence.remote.frames import PROTOCOL, REQUESTS, Hello, Settings
from commitcast.persistence.remote.store import RemoteStore
from commitcast.persistence.sqlite.lock import FileLock, holder_of
from hosts import Hosts, server_of, servers_below
from no_descriptors import every_descriptor_used
from waiting import wait_until

pytestmark = [
    pytest.mark.fault,
    pytest.mark.parametrize("server", ["process"], indirect=True),
    pytest.mark.sampled(12, of_file=True),
]


def started(path: Path) -> int:
    """Start a runtime and stop it; return the server that it had."""
    with AgentRuntime(path) as runtime:
        runtime.launch()
        return server_of(runtime)


def assert_is_the_other(path: Path) -> None:
    """Assert that a file is the one that another program has written, and takes what an agent says."""
    with AgentRuntime(path) as runtime:
        assert "other" in {record.type for record in runtime.agents()}
        runtime.launch().emit("x").get(10)


class TestServers:
    def test_hosts_that_start_at_once_have_one(self, hosts: Hosts, path: Path) -> None:
        starting = [hosts() for _ in range(8)]
        for host in starting:
            host.ask("1")
        for host in starting:
            host.tell("runtime = AgentRuntime(path).start(); runtime.store.server_pid")

        assert len({host.answer() for host in starting}) == 1

    def test_a_runtime_that_follows_another_one_takes_over_its_server(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spawning, "LINGER_S", 5.0)

        first = started(path)

        assert started(path) == first
        os.kill(first, signal.SIGTERM)
        wait_until(lambda: not is_alive(first), "the server to end")

    def test_other_settings_are_taken_where_no_runtime_is_left(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spawning, "LINGER_S", 60.0)
        first = started(path)
        monkeypatch.setattr(spawning, "LINGER_S", 0.0)

        with AgentRuntime(path, journal_mode="wal") as runtime:
            assert server_of(runtime) != first
            assert isinstance(runtime.store, RemoteStore)
            assert runtime.store.journal_mode == "wal"

    def test_runtimes_that_come_and_go_while_servers_end_all_start(self, hosts: Hosts, path: Path) -> None:
        come_and_go = """
servers = set()
for _ in range(5):
    with AgentRuntime(path) as runtime:
        servers.add(runtime.store.server_pid)
        runtime.launch().emit("x").get(10)
len(servers)
"""
        coming = [hosts() for _ in range(2)]
        for host in coming:
            host.tell(come_and_go)

        assert [host.answer() >= 1 for host in coming] == [True, True]
        with AgentRuntime(path) as runtime:
            assert len(runtime.agents()) == 10

    def test_a_file_that_was_changed_while_no_runtime_was_there_is_opened_anew(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spawning, "LINGER_S", 60.0)
        first = started(path)
        monkeypatch.setattr(spawning, "LINGER_S", 0.0)

        def is_opened_anew() -> bool:
            with sqlite3.connect(path) as other:  # again, if the server had not looked at the file before
                other.execute("UPDATE agents SET type = 'other'")
            other.close()
            return started(path) != first

        wait_until(is_opened_anew, "another server")
        assert_is_the_other(path)

    def test_so_is_one_that_was_replaced_as_soon_as_its_last_runtime_had_gone(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spawning, "LINGER_S", 60.0)
        first = started(path)
        monkeypatch.setattr(spawning, "LINGER_S", 0.0)
        copy = shutil.copy(path, path.with_name("copy.db"))
        with sqlite3.connect(copy) as other:
            other.execute("UPDATE agents SET type = 'other'")
        other.close()
        os.replace(copy, path)

        assert started(path) != first
        assert_is_the_other(path)

    def test_it_is_no_child_of_its_first_host(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            stat = Path(f"/proc/{server_of(runtime)}/stat").read_text()
            assert int(stat.rpartition(")")[2].split()[1]) != os.getpid()


class TestLeftBehind:
    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("note", ["", "starting\n", "ending\n", "/nowhere/hosts\n", "x" * 2_000, "\udcff\x00"])
    def test_a_note_without_a_lock_means_nothing(self, note: str, path: Path) -> None:
        path.with_name("agents.db.lock").write_bytes(f"{os.getpid()}\n{note}".encode(errors="surrogateescape"))

        assert started(path)

    def test_a_server_that_was_killed_before_it_had_written_its_note_delays_nothing(self, hosts: Hosts) -> None:
        host = hosts()
        server = host.start()
        lock = Path(f"{host.ask('path')}.lock")
        note = lock.read_text()
        lock.write_text("")
        later = hosts()
        later.tell("runtime = AgentRuntime(path).start(); runtime.store.server_pid")
        os.kill(server, signal.SIGKILL)

        assert later.answer() != server
        assert note != lock.read_text()

    def test_the_next_server_removes_the_socket_of_one_that_was_killed(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            assert isinstance(runtime.store, RemoteStore)
            left = Path(runtime.store.address)
            os.kill(server_of(runtime), signal.SIGKILL)
        assert left.is_socket()

        assert started(path)

        assert not left.parent.exists()


@contextmanager
def noted(path: Path, note: str) -> Iterator[None]:
    """A file whose lock this process has, with a note."""
    path.touch()
    lock = FileLock(path, note)
    try:
        yield
    finally:
        lock.close()


@contextmanager
def listening(path: Path, answer: bytes | None) -> Iterator[None]:
    """What listens where a server should, and answers something else."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(65_536)
                    connection.sendall(answer or b"")
                    connection.close() if answer is None else connection.recv(1)
            os._exit(0)
        try:
            yield
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


class TestRefusals:
    def test_a_file_in_the_other_form_either_way(self, path: Path) -> None:
        with AgentRuntime(path, server="in_process"), pytest.raises(StoreLockedError, match="which is this one"):
            AgentRuntime(path).start()
        with AgentRuntime(path), pytest.raises(StoreLockedError, match="served by a process of its own"):
            AgentRuntime(path, server="in_process").start()

    def test_other_settings_are_named(self, path: Path) -> None:
        with AgentRuntime(path), pytest.raises(SettingsConflictError, match="journal_mode is 'delete' there and 'wal'"):
            AgentRuntime(path, journal_mode="wal").start()

    def test_another_version_of_the_protocol(self, path: Path) -> None:
        with AgentRuntime(path):
            holder = holder_of(path)
            assert holder is not None
            with pytest.raises(StoreOpenError, match=f"speaks version {PROTOCOL} of the protocol, not 99"):
                attaching.greet(holder.note, Hello(99, REQUESTS, settings=Settings("delete")))

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 8, b"\x02\0\0\0xy"])
    def test_what_listens_in_its_place_and_is_no_server(self, answer: bytes, path: Path, tmp_path: Path) -> None:
        place = tmp_path / "socket"
        refused = pytest.raises(ServerStartError, match="what listens there is not its server process")
        with noted(path, str(place)), listening(place, answer), refused:
            AgentRuntime(path).start()

    def test_a_socket_of_another_user(self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with AgentRuntime(path):
            uid = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
            with pytest.raises(ServerStartError, match=f"is of user {uid}, not of this one"):
                AgentRuntime(path).start()
            monkeypatch.undo()

    def test_a_server_that_cannot_be_reached(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attaching, "UNREACHABLE_S", 0.1)
        with noted(path, "/nowhere/hosts"), pytest.raises(ServerStartError, match="nothing listens at /nowhere/hosts"):
            AgentRuntime(path).start()

    def test_a_server_that_does_not_answer(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(attaching, "WELCOME_S", 0.1)
        with AgentRuntime(path) as runtime:
            os.kill(server_of(runtime), signal.SIGSTOP)
            try:
                with pytest.raises(ServerStartError, match="timed out"):
                    AgentRuntime(path).start()
            finally:
                os.kill(server_of(runtime), signal.SIGCONT)

    def test_no_descriptor_is_free(self, path: Path) -> None:
        started(path)  # all that it needs is loaded
        with every_descriptor_used(), pytest.raises(ServerStartError, match="Too many open files"):
            AgentRuntime(path).start()
        with AgentRuntime(path), every_descriptor_used(), pytest.raises(ServerStartError, match="Too many open files"):
            AgentRuntime(path).start()


def not_a_database(path: Path) -> Path:
    path.write_text("this is not a database, and long enough to be seen as one")
    return path


def anothers_database(path: Path) -> Path:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (id INTEGER)")
    other.close()
    return path


def a_folder(path: Path) -> Path:
    path.mkdir()
    return path


def without_folder(path: Path) -> Path:
    return path.with_name("missing") / "agents.db"


def hard_linked(path: Path) -> Path:
    server = started(path)
    wait_until(lambda: not is_alive(server), "the server to end, which would go on with the file that it has")
    os.link(path, path.with_name("other.db"))
    return path


def linked_to_nothing(path: Path) -> Path:
    path.symlink_to("nothing.db")
    return path


def a_link_for_a_lock(path: Path) -> Path:
    path.with_name("agents.db.lock").symlink_to("somewhere")
    return path


def a_folder_for_a_lock(path: Path) -> Path:
    path.with_name("agents.db.lock").mkdir()
    return path


def a_pipe_for_a_lock(path: Path) -> Path:
    os.mkfifo(path.with_name("agents.db.lock"))
    return path


def a_name_that_sqlite_cannot_use(path: Path) -> Path:
    return path.with_name("agents.db-journal")


def on_a_file_system_without_files(path: Path) -> Path:
    return Path("/proc/agents.db")


BAD: list[Callable[[Path], Path]] = [
    not_a_database,
    anothers_database,
    a_folder,
    without_folder,
    hard_linked,
    linked_to_nothing,
    a_link_for_a_lock,
    a_folder_for_a_lock,
    a_pipe_for_a_lock,
    a_name_that_sqlite_cannot_use,
    on_a_file_system_without_files,
]


def refusal(path: Path, form: str) -> tuple[type, str] | None:
    try:
        with AgentRuntime(path, server=form):  # type: ignore[arg-type]  # one of both
            return None
    except CommitcastError as error:
        return type(error), str(error)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("make", BAD)
def test_a_path_that_cannot_be_used_is_refused_as_in_a_process_of_the_hosts_own(
    make: Callable[[Path], Path], path: Path
) -> None:
    bad = make(path)

    in_a_process_of_its_own = refusal(bad, "process")
    wait_until(lambda: not servers_below(path.parent), "the server to end")

    assert in_a_process_of_its_own == refusal(bad, "in_process")


UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]


def on_its_own_disk(folder: Path) -> list[str]:
    """What starts a program for which a small file system is mounted on a folder."""
    return [*UNSHARE, "sh", "-c", f'mount -t tmpfs -o size=512k none "{folder}" && exec "$0" "$@"']


class TestDisks:
    def test_a_full_one_keeps_the_first_commit_waiting_and_not_the_start(self, hosts: Hosts, path: Path) -> None:
        host = hosts(started_by=on_its_own_disk(path.parent))
        host.start()
        host.ask("runtime.launch(id='a').emit('x').get(10); runtime.stop()")
        host.ask(
            """
file = open(os.path.join(os.path.dirname(path), "full"), "wb", buffering=0)
try:
    while True:
        file.write(b"x" * 512)
except OSError:
    pass
"""
        )
        host.start()

        host.ask("future = runtime.agent('a').emit('y')")
        host.ask("while runtime.stats().waits_for is None: time.sleep(0.001)")
        assert host.ask("file.truncate(0); future.get(10).sequence") == 2

    def test_a_read_only_one_is_refused_as_in_a_process_of_the_hosts_own(self, hosts: Hosts, path: Path) -> None:
        host = hosts(started_by=on_its_own_disk(path.parent))
        host.ask("assert not os.system(f'mount -o remount,ro {os.path.dirname(path)}')")

        assert host.refusal("AgentRuntime(path, server='process').start()") == "StoreReadOnlyError"
        assert host.refusal("AgentRuntime(path, server='in_process').start()") == "StoreReadOnlyError"


NAMES = ["ü — 数据 🦜.db", "a b'c\"d%e?f#g.db", "x" * 200 + ".db", "-x.db"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_kind(name: str, tmp_path: Path) -> None:
    assert started(tmp_path / name)
    assert (tmp_path / name).exists()


def test_relative_paths_and_links_lead_to_the_same_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = path.with_name("link")
    link.symlink_to(path.parent, target_is_directory=True)
    with AgentRuntime(path) as first:
        monkeypatch.chdir(path.parent)
        with AgentRuntime("agents.db") as second, AgentRuntime(link / "agents.db") as third:
            assert server_of(first) == server_of(second) == server_of(third)


def test_what_its_first_host_has_in_hand_does_not_matter(hosts: Hosts, tmp_path: Path) -> None:
    """Relative folders of modules, a folder that is gone, and variables of the interpreter."""
    (tmp_path / "gone").mkdir()
    surroundings = {"PYTHONPATH": ".:elsewhere", "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONDEVMODE": "1"}
    host = hosts(env=surroundings, cwd=tmp_path / "gone")
    host.ask("import signal; sys.path.insert(0, 'relative'); sys.path.append(None); os.rmdir(os.getcwd())")
    host.ask(
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    )

    server = host.start()

    assert "SigBlk:\t0000000000000000" in Path(f"/proc/{server}/status").read_text()
    assert host.ask("runtime.launch().emit('x').get(10).sequence") == 1
    host.ask("runtime.stop()")
    wait_until(lambda: not is_alive(server), "the server to end")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("options", [("-I",), ("-E", "-s", "-O"), ("-X", "utf8")])
def test_options_of_the_interpreter(options: tuple[str, ...], hosts: Hosts) -> None:
    host = hosts(python=(sys.executable, *options))
    assert host.start()
    assert host.ask("runtime.launch().emit('x').get(10).sequence") == 1


def test_without_a_descriptor_for_its_second_connection_a_host_is_told_which_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greet(address: str, hello: Hello) -> Never:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(connections, "greet", greet)

    with pytest.raises(ServerStartError, match=r"agents\.db: its server process cannot be used.*Too many open files"):
        AgentRuntime(path).start()
