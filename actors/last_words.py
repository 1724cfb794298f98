"""Last words: what a source has read and not emitted yet when its agent is ended is stored before the end.

Used from the agent's turns only. Decides nothing; puts the last words into the mailbox, and the end behind them.
"""

from collections.abc import Callable
from typing import Any, Final

from commitcast.actors import messages
from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.kernel.future import Future
from commitcast.actors.kernel.mailbox import Envelope, Mailbox
from commitcast.actors.source_state import AgentSource

ENDS: Final = (messages.Complete, messages.Fail, messages.Terminate, messages.SourceEnded)
"""Commands that end an agent. A source that ended by itself has emitted everything before."""


class LastWords:
    """The last words of one agent's source."""

    __slots__ = ("_agent", "_credit", "_first_end", "_mailbox")  # every idle agent has one

    def __init__(self, agent: str, mailbox: Mailbox, credit: CreditLimiter) -> None:
        """Begin for an agent that is at work."""
        self._agent = agent
        self._mailbox = mailbox
        self._credit = credit
        self._first_end: messages.AgentCommand | None = None  # waits for the last words

    def come_before(
        self, end: messages.AgentCommand, source: AgentSource | None, asker: Callable[[], Future[Any] | None]
    ) -> bool:
        """Return whether an end has to wait for the last words: then it comes once more, after them.

        They go through the mailbox because what the source emitted just before is in it too.

        Args:
            end: the command.
            source: of the agent, unless that has ended.
            asker: takes over the answer to the command.
        """
        if end is self._first_end:
            self._first_end = None
            return False
        if self._first_end is None:
            words = [] if source is None or isinstance(end, messages.SourceEnded) else source.last_words()
            if not words:
                return False
            self._first_end = end
            for message in words:
                self._credit.force_acquire(self._agent, message.size)
                self._mailbox.put(Envelope(messages.Emit(message, from_source=True)))
        self._mailbox.put(Envelope(end, _still_wanted(asker())))
        return True


def _still_wanted(asker: Future[Any] | None) -> Future[Any] | None:
    """Return a future that answers the asker: what was begun goes on, also if the asker cancels meanwhile."""
    if asker is None:
        return None
    answer: Future[Any] = Future()
    answer.add_done_callback(lambda _: _pass_on(answer, asker))
    return answer


def _pass_on(answer: Future[Any], asker: Future[Any]) -> None:
    error = answer.exception(timeout=0)
    if error is None:
        asker.set(answer.get(timeout=0))
    else:
        asker.fail(error)
