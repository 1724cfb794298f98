"""An agent as a `CommandSource` sees it, made of a real context and an emitter that records."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from commitcast.actors.kernel.future import Future
from commitcast.actors.sources.cancelled import Cancelled
from commitcast.actors.sources.command import CommandSource
from commitcast.actors.sources.context import AgentContext
from commitcast.actors.sources.draft import Draft, Ending
from commitcast.actors.sources.emitter import Emitter
from commitcast.persistence.records import AgentRecord
from waiting import TIMEOUT_S

PIPE_BYTES = 64 * 1024
"""What a pipe holds on Linux."""

FILL_THE_PIPE = """
import fcntl, os, select, sys
os.write(1, b"ready\\n")
open(sys.argv[1]).read()
fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK)
lines = b"".join(b"line %05d\\n" % number for number in range(20_000))
sent, stalled = 0, False
while sent < len(lines):
    try:
        sent += os.write(1, lines[sent : sent + 4096])
    except BlockingIOError:
        if not stalled:
            with open(sys.argv[1], "w") as report:
                report.write(str(sent))
        stalled = True
        select.select([], [1], [])
"""
"""Says that it is ready, waits on a named pipe, writes 220,000 bytes, and reports how many nobody stopped it from."""

LINES = [f"line {number:05}" for number in range(20_000)]


class Recorder(Emitter):
    """Keeps what a source puts, in place of an agent."""

    def __init__(self) -> None:
        self.cancelled = Cancelled()
        self.drafts: list[Draft] = []
        self.patches: list[tuple[dict[str, Any], int | None, str | None]] = []
        self.on_put: Callable[[Draft], object] = lambda _: None
        self.recorded: Future[AgentRecord] = Future.of(None)  # type: ignore[arg-type]  # nobody reads the record

    def put(self, draft: Draft) -> None:
        self.drafts.append(draft)
        self.on_put(draft)

    def patch(self, configuration: dict[str, Any], pid: int | None, pid_started: str | None) -> Future[AgentRecord]:
        self.patches.append((dict(configuration), pid, pid_started))
        return self.recorded

    @property
    def contents(self) -> list[Any]:
        return [draft.content for draft in self.drafts]

    @property
    def raw(self) -> list[bytes | str]:
        return [draft.raw for draft in self.drafts if draft.raw is not None]


class Agent:
    """A context, and the run of a source on it."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.epoch = uuid4().hex
        self._endings: list[Ending | BaseException] = []
        self._thread: threading.Thread | None = None
        self.context = self._context("")

    def _context(self, prompt: str) -> AgentContext:
        return AgentContext(
            id="agent-1",
            epoch=self.epoch,
            type="text",
            prompt=prompt,
            configuration={"model": "m"},
            emitter=self.recorder,
        )

    def run(self, source: CommandSource, prompt: str = "") -> Ending:
        self.start(source, prompt)
        return self.ending()

    def start(self, source: CommandSource, prompt: str = "") -> None:
        if prompt:
            self.context = self._context(prompt)
        self._thread = threading.Thread(target=self._work, args=(source,), name="Source-agent-1", daemon=True)
        self._thread.start()

    def _work(self, source: CommandSource) -> None:
        try:
            self._endings.append(source.run(self.context))
        except Exception as error:  # raised again where the test waits
            self._endings.append(error)

    def ending(self) -> Ending:
        assert self._thread is not None
        self._thread.join(3 * TIMEOUT_S)
        assert self._endings, "the source did not end"
        assert self.processes() == []
        if isinstance(self._endings[0], BaseException):
            raise self._endings[0]
        return self._endings[0]

    def processes(self) -> list[int]:
        """What still lives of all that was started for this agent."""
        mark = f"COMMITCAST_EPOCH={self.epoch}".encode()
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in _environ(pid)]


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def shell(script: str, **options: Any) -> CommandSource:
    return CommandSource(["/bin/sh", "-c", script], **options)


def python(script: str, *arguments: str, **options: Any) -> CommandSource:
    return CommandSource([sys.executable, "-c", script, *arguments], **options)


def printing(lines: str, exit_code: int = 0, **options: Any) -> CommandSource:
    return CommandSource(["/bin/sh", "-c", 'printf "%s\\n" "$1"; exit $2', "sh", lines, str(exit_code)], **options)
