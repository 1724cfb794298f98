"""Every error of the product, and an example of each."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Final

from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.persistence import CommitcastError

PACKAGES: Final = ("commitcast.actors", "commitcast.gateway", "commitcast.persistence")
SAMPLES: Final[dict[str, object]] = {
    "str": "a text",
    "int": 7,
    "float": 1.5,
    "bool": True,
    "int | str | None": 9,
    "str | None": "another text",
    "ErrorCode": ErrorCode.TOKEN_EXPIRED,
}
"""A value for each type of the facts of an error; not one that is a default."""


def modules() -> Iterator[ModuleType]:
    """Every module of the product, imported."""
    for name in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            yield importlib.import_module(found.name)


def errors() -> set[type[CommitcastError]]:
    """Every error of the product, wherever it is defined."""
    assert list(modules())
    found, remaining = set(), [CommitcastError]
    while remaining:
        error = remaining.pop()
        if error.__module__.startswith("commitcast."):
            found.add(error)
        remaining += error.__subclasses__()
    return found


def example(error: type[CommitcastError]) -> CommitcastError:
    """An error with a value for each of its facts."""
    arguments, options = [], {}
    if inspect.isfunction(error.__init__):
        for name, parameter in list(inspect.signature(error.__init__).parameters.items())[1:]:
            kind = parameter.annotation
            value = SAMPLES[kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))]
            if parameter.kind is parameter.KEYWORD_ONLY:
                options[name] = value
            else:
                arguments.append(value)
    else:
        arguments.append("a sentence")
    return error(*arguments, **options)
