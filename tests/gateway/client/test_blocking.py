"""The blocking client: the same promises on a plain thread, which other threads and Ctrl-C can wake."""

import gc
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from commitcast.actors import AgentRuntime
from commitcast.gateway import SubscriptionError
from commitcast.gateway.client import reconnect
from commitcast.gateway.client.blocking import BlockingSubscription, subscribe_blocking
from commitcast.gateway.client.states import State
from forking import forked, refused
from scripted_server import LOGGER, Fields, ScriptedServer, end, messages, say_everything, speaking
from waiting import TIMEOUT_S, wait_until


@pytest.fixture(autouse=True)
def comes_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "BACKOFF_S", (0.005, 0.02))
    monkeypatch.setattr(reconnect, "QUICK_S", 0.005)


def say_nothing(server: ScriptedServer, frame: Fields) -> None:
    """Nothing but that it is subscribed."""


class Iterating(threading.Thread):
    """A thread that takes everything from a subscription."""

    def __init__(self, subscription: BlockingSubscription) -> None:
        super().__init__(daemon=True)
        self.seen: list[int] = []
        self.error: Exception | None = None
        self._subscription = subscription
        self.start()

    def run(self) -> None:
        try:
            self.seen.extend(message.sequence for message in self._subscription)
        except Exception as error:
            self.error = error

    def ends_within(self, timeout_s: float) -> bool:
        self.join(timeout_s)
        return not self.is_alive()


def test_cut_again_and_again_it_gives_every_message_once(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
        agent = runtime.launch(lambda context: map(str, range(400)), id="a1")
        seen: list[int] = []
        with subscribe_blocking(str(runtime.url), "a1") as subscription:
            for message in subscription:
                seen.append(message.sequence)
                if message.sequence % 37 == 0:
                    subscription.cut()
        assert seen == list(range(1, 401))
        assert subscription.status == agent.wait(TIMEOUT_S).status == "completed"


def test_it_goes_on_after_a_restart_of_the_server_on_the_same_port(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as first:
        first.launch(id="a1").emit("before").get(TIMEOUT_S)
        port = str(first.url).rsplit(":", 1)[1].split("/")[0]
        iterating = Iterating(subscribe_blocking(str(first.url), "a1"))
        wait_until(lambda: iterating.seen == [1], "the first message")
        is_over = iterating.ends_within(0)

    with AgentRuntime(tmp_path / "a.db", listen=f"127.0.0.1:{port}"):
        assert iterating.ends_within(TIMEOUT_S)
    assert not is_over
    assert (iterating.seen, iterating.error) == ([1], None)


def test_the_windows_and_the_cursor_work_as_in_the_asynchronous_client(tmp_path: Path) -> None:
    told: list[tuple[int, str | None]] = []
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime:
        runtime.launch(lambda context: map(str, range(300)), id="a1").wait(TIMEOUT_S)
        tell = lambda cursor, epoch: told.append((cursor, epoch))  # noqa: E731
        subscription = subscribe_blocking(str(runtime.url), "a1", after=100, window=70, on_cursor=tell)
        assert [message.sequence for message in subscription] == list(range(101, 301))
    assert told == sorted(told)
    assert told[-1] == (300, subscription.epoch)
    assert subscription.reconnects == 0


def test_an_unknown_agent_is_final(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0") as runtime, pytest.raises(SubscriptionError) as refused:
        next(iter(subscribe_blocking(str(runtime.url), "nobody")))
    assert refused.value.error_code == "not_found"


def test_what_was_taken_is_acknowledged_when_nothing_comes() -> None:
    def speak(server: ScriptedServer, frame: Fields) -> None:
        server.say(messages(0, 1))
        assert server.hear()["agent"] == {"a1": 1}
        server.say(messages(1, 6))
        server.say(end(6))

    with speaking(speak) as server:
        subscription = subscribe_blocking(server.url, "a1", window=100)
        assert [message.sequence for message in subscription] == [1, 2, 3, 4, 5, 6]
        assert subscription.reconnects == 0


def test_a_function_is_asked_for_a_token_and_again_when_the_server_refuses_it() -> None:
    given = iter(["old", "new", "never"])
    with speaking(say_everything, accepted={"new"}) as server:
        subscription = subscribe_blocking(server.url, "a1", token=lambda: next(given))
        assert [message.sequence for message in subscription] == [1, 2, 3, 4, 5, 6]
    assert next(given) == "never"


def test_an_asynchronous_function_for_the_token_is_a_mistake_that_is_told() -> None:
    later: Any = object()  # as a coroutine, but nobody minds that it is not awaited

    with pytest.raises(TypeError):
        next(subscribe_blocking("ws://127.0.0.1:9/", "a1", token=lambda: later))


def test_the_token_is_in_no_log_record_even_if_everything_logs_debug(caplog: pytest.LogCaptureFixture) -> None:
    with speaking(say_everything, accepted={"s3cr3t"}) as server:
        for name in ("", *logging.root.manager.loggerDict):
            caplog.set_level(logging.DEBUG, logger=name)
        logging.getLogger("websockets.client").debug("and this is recorded")
        assert len(list(subscribe_blocking(server.url, "a1", token="s3cr3t"))) == 6

    said = " ".join(f"{record.getMessage()} {record.args}" for record in caplog.records if record.name != LOGGER)
    assert "and this is recorded" in said
    assert "s3cr3t" not in said


# Waking.


def test_close_from_another_thread_ends_the_waiting_at_once() -> None:
    with speaking(say_nothing) as server:
        subscription = subscribe_blocking(server.url, "a1")
        iterating = Iterating(subscription)
        wait_until(lambda: server.heard, "the subscribing")

        subscription.close()

        assert iterating.ends_within(1.0)
        assert (iterating.seen, iterating.error, subscription.reconnects) == ([], None, 0)


@contextmanager
def answering_nothing() -> Iterator[str]:
    """The kernel takes a connection, and then nothing happens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/ws"


@contextmanager
def taking_nobody() -> Iterator[str]:
    """More wait already than the backlog takes, so connecting hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        crowd = [socket.socket() for _ in range(8)]
        for member in crowd:
            member.setblocking(False)
            member.connect_ex(listener.getsockname())
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/v1/ws"
        for member in crowd:
            member.close()


@pytest.mark.parametrize("server", [answering_nothing, taking_nobody])
def test_close_ends_the_waiting_for_a_connection_too(server: Callable[[], AbstractContextManager[str]]) -> None:
    with server() as url:
        subscription = subscribe_blocking(url, "a1")
        iterating = Iterating(subscription)
        wait_until(lambda: subscription._protocol.state is State.CONNECTING, "the connecting")
        assert not iterating.ends_within(0.1)

        subscription.close()

        assert iterating.ends_within(1.0)
        assert iterating.error is None


def test_close_ends_the_wait_between_two_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "BACKOFF_S", (1e6, 1e6))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    subscription = subscribe_blocking(f"ws://127.0.0.1:{port}/", "a1")
    iterating = Iterating(subscription)
    wait_until(lambda: subscription.reconnects, "the first refusal")

    subscription.close()

    assert iterating.ends_within(1.0)


def test_close_before_the_first_and_after_the_last_and_twice() -> None:
    with speaking(say_everything) as server:
        early = subscribe_blocking(server.url, "a1")
        early.close()
        assert (list(early), server.heard) == ([], [])
        late = subscribe_blocking(server.url, "a1")
        assert len(list(late)) == 6
        late.close()
        late.close()
        assert list(late) == []


def test_close_out_of_the_subscriptions_own_hook_ends_it() -> None:
    def close(*_: Any) -> None:
        subscription.close()

    with speaking(say_everything) as server:
        subscription = subscribe_blocking(server.url, "a1", on_cursor=close)
        assert list(subscription) == []


def test_close_before_dialling_makes_no_connection() -> None:
    def close() -> str:
        subscription.close()
        return "t"

    with taking_nobody() as url:
        subscription = subscribe_blocking(url, "a1", token=close)
        assert Iterating(subscription).ends_within(1.0)


def test_close_under_the_iteration_as_from_a_signal_handler_gives_out_nothing_more() -> None:
    class Closing(BlockingSubscription):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "cursor" and value == 2:
                self.close()

    with speaking(say_everything) as server:
        assert [message.sequence for message in Closing(server.url, "a1")] == [1, 2]


def test_leaving_in_the_middle_of_much_does_not_wait_for_the_rest() -> None:
    spoken = 0

    def speak(server: ScriptedServer, frame: Fields) -> None:
        nonlocal spoken
        for spoken in range(1, 100_001):
            server.say(messages(spoken - 1, spoken))

    with speaking(speak) as server:
        with subscribe_blocking(server.url, "a1") as subscription:
            assert next(subscription).sequence == 1
        assert 1 <= spoken < 100_000


def test_what_the_applications_own_functions_raise_is_not_taken_for_a_lost_connection() -> None:
    def fail(*_: Any) -> str:
        raise OSError("no disk")

    with speaking(say_everything) as server:
        for subscription in (
            subscribe_blocking(server.url, "a1", token=fail),
            subscribe_blocking(server.url, "a1", on_cursor=fail),
        ):
            with pytest.raises(OSError, match="no disk"):
                next(subscription)
            assert subscription.reconnects == 0


def test_waiting_costs_no_processor_time() -> None:
    with speaking(say_nothing) as server:
        subscription = subscribe_blocking(server.url, "a1")
        closing = threading.Timer(0.7, subscription.close)
        closing.start()
        began = time.thread_time()
        assert list(subscription) == []
        assert time.thread_time() - began < 0.1
        closing.join()
    assert [frame["type"] for frame in server.heard] == ["subscribe"]


CTRL_C = """
import sys
from commitcast.gateway.client.blocking import subscribe_blocking
with subscribe_blocking(sys.argv[1], "a1", on_cursor=lambda *_: print("waiting", flush=True)) as subscription:
    try:
        next(subscription)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_ends_the_waiting() -> None:
    with speaking(say_nothing) as server:
        child = subprocess.Popen([sys.executable, "-c", CTRL_C, server.url], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"

        child.send_signal(signal.SIGINT)

        rest, _ = child.communicate(timeout=TIMEOUT_S)
        assert (rest, child.returncode) == ("interrupted\n", 0)


SIGNAL_HANDLER = """
import signal, sys
from commitcast.gateway import subscribe_blocking
subscription = subscribe_blocking(sys.argv[1], "a1", on_cursor=lambda *_: print("waiting", flush=True))
signal.signal(signal.SIGTERM, lambda *_: subscription.close())
print(len(list(subscription)), "messages", flush=True)
"""


def test_close_from_a_signal_handler_ends_the_waiting() -> None:
    with speaking(say_nothing) as server:
        child = subprocess.Popen([sys.executable, "-c", SIGNAL_HANDLER, server.url], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"

        child.send_signal(signal.SIGTERM)

        rest, _ = child.communicate(timeout=TIMEOUT_S)
        assert (rest, child.returncode) == ("0 messages\n", 0)


def test_a_subscription_that_is_forgotten_is_closed() -> None:
    closed = threading.Event()

    def speak(server: ScriptedServer, frame: Fields) -> None:
        server.say(messages(0, 6))
        with suppress(ConnectionClosed):
            server.hear()
        closed.set()

    with speaking(speak) as server:
        assert next(subscribe_blocking(server.url, "a1")).sequence == 1
        gc.collect()
        assert closed.wait(TIMEOUT_S)


OPEN_AT_EXIT = """
import sys
from commitcast.gateway import subscribe_blocking
subscription = subscribe_blocking(sys.argv[1], "a1")
print(next(subscription).sequence)
"""


def test_a_program_that_leaves_a_subscription_open_exits_at_once_and_prints_nothing() -> None:
    def speak(server: ScriptedServer, frame: Fields) -> None:
        server.say(messages(0, 6))

    with speaking(speak) as server:
        child = subprocess.run([sys.executable, "-c", OPEN_AT_EXIT, server.url], capture_output=True, timeout=TIMEOUT_S)

    assert (child.stdout, child.stderr, child.returncode) == (b"1\n", b"", 0)


def test_a_forked_child_subscribes_for_itself_and_leaves_its_parents_subscription_alone() -> None:
    def in_child() -> str:
        subscription.close()
        seen = [message.sequence for message in subscribe_blocking(server.url, "a1")]
        return f"{seen} {refused(lambda: next(subscription))} {subscription.cursor}"

    with speaking(say_everything) as server, subscribe_blocking(server.url, "a1") as subscription:
        assert next(subscription).sequence == 1
        with forked(in_child) as child:
            assert child.answer() == "[1, 2, 3, 4, 5, 6] SubscriptionError 1"
        assert [message.sequence for message in subscription] == [2, 3, 4, 5, 6]


def test_frames_that_were_read_ahead_are_not_given_out_after_a_gap() -> None:
    def speak(server: ScriptedServer, frame: Fields) -> None:
        told = [messages(0, 1), messages(3, 4), messages(4, 5)] if frame["after"] == 0 else [messages(1, 6), end(6)]
        server.say(*told)

    with speaking(speak) as server:
        assert [message.sequence for message in subscribe_blocking(server.url, "a1")] == [1, 2, 3, 4, 5, 6]

    assert server.asked == [0, 1]


def test_an_application_that_takes_nothing_makes_the_server_wait() -> None:
    progress = threading.Event()
    sent: list[int] = []

    def speak(server: ScriptedServer, frame: Fields) -> None:
        for n in range(400):
            big = messages(n, n + 1)
            big["items"][0]["content"] = "x" * 256 * 1024
            server.say(big)
            sent.append(n)
            progress.set()

    with speaking(speak) as server, subscribe_blocking(server.url, "a1") as subscription:
        assert next(subscription).sequence == 1
        while progress.wait(0.3):  # until the server waits for the client
            progress.clear()
        assert len(sent) < 200
