"""The ending of an agent whose program has ended: decided by its exit code, its own verdict and its kind. Pure."""

import signal
from typing import Any

from commitcast.actors.errors import CommandFailedError, SourceError, VerdictMissingError
from commitcast.actors.sources.draft import Ending
from commitcast.actors.sources.parsers import Parser
from commitcast.persistence.records import AgentStatus


def decide_ending(
    command: str,
    exit_code: int | None,
    parser: Parser,
    stderr_tail: str,
    missing_option: str | None = None,
    *,
    hangs: bool = False,
) -> Ending:
    """Decide how an agent ends when its program has ended. Pure.

    Completed takes all three: exit code 0, no bad verdict, and a verdict at all where programs of the kind
    give one. CLIs have ended with 0 after an error, and with 1 after a good result. The exit code does not count where
    it says nothing of the program: it is lost, or the program was stopped because it did not exit after its verdict.

    Args:
        command: what to call the program.
        exit_code: negative for a signal; None if it is lost.
        parser: that has read all of its output.
        stderr_tail: the end of its standard error, "" for nothing.
        missing_option: what makes such programs print events, if this one was started without it.
        hangs: whether it was stopped because it did not exit after its verdict.
    """
    result = {**account(parser), "exit_code": exit_code}
    if stderr_tail:
        result["stderr_tail"] = stderr_tail
    if hangs:
        result["exit_timed_out"] = True
    says_nothing = parser.believed_verdict is not None and (hangs or exit_code is None)
    advice = None if parser.has_events or missing_option is None else missing_option
    error = _why_failed(command, 0 if says_nothing else exit_code, parser, stderr_tail, advice)
    return Ending(result=result) if error is None else failed(error, result)


def account(parser: Parser) -> dict[str, Any]:
    """Return what a program has reported about its work, over all turns and for every verdict."""
    return {**((parser.verdict and parser.verdict.result) or {}), **parser.result}


def _why_failed(
    command: str, exit_code: int | None, parser: Parser, stderr_tail: str, advice: str | None
) -> SourceError | None:
    verdict = parser.believed_verdict
    how = _exit_text(exit_code, parser)
    tail = f"\n{stderr_tail}" if stderr_tail else ""
    if verdict is not None and not verdict.ok:
        also = "" if exit_code == 0 else f" (it {how})"
        return CommandFailedError(f"{command} reported an error: {verdict.message}{also}{tail}")
    hint = "" if advice is None else f"; run it with {advice}, so that its events can be read"
    if exit_code != 0:
        though = "" if verdict is None else " although it had reported success"
        return CommandFailedError(f"{command} {how}{though}{_clue(parser, stderr_tail)}{hint}{tail}")
    if verdict is None and parser.needs_verdict and _is_expected(parser):
        never = "but did not report whether it had succeeded"
        clue = "" if advice else _clue(parser, stderr_tail)  # what it printed is the answer
        return VerdictMissingError(f"{command} {how} {never}{clue}{hint}{tail}")
    return None


def _is_expected(parser: Parser) -> bool:
    """Tell whether a program of a kind that gives a verdict had to give one."""
    return not parser.is_guess or (parser.last_error is not None and not parser.is_doubtful)


def _clue(parser: Parser, stderr_tail: str) -> str:
    """Return what the program printed about its failure, if standard error does not tell."""
    if parser.last_error is not None:
        return f"; its last error was: {parser.last_error}"
    return f"; it printed: {parser.last_text}" if parser.last_text and not stderr_tail else ""


def _exit_text(exit_code: int | None, parser: Parser) -> str:
    if exit_code is None:
        return (
            "ended, but its exit code is lost: this process ignores SIGCHLD, or other code in it waits for all children"
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
