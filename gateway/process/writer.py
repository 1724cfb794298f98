"""The writer: takes the batches of all hosts, commits what waits together, and answers.

Owns the order of everything that is stored. Its thread is the one that waits for the hosts' batches, so that no other
has to be woken between a batch and its commit; it blocks for each commit. Must never answer before the commit has
returned, and must never repeat a commit whose outcome is unknown.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic_ns, perf_counter
from typing import Final, Protocol

from commitcast.gateway.process.batches import Batch, Batches, Transaction
from commitcast.persistence.errors import (
    InvalidValueError,
    LinkError,
    NotStoredError,
    StoreUnavailableError,
    StoreUnknownError,
)
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import MAX_BATCHES, Commit, Frame, NotStored, Stored
from commitcast.persistence.remote.loop import Loop, Timer
from commitcast.persistence.remote.owners import Owners
from commitcast.persistence.store import Store
from commitcast.persistence.writes import AgentWrites, Outcome

logger: Final = logging.getLogger(__name__)

RETRY_S: Final = 0.5
"""Between two attempts at a commit that the store refuses for the moment."""


class CommittingHost(Protocol):
    """A host, as the writer knows it."""

    casts: bool
    """It casts what is committed for it."""
    has_abandoned: bool
    """It wants its batches that wait for something outside to be given up."""

    def answer(self, frame: Frame) -> None:
        """Send the answer to a batch. Any thread; never blocks."""


OnStored = Callable[[CommittingHost, Sequence[AgentWrites], list[Outcome]], object]
"""Takes a host, what it wanted written, and what was written of it, before the host is told."""


class Writer:
    """The one writer of a store. `run` is its thread."""

    def __init__(
        self,
        store: Store,
        *,
        on_stored: OnStored,
        on_waiting: Callable[[str | None], object],
        on_fatal: Callable[[Exception], object],
    ) -> None:
        """Make it.

        Args:
            store: open; only this calls its `commit`.
            on_stored: called with everything that was committed, before it is answered.
            on_waiting: called with the reason when a commit is kept waiting, and with None when it is over.
            on_fatal: called once when the outcome of a commit is unknown; nothing is written after that.
        """
        self.owners = Owners()
        self.loop = Loop(self._commit_what_waits)
        """Receives the batches."""
        self.commits = 0
        self.refusals = 0
        """Commits that were refused for the moment."""
        self.busy_s = 0.0
        """Spent in commits."""
        self.busy_since: float | None = None
        """When the commit under way began, by `time.perf_counter`; None if there is none. Any thread reads it."""
        self._store = store
        self._on_stored = on_stored
        self._on_waiting = on_waiting
        self._on_fatal = on_fatal
        self._batches = Batches(self.owners)
        self._retry: Timer | None = None
        """The next attempt at a commit that the store refuses for the moment."""
        self._is_refused = False
        """Whether the store has refused the last commit for the moment."""
        self._fatal: Exception | None = None
        self._thread = threading.Thread(target=self.loop.run, name="writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """End after the commit under way; return whether it has ended in time. Blocks."""
        if self._thread.ident is None:  # it was never started
            return True
        self.loop.stop()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # On its thread.

    def put(self, host: CommittingHost, commit: Commit, size: int) -> None:
        """Take a batch of a host.

        Raises:
            LinkError: it has more of them unanswered than it may.
        """
        if self._batches.count(host) >= MAX_BATCHES:
            raise LinkError(f"more than {MAX_BATCHES} batches are unanswered")
        self._batches.put(Batch(host, commit.number, commit.after, commit.work, size))

    def try_again(self) -> None:
        """Try again what waits for something outside: it is time, or a host has given it up."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def drop(self, host: CommittingHost) -> None:
        """Forget the batches of a host that is gone and that were not begun."""
        self._batches.drop(host)

    def _commit_what_waits(self) -> None:
        if self._retry is not None:
            return
        transaction = self._batches.take()
        if transaction is None:
            return
        if self._fatal is not None:
            self._refuse(transaction.batches, NotStoredError(str(self._fatal)))
        else:
            self._commit(transaction)
            self.busy_since = None
        if len(self._batches):
            self.loop.call(_nothing)  # come here again, after what has arrived meanwhile

    def _commit(self, transaction: Transaction) -> None:
        began = self.busy_since = perf_counter()
        try:
            outcomes = self._store.commit(transaction.work) if transaction.work else []
        except StoreUnavailableError as error:
            self._wait(transaction.batches, error)
        except NotStoredError as error:
            self._refuse(transaction.batches, error)
        except BaseException as error:  # it may be stored or not, so going on could repeat or lose it
            self._stop_writing(transaction.batches, error)
        else:
            committed_ns = next((out.committed.committed_ns for out in outcomes if out.committed), 0) or monotonic_ns()
            self.commits += 1
            self.busy_s += perf_counter() - began
            for batch, answer, stored in transaction.answers(outcomes, committed_ns):
                self._tell_stored(batch, stored)
                self._answer_stored(batch, answer)
            if self._is_refused:
                self._is_refused = False
                self._on_waiting(None)

    def _tell_stored(self, batch: Batch, stored: list[Outcome]) -> None:
        try:
            self._on_stored(_host(batch), batch.work, stored)
        except Exception:  # a defect of ours: it is stored, so its host, and those after it, must be told
            logger.exception("what was committed could not be passed on to subscribers, who find it in the store")

    def _answer_stored(self, batch: Batch, answer: Stored) -> None:
        """Answer a batch, whatever else: one that is stored and not answered would be waited for without end."""
        try:
            _host(batch).answer(answer)
        except InvalidValueError as error:  # it has many large records in it, and is longer than a frame may be
            logger.error("a batch of %s was stored, and its answer is too long to be sent: %s", self._store.name, error)
            unknown = StoreUnknownError(
                f"what was written is stored, but cannot be told ({error}): start a runtime again"
            )
            _host(batch).answer(NotStored(batch.number, failure_of(unknown)))

    def _wait(self, batches: Sequence[Batch], error: StoreUnavailableError) -> None:
        """Keep the batches for another attempt, but for those of hosts that give up."""
        self.refusals += 1
        if not self._is_refused:
            self._is_refused = True
            logger.warning("%s: %s; it is retried, and agents wait until it succeeds", self._store.name, error)
            self._on_waiting(str(error))
        self._refuse([batch for batch in batches if _host(batch).has_abandoned], error)
        kept = [batch for batch in batches if not _host(batch).has_abandoned]
        self._batches.put_back(kept)
        if kept:
            self._retry = self.loop.call_later(RETRY_S, self.try_again)

    def _refuse(self, batches: Sequence[Batch], error: Exception) -> None:
        failure = failure_of(error)
        for batch in batches:
            self._batches.refusals.note_all(batch)
            _host(batch).answer(NotStored(batch.number, failure))

    def _stop_writing(self, batches: Sequence[Batch], error: BaseException) -> None:
        if not isinstance(error, Exception):
            error = StoreUnknownError(f"the writer of {self._store.name} failed: {error!r}")
        self._fatal = error
        logger.critical("%s: %s", self._store.name, error)
        self._refuse(batches, error)
        self._on_fatal(error)


def _host(batch: Batch) -> CommittingHost:
    host: CommittingHost = batch.owner
    return host


def _nothing() -> None:
    """Wake the loop."""
