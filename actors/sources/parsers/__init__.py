"""Parsers of what CLIs print: one for each kind, chosen by the agent's type."""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, Final

from commitcast.actors.sources.parsers.claude_code import ClaudeCodeParser
from commitcast.actors.sources.parsers.claude_like import AmpParser, CursorParser, QwenParser
from commitcast.actors.sources.parsers.codex import CodexParser
from commitcast.actors.sources.parsers.copilot import CopilotParser
from commitcast.actors.sources.parsers.gemini_cli import GeminiCliParser
from commitcast.actors.sources.parsers.json_option import is_told_to_print_json
from commitcast.actors.sources.parsers.jsonl import JsonlParser
from commitcast.actors.sources.parsers.kimi import KimiParser
from commitcast.actors.sources.parsers.opencode import OpenCodeParser
from commitcast.actors.sources.parsers.parser import Parser, Verdict
from commitcast.actors.sources.parsers.pi import PiParser
from commitcast.actors.sources.parsers.shapes import SHAPES, kind_of
from commitcast.actors.sources.parsers.text import TextParser, UndecidedParser

__all__ = ["PARSERS", "Parser", "Verdict", "echoes_prompt", "first_parser", "guess_type", "is_told_to_print_json"]

PARSERS: Final[dict[str, Callable[[], Parser]]] = {
    "claude-code": ClaudeCodeParser,
    "gemini-cli": GeminiCliParser,
    "codex": CodexParser,
    "amp": AmpParser,
    "copilot": CopilotParser,
    "cursor-agent": CursorParser,
    "kimi": KimiParser,
    "opencode": OpenCodeParser,
    "pi": PiParser,
    "qwen": QwenParser,
    "jsonl": JsonlParser,
    "text": TextParser,
}
"""By agent type: what makes the parser of one process."""

_ALSO_PLAIN: Final = ("amp", "copilot", "cursor-agent", "kimi", "opencode", "pi", "qwen")
"""Types that are believed by their exit code alone when they print plain text. Each is the name of its program."""
_TYPES: Final = {
    "claude": "claude-code",
    "gemini": "gemini-cli",
    "codex": "codex",
    **{kind: kind for kind in _ALSO_PLAIN},
}


def guess_type(argv: Sequence[str]) -> str:
    """Return the agent type for a command by its base name; "text" for one that is not known."""
    return _TYPES.get(PurePath(argv[0]).name, "text") if argv else "text"


def echoes_prompt(kind: str, argv: Sequence[str]) -> bool:
    """Return whether a program prints the prompt as a message: only among events, never as plain text."""
    is_named = kind in _ALSO_PLAIN or kind == guess_type(argv)
    return PARSERS[kind]().echoes_prompt and (not is_named or is_told_to_print_json(argv))


def first_parser(kind: str, argv: Sequence[str], *, is_guess: bool) -> Parser:
    """Return the parser that a program's output begins with; its `successor` may take over.

    Args:
        kind: the agent's type.
        argv: the program and its arguments.
        is_guess: whether the type is "text" only because the program's name is not known.
    """
    if kind == "text" and is_guess:
        return UndecidedParser(_by_shape)
    if kind in _ALSO_PLAIN and not is_told_to_print_json(argv):
        return UndecidedParser(lambda event: PARSERS[kind]() if _fits(kind, event) else None)
    return PARSERS[kind]()


def _fits(kind: str, event: dict[str, Any]) -> bool:
    return SHAPES["cursor-agent" if kind in ("amp", "qwen") else kind](event)


def _by_shape(event: dict[str, Any]) -> Parser | None:
    """Return the parser for an event of a program whose name is not known."""
    kind = kind_of(event)
    if kind is None:
        return None
    parser = PARSERS[kind]()
    parser.is_guess = parser.is_doubtful = True
    return parser
