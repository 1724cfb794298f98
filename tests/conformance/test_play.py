"""The conformance suite against somebody else's server: the program that runs it, its death, what must outlive it."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from cases import SUBPROTOCOL, Fields, load_cases
from command import CommandFailedError, CommandServer
from kept import check_kept
from lanes import Lanes, Stream
from matching import Mismatch
from our_server import OurServer
from play import main
from server_runner import run_server_case
from stores import AT
from waiting import TIMEOUT_S, wait_until

ROOT: Final = Path(__file__).parents[2]
OURS: Final = (sys.executable, str(ROOT / "tests/conformance/our_server.py"))

# The command.


def test_the_command_says_which_cases_a_server_passes(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["--only", "a ping is answered", "--", *OURS])

    assert code == 0
    assert capfd.readouterr().out == "passed  A ping is answered\n1 passed, 0 failed, 0 left out\n"


def test_the_command_says_what_a_server_does_wrong(capfd: pytest.CaptureFixture[str]) -> None:
    code = main(["--only", "a ping is answered", "--", sys.executable, "-c", "pass"])

    assert code == 1
    assert capfd.readouterr().out == (
        "FAILED  A ping is answered\n        it ended with 0\n0 passed, 1 failed, 0 left out\n"
    )


def test_the_command_says_that_it_cannot_start_one(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = main(["--only", "a ping is answered", "--", str(tmp_path / "nothing")])

    assert code == 1
    assert "No such file" in capfd.readouterr().out


def test_what_a_server_cannot_do_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    kills = sum("kill" in case.needs for case in load_cases("server"))

    code = main(["--only", "kill", "--without", "kill", "--", *OURS])

    assert code == 1  # nothing was played, so nothing was shown
    assert capfd.readouterr().out == f"0 passed, 0 failed, {kills} left out\n"


def test_the_page_has_the_command_that_runs() -> None:
    page = (ROOT / "docs/conformance.md").read_text("utf-8")
    found = re.search(r"^python tests/conformance/play\.py .*-- python (.+)$", page, re.MULTILINE)

    assert found is not None
    assert (ROOT / found[1]).is_file()


# The program.


def program(body: str) -> tuple[str, ...]:
    """One that answers each question with what an expression says of it."""
    code = f"import json, os, sys\nfor line in sys.stdin:\n    asked = json.loads(line)\n    {body}"
    return (sys.executable, "-uc", code)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("sys.exit(3)", "it ended with 3"),
        ("os.abort()", "it ended with -6"),
        ("print('ready')", "with one JSON object"),
        ("print('[]')", "with one JSON object"),
        ("print('{}\\n{}')", "has no url"),
        ("print(json.dumps({'error': 'no port is free'}))", "could not start: no port is free"),
        ("print(json.dumps({'url': 7}))", "has no url"),
    ],
)
def test_a_program_that_does_not_answer_as_it_should_is_told_so(tmp_path: Path, body: str, fault: str) -> None:
    async def run() -> None:
        server = CommandServer(program(body), tmp_path)
        try:
            await server.make({})
        finally:
            await server.stop()

    with pytest.raises(CommandFailedError, match=re.escape(fault)):
        asyncio.run(run())


def test_the_program_is_asked_one_thing_after_another(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    body = f"open({str(log)!r}, 'a').write(line); print(json.dumps({{'url': 'ws://x'}}))"
    agent = {"id": "a", "prompt": "hi", "messages": [{"count": 2}, {"content": {"$repeat": "x", "$times": 3}}]}
    more = {"status": "failed", "error": {"name": "Oops", "message": "it broke"}, "late": [{"content": "late"}]}

    async def run() -> None:
        server = CommandServer(program(body), tmp_path)
        await server.make({"heartbeat_s": 7, "agents": [agent | more]})
        await server.complete("b", None)
        await server.delete("b")
        await server.restart()
        await server.start_over()
        await server.stop()

    asyncio.run(run())

    asked = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    start = {"do": "start", "given": {"heartbeat_s": 7}}
    first, second = str(tmp_path / "1"), str(tmp_path / "2")
    assert asked == [
        start | {"folder": first},
        {"do": "create", "id": "a", "prompt": "hi", "status": "running"},
        {"do": "say", "agent": "a", "content": "1"},
        {"do": "say", "agent": "a", "content": "2"},
        {"do": "say", "agent": "a", "content": "xxx"},
        {"do": "fail", "agent": "a", "name": "Oops", "message": "it broke"},
        {"do": "say", "agent": "a", "content": "late"},
        {"do": "complete", "agent": "b"},
        {"do": "delete", "agent": "b"},
        {"do": "stop"},
        start | {"folder": first},
        {"do": "stop"},
        start | {"folder": second},
        {"do": "stop"},
    ]


def test_a_kill_ends_what_the_program_has_started_and_fails_what_waits(tmp_path: Path) -> None:
    child = tmp_path / "child"
    start = (
        f"import subprocess; open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '600'], stdout=-3).pid))"
    )
    body = f"asked['do'] == 'start' and exec({start!r}); asked['do'] == 'say' or print('{{\"url\": \"ws://x\"}}')"

    async def run() -> int:
        server = CommandServer(program(body), tmp_path)
        await server.make({})
        first = int(child.read_text())
        waiting = asyncio.create_task(server.say("a", {"content": "x"}))
        await asyncio.sleep(0)
        await server.kill()
        with pytest.raises(CommandFailedError, match="ended with -9"):
            await waiting
        assert int(child.read_text()) != first
        await server.stop()
        return first

    first = asyncio.run(run())

    for pid in (first, int(child.read_text())):
        wait_until(partial(has_ended, pid), f"{pid} to be killed")


def has_ended(pid: int) -> bool:
    """Whether there is no such process any more, or nothing of it but its verdict."""
    state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state in ("", "Z")


def test_an_adapter_that_cannot_kill_is_told_what_to_leave_out(tmp_path: Path) -> None:
    case = next(case for case in load_cases("server") if "kill" in case.needs)

    with pytest.raises(TypeError, match="leave out what needs `kill`"):
        asyncio.run(run_server_case(case, OurServer(tmp_path)))


# What must be there after a kill.


def said(sequence: int, content: str = "", at: str = AT) -> Fields:
    return {"sequence": sequence, "type": "assistant", "content": content or str(sequence), "created_at": at}


def status(name: str, sequence: int) -> Fields:
    return {"type": "status", "agent": "a", "status": name, "sequence": sequence, "at": AT}


RUNNING: Final = status("running", 0)
FAILED: Final = status("failed", 3)


def frames_of(history: list[Fields], after: int, epoch: str = "e2") -> list[Fields]:
    """What a server with a history says to one who subscribes."""
    head = max((entry["sequence"] for entry in history), default=0)
    frames = [{"type": "subscribed", "id": "kept", "agent": "a", "epoch": epoch, "after": after, "head": head}]
    for entry in history:
        last = entry["sequence"]
        if "content" not in entry and last >= after:
            frames.append(entry)
        elif "content" in entry and last > after:
            frames.append({"type": "messages", "agent": "a", "prev": last - 1, "last": last, "items": [entry]})
    return [*frames, {"type": "live", "agent": "a", "sequence": max(head, after)}]


def before_the_kill() -> Stream:
    lanes = Lanes()
    for frame in frames_of([RUNNING, said(1), said(2)], 0, "e1"):
        lanes.take(frame)
    return lanes.streams["a"]


@asynccontextmanager
async def back_again(history: list[Fields], resumed: list[Fields]) -> AsyncIterator[str]:
    """A server that has a history, and says what is given to one who resumes with an epoch."""
    welcome: Fields = {"type": "welcome", "protocol": SUBPROTOCOL, "server": "x", "session": "s", "heartbeat_s": 15}

    async def handle(connection: ServerConnection) -> None:
        await connection.send(json.dumps(welcome | {"limits": {}}))
        async for data in connection:
            asked = json.loads(data)
            for frame in resumed if "epoch" in asked else frames_of(history, asked["after"]):
                await connection.send(json.dumps(frame))

    async with serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol(SUBPROTOCOL)]) as server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        yield f"ws://{host}:{port}/v1/ws"


async def check(history: list[Fields], resumed: list[Fields] | None = None) -> None:
    before = before_the_kill()
    async with back_again(history, resumed or frames_of(history, before.cursor)) as url:
        await check_kept(url, before, TIMEOUT_S)


@pytest.mark.parametrize(
    "history",
    [
        [RUNNING, said(1), said(2)],
        [RUNNING, said(1), said(2), status("failed", 2)],
        [RUNNING, said(1), said(2), said(3), FAILED],
    ],
    ids=["as it was", "with its end", "with more"],
)
def test_what_was_sent_is_kept_however_far_the_server_came(history: list[Fields]) -> None:
    asyncio.run(check(history))


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ([RUNNING, said(1)], "it is gone"),
        ([], "it is gone"),
        ([RUNNING, said(1), said(2, "another")], "is in its place"),
        ([RUNNING, said(1), said(2, at=AT.replace("03", "04"))], "is in its place"),
        ([RUNNING | {"status": "initializing"}, said(1), said(2)], "is in its place"),
    ],
    ids=["a message", "everything", "its content", "its time", "a status"],
)
def test_what_was_sent_and_is_lost_is_found(history: list[Fields], fault: str) -> None:
    with pytest.raises(Mismatch, match=fault):
        asyncio.run(check(history))


def test_a_cursor_that_does_not_hold_is_found() -> None:
    refusal = {"type": "error", "id": "kept", "agent": "a", "code": "stale_epoch", "message": "", "retry": False}

    with pytest.raises(Mismatch, match="stale_epoch"):
        asyncio.run(check([RUNNING, said(1), said(2)], [refusal]))


def test_a_resume_that_shows_another_history_is_found() -> None:
    one, other = ([RUNNING, said(1), said(2), said(3, content)] for content in ("to one", "to another"))

    with pytest.raises(Mismatch, match="when the subscription was resumed"):
        asyncio.run(check(one, frames_of(other, 2)))
