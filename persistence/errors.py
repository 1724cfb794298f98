"""The errors of the store and of the values in it, as one tree. Facts go in, `__str__` makes the sentence.

CommitcastError
├── InvalidValueError (ValueError)            a value that cannot be stored
├── AgentNotFoundError (LookupError)          no agent has this id
├── AgentExistsError (ValueError)             the id is taken
├── IdempotencyConflictError (ValueError)     the key was used with another body
├── IllegalTransitionError (ValueError)       the lifecycle does not allow this change
├── SequenceAheadError (ValueError)           a cursor beyond the head: a witness of loss
├── NotOwnerError (RuntimeError)              the agent is at work in another runtime
├── AgentLeftError                            the runtime that the agent was at work in has just ended
├── ForkedRuntimeError (RuntimeError)         the process was forked from the one that has the runtime
├── StaleEpochError (ValueError)              a cursor of another history
├── RemoteError                               an error of another process, of a class that is not loaded here
│   ├── HostError                             of another host
│   └── ServerError (StoreError)              of the server process of the file
└── StoreError
    ├── LinkError                             a process at the other end of a connection is not one of ours
    ├── StoreOpenError (OSError)              the store was refused at start and left untouched
    │   ├── StorePathError                    a link, or a name that SQLite cannot use
    │   ├── NotADatabaseError
    │   ├── StoreCorruptError
    │   ├── StoreReadOnlyError (PermissionError)
    │   ├── StoreLockedError                  another runtime has it open
    │   ├── SettingsConflictError             the server of the file has it open with other settings
    │   ├── ServerStartError                  the server process of the file could not be started or reached
    │   ├── SchemaTooNewError
    │   └── StoreSettingError                 a pragma did not take
    ├── NotStoredError                        rolled back: nothing of it is on disk
    │   ├── StoreUnavailableError             the system refused temporarily: try again later
    │   │   ├── StoreBusyError (TimeoutError)
    │   │   └── StoreFullError
    │   ├── RowRefusedError                   a constraint refused this row
    │   └── PrecedingRefusedError             an earlier append of the agent was refused
    ├── StoreReadError                        what is stored could not be read
    │   └── StoreReadTimeoutError (TimeoutError)
    ├── StoreUnknownError                     the commit failed half-way: it may be on disk
    └── StoreClosedError                      the store was closed
        └── ServerLostError                   the server process of the file has ended
"""

from typing import Any, ClassVar


class CommitcastError(Exception):
    """The root of the tree. `code` is stable, `retryable` says whether the same call may work later."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    hint: ClassVar[str] = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy it by its facts: the arguments of its class need not be those of its base."""
        return CommitcastError._rebuilt, (self.__class__, self.args, self.__dict__)

    @staticmethod
    def _rebuilt(kind: "type[CommitcastError]", args: tuple[Any, ...], facts: dict[str, Any]) -> "CommitcastError":
        error = kind.__new__(kind, *args)
        super(CommitcastError, error).__init__(*args)  # an OSError keeps its number and text apart
        error.__dict__.update(facts)
        return error


class InvalidValueError(CommitcastError, ValueError):
    """A value that cannot be stored without loss; nothing was stored."""

    code = "bad_request"


class AgentNotFoundError(CommitcastError, LookupError):
    """No agent has this id."""

    code = "not_found"
    hint = "launch it first, or list the ids with `commitcast agents`"

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return f"there is no agent {self.agent!r}: {self.hint}"


class AgentExistsError(CommitcastError, ValueError):
    """An agent with this id exists already; its messages are untouched."""

    code = "bad_request"

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return f"there is already an agent {self.agent!r}: choose another id"


class IdempotencyConflictError(CommitcastError, ValueError):
    """An idempotency key was used again with a different body; the first one stands."""

    code = "bad_request"

    def __init__(self, key: str, what: str) -> None:
        super().__init__(key, what)
        self.key = key
        self.what = what

    def __str__(self) -> str:
        return f"the key {self.key!r} was already used for a different {self.what}: use a new key for each {self.what}"


class IllegalTransitionError(CommitcastError, ValueError):
    """The lifecycle does not allow this change of status; nothing was changed."""

    code = "conflict"

    def __init__(self, agent: str, previous: str, status: str) -> None:
        super().__init__(agent, previous, status)
        self.agent = agent
        self.previous = previous
        self.status = status

    def __str__(self) -> str:
        hint = ": call `start()` first" if (self.previous, self.status) == ("initializing", "completed") else ""
        return f"agent {self.agent!r} is {self.previous} and cannot become {self.status}{hint}"


class SequenceAheadError(CommitcastError, ValueError):
    """A cursor lies beyond the last stored message: the store lost data, or the cursor is of another store."""

    code = "ahead"

    def __init__(self, after: int, head: int) -> None:
        super().__init__(after, head)
        self.after = after
        self.head = head

    def __str__(self) -> str:
        return (
            f"cannot continue after {self.after}: the store ends at {self.head}, so it has lost data "
            "or is another store; tell its operator, and start again after 0"
        )


class NotOwnerError(CommitcastError, RuntimeError):
    """The agent is at work in another runtime of the file, which alone writes to it; nothing was stored."""

    code = "conflict"

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return (
            f"agent {self.agent!r} is at work in another runtime, which alone emits its messages and ends it: "
            "send to it, terminate it, or wait for its end"
        )


class AgentLeftError(CommitcastError):
    """The agent was at work in another runtime, which has just ended. What it was asked it may have done or not."""

    code = "unavailable"
    retryable = True

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return f"the runtime that agent {self.agent!r} was at work in has just ended: read its status, and try again"


class ForkedRuntimeError(CommitcastError, RuntimeError):
    """This process was forked from the one that runs the runtime or has the store open, and cannot use it."""

    code = "unavailable"
    hint = (
        'start the runtime after the fork, or start the process with multiprocessing\'s "spawn", '
        "or have it connect to the runtime's gateway"
    )

    def __str__(self) -> str:
        return f"a forked process cannot use the runtime of its parent: {self.hint}"


class StaleEpochError(CommitcastError, ValueError):
    """A cursor belongs to another history: an earlier agent with that id, another file, or one undone by a restore."""

    code = "stale_epoch"

    def __init__(self, epoch: str, now: str) -> None:
        super().__init__(epoch, now)
        self.epoch = epoch
        self.now = now

    def __str__(self) -> str:
        return f"the cursor belongs to epoch {self.epoch[:40]!r}, but this is {self.now!r}: start again after 0"


class RemoteError(CommitcastError):
    """An error of another process, of a class that is not loaded in this one. Has its text, code and `retryable`."""

    failure: Any = None
    """The error as it was sent, so that it can be passed on as it is."""

    def __init__(self, text: str, code: str = "internal", retryable: bool = False) -> None:
        super().__init__(text, code, retryable)
        self.text = text
        self.code = code  # type: ignore[misc]  # of each of its errors
        self.retryable = retryable  # type: ignore[misc]  # as above

    def __str__(self) -> str:
        return self.text


class HostError(RemoteError):
    """Another host refused or failed at what it was asked."""


class StoreError(CommitcastError):
    """The base of all errors about the store itself."""

    code = "unavailable"


class ServerError(RemoteError, StoreError):
    """The server process of the file failed at something; its log, which this process writes, says more."""


class LinkError(StoreError):
    """The other end of a connection does not speak this protocol, does not read, or is of another user."""


class StoreOpenError(StoreError, OSError):
    """The store was refused at start, and was not changed."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"cannot open {self.path}: {self.why}"


class StorePathError(StoreOpenError):
    """Links would let two runtimes open the file, or SQLite cannot use its name."""


class NotADatabaseError(StoreOpenError):
    """The file is not a database, or not one of commitcast's."""


class StoreCorruptError(StoreOpenError):
    """The file is damaged."""


class StoreReadOnlyError(StoreOpenError, PermissionError):
    """The file or its folder cannot be written."""


class StoreLockedError(StoreOpenError):
    """Another runtime has the file open."""


class SettingsConflictError(StoreOpenError):
    """The server of the file was started with other settings. Nothing was changed."""


class ServerStartError(StoreOpenError):
    """The server process of the file could not be started, or did not answer in time."""


class SchemaTooNewError(StoreOpenError):
    """The file was written by a newer version."""


class StoreSettingError(StoreOpenError):
    """A setting that durability rests on did not take effect."""


class NotStoredError(StoreError):
    """The transaction was rolled back: nothing of it is on disk."""

    retryable = True


class StoreUnavailableError(NotStoredError):
    """The system refused the transaction temporarily, e.g. for lack of descriptors or memory; it was rolled back."""


class StoreBusyError(StoreUnavailableError, TimeoutError):
    """Another program held the database longer than the timeout."""


class StoreFullError(StoreUnavailableError):
    """There is no space for the transaction: on the disk, in a quota, of inodes, or below a limit of file sizes."""


class RowRefusedError(NotStoredError):
    """A constraint of the schema refused this row; the others of its batch are not touched."""

    retryable = False


class PrecedingRefusedError(NotStoredError):
    """An earlier append of the same agent was refused, so this one would leave a hole in the text."""

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent

    def __str__(self) -> str:
        return (
            f"an earlier message of agent {self.agent!r} was refused, so this one was refused too: "
            "send both again, in order"
        )


class StoreReadError(StoreError):
    """A read failed: another program held the database too long, or what is stored is damaged."""

    retryable = True

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"the store cannot be read ({self.why}): try again; if it fails again, run `commitcast verify`"


class StoreReadTimeoutError(StoreReadError, TimeoutError):
    """A read reached its time limit while it waited for a commit or another program."""

    def __init__(self) -> None:
        super().__init__("a commit or another program locked the database for longer than a read may wait")


class StoreUnknownError(StoreError):
    """A commit failed half-way: it may or may not be on disk. The runtime stops; the next start finds out."""

    code = "internal"


class StoreClosedError(StoreError):
    """The store was closed."""

    def __str__(self) -> str:
        return "the store is closed: start the runtime again"


class ServerLostError(StoreClosedError):
    """The server process of the file is lost. What was acknowledged is on disk; the next start recovers the rest."""

    def __init__(self, path: str, why: str | None = None) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why
        """What has ended the connection; None: the server process has ended."""

    def __str__(self) -> str:
        if self.why is None:
            return f"the server process of {self.path} has ended: start a runtime again, which starts another"
        return f"the connection with the server process of {self.path} is lost ({self.why}): start a runtime again"
