"""Whether a command asks its program for JSON. Pure.

Decided by whole arguments, because a prompt is one too and may speak of options. Only what a shell is given behind
`-c` is a command of its own, and is cut into arguments as the shell cuts it.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import Final

_VALUE: Final = r"(?:stream-)?json"
_WITH_VALUE: Final = re.compile(r"--?[\w-]*(?:format|mode)|-o")
"""Options that the value follows, as an argument of its own or in the same one."""
_ALONE: Final = re.compile(rf"(?:--?[\w-]*(?:format|mode)=|-o=?|--(?:stream-|experimental-)?){_VALUE}")
_SHELLS: Final = ("sh", "ash", "bash", "dash", "fish", "ksh", "zsh")
_COMMAND_OPTION: Final = re.compile(r"-[a-z]*c")
_MAX_DEPTH: Final = 8
"""Shells that start shells."""


def is_told_to_print_json(argv: Sequence[str]) -> bool:
    """Tell whether an option of the program, or of one that a shell starts, asks for JSON."""
    return any(map(_asks_for_json, _commands(argv, 0)))


def _asks_for_json(argv: Sequence[str]) -> bool:
    if any(_ALONE.fullmatch(argument) for argument in argv):
        return True
    return any(_WITH_VALUE.fullmatch(name) and re.fullmatch(_VALUE, value) for name, value in pairwise(argv))


def _commands(argv: Sequence[str], depth: int) -> Iterator[Sequence[str]]:
    """Return a command, and those that the shells in it are told to run."""
    yield argv
    is_shell = False
    for option, script in pairwise(argv):
        is_shell = is_shell or PurePath(option).name in _SHELLS
        if is_shell and _COMMAND_OPTION.fullmatch(option) and depth < _MAX_DEPTH:
            yield from _commands(_words(script), depth + 1)


def _words(script: str) -> list[str]:
    """Cut a script into words; its operators are words too."""
    cutter = shlex.shlex(script, posix=True, punctuation_chars=True)
    cutter.whitespace_split = True
    cutter.commenters = ""
    try:
        return list(cutter)
    except ValueError:  # a quotation without an end
        return script.split()
