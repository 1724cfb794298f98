"""A writer at the other end of a connection, by hand: nothing arrives, is committed or answered until a test says so.

The host's half of it and the server's are real, but for the threads and sockets; one host has the server to itself.
"""

from collections import deque
from collections.abc import Sequence

from commitcast.actors.backend import Answered
from commitcast.gateway.process.batches import Batch, Batches
from commitcast.persistence.errors import NotStoredError, ServerLostError
from commitcast.persistence.remote.commits import Commits
from commitcast.persistence.remote.failures import failure_of
from commitcast.persistence.remote.frames import Commit, Frame, NotStored, pack, unpack
from commitcast.persistence.remote.owners import Owners
from commitcast.persistence.store import Store
from commitcast.persistence.writes import AgentWrites


class FarWriter:
    """Implements `Writer`."""

    answers_later = True

    def __init__(self, store: Store) -> None:
        self.commits = Commits(self._send)
        self.may_submit = self.commits.may_submit
        self.owners = Owners()
        self.most_in_flight = 0
        self._store = store
        self._batches = Batches(self.owners)
        self._on_their_way: deque[Commit] = deque()
        self._answers: deque[Frame] = deque()
        self._refuses = 0

    @property
    def name(self) -> str:
        """Of the store."""
        return self._store.name

    def submit(self, work: Sequence[AgentWrites], rows: int, answered: Answered, after: int) -> int:
        """Send a batch."""
        return self.commits.submit(work, answered, after)

    def _send(self, frame: Frame) -> None:
        frame = unpack(pack(frame)[4:])
        assert isinstance(frame, Commit)
        self._on_their_way.append(frame)
        self.most_in_flight = max(
            self.most_in_flight, len(self._on_their_way) + len(self._batches) + len(self._answers)
        )

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is on its way."""
        return not (self._on_their_way or len(self._batches) or self._answers)

    def arrive(self) -> None:
        """Let the next batch arrive."""
        if self._on_their_way:
            commit = self._on_their_way.popleft()
            self._batches.put(Batch(self, commit.number, commit.after, commit.work, 0))

    def refuse_next(self) -> None:
        """Let the next commit fail, so that nothing of it is stored."""
        self._refuses += 1

    def commit(self) -> None:
        """Let the server commit what has arrived."""
        transaction = self._batches.take()
        if transaction is None:
            return
        if self._refuses:
            self._refuses -= 1
            for batch in transaction.batches:
                self._batches.refusals.note_all(batch)
                self._answers.append(NotStored(batch.number, failure_of(NotStoredError("not now"))))
            return
        outcomes = self._store.commit(transaction.work) if transaction.work else []
        self._answers += [answer for _, answer, _ in transaction.answers(outcomes, 0)]

    def answer(self) -> None:
        """Let the next answer come."""
        if self._answers:
            self.commits.on_frame(unpack(pack(self._answers.popleft())[4:]), 0)

    def step(self) -> None:
        """Let whatever is on its way go one step further."""
        self.answer()
        self.commit()
        self.arrive()

    def lose(self) -> None:
        """Let the server be gone, with what is on its way."""
        self._on_their_way.clear()
        self._answers.clear()
        self._batches = Batches(self.owners)
        self.commits.lose(ServerLostError(self.name))
