"""Running a source: each blocking one on a thread of its own, each async one as a task of a loop.

Owns what lies between a source and its agent's actor: drafts made storable, the bound kept, the end told. Must never
block an actor or an event loop, and must never let a source's error go anywhere but into its agent's end.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from commitcast.actors.backpressure import CreditLimiter
from commitcast.actors.errors import BackpressureError, SourceCancelledError
from commitcast.actors.kernel.future import Future
from commitcast.actors.loop import running_loop
from commitcast.actors.messages import AgentCommand, Emit, Patch, SourceEnded, Start
from commitcast.actors.sources.closing import aclosed, close_unfinished_by, closed
from commitcast.actors.sources.context import AgentContext
from commitcast.actors.sources.draft import Draft, Ending
from commitcast.actors.sources.tasks import SourceTask, SourceTasks
from commitcast.actors.sources.threads import SourceThreads
from commitcast.persistence.errors import InvalidValueError
from commitcast.persistence.records import AgentRecord, AgentStatus, MessageRecord
from commitcast.persistence.writes import AgentPatch, NewMessage, encode_json, new_message

logger: Final = logging.getLogger(__name__)

CANCEL_CHECK_S: Final = 0.25
"""How often a source that waits at its bound looks whether it was cancelled."""


class RunsItself(Protocol):
    """A source that needs a whole thread and decides itself how it ended (a CLI process)."""

    echoes_prompt: bool

    def run(self, context: AgentContext) -> Ending:
        """Feed the agent until there is nothing more."""


Source = Callable[[AgentContext], Any] | RunsItself


class Channel(Protocol):
    """The way to the agents' actors."""

    def ask(self, agent: str, command: AgentCommand) -> Future[Any]:
        """Send a command and return the future of its answer."""

    def tell(self, agent: str, command: AgentCommand) -> bool:
        """Send a message; return whether anybody was there."""


class SourceRunner:
    """One agent's source while it runs. Implements the agent's `Feed` and the context's `Outlet`."""

    def __init__(
        self,
        source: Source,
        record: AgentRecord,
        channel: Channel,
        flow: CreditLimiter,
        threads: SourceThreads,
        tasks: SourceTasks,
        loop: Callable[[], asyncio.AbstractEventLoop],
        now: Callable[[], str],
        before: "SourceRunner | None" = None,
    ) -> None:
        """Make a runner.

        Args:
            source: a checked source.
            record: of the agent, as created.
            channel: the way to the actors.
            flow: counts what is on its way to the disk.
            threads: where a blocking source runs.
            tasks: an async source's is one of them.
            loop: returns the running loop on which an async source runs.
            now: the clock.
            before: the run that this one follows; None for the first.
        """
        self._record = record
        self._task: SourceTask | None = None  # of an async source
        self._has_ended = False
        self._has_begun = False
        self._source = source
        self._agent = record.id
        self._channel = channel
        self._threads = threads
        self._tasks = tasks
        self._loop = loop
        self._now = now
        self._flow = flow
        self._lock = threading.RLock()  # of the two below
        self._put_messages = 0
        self._is_silenced = False
        self.takes_input = getattr(source, "takes_input", True)
        self.context: AgentContext = AgentContext(
            id=record.id,
            epoch=record.epoch,
            type=record.type,
            prompt=record.prompt,
            configuration=record.configuration,
            outlet=self,
            attempt=0 if before is None else before.context.attempt + 1,
            inbox=None if before is None else before.context.inbox,
            processes=threads.processes,
        )
        self.inbox = self.context.inbox

    # The agent's side.

    def start(self) -> None:
        """Begin. Does not block."""
        if _is_async(self._source):
            self._start_task(self._source)
        else:
            self._threads.start(f"Source-{self._agent}", self._run)

    def cancel(self) -> None:
        """Ask the source to stop. Idempotent; does not block."""
        self.context.cancelled.set()
        self.inbox.end()
        if self._task is not None and self._task.is_on_closed_loop:
            self._end(Ending(status=AgentStatus.TERMINATED, error_message="its event loop was closed"))

    def last_words(self) -> list[NewMessage]:
        """Return what the source has made or kept back and not put yet, once. It can put no more after that.

        Threads: the agent's; blocks for as long as the source takes to understand a line.
        """
        if self.context.last_words is None or self._is_silenced:
            return []
        with self._lock:
            self._is_silenced = True
        return [self._storable(draft) for draft in self.context.last_words(self._put_messages)]

    @property
    def has_processes(self) -> bool:
        """Whether there may be processes of it until it has ended. Ask after `cancel`: then none come to be later."""
        return self._has_begun and getattr(self._source, "owns_processes", False)

    def again(self) -> "SourceRunner":
        """Return another run of the same source, with the same inbox; not begun yet."""
        return SourceRunner(
            self._source,
            self._record,
            self._channel,
            self._flow,
            self._threads,
            self._tasks,
            self._loop,
            self._now,
            self,
        )

    # Running.

    def _run(self) -> None:
        self._end(self._guard(self._run_blocking))

    def _guard(self, work: Callable[[], Ending | None]) -> Ending | None:
        try:
            return work()
        except BaseException as error:  # whatever a source raises is how its agent ends, SystemExit too
            return self._ending_of(error)

    def _ending_of(self, error: BaseException) -> Ending:
        """Return how a source ended that raised; one that something else than its agent has cancelled has failed."""
        if self.context.cancelled.is_set() and isinstance(error, (asyncio.CancelledError, SourceCancelledError)):
            return Ending(status=AgentStatus.TERMINATED)
        return _failure(self._agent, error)

    def _end(self, ending: Ending | None) -> None:
        """Tell the actor how it ended, once; None if the source goes on elsewhere."""
        if ending is not None and not self._has_ended:
            self._has_ended = True
            self._channel.tell(self._agent, SourceEnded(_checked(self._agent, ending)))

    def _run_blocking(self) -> Ending | None:
        self._begin()
        if not callable(self._source):
            return self._source.run(self.context)
        said = self._source(self.context)
        if isinstance(said, (AsyncIterable, Awaitable)):
            self._start_task(lambda _: said)
            return None
        with closed(_several(said)) as drafts:
            for draft in drafts:
                self.put(_draft(draft))
        return Ending()

    def _begin(self) -> None:
        self._has_begun = True  # before the look, so that one of two sees the other (`has_processes`)
        if self.context.cancelled.is_set():
            raise SourceCancelledError(self._agent)
        if self.context.attempt == 0:
            self._channel.ask(self._agent, Start())

    def _start_task(self, source: Any) -> None:
        self._task = self._tasks.start(
            self._loop(),
            lambda task: self._run_task(task, source),
            lambda: self._end(self._ending_of(asyncio.CancelledError())),
        )

    async def _run_task(self, task: SourceTask, source: Any) -> None:
        close_unfinished_by(self._tasks.close)
        self.context.cancelled.on_set(task.cancel)
        try:
            self._begin()
            ending = await self._run_async(task, source)
        except BaseException as error:  # whatever a source raises is how its agent ends; the loop serves others too
            ending = self._ending_of(error)
        self._end(ending)

    async def _run_async(self, task: SourceTask, source: Any) -> Ending:
        said = source(self.context)
        if isinstance(said, Awaitable):
            said = await said
        if isinstance(said, AsyncIterable):
            async with aclosed(said) as drafts:
                async for draft in drafts:
                    await self._put_async(task, _draft(draft))
        else:
            with closed(_several(said)) as ready:
                for draft in ready:
                    await self._put_async(task, _draft(draft))
        return Ending()

    # The source's side.

    def put(self, draft: Draft) -> None:
        """Queue a draft. Blocks while the agent is at its bound. Raises `SourceCancelledError`."""
        message = self._storable(draft)
        self._acquire(self._agent, message.size)
        self._queue(message)

    def emit(self, draft: Draft) -> Future[MessageRecord]:
        """Queue a draft and return the future of its record. Blocks like `put`, but never an event loop."""
        message = self._storable(draft)
        self._acquire(self._agent, message.size)
        return self._channel.ask(self._agent, Emit(message, from_source=True))

    def send(self, agent: str, content: str) -> Future[MessageRecord]:
        """Send a durable user message to another agent."""
        message = new_message(content, created_at=self._now(), type="user", role="user")
        self._acquire(agent, message.size)
        return self._channel.ask(agent, Emit(message, for_source=True))

    def patch(self, configuration: dict[str, Any], pid: int | None, pid_started: str | None) -> Future[AgentRecord]:
        """Merge facts into the agent's record."""
        encoded = encode_json(configuration, "configuration") if configuration else None
        patch = AgentPatch(configuration_json=encoded, pid=pid, pid_started=pid_started)
        return self._channel.ask(self._agent, Patch(patch))

    async def _put_async(self, task: SourceTask, draft: Draft) -> None:
        message = self._storable(draft)
        try:
            if self.context.cancelled.is_set():
                raise SourceCancelledError(self._agent)
            await self._flow.acquire_async(self._agent, message.size)
            self._queue(message)
        except SourceCancelledError:
            task.will_close()  # else the cancelling, which is on its way, would break off the clean-up
            raise

    def _queue(self, message: NewMessage) -> None:
        with self._lock:
            self._put_messages += not self._is_silenced  # before the agent, perhaps on this thread, asks for last words
            is_told = not self._is_silenced and self._channel.tell(self._agent, Emit(message, from_source=True))
        if not is_told:
            self._flow.release(self._agent, 1, message.size)
            raise SourceCancelledError(self._agent)

    def _acquire(self, agent: str, size: int) -> None:
        blocks = running_loop() is None
        while not self.context.cancelled.is_set():
            try:
                return self._flow.acquire(agent, size, CANCEL_CHECK_S if blocks else 0)
            except BackpressureError:
                if not blocks:
                    raise
        raise SourceCancelledError(self._agent)

    def _storable(self, draft: Draft) -> NewMessage:
        try:
            return self._message(draft)
        except InvalidValueError:
            return self._message(_repaired(draft))

    def _message(self, draft: Draft) -> NewMessage:
        return new_message(
            draft.content,
            created_at=self._now(),
            type=draft.type,
            role=draft.role,
            metadata=draft.metadata,
            raw=draft.raw,
        )


def check_source(source: Any) -> Source:
    """Return the source if it is one.

    Raises:
        InvalidValueError: it cannot be called.
    """
    if callable(source) or hasattr(source, "run"):
        checked: Source = source
        return checked
    raise InvalidValueError(
        f"a source must be a callable that takes an AgentContext, or a CommandSource, not {type(source).__name__}: "
        "wrap a finished list as `lambda context: [...]`"
    )


def _is_async(source: Any) -> bool:
    call = source if inspect.isroutine(source) else type(source).__call__ if callable(source) else source
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def _several(said: Any) -> Iterable[Any]:
    if said is None:
        return ()
    if isinstance(said, (str, Draft)):
        return (said,)
    if isinstance(said, Iterable):
        return said
    raise TypeError(f"a source must return or yield str or Draft, not {type(said).__name__}")


def _draft(said: Any) -> Draft:
    if isinstance(said, Draft):
        return said
    if isinstance(said, str):
        return Draft(said)
    raise TypeError(f"a source must yield str or Draft, not {type(said).__name__}")


def _repaired(draft: Draft) -> Draft:
    """Return the draft with its lone surrogates replaced, and a text's original in `raw` if there is none."""
    raw = draft.raw
    if raw is None and isinstance(draft.content, str):
        raw = draft.content.encode("utf-8", "surrogatepass")
    return Draft(_paired(draft.content), draft.type, draft.role, _paired(draft.metadata), raw)


def _paired(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_paired(name): _paired(inner) for name, inner in value.items()}
    return [_paired(inner) for inner in value] if isinstance(value, list) else value


def _failure(agent: str, error: BaseException) -> Ending:
    name = type(error).__name__
    try:
        message = _clean(str(error)) or name
        if isinstance(error, asyncio.CancelledError):
            message = f"its task, or something that it awaited, was cancelled, and not by its agent ({message})"
        logger.warning("the source of agent %s failed", agent, exc_info=error)
    except Exception:  # a defect in the error's own text must not hide that there was one
        message = name
    return Ending(status=AgentStatus.FAILED, error_name=name, error_message=message)


def _checked(agent: str, ending: Ending) -> Ending:
    """Return the ending, or a failure if it holds what cannot be stored."""
    try:
        if ending.result is not None:
            encode_json(ending.result, "the result of the source")
    except InvalidValueError as error:
        return _failure(agent, error)
    message = ending.error_message
    return (
        ending
        if message is None
        else Ending(
            status=ending.status, error_name=ending.error_name, error_message=_clean(message), result=ending.result
        )
    )


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
