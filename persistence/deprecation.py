"""Deprecated names of arguments: they still work, and emit a warning."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take a keyword argument by its old name too, with a `DeprecationWarning`.

    Args:
        old: the name that callers may still use.
        new: the name that the function has for it.

    Raises:
        TypeError: from the function, when a call has both.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]  # of a class, what callers write

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{name}() got both {new!r} and its old name {old!r}: use {new!r}")
                message = f"the argument {old!r} of {name}() is now called {new!r}"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                values: dict[str, Any] = kwargs
                values[new] = values.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
