"""What a host may do to itself and to the file: open it with another SQLite, use up its descriptors, read nothing."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from commitcast.actors import AgentRuntime
from commitcast.persistence.remote.frames import Ask
from commitcast.persistence.remote.link import UNSENT_BYTES
from commitcast.persistence.sqlite.verify import verify
from host_program import ANSWERS
from hosts import hosts_on, server_of
from no_descriptors import every_descriptor_used
from outside import outside_reader
from speaking import is_forgotten, speaking_host
from waiting import TIMEOUT_S

pytestmark = [pytest.mark.fault, pytest.mark.both_modes, pytest.mark.parametrize("server", ["process"], indirect=True)]


def open_and_close(path: Path, until: threading.Event, opened: list[int]) -> None:
    """Open and close the file fifty times a second: each close drops the locks that this process has on it."""
    while not until.wait(0.02):
        connection = sqlite3.connect(path, timeout=5)
        opened += connection.execute("SELECT count(*) FROM agents").fetchone()
        connection.close()
        path.read_bytes()


def work(path: Path, messages: int) -> None:
    """Emit from several agents while the file is opened and closed."""
    is_done, opened = threading.Event(), list[int]()
    opening = threading.Thread(target=open_and_close, args=(path, is_done, opened))
    with AgentRuntime(path) as runtime, outside_reader(path):
        agents = runtime.launch_many(4)
        opening.start()
        for number in range(messages):
            for future in [agent.emit(f"{number}") for agent in agents]:
                assert future.get(TIMEOUT_S).sequence == number + 1
        is_done.set()
        opening.join()
        assert opened
        assert runtime.failure is None
    report = verify(path)
    assert report.is_sound
    assert report.messages == 4 * messages


def test_it_opens_and_closes_the_file_beside_an_outside_reader(path: Path) -> None:
    work(path, messages=50)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_runtimes_of_hosts_that_open_and_close_the_file(tmp_path: Path) -> None:
    for number in range(50):
        work(tmp_path / f"{number}.db", messages=100)


@pytest.mark.delete_mode("a host opens no file")
def test_it_uses_up_all_of_its_descriptors(path: Path) -> None:
    with AgentRuntime(path) as runtime:
        agent = runtime.launch(id="a")
        agent.emit("before").get(TIMEOUT_S)
        with every_descriptor_used():
            futures = [agent.emit("x" * 100_000) for _ in range(5)]
            assert [future.get(TIMEOUT_S).sequence for future in futures] == [2, 3, 4, 5, 6]
            assert agent.messages()
            assert runtime.launch(id="b").record().id == "b"
        assert runtime.failure is None
    assert verify(path).is_sound


LOOP = """
import asyncio
async def emit():
    await agent.emit("on a loop")
asyncio.run(emit())
"""
CLOSING = f"""
os.closerange(3, {ANSWERS})
files = [open(f"{{path}}.{{number}}", "w+") for number in range(30)]
"""
THEIR_BYTES = """
[os.fstat(file.fileno()).st_size for file in files]
"""


@pytest.mark.delete_mode("a host opens no file")
@pytest.mark.parametrize("before", ["", LOOP], ids=["plain", "after a loop"])
def test_it_closes_all_descriptors_and_has_files_under_their_numbers(path: Path, before: str) -> None:
    with hosts_on(path) as start, AgentRuntime(path) as other:
        host = start()
        host.start()
        host.ask("agent = runtime.launch(id='a'); agent.emit('kept').get(10).sequence")
        host.ask(before + CLOSING)

        # The latter if the loop of connections has looked before.
        assert host.refusal("agent.emit('unknown').get(10)") in ("StoreUnknownError", "RuntimeStoppedError")
        assert host.refusal("agent.record()") == "ServerLostError"
        assert host.refusal("agent.wait(10)") == "RuntimeStoppedError"
        assert "this process has closed a descriptor that was not its own" in host.ask("str(runtime.failure)")
        host.ask("runtime.stop()", timeout_s=TIMEOUT_S / 2)

        assert host.ask(THEIR_BYTES) == [0] * 30, "all are open, and nothing was written into them"
        assert other.agent("a").wait(TIMEOUT_S).error_name == "Interrupted"
        assert other.agent("a").messages()[0].content == "kept"
        assert host.ask("with AgentRuntime(path) as runtime:\n    pass\nruntime.failure") is None
        host.end()
    assert verify(path).is_sound


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.delete_mode("it is about memory")
def test_it_reads_nothing_of_what_it_asks_for_and_is_cut_while_others_go_on(path: Path) -> None:
    with AgentRuntime(path) as runtime:
        agent = runtime.launch(id="a")
        for _ in range(4):
            agent.emit("x" * 1_000_000)
        agent.emit("y").get(TIMEOUT_S)
        before = resident_bytes(server_of(runtime))

        with speaking_host(path) as host:
            for number in range(1, 201):
                host.requests.send(Ask(number, "messages", ["a", 0, 1_000, 4_000_000]))
            sequence = 5
            while not is_forgotten(host.address, host.welcome.session):
                sequence += 1
                assert agent.emit("x").get(TIMEOUT_S).sequence == sequence
                assert resident_bytes(server_of(runtime)) - before < UNSENT_BYTES + 128 * 1024 * 1024

        assert agent.emit("x").get(TIMEOUT_S).sequence == sequence + 1
        assert runtime.failure is None
