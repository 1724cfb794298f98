"""The errors of the actor library. Facts go in, `__str__` makes the sentence.

CommitcastError
├── BackpressureError (TimeoutError)      the receiver has reached its limit; try again
│   └── MailboxFullError                  an actor's mailbox is full; try again
├── WouldBlockError (RuntimeError)        a callback wanted to wait on a thread that runs actors
├── FutureTimeoutError (TimeoutError)     no answer within the time given; it may still come
└── FutureCancelledError                  the request was cancelled before it began

DeadlockError (AssertionError)            for tests: what is waited for cannot happen

Two more come from the tree of the floor below: `ForkedRuntimeError` in a forked child, and `InvalidValueError` for a
restart policy that cannot be used.
"""

import pykka

from commitcast.persistence.errors import CommitcastError


class BackpressureError(CommitcastError, TimeoutError):
    """The receiver has reached its limit, so what was sent to it was refused."""

    code = "unavailable"
    retryable = True

    def __init__(self, receiver: str) -> None:
        super().__init__(receiver)
        self.receiver = receiver

    def __str__(self) -> str:
        return f"{self.receiver} has reached its limit: wait, then send it again"


class MailboxFullError(BackpressureError):
    """An actor's mailbox is full."""

    def __init__(self, actor: str, limit_messages: int) -> None:
        super().__init__(actor)
        self.limit_messages = limit_messages

    def __str__(self) -> str:
        return f"the mailbox of {self.receiver} is full ({self.limit_messages} messages): wait, then send it again"


class WouldBlockError(CommitcastError, RuntimeError):
    """A thread that runs actors was asked to wait for one, possibly for itself."""

    code = "internal"

    def __str__(self) -> str:
        return (
            "this call would block a thread that runs actors (in an actor's turn, or a future's callback): "
            "use add_done_callback, or hand the work to a thread of your own"
        )


class FutureTimeoutError(CommitcastError, pykka.Timeout, TimeoutError):
    """A future was not completed within the timeout. The request continues."""

    code = "unavailable"
    retryable = True

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"no answer within {self.timeout:g} seconds: it may still come, so wait again before repeating the request"
        )


class FutureCancelledError(CommitcastError):
    """The request was cancelled before its actor had begun with it; nothing was done."""

    code = "unavailable"
    retryable = True

    def __str__(self) -> str:
        return "the request was cancelled before it began: nothing was done"


class DeadlockError(AssertionError):
    """The test waits for what cannot happen: no actor has work, and no timer is left."""
