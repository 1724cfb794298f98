"""What programs print, understood: one parser for each kind of CLI, chosen by the agent's type."""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Final

from commitcast.actors.sources.parsers.claude_code import ClaudeCodeParser
from commitcast.actors.sources.parsers.codex import CodexParser
from commitcast.actors.sources.parsers.gemini_cli import GeminiCliParser
from commitcast.actors.sources.parsers.jsonl import JsonlParser
from commitcast.actors.sources.parsers.parser import Parser, Verdict
from commitcast.actors.sources.parsers.text import TextParser

__all__ = ["PARSERS", "Parser", "Verdict", "guess_type"]

PARSERS: Final[dict[str, Callable[[], Parser]]] = {
    "claude-code": ClaudeCodeParser,
    "gemini-cli": GeminiCliParser,
    "codex": CodexParser,
    "jsonl": JsonlParser,
    "text": TextParser,
}
"""By agent type: what makes the parser of one process."""

_TYPES: Final = {"claude": "claude-code", "gemini": "gemini-cli", "codex": "codex"}


def guess_type(argv: Sequence[str]) -> str:
    """Return the agent type for a command by its base name; "text" for one that is not known."""
    return _TYPES.get(PurePath(argv[0]).name, "text") if argv else "text"
