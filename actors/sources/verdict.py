"""How an agent ended whose program has ended: decided from its exit code, its own verdict and its kind. Pure."""

import signal
from typing import Any

from commitcast.actors.errors import CommandFailedError, SourceError, VerdictMissingError
from commitcast.actors.sources.draft import Ending
from commitcast.actors.sources.parsers import Parser
from commitcast.persistence.records import AgentStatus


def decide_ending(
    command: str, exit_code: int | None, parser: Parser, stderr_tail: str, *, hangs: bool = False
) -> Ending:
    """Decide how an agent ended whose program has ended. Pure.

    Completed takes all three: exit code 0, no bad verdict, and a verdict at all where programs of the kind
    give one. CLIs have ended with 0 after an error, and with 1 after a good result. The exit code does not count where
    it says nothing of the program: it is lost, or the program was stopped because it did not exit after its verdict.

    Args:
        command: what to call the program.
        exit_code: negative for a signal; None if it is lost.
        parser: that has read all of its output.
        stderr_tail: the end of its standard error, "" for nothing.
        hangs: whether it did not exit after its verdict.
    """
    result: dict[str, Any] = dict(parser.verdict.result or {}) if parser.verdict else {}
    result["exit_code"] = exit_code
    if stderr_tail:
        result["stderr_tail"] = stderr_tail
    if hangs:
        result["exit_timed_out"] = True
    says_nothing = parser.verdict is not None and (hangs or exit_code is None)
    error = _why_failed(command, 0 if says_nothing else exit_code, parser, f"\n{stderr_tail}" if stderr_tail else "")
    return Ending(result=result) if error is None else failed(error, result)


def _why_failed(command: str, exit_code: int | None, parser: Parser, tail: str) -> SourceError | None:
    verdict = parser.verdict
    how = _exit_text(exit_code, parser)
    if verdict is not None and not verdict.ok:
        also = "" if exit_code == 0 else f" (it {how})"
        return CommandFailedError(f"{command} reported an error: {verdict.message}{also}{tail}")
    last_error = "" if parser.last_error is None else f"; its last error was: {parser.last_error}"
    if exit_code != 0:
        though = "" if verdict is None else " although it had reported success"
        return CommandFailedError(f"{command} {how}{though}{last_error}{tail}")
    if verdict is None and parser.gives_verdict:
        return VerdictMissingError(f"{command} {how} but never said whether it had succeeded{last_error}{tail}")
    return None


def _exit_text(exit_code: int | None, parser: Parser) -> str:
    if exit_code is None:
        return (
            "ended, but its exit code is lost: this program ignores SIGCHLD, or something else in it waits for children"
        )
    if exit_code < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"was killed by {names.get(-exit_code, f'signal {-exit_code}')}"
    meaning = parser.exit_codes.get(exit_code)
    return f"ended with exit code {exit_code}" + (f": {meaning}" if meaning else "")


def failed(error: SourceError, result: dict[str, Any]) -> Ending:
    """Return the ending of a run that failed."""
    return Ending(
        status=AgentStatus.FAILED,
        error_name=type(error).__name__,
        error_message=str(error),
        result=result or None,
    )
