"""Hosts of every kind: scripts, threads, forks, pools of workers, process 1, and those that wait for all children."""

import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import is_alive
from commitcast.actors import AgentRuntime, CommandSource
from commitcast.persistence.errors import ForkedRuntimeError
from forking import forked, refused
from hosts import Hosts, server_of, servers_below
from waiting import TIMEOUT_S, wait_until

pytestmark = [
    pytest.mark.fault,
    pytest.mark.parametrize("server", ["process"], indirect=True),
    pytest.mark.sampled(4, of_file=True),
]

NO_LINGER = "from commitcast.persistence.remote import spawning; spawning.LINGER_S = 0.0\n"
WORK = NO_LINGER + (
    """
from commitcast import AgentRuntime
import sys
with AgentRuntime(sys.argv[1]) as runtime:
    print(runtime.launch().emit("x").get(10).sequence, flush=True)
"""
)

POOL = NO_LINGER + (
    """
from commitcast import AgentRuntime
import multiprocessing, sys

def work(path):
    with AgentRuntime(path) as runtime:
        return runtime.launch().emit("x").get(10).sequence

if __name__ == "__main__":
    _, path, method = sys.argv
    with AgentRuntime(path) as runtime:
        with multiprocessing.get_context(method).Pool(2) as pool:
            done = sum(pool.map(work, [path] * 2))
            pool.close()
            pool.join()
        runtime.launch().emit("x").get(10)
        print(done, len(runtime.agents()))
"""
)


@pytest.fixture(autouse=True)
def no_server_is_left_behind(path: Path) -> Iterator[None]:
    yield
    wait_until(lambda: not servers_below(path.parent), "the servers to end")


def work(path: Path) -> int:
    """What a host does, in a few words; returns how many agents there are then."""
    with AgentRuntime(path) as runtime:
        assert runtime.launch().emit("x").get(TIMEOUT_S).sequence == 1
        return len(runtime.agents())


def test_a_script_without_a_guard_is_executed_once_and_warns_of_nothing(path: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WORK)
    command = [sys.executable, "-X", "dev", "-W", "error", str(script), str(path)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * TIMEOUT_S, check=False)

    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


def test_on_a_thread(path: Path) -> None:
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(work(path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * TIMEOUT_S)

    assert max(counts) == 3


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.sampled(1)
def test_in_children_of_multiprocessing_beside_their_parents_own(method: str, path: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(POOL)
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        str(script),
        str(path),
        method,
    ]

    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * TIMEOUT_S, check=False)

    assert (done.stdout, done.stderr, done.returncode) == ("2 3\n", "", 0)


class TestForked:
    def test_its_parents_runtime_is_refused_and_one_of_its_own_works_on_the_same_file(self, path: Path) -> None:
        with AgentRuntime(path, listen="127.0.0.1:0") as runtime:
            agent, store = runtime.launch(), runtime.store
            agent.emit("first").get(TIMEOUT_S)
            uses = (
                runtime.launch,
                runtime.agents,
                lambda: agent.emit("no").get(TIMEOUT_S),
                lambda: agent.wait(TIMEOUT_S),
                agent.record,
                lambda: list(agent.follow()),
                store.agents,
                lambda: store.agent("a"),
                lambda: store.commit([]),
                store.verify,
                store.open,
                runtime.start,
            )

            def child_works() -> str:
                answers = refused(*uses, runtime.stop, store.close)
                return f"{answers} {work(path)}"

            with forked(child_works) as child:
                answers = child.answer().split()
                assert answers == [ForkedRuntimeError.__name__] * len(uses) + ["-", "-", "2"], answers
                assert agent.emit("second").get(TIMEOUT_S).sequence == 2
                assert runtime.failure is None

    def test_workers_of_a_server_that_forks_before_it_serves_share_a_file(self, path: Path) -> None:
        children = [forked(lambda: work(path)) for _ in range(4)]
        answers = [child.__enter__() for child in children]
        try:
            assert max(int(answer.answer()) for answer in answers) == 4
        finally:
            for child in children:
                child.__exit__(None, None, None)

    def test_a_child_that_lives_on_keeps_neither_its_parents_host_nor_the_server(self, path: Path) -> None:
        with AgentRuntime(path) as runtime:
            server = server_of(runtime)
            living = forked()
            living.__enter__().answer()
        try:
            wait_until(lambda: not is_alive(server), "the server to end")
        finally:
            living.__exit__(None, None, None)


PREPARED = {
    "ignores the end of children": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "reaps every child": """
import signal
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, reap)
""",
    "reaps every child on a thread": """
def reap():
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.001)
threading.Thread(target=reap, daemon=True).start()
""",
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", PREPARED)
def test_a_host_that(how: str, hosts: Hosts) -> None:
    host = hosts()
    host.ask(PREPARED[how])

    for _ in range(3):
        host.start()
        assert host.ask("runtime.launch().emit('x').get(10).sequence") == 1
        host.ask("runtime.stop()")
    host.ask("children = open('/proc/self/task/%d/children' % os.getpid()).read(); assert not children, children")


STAYS = NO_LINGER + (
    """
import sys, time
from commitcast import AgentRuntime
runtime = AgentRuntime(sys.argv[1]).start()
print(runtime.store.server_pid, flush=True)
time.sleep(600)
"""
)


def test_a_server_that_an_agents_program_has_started_stays_for_others_when_that_is_killed(
    path: Path, tmp_path: Path
) -> None:
    program = CommandSource([sys.executable, "-c", STAYS, str(path)], type="text", grace_s=0.1)
    with AgentRuntime(tmp_path / "outer.db", server="in_process") as outer:
        agent = outer.launch(program)
        server = int(next(agent.follow()).content)
        with AgentRuntime(path) as other:
            assert server_of(other) == server

            agent.terminate().get(TIMEOUT_S)

            assert other.launch().emit("x").get(TIMEOUT_S).sequence == 1
            assert other.failure is None


UNSHARE = [
    "unshare",
    *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]),
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]


def test_a_host_that_is_process_1_of_a_container_has_no_zombie_of_its_servers(hosts: Hosts) -> None:
    host = hosts(started_by=UNSHARE)
    assert host.ask("os.getpid()") == 1

    for _ in range(2):
        server = host.start()
        host.ask("runtime.stop()")
        host.ask(f"while os.path.exists('/proc/{server}'): time.sleep(0.001)")


def test_a_host_that_becomes_another_program_is_gone(hosts: Hosts, path: Path) -> None:
    host = hosts()
    host.start()
    host.ask("agent = runtime.launch(id='a')")
    with AgentRuntime(path) as other:
        host.tell("os.execv('/bin/sleep', ['sleep', '600'])")

        assert other.agent("a").wait(TIMEOUT_S).error_name == "Interrupted"


def limited() -> None:
    """In a host that is about to be started: limit it, and what it starts."""
    for limit, least in ((resource.RLIMIT_FSIZE, 200 * 1024), (resource.RLIMIT_CPU, 600), (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(limit, (least, resource.getrlimit(limit)[1]))
    os.umask(0o777)


def test_what_its_first_host_is_limited_to_does_not_limit_the_server(hosts: Hosts) -> None:
    host = hosts(preexec_fn=limited)
    server = host.start()

    limits = Path(f"/proc/{server}/limits").read_text()
    for name, least in (("Max file size", 200 * 1024), ("Max cpu time", 600), ("Max open files", 64)):
        soft = re.search(rf"^{name} +(\S+)", limits, re.MULTILINE)
        assert soft is not None and (soft[1] == "unlimited" or int(soft[1]) > least), limits
    assert "Umask:\t0077" in Path(f"/proc/{server}/status").read_text()
    assert host.ask("[runtime.launch().emit('x' * 100_000).get(10).sequence for _ in range(5)]") == [1] * 5
