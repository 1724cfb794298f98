"""Errors that cross the connection: of the same class where the other side has it, with its facts and text. Pure."""

import sys
from enum import Enum
from typing import Any

import msgspec

from commitcast.persistence.errors import CommitcastError, HostError, RemoteError, ServerError
from commitcast.persistence.remote.frames import Failure

_encode = msgspec.msgpack.Encoder().encode


def failure_of(error: BaseException) -> Failure:
    """Return an error as a value. It can always be sent, whatever the error holds."""
    if isinstance(error, RemoteError) and isinstance(error.failure, Failure):
        return error.failure  # it is passed on
    kind = type(error)
    code = getattr(error, "code", "internal")
    is_ours = isinstance(error, CommitcastError)
    facts = vars(error) if is_ours else {}
    return Failure(
        _name_of(kind) if is_ours else "",
        [_sendable(argument) for argument in error.args],
        {name: _sendable(value) for name, value in facts.items()},
        _text(str(error) if is_ours else f"{kind.__name__}: {error}"),
        code if isinstance(code, str) else "internal",
        bool(getattr(error, "retryable", False)),
        {name: _name_of(type(value)) for name, value in facts.items() if isinstance(value, Enum)},
    )


def error_of(failure: Failure, otherwise: type[ServerError] | type[HostError] = ServerError) -> CommitcastError:
    """Return a value as an error: of its own class if that is loaded here, else of the class given."""
    kind = _found(failure.kind, CommitcastError)
    if kind is not None:
        try:
            return CommitcastError._rebuilt(kind, tuple(failure.arguments), _facts(failure))
        except (TypeError, ValueError):  # a host's own class makes its objects in another way
            pass
    error = otherwise(failure.text, failure.code, failure.retryable)
    error.failure = failure
    return error


def _facts(failure: Failure) -> dict[str, Any]:
    facts = dict(failure.facts)
    for name, enum in failure.enums.items():
        if (members := _found(enum, Enum)) is not None:
            facts[name] = members(facts[name])
    return facts


def _name_of(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _found(name: str, base: type[Any]) -> Any:
    """Return the class of that name if its module is loaded, and it is one of those that are expected."""
    module, _, name = name.partition(":")
    found: Any = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) and issubclass(found, base) else None


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    try:
        _encode(value)
        return msgspec.to_builtins(value, builtin_types=(bytes,))
    except (TypeError, ValueError, OverflowError, RecursionError):  # its text says what it is
        return _text(str(value))


def _text(text: str) -> str:
    """Return a text as it is, but without what UTF-8 cannot hold, as paths may have it."""
    return text.encode(errors="backslashreplace").decode()
