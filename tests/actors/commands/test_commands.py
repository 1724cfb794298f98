"""The `commitcast` command as a newcomer uses it: in processes of its own, with real files and sockets."""

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commands import COMMAND, Done, running
from commands import run as run_in_a_process
from commitcast.actors import AgentRuntime
from commitcast.actors.cli import main
from commitcast.actors.sources.parsers import PARSERS
from commitcast.gateway.client.asyncio import subscribe
from commitcast.persistence import SqliteStore
from commitcast.persistence.remote import spawning
from stores import by_hand
from waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.sampled(30, of_file=True)

TRANSCRIPTS = Path(__file__).parent.parent / "sources" / "transcripts"


Run = Callable[..., Done]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command to its end in this process, which saves the start of an interpreter."""

    def call(*arguments: str) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capfd.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, out, err)

    return call


@pytest.fixture
def db(tmp_path: Path) -> str:
    return str(tmp_path / "x.db")


def raw_lines(db: str, agent: str) -> list[bytes]:
    store = SqliteStore(db, read_only=True)
    store.open()
    lines = [message.raw for message in store.messages(agent, limit=10_000) if message.raw is not None]
    store.close()
    return lines


class TestRun:
    @pytest.mark.parametrize(
        ("type", "name"), [("claude-code", "claude_code"), ("gemini-cli", "gemini_cli"), ("codex", "codex")]
    )
    def test_every_line_of_a_recording_is_in_the_database_byte_for_byte(
        self, run: Run, db: str, type: str, name: str
    ) -> None:
        recording = TRANSCRIPTS / f"{name}.jsonl"

        run("run", "--id", "a1", "--type", type, "--db", db, "--", "cat", str(recording))

        assert raw_lines(db, "a1") == recording.read_bytes().removesuffix(b"\n").split(b"\n")
        assert run("verify", "--db", db).returncode == 0

    def test_prints_each_message_and_exits_with_zero_when_the_agent_completed(self, run: Run, db: str) -> None:
        done = run("run", "--db", db, "--id", "a1", "--", "echo", "hello")

        assert done.returncode == 0
        assert "hello" in done.stdout
        assert "a1 completed after 1 message\n" in done.stderr

    def test_json_prints_one_object_a_line_and_the_agent_last(self, run: Run, db: str) -> None:
        done = run("run", "--json", "--db", db, "--id", "a1", "--", "printf", "a\\nb\\n")

        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["content"] for line in lines[:-1]] == ["a", "b"]
        assert [line["raw"] for line in lines[:-1]] == ["a", "b"]
        assert (lines[-1]["id"], lines[-1]["status"]) == ("a1", "completed")

    def test_exits_with_one_when_the_agent_failed(self, run: Run, db: str) -> None:
        done = run("run", "--db", db, "--", "sh", "-c", "echo before; echo why >&2; exit 3")

        assert done.returncode == 1
        assert "exit code 3" in done.stderr and "why" in done.stderr

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_terminates_the_agent_in_order(self, run: Run, db: str, number: signal.Signals, code: int) -> None:
        child = "import signal; print('up', flush=True); signal.pause()"
        with running("run", "--db", db, "--id", "a1", "--", sys.executable, "-c", child) as command:
            wait_until(lambda: any("up" in line for line in command.output), "its line", show=lambda: command.errors)
            command.process.send_signal(number)

            assert command.wait() == code

        record = json.loads(run("agents", "--json", "--db", db).stdout)
        assert (record["id"], record["status"], record["head"]) == ("a1", "terminated", 1)

    def test_the_prompt_replaces_its_place_or_goes_to_standard_input(self, run: Run, db: str) -> None:
        placed = run("run", "--db", db, "--prompt", "hi there", "--json", "--", "echo", "said: {prompt}")
        piped = run("run", "--db", db, "--prompt", "hi there", "--json", "--", "cat")

        assert [json.loads(line).get("content") for line in placed.stdout.splitlines()] == [
            "hi there",
            "said: hi there",
            None,
        ]
        assert [json.loads(line).get("content") for line in piped.stdout.splitlines()] == ["hi there", "hi there", None]

    def test_an_early_a_late_and_a_cut_off_subscriber_end_with_the_same_list(self, db: str, tmp_path: Path) -> None:
        """A slow producer: it says the second half only when the test lets it, so that everybody is where he should."""
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        producer = f"for n in range(150): print('line', n, flush=True)\nopen({str(gate)!r}).read()\nprint('end')"

        async def collect(url: str, seen: list[tuple[int, str]], stop_after: int = 0, after: int = 0) -> None:
            async with subscribe(url, "a1", after=after) as subscription:
                async for message in subscription:
                    seen.append((message.sequence, message.content))
                    if len(seen) == stop_after:
                        await subscription.cut()
                        break

        async def scenario() -> None:
            with running(
                *("run", "--id", "a1", "--db", db, "--listen", "127.0.0.1:0", "--", sys.executable, "-c", producer)
            ) as command:
                url = await asyncio.to_thread(lambda: command.url)
                early: list[tuple[int, str]] = []
                cut: list[tuple[int, str]] = []
                late: list[tuple[int, str]] = []
                async with asyncio.timeout(2 * TIMEOUT_S):
                    tasks = [asyncio.create_task(collect(url, early))]
                    await collect(url, cut, stop_after=50)
                    tasks.append(asyncio.create_task(collect(url, cut, after=cut[-1][0])))
                    tasks.append(asyncio.create_task(collect(url, late)))
                    while not (early and late and len(cut) > 50):
                        await asyncio.sleep(0.001)
                    await asyncio.to_thread(gate.write_text, "go on")
                    await asyncio.gather(*tasks)
                assert early == cut == late
                assert [sequence for sequence, _ in late] == list(range(1, 152))

        asyncio.run(scenario())

    def test_the_agent_goes_on_when_nobody_reads_the_output_any_more(self, db: str) -> None:
        command = f"{shlex.join(COMMAND)} run --db {shlex.quote(db)} --id a1 -- seq 20000 | head -n 1"

        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)

        assert "a1 completed after 20000 messages" in done.stderr

    def test_a_second_signal_ends_it_at_once_though_nobody_reads_its_output(self, db: str) -> None:
        process = subprocess.Popen(
            [*COMMAND, "run", "--db", db, "--id", "a1", "--", "seq", "200000"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()  # and no more: its pipe is full soon

        process.send_signal(signal.SIGINT)
        wait_until(lambda: _is_blocked_or_gone(process, signal.SIGTERM), "the second signal to end it")

        assert process.returncode in (130, 143)
        process.stdout.close()


def _is_blocked_or_gone(process: "subprocess.Popen[bytes]", again: signal.Signals) -> bool:
    if process.poll() is None:
        process.send_signal(again)
    return process.poll() is not None


class TestBadInput:
    """One line that says what is wrong and what to do, a non-zero exit, and never a traceback."""

    def check(self, run: Run, *arguments: str, says: str) -> None:
        done = run(*arguments)
        assert done.returncode not in (0, None)
        assert says in done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        assert len([line for line in done.stderr.splitlines() if line.startswith("commitcast:")]) <= 1

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["tail"], "Missing argument"),
            (["run", "--nope"], "No such option"),
            (["messages", "a1", "--after", "-3"], "Invalid value for '--after'"),
            (["nope"], "No such command 'nope'"),
            (["run", "--listen", "foo", "--", "echo"], "cannot listen on foo"),
            (["serve", "--listen", "foo"], "cannot listen on foo"),
            (["serve", "--listen", "off"], "cannot listen on off"),
            (["run", "--listen", "asgi", "--", "echo"], "cannot listen on asgi"),
            (["run", "--listen", "0.0.0.0:0", "--", "echo"], "a token is needed"),
            (["serve", "--listen", "0.0.0.0:0"], "a token is needed"),
            (["serve", "--asgi", "--listen", "0.0.0.0:0"], "a token is needed"),
            (["demo", "--listen", "0.0.0.0:0"], "a token is needed"),
            (["run", "--db", "none/x.db", "--", "echo"], "there is no folder none"),
            (["demo", "--db", "none/x.db"], "there is no folder none"),
            (["verify", "--db", "none/x.db"], "there is no folder none"),
            (["run", "--id", "a b", "--", "echo"], "is not a valid agent id"),
            (["tail", "a1", "--after", "soon"], "use a sequence or tail"),
            (["serve", "--journal-mode", "off"], "must be 'delete' or 'wal'"),
            (["run", "--journal-mode", "off", "--", "echo"], "must be 'delete' or 'wal'"),
        ],
    )
    def test_every_mistake_in_the_command_line_is_one_line_of_one_style_and_exit_code_two(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
    ) -> None:
        monkeypatch.chdir(tmp_path)

        done = run(*arguments)

        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("commitcast: ")
        assert says in line

    def test_without_arguments_the_help_is_shown(self, run: Run) -> None:
        done = run()

        assert done.returncode in (0, 2)  # as the version of click has it
        assert "Usage: commitcast" in done.stdout + done.stderr

    def test_a_missing_command(self, run: Run, db: str) -> None:
        self.check(run, "run", "--db", db, says="give the command to run after `--`")

    def test_a_command_that_does_not_exist(self, run: Run, db: str) -> None:
        self.check(run, "run", "--db", db, "--", "no-such-program", says="the program 'no-such-program' was not found")
        assert not Path(db).exists()

    def test_an_unwritable_database_path(self, run: Run, tmp_path: Path) -> None:
        self.check(run, "serve", "--db", str(tmp_path), "--listen", "127.0.0.1:0", says="not a regular file")

    def test_a_file_that_is_no_database(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "x.db").write_text("not a database, and longer than a header would be " * 4)
        for arguments in (["run", "--", "echo"], ["agents"], ["messages", "a"], ["verify"], ["serve"]):
            self.check(run, arguments[0], "--db", str(tmp_path / "x.db"), *arguments[1:], says="not a SQLite database")

    def test_a_missing_database(self, run: Run, db: str) -> None:
        for arguments in (["agents"], ["messages", "a"], ["verify"]):
            self.check(run, *arguments, "--db", db, says="there is no such file")
        assert not Path(db).exists()

    def test_a_taken_port(self, run: Run, db: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.check(run, "run", "--db", db, "--listen", f"127.0.0.1:{port}", "--", "echo", says=f"127.0.0.1:{port}")

    @pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1", "127.0.0.1:99999", ":80"])
    def test_an_address_that_is_none(self, run: Run, db: str, listen: str) -> None:
        self.check(run, "serve", "--db", db, "--listen", listen, says="cannot listen on")

    def test_an_unknown_agent(self, run: Run, db: str) -> None:
        run("run", "--db", db, "--", "echo")
        self.check(run, "messages", "nobody", "--db", db, says="there is no agent 'nobody'")
        with running("serve", "--db", db, "--listen", "127.0.0.1:0") as server:
            self.check(run, "tail", "nobody", "--url", server.url, says="there is no agent 'nobody'")

    def test_a_database_that_another_runtime_has_in_its_own_process(self, run: Run, db: str) -> None:
        with AgentRuntime(db, server="in_process"):
            self.check(run, "run", "--db", db, "--", "echo", says="another runtime has it open")

    def test_an_id_that_is_taken_or_impossible(self, run: Run, db: str) -> None:
        run("run", "--db", db, "--id", "a1", "--", "echo")
        self.check(run, "run", "--db", db, "--id", "a1", "--", "echo", says="already an agent 'a1'")
        self.check(run, "run", "--db", db, "--id", "a b", "--", "echo", says="is not a valid agent id")

    def test_a_type_or_status_that_does_not_exist(self, run: Run, db: str) -> None:
        self.check(run, "run", "--db", db, "--type", "none", "--", "echo", says="none")
        self.check(run, "agents", "--db", db, "--status", "asleep", says="'asleep' is not a status")


class TestReading:
    def test_agents_and_messages_read_a_file_that_a_runtime_has(self, run: Run, db: str) -> None:
        child = "import signal; print('up', flush=True); signal.pause()"
        with running("run", "--db", db, "--id", "a1", "--", sys.executable, "-c", child) as command:
            wait_until(lambda: any("up" in line for line in command.output), "its line", show=lambda: command.errors)

            assert "a1" in run("agents", "--db", db).stdout
            assert "up" in run("messages", "a1", "--db", db).stdout
            assert run("verify", "--db", db).returncode == 0

    def test_messages_are_cut_by_after_and_limit(self, run: Run, db: str) -> None:
        run("run", "--db", db, "--id", "a1", "--", "seq", "1000")

        found = run("messages", "a1", "--db", db, "--after", "300", "--limit", "500", "--json")

        assert [json.loads(line)["sequence"] for line in found.stdout.splitlines()] == list(range(301, 801))

    def test_control_characters_of_an_agent_do_not_reach_the_terminal(self, run: Run, db: str) -> None:
        run("run", "--db", db, "--id", "a1", "--", "printf", "\\033[31mred\\007\\n")

        assert "\033" not in run("messages", "a1", "--db", db).stdout

    def test_tail_prints_a_finished_agent_and_exits_with_its_verdict(self, run: Run, db: str) -> None:
        run("run", "--db", db, "--id", "good", "--", "echo", "hello")
        run("run", "--db", db, "--id", "bad", "--", "false")
        with running("serve", "--db", db, "--listen", "127.0.0.1:0") as server:
            good = run("tail", "good", "--url", server.url, "--json")
            bad = run("tail", "bad", "--url", server.url.removeprefix("ws://").removesuffix("/v1/ws"))

        assert (good.returncode, json.loads(good.stdout)["content"]) == (0, "hello")
        assert bad.returncode == 1

    def test_verify_lists_the_problem_and_exits_with_one(self, run: Run, db: str) -> None:
        run("run", "--db", db, "--id", "a1", "--", "seq", "10")
        with by_hand(db) as connection:
            connection.execute("UPDATE agents SET status = 'failed'")

        found = run("verify", "--db", db, "--json")

        assert found.returncode == 1
        assert json.loads(found.stdout)["problems"]

    def test_verify_checks_all_as_soon_as_the_last_program_has_gone(
        self, run: Run, db: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spawning, "LINGER_S", 60.0)  # its server stays
        with AgentRuntime(db, server="process") as runtime:
            runtime.launch()
            during = run("verify", "--db", db, "--json")

        after = run("verify", "--db", db, "--json")

        assert json.loads(during.stdout)["notes"] != []
        assert (after.returncode, json.loads(after.stdout)["notes"]) == (0, [])


class TestHelp:
    @pytest.mark.parametrize("command", ["run", "serve", "demo", "agents", "messages", "tail", "verify"])
    def test_every_command_explains_itself(self, run: Run, command: str) -> None:
        done = run(command, "--help")

        assert done.returncode == 0
        assert "Usage: " in done.stdout
        assert command in run("--help").stdout

    def test_that_of_run_names_every_type(self, run: Run) -> None:
        shown = "".join(run("run", "--help").stdout.split())  # it breaks lines at hyphens

        assert [type for type in PARSERS if f"{type}," not in shown] == ["text"]  # the last


class TestDemo:
    def test_ends_by_itself_and_loses_nothing(self, run: Run, tmp_path: Path) -> None:
        done = run_in_a_process("demo", "--speed", "5", "--db", str(tmp_path / "demo.db"))

        assert done.returncode == 0, done.stdout + done.stderr
        assert "is disconnected after message" in done.stdout
        assert run("verify", "--db", str(tmp_path / "demo.db")).returncode == 0
