"""Deprecated names of arguments, attributes and classes: they still work, and emit a warning."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take a keyword argument by its old name too, with a `DeprecationWarning`.

    Type checkers see the old name because the function lists it, as an argument that it does not use.

    Args:
        old: the name that callers may still use.
        new: the name that the function has for it.

    Raises:
        TypeError: from the function, when a call has both.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]  # of a class, what callers write
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                if new in signature.bind_partial(*args, **kwargs).arguments:
                    raise TypeError(f"{name}() got both {new!r} and its old name {old!r}: use {new!r}")
                message = f"the argument {old!r} of {name}() is now called {new!r}"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                values: dict[str, Any] = kwargs
                values[new] = values.pop(old)
            return function(*args, **kwargs)

        shown = [parameter for parameter in signature.parameters.values() if parameter.name != old]
        call.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]  # read by `inspect`
        return call

    return decorate


def renamed_attribute(old: str, new: str) -> Any:
    """Return a property that reads an attribute or method by its old name, with a `DeprecationWarning`."""

    def read(self: Any) -> Any:
        """Return what has a new name now."""
        warnings.warn(f"{type(self).__name__}.{old} is now called {new!r}", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    read.__doc__ = f"The old name of `{new}`. Deprecated."
    return property(read)


def renamed_names(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a module that finds its names by their old names too, with a `DeprecationWarning`.

    Args:
        module: its `__name__`.
        names: the new name for each old one.
    """

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now called {names[name]!r}", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return load
