"""The host's batches on their way to the server: sent in order, a few at a time, and answered in order.

Owns the writes until they are answered, because the records are made of them. `submit` may be called by one thread at a
time, of any; answers come on the loop of the connection.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from commitcast.persistence.errors import (
    CommitcastError,
    ForkedRuntimeError,
    InvalidValueError,
    LinkError,
    NotStoredError,
    StoreUnknownError,
)
from commitcast.persistence.remote.failures import error_of
from commitcast.persistence.remote.frames import MAX_BATCHES, Commit, Frame, NotStored, Stored
from commitcast.persistence.remote.outcomes import outcome_of
from commitcast.persistence.remote.owners import Owners
from commitcast.persistence.remote.unsendable import Replaced
from commitcast.persistence.writes import AgentWrites, Outcome

FURTHER_ROWS: Final = 256
"""A batch is sent while another one is unanswered only if it has as many writes: a smaller one would wait for that
commit at the server, and what comes meanwhile for the next. So it waits here, and all of it is in the next commit."""

Answered = Callable[[list[Outcome] | Exception], object]
"""Takes the outcomes of a batch, one for each `AgentWrites`, or why nothing of it was stored, or that it is not known.
Called once."""


class _Sent(NamedTuple):
    number: int
    work: Sequence[AgentWrites]
    answered: Answered


class Commits:
    """The batches of one host."""

    def __init__(self, send: Callable[[Frame], object]) -> None:
        """Make it with what sends a frame to the server."""
        self._send = send
        self._lock = threading.Lock()
        self._unanswered: deque[_Sent] = deque()
        self._number = 0
        self._lost: CommitcastError | None = None
        self._owners = Owners()

    def begin(self) -> None:
        """Accept batches again after `lose`: of no agent that is at work, and with new numbers."""
        with self._lock:
            self._lost = None
            self._number = 0
            self._owners = Owners()

    def owns(self, agent: str) -> bool:
        """Whether an agent that has not ended is at work in this host. Any thread."""
        return self._owners.of(agent) is self

    def may_submit(self, rows: int) -> bool:
        """Whether a batch with that many writes is to be sent now; else once another one is answered."""
        unanswered = len(self._unanswered)
        return not unanswered or (unanswered < MAX_BATCHES and rows >= FURTHER_ROWS)

    def submit(self, work: Sequence[AgentWrites], answered: Answered, after: int | None = None) -> int:
        """Send a batch without waiting; return its number, or 0 if it was not sent.

        Args:
            work: as for `Store.commit`.
            answered: called later on the loop of the connection; or now, if the batch was not sent, because the server
                is gone or something in it cannot be sent.
            after: the number of the last batch of whose refusals the caller knows; None: of the last one. What an agent
                has in this batch is refused if a message of it was refused in one between.
        """
        with self._lock:
            lost = self._lost
            if lost is None:
                self._number += 1
                self._unanswered.append(_Sent(self._number, work, answered))
        if lost is not None:
            answered(lost if isinstance(lost, ForkedRuntimeError) else NotStoredError(str(lost)))
            return 0
        try:
            self._send(Commit(self._number, self._number - 1 if after is None else after, list(work)))
        except InvalidValueError as error:  # nothing of it was sent
            return self._submit_what_can_be_sent(error, after)
        return self._number

    def _submit_what_can_be_sent(self, error: InvalidValueError, after: int | None) -> int:
        """Send the newest batch without what cannot be sent of it."""
        with self._lock:
            newest = self._unanswered.pop() if self._unanswered else None
            self._number -= 1
        if newest is None:  # the connection has ended meanwhile, and it was answered
            return 0
        replaced = Replaced(newest.work)
        if not replaced.is_needed:  # each of them could be sent, but not all together
            newest.answered(NotStoredError(str(error)))
            return 0
        return self.submit(replaced.work, lambda answer: newest.answered(replaced.put_right(answer)), after)

    # On the loop.

    def on_frame(self, frame: Frame, _: int) -> None:
        """Take the answer to the oldest batch.

        Raises:
            LinkError: it is not that.
        """
        if not isinstance(frame, (Stored, NotStored)):
            raise LinkError(f"a {type(frame).__name__} came on the connection for commits")
        unanswered = self._unanswered
        if self._lost is not None:
            return  # all were answered
        if not unanswered or unanswered[0].number != frame.number:
            raise LinkError(f"batch {frame.number} was answered out of order")
        answer = error_of(frame.failure) if isinstance(frame, NotStored) else self._outcomes(unanswered[0].work, frame)
        with self._lock:
            if self._lost is not None:
                return
            sent = unanswered.popleft()
        sent.answered(answer)

    def _outcomes(self, sent: Sequence[AgentWrites], frame: Stored) -> list[Outcome]:
        outcomes = []
        for work, part in zip(sent, frame.parts, strict=True):
            outcome = outcome_of(work, part, frame.committed_ns)
            if part.replies is not None:
                self._owners.note(self, work, outcome)
            outcomes.append(outcome)
        return outcomes

    def lose(self, error: CommitcastError) -> None:
        """Answer what was sent, because the server is gone: it may be stored or not. Idempotent. Any thread."""
        with self._lock:
            self._lost = error
            unanswered, self._unanswered = self._unanswered, deque()
        for sent in unanswered:
            sent.answered(StoreUnknownError(f"{error}; whether this was stored before is not known"))
