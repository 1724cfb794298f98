"""A server that another program runs: started, controlled and killed by the runner. Runs on the runner's loop.

The runner sends commands to the program's standard input, one JSON object a line, and reads a reply to each from its
standard output; docs/conformance.md lists the commands. For a server in another language, such a program has about a
hundred lines in that language. A kill goes to its whole process group, without notice.
"""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from cases import Fields
from matching import fill

ANSWER_TIMEOUT_S: Final = 30.0
"""For an answer, and for the end after `stop`: starting is the longest, and some need seconds for it."""
MAX_ANSWER_BYTES: Final = 1024 * 1024


class CommandFailedError(ConnectionError):
    """The program exited, could not carry out a command, or did not reply in time."""


class CommandServer:
    """The server of a program; see `server_runner.ServerUnderTest`. One for each case."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        """Name the program; `make` starts it.

        Args:
            command: the program and its arguments.
            folder: an empty one. In folders below it the program keeps what is to last.
        """
        self._command = command
        self._folders = (folder / str(number) for number in count(1))
        self._folder = folder
        self._given: Fields = {}
        self._running: _Running | None = None

    async def make(self, given: Fields) -> str:
        """Start it, and let its agents be as given."""
        self._given = {name: value for name, value in given.items() if name != "agents"}
        url = await self.start_over()
        for agent in given.get("agents", ()):
            await self.create(agent)
        return url

    async def start_over(self) -> str:
        """Start it with an empty store."""
        await self.stop()
        self._folder = next(self._folders)
        self._folder.mkdir()
        return await self._start()

    async def restart(self) -> str:
        """Stop it in order, and start it with the same store."""
        await self.stop()
        return await self._start()

    async def kill(self) -> str:
        """Kill it, and start it with the same store."""
        if self._running is not None:
            await self._running.kill()
        return await self._start()

    async def _start(self) -> str:
        self._running = await _Running.begin(self._command)
        answer = await self._running.ask("start", folder=str(self._folder), given=self._given)
        if not isinstance(answer.get("url"), str):
            raise CommandFailedError(f"the answer to start has no url: {answer}")
        return str(answer["url"])

    async def stop(self) -> None:
        """Stop it in order; kill what does not."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop()

    async def create(self, agent: Fields) -> None:
        """Create an agent, and let it live as far as it says."""
        id, status = agent["id"], agent.get("status", "running")
        first = {name: agent[name] for name in ("type", "prompt") if name in agent}
        await self._ask("create", id=id, **first, status="initializing" if status == "initializing" else "running")
        for message in agent.get("messages", ()):
            await self.say(id, fill(message, {}))
        if status == "completed":
            await self.complete(id, agent.get("result"))
        elif status == "failed":
            await self.fail(id, **agent["error"])
        for message in agent.get("late", ()):
            await self.say(id, message)

    async def say(self, agent: str, message: Fields) -> None:
        """Have an agent say a message, or as many as it says."""
        many = [{"content": str(number)} for number in range(1, message.get("count", 0) + 1)]
        for each in many or [message]:
            await self._ask("say", agent=agent, **each)

    async def complete(self, agent: str, result: Any) -> None:
        """Have an agent end well."""
        await self._ask("complete", agent=agent, **({} if result is None else {"result": result}))

    async def fail(self, agent: str, name: str, message: str) -> None:
        """Have an agent fail."""
        await self._ask("fail", agent=agent, name=name, message=message)

    async def delete(self, agent: str) -> None:
        """Delete an agent."""
        await self._ask("delete", agent=agent)

    async def _ask(self, what: str, **fields: Any) -> Fields:
        if self._running is None:
            raise CommandFailedError(f"it was stopped before it was asked to {what}")
        return await self._running.ask(what, **fields)


class _Running:
    """A process of the program, and the commands without a reply."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._waiting: deque[asyncio.Future[Fields]] = deque()
        self._fault = ""
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def begin(cls, command: Sequence[str]) -> "_Running":
        """Start the program, as the first of a process group of its own."""
        options: Fields = {"stdin": PIPE, "stdout": PIPE, "start_new_session": True, "limit": MAX_ANSWER_BYTES}
        return cls(await asyncio.create_subprocess_exec(*command, **options))

    async def ask(self, what: str, **fields: Any) -> Fields:
        """Have something done; return the answer."""
        answer: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        if self._reader.done():
            self._let_down()
        else:
            await self._write({"do": what, **fields})
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found = await answer
        except TimeoutError:
            raise CommandFailedError(f"it did not answer {what} within {ANSWER_TIMEOUT_S:g} s") from None
        if "error" in found:
            raise CommandFailedError(f"it could not {what}: {found['error']}")
        return found

    async def _write(self, question: Fields) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        with suppress(ConnectionError):  # it has ended: that is told to all who wait
            await self._process.stdin.drain()

    async def _read(self) -> None:
        """Give each answer to the one who has waited longest."""
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                found, answer = _decoded(line), self._waiting.popleft()
                if not answer.done():
                    answer.set_result(found)
        except (ValueError, IndexError) as error:
            self._fault = f"it does not answer each line with one JSON object, and was killed: {error}"
            self._signal(signal.SIGKILL)
        await self._process.wait()
        self._let_down()

    def _let_down(self) -> None:
        """Tell all who wait that the program has ended."""
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                fault = self._fault or f"it ended with {self._process.returncode}"
                answer.set_exception(CommandFailedError(fault))

    async def stop(self) -> None:
        """Have it stop in order, and wait for its end."""
        with suppress(CommandFailedError):
            await self.ask("stop")
        assert self._process.stdin is not None
        self._process.stdin.close()
        ended, _ = await asyncio.wait([self._reader], timeout=ANSWER_TIMEOUT_S)
        await self.kill()
        if not ended:
            raise CommandFailedError(f"it did not end within {ANSWER_TIMEOUT_S:g} s after stop, and was killed")

    async def kill(self) -> None:
        """Kill it with all that it has started in its group, and wait for its end."""
        self._signal(signal.SIGKILL)
        await self._reader

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _decoded(line: bytes) -> Fields:
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError(f"an answer is a JSON object, not {answer!r:.80}")
    return answer
