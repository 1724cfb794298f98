"""The full chain: a runtime in this process, and a subscriber to all agents in another one, over a real socket."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmark_errors import BenchmarkError
from child import Child
from commitcast.actors.handle import AgentHandle
from commitcast.actors.kernel.future import Future
from commitcast.actors.runtime import AgentRuntime
from commitcast.gateway.protocol import frames
from commitcast.persistence.errors import CommitcastError
from commitcast.persistence.records import AgentRecord, MessageRecord
from stream_check import agent_name

LISTEN: Final = "127.0.0.1:0"
FUTURE_TIMEOUT_S: Final = 60.0


class Chain:
    """A runtime with agents and with a subscriber that has caught up."""

    def __init__(self, runtime: AgentRuntime, handles: list[AgentHandle], subscriber: Child) -> None:
        """Made by `running_chain`."""
        self.runtime = runtime
        self.handles = handles
        self._subscriber = subscriber

    def wait_for_receiver(self) -> int:
        """Return when the subscriber had everything, on the clock of `time.perf_counter_ns`. Blocks."""
        done: int = self._subscriber.hear()["done"]
        return done


@contextmanager
def running_chain(
    path: Path, options: dict[str, Any], agents: int, messages: int, completed: int = 0
) -> Iterator[Chain]:
    """Run a chain; leaving the block stops it and makes sure that the subscriber was given nothing more.

    Args:
        path: of a file that is not there yet.
        options: of the runtime.
        agents: how many are launched before the clock starts.
        messages: how many the subscriber is going to be given.
        completed: how many agents it is going to hear of that they completed.

    Raises:
        BenchmarkError: the subscriber was given something wrong, or is gone.
    """
    with AgentRuntime(path, listen=LISTEN, **options) as runtime:
        order = {"url": runtime.url, "agent": frames.ALL, "messages": messages, "completed": completed}
        with Child("receiver", "the receiver", **order) as subscriber:
            handles = runtime.launch_many(agents, ids=[agent_name(index) for index in range(agents)])
            subscriber.hear()
            yield Chain(runtime, handles, subscriber)
            runtime.stop()
            subscriber.hear()


def check_message(future: Future[MessageRecord], agent: str, sequence: int) -> None:
    """Check that a message was stored in its place. Blocks until it is.

    Raises:
        BenchmarkError: it was not.
    """
    try:
        record = future.get(FUTURE_TIMEOUT_S)
    except CommitcastError as error:
        raise BenchmarkError(f"the future of message {sequence} of {agent} failed: {error}") from error
    if record.sequence != sequence or record.agent != agent:
        raise BenchmarkError(
            f"the future of message {sequence} of {agent} has message {record.sequence} of {record.agent}"
        )


def check_status(future: Future[AgentRecord] | Future[AgentRecord | None]) -> None:
    """Check that a change of status was stored. Blocks until it is.

    Raises:
        BenchmarkError: it was not.
    """
    try:
        future.get(FUTURE_TIMEOUT_S)
    except CommitcastError as error:
        raise BenchmarkError(f"the future of a status failed: {error}") from error
