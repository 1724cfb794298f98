"""A command line program as an agent's source: its lines become messages, and when it ends, the agent ends.

Owns what a program is given (prompt, environment) and the run from start to end; `output_reader.py` owns its output,
`verdict.py` decides how it ended. Must never read output before the process is recorded in the store: a process that
is not recorded could not be found again after a crash. One thread for each run.
"""

import copy
import errno
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from commitcast.actors.errors import CommandNotFoundError, SourceCancelledError, SourceError
from commitcast.actors.sources.context import AgentContext
from commitcast.actors.sources.draft import Ending, clean_text
from commitcast.actors.sources.output_reader import OutputReader
from commitcast.actors.sources.parsers import (
    PARSERS,
    Verdict,
    echoes_prompt,
    first_parser,
    guess_type,
    is_told_to_print_json,
)
from commitcast.actors.sources.processes.pipes import ChildPipes
from commitcast.actors.sources.processes.process import Program
from commitcast.actors.sources.verdict import account, decide_ending, failed
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentStatus
from commitcast.persistence.recovery.identity import process_started

logger: Final = logging.getLogger(__name__)

PROMPT_PLACEHOLDER: Final = "{prompt}"
"""Replaced in every argument."""

PROMPT_IS_AN_OPTION: Final = (
    "the prompt begins with '-', so the program could read it as an option: begin it with another character (the "
    "server's owner can allow it with an argument -- before {prompt} in the template)"
)

EXIT_TIMEOUT_S: Final = 30.0
"""How long a program may do nothing after its verdict and not exit. Programs that clean up exit within seconds; a
program that an open handle keeps alive never exits, and its agent would be running for ever."""

LONGEST_STEP_S: Final = 3600.0
"""The longest wait of one call: a selector cannot wait for every length of time."""


class CommandSource:
    """A program to run, once for each agent.

    Attributes:
        argv: the program and its arguments.
        type: the kind of agent; it chooses the parser.
        echoes_prompt: whether the program prints the prompt as a message of its own.
        takes_input: False: its standard input is closed after the prompt.
        owns_processes: True: the agent does not end before its processes are gone.
    """

    takes_input = False
    owns_processes = True

    def __init__(
        self,
        argv: Sequence[str],
        *,
        type: str | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        grace_s: float = 5.0,
        exit_timeout_s: float = EXIT_TIMEOUT_S,
        stdin: int | None = None,
    ) -> None:
        """Describe a program; nothing is started.

        Args:
            argv: the program and its arguments, no shell. "{prompt}" in any of them is replaced by the
                prompt; if it is in none, the prompt is written to standard input.
            type: one of `PARSERS`; None guesses it by the program's name, and, if that is not known, by the
                shape of what it prints.
            cwd: the folder in which it starts; None for the current one.
            env: added to the environment of this process.
            grace_s: seconds between SIGTERM and SIGKILL when it is stopped.
            exit_timeout_s: seconds of silence after its verdict until it is stopped because it does not exit; its
                verdict counts. Signs of life and plain text are silence. Give more, or `math.inf`, to a program whose
                background tasks are silent for longer and then speak again.
            stdin: a descriptor of a pipe, socket or file: all that comes from it up to its end is passed on to the
                program as it comes, after the prompt if that goes to standard input too. The caller keeps it, and must
                leave it open for as long as the program runs.

        Raises:
            InvalidValueError: one of them cannot be used.
        """
        self.argv = _checked_argv(argv)
        self.type = guess_type(self.argv) if type is None else type
        self._is_guess = type is None
        if self.type not in PARSERS:
            raise InvalidValueError(f"{type!r:.80} is not an agent type: use one of {', '.join(PARSERS)}")
        self.echoes_prompt = echoes_prompt(self.type, self.argv)
        self._name = clean_text(PurePath(self.argv[0]).name)
        self._cwd = None if cwd is None else _checked_text(os.fspath(cwd), "cwd")
        self._env = _checked_env(env or {})
        self._grace_s = _checked_seconds(grace_s, "grace_s")
        self._exit_timeout_s = _checked_seconds(exit_timeout_s, "exit_timeout_s", may_be_infinite=True)
        self._stdin = stdin
        self._is_for_clients = False

    def for_clients(self) -> "CommandSource":
        """Return the same program for prompts of a server's clients.

        The log names paths, errors do not. A prompt that the program could read as an option is refused.
        """
        other = copy.copy(self)
        other._is_for_clients = True
        return other

    def run(self, context: AgentContext) -> Ending:
        """Run the program for an agent, from start to end.

        Returns:
            How it ended. Also when it could not be started, or the agent was cancelled.

        Raises:
            Exception: the error of recording the process; the program was stopped.

        Threads: blocks as long as the program runs, and a few seconds longer than `grace_s` to stop it. When
            it returns or raises, nothing is left of the program and of what it has started.
        """
        if context.cancelled.is_set():
            return Ending(status=AgentStatus.TERMINATED)
        pipes = ChildPipes(context.processes)
        try:
            context.cancelled.on_set(pipes.wake.set)
            return self._run(context, pipes)
        except SourceCancelledError:
            return Ending(status=AgentStatus.TERMINATED)
        finally:
            pipes.close(self._grace_s)

    def _run(self, context: AgentContext, pipes: ChildPipes) -> Ending:
        if self._is_for_clients and self._would_be_an_option(context.prompt):
            return failed(SourceError(PROMPT_IS_AN_OPTION), {})
        argv, stdin = self._with_prompt(context.prompt)
        try:
            pipes.start(Program(argv, context.id, context.epoch, self._cwd, self._env), stdin, self._stdin)
        except (OSError, ValueError) as error:
            if self._is_for_clients:
                folder = "" if self._cwd is None else f" in {self._cwd!r}"
                logger.warning("agent %s failed: cannot start %r%s: %s", context.id, self.argv[0], folder, error)
            return failed(self._why_not_started(error), {})
        _record_process(context, pipes)
        reader = OutputReader(first_parser(self.type, self.argv, is_guess=self._is_guess), context)
        pipes.read_into(reader.feed)
        try:
            verdict = self._read(context, pipes, reader)
            self._stop(pipes, reader)
        except SourceCancelledError:
            reader.mute()
            self._stop(pipes, reader)
            pipes.reap()
            return Ending(status=AgentStatus.TERMINATED, result=account(reader.parser) or None)
        parser = reader.parser
        hangs = verdict is not None
        if hangs:  # in place of what it has printed about being stopped
            parser.verdict = verdict
        option = None if is_told_to_print_json(self.argv) else PARSERS[self.type]().json_option
        return decide_ending(self._name, pipes.reap(), parser, pipes.stderr_tail, option, hangs=hangs)

    def _stop(self, pipes: ChildPipes, reader: OutputReader) -> None:
        """Stop what the program has started, and read its last output."""
        pipes.stop(self._grace_s)
        pipes.drain()
        reader.end()

    def _read(self, context: AgentContext, pipes: ChildPipes, reader: OutputReader) -> Verdict | None:
        """Read until the program has ended; return its verdict if it gave one and does not exit."""
        due_in_s = self._exit_due_in_s(pipes, reader)
        while pipes.wait(min((s for s in (due_in_s, reader.due_in_s()) if s is not None), default=None)):
            _check_cancelled(context)
            reader.show_due()
            has_looked, due_in_s = due_in_s == 0, self._exit_due_in_s(pipes, reader)
            if has_looked and due_in_s == 0:  # looked once more, because this process may have been stopped meanwhile
                return reader.parser.believed_verdict
        return None

    def _exit_due_in_s(self, pipes: ChildPipes, reader: OutputReader) -> float | None:
        """Return how long the program may still do nothing and not exit; None: for as long as it likes."""
        if reader.parser.believed_verdict is None or pipes.exited or math.isinf(self._exit_timeout_s):
            return None
        return min(max(0.0, self._exit_timeout_s - reader.idle_s()), LONGEST_STEP_S)

    def _with_prompt(self, prompt: str) -> tuple[list[str], bytes]:
        """Return the arguments and what standard input gets."""
        if any(PROMPT_PLACEHOLDER in argument for argument in self.argv):
            return [argument.replace(PROMPT_PLACEHOLDER, prompt) for argument in self.argv], b""
        return list(self.argv), prompt.encode(errors="replace")

    def _would_be_an_option(self, prompt: str) -> bool:
        """Whether a prompt would stand where the program reads options."""
        first = self.argv.index(PROMPT_PLACEHOLDER) if PROMPT_PLACEHOLDER in self.argv else len(self.argv)
        return prompt.startswith("-") and first < len(self.argv) and "--" not in self.argv[:first]

    def _why_not_started(self, error: OSError | ValueError) -> SourceError:
        program = self._name if self._is_for_clients else clean_text(self.argv[0])
        if isinstance(error, FileNotFoundError):
            if self._cwd is not None and not os.path.isdir(self._cwd):
                folder = (
                    "the folder of its template" if self._is_for_clients else f"the folder {clean_text(self._cwd)!r}"
                )
                return SourceError(f"cannot start {program!r}: {folder} does not exist")
            if not self._program_exists():
                return CommandNotFoundError(program)
            return SourceError(f"cannot start {program!r}: the interpreter in its first line does not exist")
        why = clean_text((error.strerror if isinstance(error, OSError) else None) or str(error))
        if isinstance(error, OSError) and error.errno == errno.E2BIG:
            why += f"; without {PROMPT_PLACEHOLDER} in the arguments, the prompt goes to standard input"
        return SourceError(f"cannot start {program!r}: {why[:1].lower()}{why[1:]}")

    def _program_exists(self) -> bool:
        program = self.argv[0]
        if "/" in program:  # looked for after the change of folder
            return os.path.exists(os.path.join(self._cwd or "", program))
        return shutil.which(program, path=self._env.get("PATH")) is not None


def _record_process(context: AgentContext, pipes: ChildPipes) -> None:
    """Have the process recorded, and return once that is on disk."""
    recorded = context.patch(pid=pipes.pid, pid_started=process_started(pipes.pid))
    recorded.add_done_callback(lambda _: pipes.wake.set())
    while not recorded.done():
        pipes.step()
        _check_cancelled(context)
    recorded.get()


def _check_cancelled(context: AgentContext) -> None:
    if context.cancelled.is_set():
        raise SourceCancelledError(context.id)


def _checked_argv(argv: Sequence[str]) -> tuple[str, ...]:
    if isinstance(argv, (str, bytes)) or not isinstance(argv, Sequence):
        raise InvalidValueError(f"argv must be a list of the program and its arguments, not {argv!r:.80}")
    if not argv or not argv[0]:
        raise InvalidValueError("argv must not be empty: give the program and its arguments")
    return tuple(_checked_text(argument, f"argument {index}") for index, argument in enumerate(argv))


def _checked_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidValueError(f"{what} must be text, not {value.__class__.__name__}")
    if "\0" in value:
        raise InvalidValueError(f"{what} contains a NUL character, which cannot be passed to a program")
    return value


def _checked_env(env: Mapping[str, str]) -> dict[str, str]:
    for name, value in env.items():
        _checked_text(name, "the name of an environment variable")
        _checked_text(value, f"the environment variable {name!r:.80}")
        if not name or "=" in name:
            raise InvalidValueError(f"{name!r:.80} is not a valid name of an environment variable")
    return dict(env)


def _checked_seconds(value: float, name: str, *, may_be_infinite: bool = False) -> float:
    if not isinstance(value, (int, float)) or not value >= 0 or (math.isinf(value) and not may_be_infinite):
        raise InvalidValueError(f"{name} must be 0 or more seconds, not {value!r:.80}")
    return float(value)
