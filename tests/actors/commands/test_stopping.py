"""How a command in the foreground ends: by signals, with its terminal, and whatever it was started with."""

import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from commands import COMMAND, Running, is_alive, running
from commitcast.actors.commands.stopping import stopping_on_signals
from commitcast.persistence import AgentRecord, SqliteStore
from waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.sampled(4, of_file=True)

OBEDIENT = "echo $$; exec sleep 600"

BLOCKS_SIGTERM = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); os.execv(sys.argv[1], sys.argv[1:])"
)


def ignoring(name: str) -> list[str]:
    return ["sh", "-c", f"trap '' {name}; exec \"$@\"", "sh"]


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "a.db")


def run_shell(db: str, script: str) -> tuple[str, ...]:
    return ("run", "--db", db, "--id", "a1", "--json", "--", "sh", "-c", script)


def pid_of(command: Running) -> int:
    """Return the number that its program says first."""
    wait_until(lambda: command.output, "its line", show=lambda: command.errors)
    return int(json.loads(command.output[0])["content"])


def record(db: str) -> AgentRecord:
    store = SqliteStore(db, read_only=True)
    store.open()
    try:
        found = store.agent("a1")
    finally:
        store.close()
    assert found is not None
    return found


class TestSignals:
    @pytest.mark.sampled(1)
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGQUIT, 131)])
    def test_a_hangup_or_quit_ends_the_agent_and_its_program_in_order(
        self, db: str, number: signal.Signals, code: int
    ) -> None:
        with running(*run_shell(db, OBEDIENT)) as command:
            pid = pid_of(command)
            command.process.send_signal(number)

            assert command.wait() == code

        assert not is_alive(pid)
        assert record(db).status == "terminated"

    def test_a_hangup_that_comes_again_hurries_nobody(self, db: str) -> None:
        """The kernel sends one, and the shell of the terminal another; a session's manager sends SIGTERM before it."""
        tidies_up = "trap 'echo tidy; sleep 0.5; exit' TERM; echo $$; while :; do sleep 0.05; done"
        with running(*run_shell(db, tidies_up)) as command:
            pid_of(command)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
                command.process.send_signal(number)

            assert command.wait() in (129, 143)  # those that arrive together are heard in any order

        assert record(db).status == "terminated"

    def test_what_was_started_by_nohup_goes_on_after_a_hangup(self, db: str) -> None:
        with running(*run_shell(db, OBEDIENT), started_by=ignoring("HUP")) as command:
            pid_of(command)
            command.process.send_signal(signal.SIGHUP)
            command.process.send_signal(signal.SIGINT)

            assert command.wait() == 130

        assert record(db).status == "terminated"  # in order: it was the first that was heard

    def test_a_second_signal_kills_the_program_and_what_left_its_session(self, db: str) -> None:
        stubborn = 'trap "" TERM; echo $$; while :; do sleep 0.05; done'
        script = f"trap '' TERM; setsid sh -c '{stubborn}' & sleep 600; sleep 600"
        with running(*run_shell(db, script)) as command:
            pid = pid_of(command)
            command.process.send_signal(signal.SIGTERM)
            wait_until(lambda: record(db).status == "running", "the agent to be stored")
            command.process.send_signal(signal.SIGINT)

            assert command.wait() in (130, 143)

        wait_until(lambda: not is_alive(pid), "its program to be killed")


class TestTerminal:
    def run_until_closed(self, *arguments: str) -> int:
        """Run a program until it says that it is up, close its terminal, and return its number."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(arguments[0], arguments)
        seen = b""
        while b"up" not in seen:
            seen += os.read(terminal, 4096)
        os.close(terminal)
        return pid

    def exit_code(self, pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def test_one_that_goes_away_ends_the_agent_in_order(self, db: str) -> None:
        script = "echo up; exec sleep 600"

        pid = self.run_until_closed(*COMMAND, "run", "--db", db, "--id", "a1", "--", "sh", "-c", script)

        assert self.exit_code(pid) == 129
        assert record(db).status == "terminated"

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_under_nohup_the_agent_goes_on_without_it(self, db: str, tmp_path: Path, options: tuple[str, ...]) -> None:
        closed = tmp_path / "closed"
        script = f"echo up; while ! [ -e {closed} ]; do sleep 0.05; done; echo more"
        command = ("run", "--db", db, "--id", "a1", *options, "--", "sh", "-c", script)

        pid = self.run_until_closed("/bin/sh", *ignoring("HUP")[1:], *COMMAND, *command)
        closed.touch()

        assert self.exit_code(pid) == 0
        assert (record(db).status, record(db).head) == ("completed", 2)


class TestStart:
    def test_exit_codes_are_known_though_sigchld_was_ignored(self, db: str) -> None:
        with running(*run_shell(db, "echo hello"), started_by=ignoring("CHLD")) as command:
            assert command.wait() == 0

        assert record(db).status == "completed"

    def test_a_blocked_sigterm_is_heard_by_the_command_and_by_its_program(self, db: str) -> None:
        with running(*run_shell(db, OBEDIENT), started_by=(sys.executable, "-c", BLOCKS_SIGTERM)) as command:
            pid = pid_of(command)
            facts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            command.process.send_signal(signal.SIGTERM)

            assert command.wait() == 143

        assert int(facts["SigBlk"], 16) == 0

    def test_all_is_put_back_at_the_end(self) -> None:
        before = [signal.getsignal(number) for number in signal.Signals if number not in (9, 19)]

        with stopping_on_signals():
            pass

        assert [signal.getsignal(number) for number in signal.Signals if number not in (9, 19)] == before


class TestVerdict:
    def test_a_program_that_does_not_exit_after_its_verdict_is_ended_after_the_time_given(self, db: str) -> None:
        result = json.dumps({"type": "result", "subtype": "success", "is_error": False, "result": "done"})
        script = f"echo '{result}'; exec sleep 600"
        options = ("--type", "claude-code", "--exit-timeout-s", "0.1")
        with running("run", "--db", db, "--id", "a1", *options, "--", "sh", "-c", script) as command:
            assert command.process.wait(TIMEOUT_S) == 0

        assert record(db).status == "completed"
