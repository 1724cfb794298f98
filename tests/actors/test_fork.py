"""A child that is forked while a runtime runs cannot use it, keeps neither its file nor its port, and just ends."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from commitcast.actors import AgentContext, AgentRuntime, AgentStatus
from commitcast.actors.kernel.future import Future
from commitcast.persistence.verification import verify
from forking import forked, refused
from waiting import TIMEOUT_S

FORKED = "ForkedRuntimeError"


def test_every_use_is_refused_at_once_in_a_child_and_the_parent_goes_on(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch()
        agent.emit("first").get(TIMEOUT_S)
        asked: Future[object] = Future()
        uses = (
            runtime.launch,
            lambda: runtime.launch_many(2),
            runtime.agents,
            lambda: runtime.agent(agent.id),
            lambda: runtime.emit(agent.id, "no").get(TIMEOUT_S),
            lambda: runtime.fail(agent.id, "no").get(TIMEOUT_S),
            lambda: agent.emit("no").get(TIMEOUT_S),
            lambda: agent.send("no").get(TIMEOUT_S),
            lambda: agent.complete().get(TIMEOUT_S),
            lambda: agent.terminate().get(TIMEOUT_S),
            lambda: agent.wait(TIMEOUT_S),
            lambda: list(agent.follow()),
            agent.record,
            agent.messages,
            lambda: asked.get(TIMEOUT_S),
            runtime.stats,
            runtime.verify,
            lambda: runtime.backup(tmp_path / "copy.db"),
            runtime.start,
        )

        with forked(lambda: refused(*uses, runtime.stop)) as child:
            assert child.answer().split() == [FORKED] * len(uses) + ["-"]
            assert agent.emit("second").get(TIMEOUT_S).sequence == 2

    assert verify(tmp_path / "a.db").messages == 2


def test_file_and_port_are_free_again_while_a_child_lives(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
        address = runtime.address
        living = forked(lambda: refused(runtime.launch))
        assert living.__enter__().answer() == FORKED
    try:
        with AgentRuntime(tmp_path / "a.db", listen=address) as again:
            assert again.address == address
    finally:
        living.__exit__(None, None, None)


def test_a_client_sees_the_end_of_its_connection_while_a_child_lives(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
        assert runtime.address is not None
        host, port = runtime.address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")  # and not the end of it
            runtime.agents()
            with forked() as child:
                child.answer()
                runtime.stop()
                client.settimeout(TIMEOUT_S)
                while client.recv(4096):
                    pass


def test_a_child_of_a_source_sees_its_end_and_the_source_goes_on(tmp_path: Path) -> None:
    answers: list[str] = []

    def source(context: AgentContext) -> Iterator[str]:
        yield "before"
        with forked(lambda: refused(context.inbox.get, lambda: 1 / (not context.cancelled.is_set()))) as child:
            answers.append(child.answer())
        yield "after"

    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch(source)
        assert agent.wait(TIMEOUT_S).status is AgentStatus.COMPLETED
        assert [message.content for message in agent.messages()] == ["before", "after"]
    assert answers == [f"{FORKED} ZeroDivisionError"]


def test_a_callback_may_fork(tmp_path: Path) -> None:
    answers: list[str] = []
    is_answered = threading.Event()

    with AgentRuntime(tmp_path / "a.db") as runtime:
        agent = runtime.launch()

        def fork_here(_: object) -> None:
            with forked(lambda: refused(lambda: agent.emit("no").get(TIMEOUT_S))) as child:
                answers.append(child.answer())
            is_answered.set()

        agent.emit("first").add_done_callback(fork_here)
        assert is_answered.wait(TIMEOUT_S)
        assert agent.emit("second").get(TIMEOUT_S).sequence == 2
    assert answers == [FORKED]


def test_a_child_starts_a_runtime_of_its_own(tmp_path: Path) -> None:
    def own() -> str:
        with AgentRuntime(tmp_path / "own.db", listen="127.0.0.1:0") as mine:
            return str(mine.launch().emit("mine").get(TIMEOUT_S).sequence)

    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
        runtime.launch()
        with forked(own) as child:
            assert child.answer() == "1"


def test_a_child_that_ends_in_order_ends_at_once_and_stops_nothing(tmp_path: Path) -> None:
    script = f"""
import os, sys, threading
from commitcast.actors import AgentRuntime
def waits(context):
    yield "here"
    context.inbox.get()
with AgentRuntime({str(tmp_path / "a.db")!r}, listen="127.0.0.1:0") as runtime:
    fed, agent = runtime.launch(waits), runtime.launch()
    next(iter(fed.follow()))
    if os.fork() == 0:
        sys.exit(3)  # through the end of `with`, the atexit handlers and the end of the interpreter
    print("child", os.waitstatus_to_exitcode(os.wait()[1]), agent.emit("after").get(10).sequence, fed.record().status)
"""

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=3 * TIMEOUT_S)

    assert (ended.stdout, ended.stderr, ended.returncode) == ("child 3 1 running\n", "", 0)
    assert verify(tmp_path / "a.db").is_sound
