"""Programs as sources: how they are stopped, what they leave behind, and the truth about how they end."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from command_agent import Agent, printing, python, shell
from commitcast.actors.errors import SourceCancelledError
from commitcast.actors.kernel.future import Future
from commitcast.actors.sources.command import CommandSource
from commitcast.actors.sources.draft import Draft, Ending
from commitcast.actors.sources.parsers import PARSERS, Parser, Verdict
from commitcast.actors.sources.processes import pipes
from commitcast.actors.sources.processes.process import has_exited
from commitcast.actors.sources.verdict import decide_ending
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.recovery.identity import process_started
from waiting import TIMEOUT_S, wait_until

MIB = 1024 * 1024


# Stopping.


@pytest.mark.sampled(1 / 2)
def test_cancelling_stops_a_program_in_mid_stream(agent: Agent) -> None:
    spoken = threading.Event()
    agent.recorder.on_put = lambda _: spoken.set()
    agent.start(CommandSource(["/usr/bin/yes"]))
    assert spoken.wait(TIMEOUT_S)

    agent.context.cancelled.set()

    assert agent.ending() == Ending(status=AgentStatus.TERMINATED)


def test_cancelling_stops_a_silent_program_and_all_that_it_started(agent: Agent) -> None:
    spoken = threading.Event()
    agent.recorder.on_put = lambda _: spoken.set()
    agent.start(shell("sleep 60 & (sleep 60; :) & echo ready; wait"))
    assert spoken.wait(TIMEOUT_S)

    agent.context.cancelled.set()

    assert agent.ending() == Ending(status=AgentStatus.TERMINATED)


def test_a_bound_that_says_the_agent_has_ended_stops_the_program(agent: Agent) -> None:
    def refuse(_: Draft) -> None:
        raise SourceCancelledError("agent-1")

    agent.recorder.on_put = refuse

    assert agent.run(CommandSource(["/usr/bin/yes"])) == Ending(status=AgentStatus.TERMINATED)
    assert len(agent.recorder.drafts) == 1


def test_an_error_of_the_runtime_stops_the_program_and_is_passed_on(agent: Agent) -> None:
    def refuse(_: Draft) -> None:
        raise RuntimeError("broken")

    agent.recorder.on_put = refuse

    with pytest.raises(RuntimeError, match="broken"):
        agent.run(CommandSource(["/usr/bin/yes"]))


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace(agent: Agent) -> None:
    spoken = threading.Event()
    agent.recorder.on_put = lambda _: spoken.set()
    agent.start(shell("trap '' TERM; echo ready; sleep 60; sleep 60", grace_s=0.1))
    assert spoken.wait(TIMEOUT_S)

    agent.context.cancelled.set()

    assert agent.ending() == Ending(status=AgentStatus.TERMINATED)


@pytest.mark.sampled(1 / 2)
def test_a_program_that_says_much_when_it_is_stopped_is_not_blocked(agent: Agent, tmp_path: Path) -> None:
    spoken = threading.Event()
    agent.recorder.on_put = lambda _: spoken.set()
    tidy = tmp_path / "tidy"
    script = f"trap 'seq 200000; echo > {tidy}; exit' TERM; echo ready; while :; do sleep 0.01; done"
    agent.start(shell(script, grace_s=TIMEOUT_S))
    assert spoken.wait(TIMEOUT_S)

    agent.context.cancelled.set()

    assert agent.ending() == Ending(status=AgentStatus.TERMINATED)
    assert tidy.exists()
    assert agent.recorder.contents == ["ready"]


def test_an_agent_that_was_cancelled_before_starts_nothing(agent: Agent) -> None:
    agent.context.cancelled.set()

    assert agent.run(shell("echo")) == Ending(status=AgentStatus.TERMINATED)
    assert agent.recorder.patches == []


def test_a_cancel_that_comes_after_the_end_writes_to_no_descriptor(agent: Agent, tmp_path: Path) -> None:
    agent.run(shell(":"))
    innocent = [(tmp_path / str(number)).open("wb", buffering=0) for number in range(32)]

    agent.context.cancelled.set()

    assert {os.fstat(file.fileno()).st_size for file in innocent} == {0}
    for file in innocent:
        file.close()


# What is left behind.


@pytest.mark.parametrize("output", ["", "> /dev/null 2>&1"], ids=["holding the pipe", "holding nothing"])
@pytest.mark.parametrize("has_pidfds", [True, False])
def test_what_a_program_left_in_the_background_is_killed_when_the_program_has_ended(
    agent: Agent, short_silence: None, monkeypatch: pytest.MonkeyPatch, output: str, has_pidfds: bool
) -> None:
    if not has_pidfds:
        monkeypatch.setattr(pipes, "open_pidfd", lambda pid: None)

    ending = agent.run(shell(f"sleep 60 {output} & echo $!; exit 0"))

    assert ending.status is AgentStatus.COMPLETED
    assert process_started(int(agent.recorder.contents[0])) is None


def test_what_is_said_in_the_background_after_the_end_is_heard(agent: Agent) -> None:
    script = (
        "import os\n"
        "os.write(1, b'first\\n')\n"
        "leader = os.getpid()\n"
        "if os.fork(): os._exit(0)\n"
        "while os.getppid() == leader: pass\n"
        "os.write(1, b'later\\nlast')"
    )

    agent.run(python(script))

    assert agent.recorder.contents == ["first", "later", "last"]


def test_what_is_in_the_pipe_when_waiting_ends_is_heard(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "SILENCE_AFTER_EXIT_S", 0)
    agent.recorder.recorded = Future()
    agent.start(shell("seq 5000"))
    wait_until(lambda: agent.recorder.patches, "the process to be recorded")
    pid = agent.recorder.patches[0][1]
    assert pid is not None
    wait_until(lambda: has_exited(pid), "the program to end")

    agent.recorder.recorded.set()

    assert agent.ending().status is AgentStatus.COMPLETED
    assert agent.recorder.contents == [str(number) for number in range(1, 5001)]


def test_a_program_that_leaves_nothing_behind_is_not_waited_for(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "SILENCE_AFTER_EXIT_S", 1000)

    assert agent.run(shell("echo one")).status is AgentStatus.COMPLETED


DETACHED = "setsid sleep 60 </dev/null >/dev/null 2>&1 &"
DAEMON = """
import os, time
print("up", flush=True)
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2): os.dup2(null, number)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("source", "status"),
    [
        (shell(f"{DETACHED} echo up"), AgentStatus.COMPLETED),
        (shell("setsid sleep 60 & echo up"), AgentStatus.COMPLETED),
        (python(DAEMON), AgentStatus.COMPLETED),
        (shell(f"{DETACHED} echo up; sleep 60"), AgentStatus.TERMINATED),
        (python(f"{DAEMON}time.sleep(60)"), AgentStatus.TERMINATED),
    ],
    ids=["detached", "detached and holding the pipe", "daemon", "detached from one at work", "daemon of one at work"],
)
def test_what_left_the_session_is_gone_when_the_run_has_ended(
    agent: Agent, short_silence: None, source: CommandSource, status: AgentStatus
) -> None:
    agent.start(source)
    wait_until(lambda: agent.recorder.drafts, "a word of it")
    if status is AgentStatus.TERMINATED:
        agent.context.cancelled.set()

    assert agent.ending().status is status  # and looks for what is left


# How it ends.

GOOD = '{"type":"result","subtype":"success","is_error":false,"result":"done","num_turns":1}'
BAD = '{"type":"result","subtype":"success","is_error":true,"result":"out of credit","num_turns":1}'


def test_a_good_verdict_and_exit_code_0_complete(agent: Agent) -> None:
    ending = agent.run(printing(GOOD, type="claude-code"))

    assert ending == Ending(result={"subtype": "success", "num_turns": 1, "exit_code": 0})


def test_exit_code_0_after_an_error_is_a_failure(agent: Agent) -> None:
    ending = agent.run(printing(BAD, type="claude-code"))

    assert (ending.status, ending.error_name) == (AgentStatus.FAILED, "CommandFailedError")
    assert ending.error_message == "sh reported an error: out of credit"
    assert ending.result == {"subtype": "success", "num_turns": 1, "exit_code": 0}


def test_a_good_verdict_with_exit_code_1_is_a_failure(agent: Agent) -> None:
    ending = agent.run(printing(GOOD, exit_code=1, type="claude-code"))

    assert (ending.status, ending.error_name) == (AgentStatus.FAILED, "CommandFailedError")
    assert ending.error_message == "sh ended with exit code 1 although it had reported success"


def test_no_verdict_is_a_failure_where_there_always_is_one(agent: Agent) -> None:
    ending = agent.run(printing('{"type":"error","message":"stream lost"}', type="codex"))

    assert (ending.status, ending.error_name) == (AgentStatus.FAILED, "VerdictMissingError")
    assert ending.error_message == (
        "sh ended with exit code 0 but did not report whether it had succeeded; its last error was: stream lost"
    )


def test_a_program_that_was_killed_is_a_failure(agent: Agent) -> None:
    ending = agent.run(shell("echo so far; echo why >&2; kill -KILL $$"))

    assert (ending.status, ending.error_name) == (AgentStatus.FAILED, "CommandFailedError")
    assert ending.error_message == "sh was killed by SIGKILL\nwhy"
    assert ending.result == {"exit_code": -9, "stderr_tail": "why"}
    assert agent.recorder.contents == ["so far"]


def test_an_exit_code_that_is_lost_is_not_success(agent: Agent) -> None:
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        ending = agent.run(shell("exit 3"))
    finally:
        signal.signal(signal.SIGCHLD, previous)

    assert ending.status is AgentStatus.FAILED
    assert "exit code is lost" in str(ending.error_message)


def parser_of(type: str, verdict: Verdict | None = None, last_error: str | None = None) -> Parser:
    parser = PARSERS[type]()
    parser.verdict, parser.last_error = verdict, last_error
    return parser


OK = Verdict(True, None, {"cost": 1})
NOT_OK = Verdict(False, "no", {"cost": 1})


FAILED = "CommandFailedError"
MISSING = "VerdictMissingError"


@pytest.mark.parametrize(
    ("exit_code", "parser", "stderr", "error", "message"),
    [
        (0, parser_of("text"), "", None, None),
        (0, parser_of("text"), "warning", None, None),
        (0, parser_of("claude-code", OK), "", None, None),
        (0, parser_of("codex", OK, "a hitch"), "", None, None),
        (0, parser_of("codex", NOT_OK), "", FAILED, "x reported an error: no"),
        (1, parser_of("codex", NOT_OK), "e", FAILED, "x reported an error: no (it ended with exit code 1)\ne"),
        (3, parser_of("text"), "", FAILED, "x ended with exit code 3"),
        (3, parser_of("text"), "bad\nworse", FAILED, "x ended with exit code 3\nbad\nworse"),
        (3, parser_of("codex"), "", FAILED, "x ended with exit code 3"),
        (3, parser_of("codex", OK), "", FAILED, "x ended with exit code 3 although it had reported success"),
        (-15, parser_of("text"), "", FAILED, "x was killed by SIGTERM"),
        (-60, parser_of("text"), "", FAILED, "x was killed by signal 60"),
        (42, parser_of("gemini-cli"), "", FAILED, "x ended with exit code 42: the input was refused"),
        (53, parser_of("gemini-cli"), "", FAILED, "x ended with exit code 53: the turn limit was exceeded"),
        (53, parser_of("codex"), "", FAILED, "x ended with exit code 53"),
        (1, parser_of("codex", None, "y"), "", FAILED, "x ended with exit code 1; its last error was: y"),
        (
            0,
            parser_of("codex"),
            "e",
            MISSING,
            "x ended with exit code 0 but did not report whether it had succeeded\ne",
        ),
    ],
)
def test_the_ending_follows_from_exit_code_verdict_and_kind(
    exit_code: int, parser: Parser, stderr: str, error: str | None, message: str | None
) -> None:
    ending = decide_ending("x", exit_code, parser, stderr)

    assert ending.status is (AgentStatus.FAILED if error else AgentStatus.COMPLETED)
    assert (ending.error_name, ending.error_message) == (error, message)
    assert ending.result == {
        **({"cost": 1} if parser.verdict else {}),
        "exit_code": exit_code,
        **({"stderr_tail": stderr} if stderr else {}),
    }


# What cannot be started.


def test_a_program_that_does_not_exist_is_a_failure_that_says_so(agent: Agent) -> None:
    ending = agent.run(CommandSource(["no-such-program-here"]))

    assert ending == Ending(
        status=AgentStatus.FAILED,
        error_name="CommandNotFoundError",
        error_message="the program 'no-such-program-here' was not found: install it, or give its full path",
    )
    assert agent.recorder.patches == []


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("echo", 0o600, "permission denied"),
        ("\x7fELF", 0o700, "exec format error"),
        ("#!/no/such/interpreter\n", 0o700, "the interpreter in its first line does not exist"),
    ],
)
def test_a_program_that_cannot_be_executed_is_a_failure_that_says_why(
    agent: Agent, tmp_path: Path, text: str, mode: int, message: str
) -> None:
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(mode)

    ending = agent.run(CommandSource(["./program"], cwd=tmp_path))

    assert (ending.status, ending.error_name) == (AgentStatus.FAILED, "SourceError")
    assert ending.error_message == f"cannot start './program': {message}"


def test_a_folder_that_does_not_exist_is_a_failure_that_says_so(agent: Agent) -> None:
    ending = agent.run(shell("echo", cwd="/no/such/folder"))

    assert (ending.status, ending.error_name) == (AgentStatus.FAILED, "SourceError")
    assert ending.error_message == "cannot start '/bin/sh': the folder '/no/such/folder' does not exist"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("a\0b", "embedded null byte"), ("x" * MIB, "argument list too long; without {prompt} in the arguments")],
)
def test_a_prompt_that_cannot_be_an_argument_is_a_failure_that_says_so(agent: Agent, prompt: str, message: str) -> None:
    ending = agent.run(CommandSource(["/bin/echo", "{prompt}"]), prompt=prompt)

    assert (ending.status, ending.error_name) == (AgentStatus.FAILED, "SourceError")
    assert message in str(ending.error_message)


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        ([], {}, "argv must not be empty: give the program and its arguments"),
        ([""], {}, "argv must not be empty: give the program and its arguments"),
        ("ls -l", {}, "argv must be a list"),
        (["ls", 1], {}, "argument 1 must be text, not int"),
        (["ls", b"x"], {}, "argument 1 must be text, not bytes"),
        (["ls", "a\0b"], {}, "argument 1 contains a NUL character"),
        (["ls"], {"type": "fortran"}, "'fortran' is not an agent type: use one of claude-code, gemini-cli"),
        (["ls"], {"cwd": "a\0b"}, "cwd contains a NUL character"),
        (["ls"], {"env": {"A=B": "x"}}, "is not a valid name of an environment variable"),
        (["ls"], {"env": {"A": 1}}, "the environment variable 'A' must be text, not int"),
        (["ls"], {"grace_s": -1}, "grace_s must be 0 or more seconds"),
        (["ls"], {"grace_s": float("nan")}, "grace_s must be 0 or more seconds"),
    ],
)
def test_bad_input_is_refused_at_once_in_one_sentence(argv: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        CommandSource(argv, **options)
