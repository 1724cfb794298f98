"""Running a source: each blocking one on a thread of its own, each async one as a task of a loop.

Owns the run from its start to its end, which it tells the agent's actor. Must never block an actor or an event loop,
and must never let a source's error go anywhere but into its agent's end.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Union

import msgspec

from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.errors import SourceCancelledError
from commitcast.actors.messages import SourceEnded, Start
from commitcast.actors.sources.closing import aclosed, close_unfinished_by, closed
from commitcast.actors.sources.context import AgentContext
from commitcast.actors.sources.draft import Draft, Ending, clean_error
from commitcast.actors.sources.emitter import Ask, Emitter, Tell
from commitcast.actors.sources.tasks import SourceTask, SourceTasks
from commitcast.actors.sources.threads import SourceThreads
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentRecord, AgentStatus
from commitcast.persistence.writes import NewMessage, encode_json

if TYPE_CHECKING:  # its module, with the parsers, is loaded by hosts that make a command
    from commitcast.actors.sources.command import CommandSource

logger: Final = logging.getLogger(__name__)


Source = Union[Callable[[AgentContext], Any], "CommandSource"]  # `|` needs the class


class RunServices(msgspec.Struct, frozen=True):
    """What every run of a source in a runtime works with."""

    ask: Ask
    tell: Tell
    credit: CreditLimiter
    threads: SourceThreads
    tasks: SourceTasks
    now: Callable[[], str]


class SourceRunner:
    """One run of an agent's source."""

    def __init__(
        self,
        source: Source,
        record: AgentRecord,
        services: RunServices,
        loop: Callable[[], asyncio.AbstractEventLoop],
        before: "SourceRunner | None" = None,
    ) -> None:
        """Make a run; nothing begins.

        Args:
            source: a checked source.
            record: of the agent, as created.
            services: those of the runtime.
            loop: returns the running loop for an async source.
            before: the run before this one; None for the first.
        """
        self._source = source
        self._record = record
        self._services = services
        self._loop = loop
        self._has_begun = False
        self._has_ended = False
        self._emitter = Emitter(record.id, services.ask, services.tell, services.credit, services.now)
        self.takes_input = getattr(source, "takes_input", True)
        self.context: AgentContext = AgentContext(
            id=record.id,
            epoch=record.epoch,
            type=record.type,
            prompt=record.prompt,
            configuration=record.configuration,
            emitter=self._emitter,
            attempt=0 if before is None else before.context.attempt + 1,
            inbox=None if before is None else before.context.inbox,
            processes=services.threads.processes,
        )
        self.inbox = self.context.inbox

    # The agent's side.

    def start(self) -> None:
        """Begin. Does not block."""
        if _is_async(self._source):
            self._start_task(self._source)
        else:
            self._services.threads.start(f"Source-{self._record.id}", self._run)

    def cancel(self) -> None:
        """Ask the source to stop. Idempotent; does not block."""
        self.context.cancelled.set()
        self.inbox.end()
        if self._emitter.task is not None and self._emitter.task.is_on_closed_loop:
            self._end(Ending(status=AgentStatus.TERMINATED, error_message="its event loop was closed"))

    def last_words(self) -> list[NewMessage]:
        """Return what the source has made or kept back and not put yet, once. It can put no more after that.

        Threads: the agent's; blocks for as long as the source takes to understand a line.
        """
        if self.context.last_words is None or (put_messages := self._emitter.silence()) is None:
            return []
        return [self._emitter.storable(draft) for draft in self.context.last_words(put_messages)]

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that it runs on, if it is an async source. Any thread."""
        return None if self._emitter.task is None else self._emitter.task.loop

    @property
    def has_processes(self) -> bool:
        """Whether there may be processes of it until it has ended. Ask after `cancel`: then no more are started."""
        return self._has_begun and getattr(self._source, "owns_processes", False)

    def again(self) -> "SourceRunner":
        """Return another run of the same source, with the same inbox; not begun yet."""
        return SourceRunner(self._source, self._record, self._services, self._loop, self)

    # The run.

    def _run(self) -> None:
        try:
            ending = self._run_blocking()
        except BaseException as error:  # any error of a source ends its agent, SystemExit too
            ending = self._ending_of(error)
        self._end(ending)

    def _run_blocking(self) -> Ending | None:
        """Run a source on this thread; return how it ended, or None if it goes on as a task."""
        self._begin()
        if not callable(self._source):
            return self._source.run(self.context)
        output = self._source(self.context)
        if isinstance(output, (AsyncIterable, Awaitable)):
            self._start_task(lambda _: output)
            return None
        with closed(_iterable(output)) as values:
            for value in values:
                self._emitter.put(Draft.of(value))
        return Ending()

    def _begin(self) -> None:
        self._has_begun = True  # before the check, so that one of two sees the other (`has_processes`)
        if self.context.cancelled.is_set():
            raise SourceCancelledError(self._record.id)
        if self.context.attempt == 0:
            self._services.ask(self._record.id, Start())

    def _start_task(self, source: Any) -> None:
        self._emitter.task = self._services.tasks.start(
            self._loop(),
            lambda task: self._run_task(task, source),
            lambda: self._end(self._ending_of(asyncio.CancelledError())),
        )

    async def _run_task(self, task: SourceTask, source: Any) -> None:
        close_unfinished_by(self._services.tasks.close)
        self._emitter.task = task
        self.context.cancelled.on_set(task.cancel)
        try:
            self._begin()
            ending = await self._run_async(source)
        except BaseException as error:  # any error of a source ends its agent; the loop serves others too
            ending = self._ending_of(error)
        self._end(ending)

    async def _run_async(self, source: Any) -> Ending:
        output = source(self.context)
        if isinstance(output, Awaitable):
            output = await output
        if isinstance(output, AsyncIterable):
            async with aclosed(output) as values:
                async for value in values:
                    await self._emitter.put_async(Draft.of(value))
        else:
            with closed(_iterable(output)) as ready:
                for value in ready:
                    await self._emitter.put_async(Draft.of(value))
        return Ending()

    # Its end.

    def _ending_of(self, error: BaseException) -> Ending:
        """Return the ending for what a source has raised: a failure, unless its agent cancelled it."""
        if self.context.cancelled.is_set() and _is_cancellation(error):
            return Ending(status=AgentStatus.TERMINATED)
        return _failure(self._record.id, error)

    def _end(self, ending: Ending | None) -> None:
        """Tell the actor how it ended, once; None if the source goes on elsewhere."""
        if ending is not None and not self._has_ended:
            self._has_ended = True
            self._services.tell(self._record.id, SourceEnded(_checked(self._record.id, ending)))


def check_source(source: Any) -> Source:
    """Return the source if it is one.

    Raises:
        InvalidValueError: it cannot be called.
    """
    if callable(source) or getattr(source, "owns_processes", False):
        checked: Source = source
        return checked
    raise InvalidValueError(
        f"a source must be a callable that takes an AgentContext, or a CommandSource, not {type(source).__name__}: "
        "wrap a finished list as `lambda context: [...]`"
    )


def _is_async(source: Any) -> bool:
    call = source if inspect.isroutine(source) else type(source).__call__ if callable(source) else source
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def _iterable(output: Any) -> Iterable[Any]:
    if output is None:
        return ()
    if isinstance(output, (str, Draft)):
        return (output,)
    if isinstance(output, Iterable):
        return output
    raise TypeError(f"a source must return or yield str or Draft, not {type(output).__name__}")


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):  # a TaskGroup whose tasks were cancelled in different ways
        return all(map(_is_cancellation, error.exceptions))
    return isinstance(error, (asyncio.CancelledError, SourceCancelledError))


def _failure(agent: str, error: BaseException) -> Ending:
    ending = Ending.of(error)
    if isinstance(error, asyncio.CancelledError):
        why = "its task, or something that it awaited, was cancelled by other code, not by its agent"
        ending = msgspec.structs.replace(ending, error_message=f"{why} ({ending.error_message})")
    try:
        logger.warning("the source of agent %s failed", agent, exc_info=error)
    except Exception:  # a defect in the error's own text must not hide the error
        logger.warning("the source of agent %s failed: %s", agent, ending.error_name)
    return ending


def _checked(agent: str, ending: Ending) -> Ending:
    """Return the ending, or a failure if it holds what cannot be stored."""
    try:
        if ending.result is not None:
            encode_json(ending.result, "the result of the source")
    except InvalidValueError as error:
        return _failure(agent, error)
    message = ending.error_message
    return ending if message is None else msgspec.structs.replace(ending, error_message=clean_error(message))
