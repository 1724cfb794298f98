"""Programs as sources: real child processes, what they are told and everything they say."""

import os
import threading
from pathlib import Path

import pytest

from command_agent import FILL_THE_PIPE, LINES, PIPE_BYTES, Agent, printing, python, shell
from commitcast.actors.kernel.future import Future
from commitcast.actors.sources.command import CommandSource
from commitcast.actors.sources.draft import Draft, Ending
from commitcast.actors.sources.parsers import PARSERS
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.recovery.identity import process_started
from transcripts import TRANSCRIPTS
from waiting import TIMEOUT_S

MIB = 1024 * 1024


# What a program says.


@pytest.mark.parametrize("type", sorted(PARSERS))
def test_every_line_arrives_byte_for_byte_and_in_order(agent: Agent, tmp_path: Path, type: str) -> None:
    said = b"".join((TRANSCRIPTS / f"{name}.jsonl").read_bytes() for name in ("claude_code", "gemini_cli", "codex"))
    said += b"\n\r\nplain\r\n\xff\xfe\0\n" + said
    path = tmp_path / "said"
    path.write_bytes(said)

    agent.run(CommandSource(["/bin/cat", str(path)], type=type))

    assert agent.recorder.raw == said.removesuffix(b"\n").split(b"\n")


def test_a_last_line_without_newline_is_a_line(agent: Agent) -> None:
    ending = agent.run(shell("printf 'one\\ntwo'"))

    assert ending == Ending(result={"exit_code": 0})
    assert agent.recorder.contents == ["one", "two"]


def test_a_program_that_says_nothing_completes_without_messages(agent: Agent) -> None:
    assert agent.run(shell(":")).status is AgentStatus.COMPLETED
    assert agent.recorder.drafts == []


def test_a_character_that_is_split_between_two_writes_is_read_whole(agent: Agent) -> None:
    script = (
        "import array, fcntl, os, termios\n"
        "def write(data):\n"
        "    os.write(1, data)\n"
        "    left = array.array('i', [1])\n"
        "    while left[0]: fcntl.ioctl(1, termios.FIONREAD, left)\n"
        "for byte in '😀 é\\n'.encode(): write(bytes([byte]))\n"
    )

    agent.run(python(script))

    assert agent.recorder.contents == ["😀 é"]


def test_a_line_of_20_mib_comes_in_marked_pieces_that_rebuild_it(agent: Agent) -> None:
    line = b"\xc3\xa9" * (10 * MIB)

    agent.run(python("import sys; sys.stdout.buffer.write(b'\\xc3\\xa9' * (10 << 20) + b'\\nnext\\n')", type="codex"))

    *pieces, last = agent.recorder.drafts
    assert b"".join(piece.raw for piece in pieces if isinstance(piece.raw, bytes)) == line
    assert [piece.metadata for piece in pieces] == [
        {"partial": True, "continues": True},
        {"partial": True, "continues": False},
    ]
    assert {piece.type for piece in pieces} == {"system"}
    assert (last.content, last.raw) == ("next", b"next")


def test_standard_error_is_drained_and_its_end_is_kept_from_a_whole_character_on(agent: Agent) -> None:
    script = "import os\nfor _ in range(160): os.write(2, 'é'.encode() * 32768)\nos.write(2, b'..\\n')"

    ending = agent.run(python(script))

    assert ending == Ending(result={"exit_code": 0, "stderr_tail": "é" * 4094 + ".."})


def test_a_program_that_closes_its_output_is_waited_for(agent: Agent) -> None:
    ending = agent.run(shell("echo one; exec >&- 2>&-; sleep 0.1; exit 3"))

    assert agent.recorder.contents == ["one"]
    assert ending.result == {"exit_code": 3}


# What a program is told.


def test_the_prompt_is_written_to_standard_input_which_is_then_closed(agent: Agent) -> None:
    agent.run(CommandSource(["/bin/cat"]), prompt="one\n'two' \"$three\" é")

    assert agent.recorder.contents == ["one", "'two' \"$three\" é"]


def test_the_prompt_replaces_its_placeholder_and_standard_input_is_empty(agent: Agent) -> None:
    source = CommandSource(["/bin/sh", "-c", 'echo "$1|$2"; cat', "sh", "--prompt={prompt}!", "{prompt}{prompt}"])

    agent.run(source, prompt="it's `x`")

    assert agent.recorder.contents == ["--prompt=it's `x`!|it's `x`it's `x`"]


def test_without_a_prompt_standard_input_is_empty(agent: Agent) -> None:
    agent.run(CommandSource(["/bin/readlink", "/proc/self/fd/0"]))

    assert agent.recorder.contents == ["/dev/null"]


def test_a_large_prompt_arrives_whole(agent: Agent) -> None:
    agent.run(CommandSource(["/usr/bin/wc", "-c"]), prompt="x" * MIB)

    assert agent.recorder.contents == [str(MIB)]


@pytest.mark.parametrize(
    "script",
    ["exec 0<&-; seq 50000", "seq 50000", "seq 50000; sleep 60 <&0 &", "head -c 8192 > /dev/null; seq 50000"],
)
def test_a_large_prompt_to_a_program_that_does_not_read_it_does_not_block(
    agent: Agent, short_silence: None, script: str
) -> None:
    ending = agent.run(shell(script), prompt="x" * MIB)

    assert ending.status is AgentStatus.COMPLETED
    assert agent.recorder.contents == [str(number) for number in range(1, 50001)]


def test_a_program_gets_its_folder_its_environment_and_its_agent(agent: Agent, tmp_path: Path) -> None:
    script = "pwd; echo $EXTRA $COMMITCAST_AGENT $COMMITCAST_EPOCH"

    agent.run(shell(script, cwd=tmp_path, env={"EXTRA": "more"}))

    assert agent.recorder.contents == [str(tmp_path.resolve()), f"more agent-1 {agent.epoch}"]


def test_one_source_serves_many_agents() -> None:
    source = printing("hello")
    agents = [Agent() for _ in range(3)]

    for agent in agents:
        agent.start(source)

    assert [agent.ending().status for agent in agents] == [AgentStatus.COMPLETED] * 3
    assert [agent.recorder.contents for agent in agents] == [["hello"]] * 3


def test_the_source_says_whether_its_program_echoes_the_prompt() -> None:
    sources = [
        CommandSource(["gemini", "-o", "json"]),
        CommandSource(["claude"]),
        CommandSource(["sh"], type="gemini-cli"),
    ]

    assert [(source.type, source.echoes_prompt) for source in sources] == [
        ("gemini-cli", True),
        ("claude-code", False),
        ("gemini-cli", True),
    ]


# What is recorded.


def test_the_process_is_recorded_before_any_of_its_output_is_read(agent: Agent, gate: Path) -> None:
    agent.recorder.recorded = Future()

    agent.start(python(FILL_THE_PIPE, str(gate)))
    gate.write_text("go")
    stalled_after = int(gate.read_text())

    assert stalled_after <= PIPE_BYTES
    assert agent.recorder.drafts == []
    (process,) = agent.processes()
    assert agent.recorder.patches == [({}, process, process_started(process))]
    agent.recorder.recorded.set()
    assert agent.ending().status is AgentStatus.COMPLETED
    assert agent.recorder.contents == ["ready", *LINES]


def test_a_process_that_cannot_be_recorded_is_stopped(agent: Agent) -> None:
    agent.recorder.recorded = Future.failed(RuntimeError("no room"))

    with pytest.raises(RuntimeError, match="no room"):
        agent.run(shell("echo; sleep 60"))

    assert agent.recorder.drafts == []


def test_an_agent_that_is_cancelled_while_its_process_is_being_recorded_is_terminated(agent: Agent, gate: Path) -> None:
    agent.recorder.recorded = Future()
    agent.start(python(FILL_THE_PIPE, str(gate)))
    gate.write_text("go")
    gate.read_text()

    agent.context.cancelled.set()

    assert agent.ending() == Ending(status=AgentStatus.TERMINATED)


def test_a_new_session_id_is_recorded_in_the_configuration_once(agent: Agent) -> None:
    ids = ["a", "a", "b"]
    lines = "\n".join(f'{{"type":"system","subtype":"init","session_id":"{id}"}}' for id in ids)

    agent.run(printing(lines, type="claude-code"))

    recorded = [patch[0] for patch in agent.recorder.patches[1:]]
    assert recorded[-1] == {"model": "m", "session_id": "b"}
    assert recorded == [recorded[-1]] or recorded == [{"model": "m", "session_id": "a"}, recorded[-1]]  # by its chunks


# Backpressure.


def test_a_program_is_not_read_while_the_agent_is_at_its_bound(agent: Agent, gate: Path) -> None:
    at_bound, room = threading.Event(), threading.Event()

    def wait_for_room(_: Draft) -> None:
        at_bound.set()
        assert room.wait(TIMEOUT_S)

    agent.recorder.on_put = wait_for_room
    agent.start(python(FILL_THE_PIPE, str(gate)))
    assert at_bound.wait(TIMEOUT_S)
    gate.write_text("go")
    stalled_after = int(gate.read_text())

    assert stalled_after == PIPE_BYTES
    assert agent.recorder.contents == ["ready"]
    room.set()
    assert agent.ending().status is AgentStatus.COMPLETED
    assert agent.recorder.contents == ["ready", *LINES]


# What is passed on to its standard input.


def test_a_file_is_passed_on_behind_the_prompt(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"of the file\n" + b"x" * MIB)

    with open(path, "rb") as file:
        agent.run(shell("head -2; wc -c", stdin=file.fileno()), prompt="the prompt")

    assert agent.recorder.contents[:2] == ["the prompt", "of the file"]


def test_what_is_passed_on_stays_the_callers(agent: Agent) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"piped\n")
    os.close(writing)

    assert agent.run(shell("cat", stdin=reading)).status is AgentStatus.COMPLETED

    assert agent.recorder.contents == ["piped"]
    os.close(reading)


def test_a_program_that_closes_its_input_is_not_disturbed_by_what_comes(agent: Agent) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"piped\n")

    ending = agent.run(shell("exec <&-; echo done", stdin=reading))

    assert (ending.status, agent.recorder.contents) == (AgentStatus.COMPLETED, ["done"])
    os.close(reading)
    os.close(writing)
