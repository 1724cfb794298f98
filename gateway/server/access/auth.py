"""Authorization: operations, capabilities, grants, and static tokens.

A verifier turns a token into a grant, which is asked for each request. A token must never get into a grant, an error's
text or a log. Only reading a token file touches the disk; the rest is pure and may be called from any thread.
"""

import hashlib
import hmac
import logging
import os
import stat
from collections.abc import Awaitable
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, Self

import msgspec

from commitcast.gateway.server.errors import TokenError
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.writes import check_agent_id

logger: Final = logging.getLogger(__name__)

MAX_TOKEN_BYTES: Final = 8 * 1024
"""Of one token: about the size of a header that HTTP servers accept. It also limits the work of decoding one."""
MAX_TOKENS: Final = 1000
"""In one file. Each check compares all of them on the event loop: this many take a fraction of a millisecond."""
_ANY: Final = "*"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
"""Permissions of a file for users other than its owner."""


class Permission(StrEnum):
    """A right that a capability can grant."""

    READ = "read"
    """See agents and their messages."""
    SEND = "send"
    """Send messages to agents."""
    LAUNCH = "launch"
    """Launch agents, whose ids then begin with the prefix that this right is on."""
    TERMINATE = "terminate"
    """End agents."""
    ADMIN = "admin"
    """See the server's own `/metrics`."""


Operation = Permission
"""The earlier name."""


class Capability(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"operations": "ops"}):
    """Some operations on some agents. Decoding refuses unknown fields, because one may be a restriction.

    Raises:
        InvalidValueError: `agent` is neither an id nor a prefix, there is no operation, or one of them is unknown.
    """

    agent: str
    """An id, a prefix that ends with `*`, or `*`."""
    operations: frozenset[Permission]

    def __post_init__(self) -> None:
        if self.agent != _ANY:
            check_agent_id(self.agent.removesuffix(_ANY))
        if not self.operations:
            raise InvalidValueError("a capability needs an operation: leave out a capability that allows nothing")
        if not isinstance(self.operations, frozenset) or not self.operations <= frozenset(Permission):
            names = ", ".join(Permission)
            raise InvalidValueError(f"operations must be a frozenset of {names}, not {self.operations!r:.80}")

    def covers(self, agent: str) -> bool:
        """Whether the capability includes this agent."""
        return agent == self.agent or (self.is_prefix and agent.startswith(self.prefix))

    @property
    def is_prefix(self) -> bool:
        """Whether the capability includes every agent whose id begins with `prefix`."""
        return self.agent.endswith(_ANY)

    @property
    def prefix(self) -> str:
        """The beginning of the ids; empty for all agents."""
        return self.agent.removesuffix(_ANY)


class Grant(msgspec.Struct, frozen=True):
    """The rights of a caller, and their expiry."""

    subject: str
    """The caller's name, for the log and idempotency keys. Never a secret."""
    capabilities: tuple[Capability, ...]
    expires_at: float | None = None
    """Unix seconds; None for never."""

    def allows(self, operation: Permission, agent: str) -> bool:
        """Whether the operation may be done to this agent."""
        return any(operation in held.operations and held.covers(agent) for held in self.capabilities)

    def allows_everywhere(self, operation: Permission) -> bool:
        """Whether the operation may be done to all agents, and to the server."""
        return any(operation in held.operations and held.agent == _ANY for held in self.capabilities)

    def readable(self) -> list[Capability]:
        """Return the capabilities that allow reading."""
        return [held for held in self.capabilities if Permission.READ in held.operations]

    def launch_prefix(self) -> str | None:
        """Return the prefix of the ids of agents that the caller launches; None if it may not launch."""
        held = (held for held in self.capabilities if Permission.LAUNCH in held.operations and held.is_prefix)
        first = next(held, None)
        return None if first is None else first.prefix

    def has_expired(self, now: float) -> bool:
        """Whether the grant has expired at a time in Unix seconds."""
        return self.expires_at is not None and not now < self.expires_at  # nor does NaN grant anything


EVERYTHING: Final = Capability(_ANY, frozenset(Permission))
"""Of a token without restrictions."""
ANYBODY: Final = Grant("anybody", (Capability(_ANY, frozenset({Permission.READ, Permission.ADMIN})),))
"""Of every client of a server without tokens, which is on loopback only."""


class Verifier(Protocol):
    """Checks tokens, and returns their rights."""

    def verify(self, token: str) -> Grant | Awaitable[Grant]:
        """Return what a token grants; or, as an `async def` does, what is to be awaited for it.

        Any other error than a `TokenError`, and an awaited answer that has not come in 5 s, mean that tokens cannot be
        checked now: none is accepted, and clients are told to try again.

        Raises:
            TokenError: it is not accepted, or has expired.

        Threads: called and awaited on the gateway's event loop, so it must not block. It is cancelled if the answer is
        late, or the client has gone.
        """


class StaticTokens:
    """Tokens from a file, one a line. Made by `single` or `from_file`.

    ```
    # empty lines and comments like this one are ignored
    TOKEN
    TOKEN read,send org1:*
    TOKEN read * launch,terminate org1:*
    ```

    The first token may do everything; the second may read agents whose id begins with `org1:` and send to them; any
    number of pairs of operations and agents may follow a token. The nth token's subject is `token-n`, so add new ones
    at the end. A token in a file is printable ASCII without spaces. Only digests of tokens are kept.
    """

    def __init__(self) -> None:
        self._grants: dict[bytes, Grant] = {}

    @classmethod
    def single(cls, token: str) -> Self:
        """Accept one token, which may do everything.

        Raises:
            InvalidValueError: a client could not present it.
        """
        tokens = cls()
        tokens._add(token, (EVERYTHING,))
        return tokens

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Accept the tokens in a file.

        Raises:
            InvalidValueError: the file cannot be read, has no token, or has an invalid line, which the error names.
        """
        tokens = cls()
        for number, line in enumerate(read_key_file(path).split(b"\n"), 1):
            words = [word.decode("ascii", "replace") for word in line.split()]
            if not words or words[0].startswith("#"):
                continue
            try:
                tokens._add(words[0], _capabilities(words[1:]))
            except InvalidValueError as error:
                raise InvalidValueError(f"line {number} of the token file {path} is invalid: {error}") from None
        if not tokens._grants:
            raise InvalidValueError(f"the token file {path} has no token: add a line with one, in printable ASCII")
        return tokens

    def _add(self, token: str, capabilities: tuple[Capability, ...]) -> None:
        if not (token.isascii() and token.isprintable() and 0 < len(token) <= MAX_TOKEN_BYTES):
            raise InvalidValueError(f"a token is 1 to {MAX_TOKEN_BYTES:,} printable ASCII characters")
        digest = _digest(token)
        if digest in self._grants:
            raise InvalidValueError(f"this repeats {self._grants[digest].subject}: list each token only once")
        if len(self._grants) == MAX_TOKENS:
            raise InvalidValueError(f"there may be at most {MAX_TOKENS:,} tokens: use JSON web tokens for more users")
        self._grants[digest] = Grant(f"token-{len(self._grants) + 1}", capabilities)

    def verify(self, token: str) -> Grant:
        """Return what a token grants.

        Raises:
            TokenError: it is not one of these.
        """
        presented = _digest(token)
        granted: Grant | None = None
        for digest, grant in self._grants.items():  # always all: the time must not tell which one matched
            if hmac.compare_digest(digest, presented):
                granted = grant
        if granted is None:
            raise TokenError("this token is not accepted: ask for a new one")
        return granted


def _digest(token: str) -> bytes:
    """Return the digest that is compared in place of a token: it has a fixed length, and is not a secret."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _capabilities(words: list[str]) -> tuple[Capability, ...]:
    if not words:
        return (EVERYTHING,)
    if len(words) % 2:
        raise InvalidValueError("after the token come pairs of operations and agents, as in `read,send org1:*`")
    return tuple(_capability(*pair) for pair in zip(words[::2], words[1::2], strict=True))


def _capability(operations: str, agent: str) -> Capability:
    """Return the capability that two words name. No error quotes them: they may be part of a misplaced token."""
    names = frozenset(operations.split(","))
    if not names <= frozenset(Permission):
        raise InvalidValueError(f"operations are {', '.join(Permission)}, separated by commas without spaces")
    try:
        return Capability(agent, frozenset(map(Permission, names)))
    except InvalidValueError:
        raise InvalidValueError(
            "agents are an id of 1 to 128 of the characters A-Z a-z 0-9 . _ : -, a prefix and `*`, or `*`"
        ) from None


def read_key_file(path: Path | str, *, is_secret: bool = True) -> bytes:
    """Return the content of a file; log a warning if it is secret and other users of the machine may read it.

    Raises:
        InvalidValueError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise InvalidValueError(f"the file {path} cannot be read: {error.strerror}") from error
    if is_secret and mode & _OTHERS:
        logger.warning("%s is secret, and other users of this machine may read it: chmod 600 %s", path, path)
    return content
