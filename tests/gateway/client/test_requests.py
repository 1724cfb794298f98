"""Requests: done once, however often the connection is lost, and by both clients alike."""

import asyncio
import json
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

from commitcast.actors import AgentContext, AgentRuntime, Template
from commitcast.gateway import BlockingClient, Client, RequestError, SubscriptionError
from commitcast.gateway.client import asyncio as asynchronous
from commitcast.gateway.client import reconnect
from commitcast.persistence import CommitcastError
from scripted_server import blocking_server
from waiting import TIMEOUT_S, wait_until

pytestmark = pytest.mark.sampled(15, of_file=True)

Fields = dict[str, Any]


@pytest.fixture(autouse=True)
def comes_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "BACKOFF_S", (0.005, 0.02))


def ask_asynchronously(url: str, what: str, *arguments: Any, **options: Any) -> Any:
    async def scenario() -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            return await getattr(Client(url, **options), what)(*arguments)

    return asyncio.run(scenario())


def ask_blocking(url: str, what: str, *arguments: Any, **options: Any) -> Any:
    return getattr(BlockingClient(url, **options), what)(*arguments)


Ask = Callable[..., Any]


@pytest.fixture(params=[ask_asynchronously, ask_blocking])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Each test is made with both clients."""
    asked: Ask = request.param
    return asked


class Server:
    """Does what it is asked, once for each key, and treats each connection as the test wants."""

    REPLIES: Final[dict[str, Fields]] = {
        "launch": {"agent": "a1", "status": "initializing"},
        "send": {"agent": "a1", "sequence": 7},
        "terminate": {"agent": "a1", "status": "terminated"},
    }

    def __init__(self, *treatments: str | Fields) -> None:
        self.url = ""
        self.heard: list[Fields] = []
        self.done: dict[str | None, Fields] = {}
        self.tokens: list[str] = []
        self._treatments = list(treatments)

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        self.tokens.append(request.headers.get("Authorization", ""))
        if self._treatments[:1] == ["busy"]:
            self._treatments.pop(0)
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "busy")
        if self._treatments[:1] == ["unauthorized"]:
            self._treatments.pop(0)
            return connection.respond(HTTPStatus.UNAUTHORIZED, "no")
        return None

    def _handle(self, connection: ServerConnection) -> None:
        treatment = self._treatments.pop(0) if self._treatments else "answer"
        try:
            self._treat(connection, treatment)
        except ConnectionClosed:
            pass

    def _treat(self, connection: ServerConnection, treatment: str | Fields) -> None:
        if treatment == "cut at once":
            return connection.close_socket()
        welcome: Fields = {
            "type": "welcome",
            "protocol": "p",
            "server": "s",
            "session": "s",
            "heartbeat_s": 15,
            "limits": {},
        }
        connection.send(json.dumps(welcome | {"needs_hello": treatment == "greet"}))
        frame = json.loads(connection.recv(TIMEOUT_S))
        self.heard.append(frame)
        if treatment == "cut before it is done":
            return connection.close_socket()
        if isinstance(treatment, dict):
            connection.send(json.dumps(treatment))
        elif treatment == "silence":
            pass
        elif treatment == "greet":
            self.heard.append(json.loads(connection.recv(TIMEOUT_S)))
            connection.send(json.dumps({"type": "ok", "id": frame["id"]}))
            self._do(connection, self.heard[-1])
        elif treatment == "cut when it is done":
            self.done.setdefault(frame["key"], frame)
            return connection.close_socket()
        else:
            self._do(connection, frame)
        for _ in connection:  # until the client goes
            pass
        return None

    def _do(self, connection: ServerConnection, frame: Fields) -> None:
        self.done.setdefault(frame["key"], frame)
        connection.send(json.dumps({"type": "heartbeat", "heads": {}}))
        connection.send(json.dumps({"type": "ok", "id": "of another"}))
        connection.send(json.dumps({"type": "ok", "id": frame["id"]} | self.REPLIES[frame["type"]]))

    @contextmanager
    def running(self) -> Iterator["Server"]:
        with blocking_server(self._handle, process_request=self._check, max_size=2**21) as self.url:
            yield self


def error(code: str, retry: bool, id: int | None = 1) -> Fields:
    return {"type": "error", "id": id, "code": code, "message": "it says why", "retry": retry}


def test_each_request_returns_what_it_is_for(ask: Ask) -> None:
    with Server().running() as server:
        assert ask(server.url, "launch", "template", "do it", "k1") == "a1"
        assert ask(server.url, "send", "a1", "hello", "k2") == 7
        assert ask(server.url, "terminate", "a1", "enough") == "terminated"

    launch, send, terminate = server.heard
    assert launch == {"type": "launch", "id": 1, "template": "template", "prompt": "do it", "key": "k1"}
    assert send == {"type": "send", "id": 1, "agent": "a1", "content": "hello", "key": "k2"}
    assert terminate == {"type": "terminate", "id": 1, "agent": "a1", "reason": "enough", "key": None}


@pytest.mark.parametrize("key", [None, "mine"])
def test_whenever_the_connection_is_lost_it_is_asked_again_and_done_once(ask: Ask, key: str | None) -> None:
    losses = ("cut at once", "busy", "cut before it is done", "cut when it is done", "cut when it is done")
    with Server(*losses).running() as server:
        assert ask(server.url, "send", "a1", "hello", key) == 7

    assert len(server.heard) == 4
    assert len(server.done) == 1
    (used,) = {frame["key"] for frame in server.heard}
    assert len(used) == 36 if key is None else used == key


def test_two_requests_without_a_key_are_two_things(ask: Ask) -> None:
    with Server().running() as server:
        ask(server.url, "launch", "template")
        ask(server.url, "launch", "template")

    assert len(server.done) == 2


@pytest.mark.parametrize("code", ["rate_limited", "unavailable"])
def test_what_may_be_retried_is_retried(ask: Ask, code: str) -> None:
    with Server(error(code, retry=True), error(code, retry=True)).running() as server:
        assert ask(server.url, "launch", "template", "") == "a1"

    assert len(server.heard) == 3


@pytest.mark.parametrize("id", [1, None])
def test_what_is_refused_for_good_is_an_error_at_once(ask: Ask, id: int | None) -> None:
    with Server(error("forbidden", retry=False, id=id)).running() as server, pytest.raises(RequestError) as refused:
        ask(server.url, "launch", "template", "", "k1")

    assert (refused.value.error_code, refused.value.message, refused.value.key) == ("forbidden", "it says why", "k1")
    assert str(refused.value) == "it says why (forbidden)"
    assert isinstance(refused.value, CommitcastError)
    assert isinstance(refused.value, ConnectionError)
    assert len(server.heard) == 1


def test_a_goodbye_is_obeyed(ask: Ask) -> None:
    soon: Fields = {"type": "goodbye", "code": 4000, "reason": "soon", "reconnect_ms": 1}
    server = Server(soon, soon | {"code": 4503, "reason": "never"})
    with server.running(), pytest.raises(RequestError, match="never"):
        ask(server.url, "send", "a1", "hello")

    assert len(server.heard) == 2


def test_without_a_reply_in_time_the_error_says_that_it_may_have_been_done(ask: Ask) -> None:
    with Server("silence").running() as server:
        began = time.monotonic()
        with pytest.raises(RequestError, match="it may or may not have been carried out") as refused:
            ask(server.url, "send", "a1", "hello", timeout=0.3)
        assert time.monotonic() - began < 2.0

    assert refused.value.error_code == "unavailable"
    assert refused.value.key == server.heard[0]["key"]


def test_a_server_that_does_not_answer_is_asked_again_on_another_connection(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynchronous, "REPLY_TIMEOUT_S", 0.2)
    with Server("silence").running() as server:
        assert ask(server.url, "send", "a1", "hello") == 7

    assert [frame["key"] for frame in server.heard] == [server.heard[0]["key"]] * 2


def test_nobody_there_is_an_error_when_the_time_is_over(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(RequestError, match=r"Connect call failed|refused") as refused:
        ask(f"ws://127.0.0.1:{port}/v1/ws", "terminate", "a1", timeout=0.2)

    assert refused.value.error_code == "unavailable"


def test_an_unreadable_url_or_server_is_an_error_at_once(ask: Ask) -> None:
    with pytest.raises(RequestError) as refused:
        ask("http://127.0.0.1/", "terminate", "a1")
    assert refused.value.error_code == "bad_request"

    with Server({"no": "type"}).running() as server, pytest.raises(RequestError) as refused:
        ask(server.url, "terminate", "a1")
    assert refused.value.error_code == "bad_request"


def test_a_message_that_is_too_large_for_the_connection_is_not_sent_again_and_again(ask: Ask) -> None:
    with Server().running() as server, pytest.raises(RequestError) as refused:
        ask(server.url, "send", "a1", "x" * 3 * 2**20)

    assert refused.value.error_code == "too_large"


def test_a_reply_that_lacks_what_was_asked_for_is_an_error(ask: Ask) -> None:
    with Server({"type": "ok", "id": 1}).running() as server, pytest.raises(RequestError, match="lacks the sequence"):
        ask(server.url, "send", "a1", "hello")


def test_the_old_name_of_the_timeout_works_and_warns(ask: Ask) -> None:
    with Server().running() as server, pytest.warns(DeprecationWarning, match="'timeout_s'"):
        assert ask(server.url, "send", "a1", "hello", timeout_s=TIMEOUT_S) == 7


def test_ctrl_c_ends_the_waiting_of_the_blocking_client() -> None:
    script = (
        "import sys\n"
        "from commitcast.gateway import BlockingClient\n"
        "try:\n"
        "    BlockingClient(sys.argv[1]).send('a1', 'hello')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    with Server("silence").running() as server:
        child = subprocess.Popen([sys.executable, "-c", script, server.url], stdout=subprocess.PIPE, text=True)
        wait_until(lambda: server.heard, "the request")

        child.send_signal(signal.SIGINT)

        assert child.communicate(timeout=TIMEOUT_S)[0] == "interrupted\n"
        assert child.returncode == 0


def test_the_blocking_client_works_on_a_thread_that_runs_an_event_loop() -> None:
    """As in a notebook."""

    async def cell() -> int:
        return BlockingClient(server.url).send("a1", "hello")

    with Server().running() as server:
        assert asyncio.run(cell()) == 7


# The token.


def test_the_token_is_sent_and_in_a_hello_if_the_server_did_not_get_it(ask: Ask) -> None:
    with Server("greet").running() as server:
        assert ask(server.url, "launch", "template", token="t") == "a1"

    assert server.tokens == ["Bearer t"]
    assert [frame["type"] for frame in server.heard] == ["hello", "launch"]
    assert server.heard[0]["token"] == "t"


def test_a_function_is_asked_again_when_its_token_is_refused(ask: Ask) -> None:
    given = iter("abc")
    server = Server("unauthorized", error("token_expired", retry=True))
    with server.running(), pytest.raises(RequestError) as refused:
        ask(server.url, "launch", "template", token=lambda: next(given))

    assert refused.value.error_code == "token_expired"
    assert server.tokens == ["Bearer a", "Bearer b"]


def test_a_text_that_is_refused_is_final(ask: Ask) -> None:
    with Server("unauthorized").running() as server, pytest.raises(RequestError) as refused:
        ask(server.url, "launch", "template", token="t")

    assert (refused.value.error_code, len(server.tokens)) == ("unauthenticated", 1)


def test_a_client_keeps_the_token_that_worked() -> None:
    given = iter("abc")
    with Server("answer", "answer", "unauthorized", "answer").running() as server:
        client = BlockingClient(server.url, token=lambda: next(given))
        assert [client.send("a1", "hello") for _ in range(3)] == [7, 7, 7]

    assert server.tokens == ["Bearer a", "Bearer a", "Bearer a", "Bearer b"]


# Subscriptions of a client.


def test_a_subscription_of_a_client_has_its_url_and_token() -> None:
    async def first(client: Client) -> str:
        with pytest.raises(SubscriptionError) as refused:
            async for _ in client.subscribe("a1", after=3, window=5):
                pass
        return refused.value.error_code

    with Server(error("not_found", retry=False), error("not_found", retry=False)).running() as server:
        assert asyncio.run(first(Client(server.url, token="t"))) == "not_found"
        with pytest.raises(SubscriptionError):
            next(BlockingClient(server.url, token="t").subscribe("a1", after=3, window=5))

    assert server.tokens == ["Bearer t"] * 2
    for frame in server.heard:
        assert (frame["type"], frame["after"], frame["window"]) == ("subscribe", 3, 5)


# The real server.


def test_the_real_server_does_what_it_is_asked_and_the_same_key_does_nothing_twice(ask: Ask, tmp_path: Path) -> None:
    def echo(context: AgentContext) -> Iterator[str]:
        while not context.cancelled.is_set():
            with suppress(queue.Empty):
                yield context.inbox.get(timeout=0.02).upper()

    options: Fields = {"token": "t", "templates": {"echo": Template(echo)}}
    with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", **options) as runtime:
        url = str(runtime.url)
        agent = ask(url, "launch", "echo", "", "k1", token="t")
        assert ask(url, "launch", "echo", "", "k1", token="t") == agent
        sequence = ask(url, "send", agent, "hello", "k2", token="t")
        assert ask(url, "send", agent, "hello", "k2", token="t") == sequence
        assert BlockingClient(url, token=lambda: "t").terminate(agent, "enough") == "terminated"
        heard = BlockingClient(url, token="t").subscribe(agent)
        assert [message.content for message in heard if message.type == "user"] == ["hello"]
        assert heard.status == "terminated"
        with pytest.raises(RequestError) as refused:
            ask(url, "send", agent, "hello", token="wrong")
        assert refused.value.error_code == "unauthenticated"
        with pytest.raises(RequestError) as refused:
            ask(url, "launch", "nothing of that name", token="t")
        assert refused.value.error_code == "not_found"
