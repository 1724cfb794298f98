"""Doors: what a client may launch by one of them runs in the runtime that offers it."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commitcast.actors import AgentContext, AgentRuntime, Template
from commitcast.gateway.process import doors
from commitcast.gateway.process.settings import DoorSettings
from commitcast.gateway.protocol.errors import ListenError
from commitcast.gateway.server.access.auth import Grant
from commitcast.gateway.server.errors import MissingExtraError
from commitcast.gateway.server.options import ASGI, ServerOptions
from commitcast.persistence.errors import HostError
from hostile import READ, allowed
from subscribers import Fields, raw
from waiting import TIMEOUT_S

pytestmark = pytest.mark.parametrize("server", ["process"], indirect=True)


TOKEN = "a" * 32


def echo(context: AgentContext) -> Iterator[str]:
    yield f"you said {context.prompt}"


def answer_to_launch(url: str | None, template: str) -> Any:
    async def scenario() -> Fields:
        async with raw(url, token=TOKEN) as client:
            return await client.ask("launch", template=template, prompt="hello")

    reply = asyncio.run(scenario())
    return reply.get("code") or reply["agent"]


def test_a_template_runs_in_a_runtime_that_offers_it_else_it_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "agents.db"
    with AgentRuntime(path, listen="127.0.0.1:0", token=TOKEN) as door:
        assert answer_to_launch(door.url, "echo") == "not_found"

        with AgentRuntime(path, templates={"echo": Template(echo)}) as other:
            agent = answer_to_launch(door.url, "echo")
            assert other.agent(agent).wait(TIMEOUT_S).status == "completed"
            assert [message.content for message in door.agent(agent).messages()][-1] == "you said hello"

        assert answer_to_launch(door.url, "echo") == "unavailable"
        assert answer_to_launch(door.url, "other") == "not_found"


class Checks:
    """A verifier in a host, whose answer is awaited."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()

    async def verify(self, token: str) -> Grant:
        if token.startswith("good"):
            return allowed("good", ("*", [READ]))
        if token.startswith("short"):
            return allowed("short", ("*", [READ]), expires_at=time.time() + 0.3)
        if token.startswith("bad"):
            raise ConnectionError(f"nobody knows {token}")
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


def test_a_verifier_in_a_host_is_told_when_nobody_waits_and_its_failure_is_logged_once_without_the_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checks = Checks()

    async def scenario(url: str | None) -> None:
        assert url is not None
        async with raw(url, token="good-one") as client:
            assert client.welcome["type"] == "welcome"
        async with raw(url, token="bad-one") as client:
            assert (await client.receive())["code"] == "unavailable"
        async with raw(url, token="short-one") as client:
            await client.send("hello", token="slow-one")
            assert await asyncio.to_thread(checks.begun.wait, TIMEOUT_S)
            assert await asyncio.to_thread(checks.cancelled.wait, 3.0), "only after the time limit of verifications"

    with caplog.at_level(logging.INFO), AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", token=checks) as runtime:
        asyncio.run(scenario(runtime.url))
    said = [logging.Formatter("%(message)s").format(record) for record in caplog.records]
    assert len([line for line in said if "the verifier failed" in line]) == 1
    assert not [line for line in said if "bad-one" in line]


def without_libraries(name: str) -> Any:
    raise MissingExtraError("serving through ASGI", "http")


def test_a_web_app_is_refused_at_its_start_where_the_server_has_no_libraries_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doors, "import_module", without_libraries)
    host, server = object(), object()

    with pytest.raises(
        ListenError, match=r'not installed the libraries for it: pip install "commitcast\[http\]" there'
    ):
        doors.Door(host, server, DoorSettings.of(ServerOptions(listen=ASGI)))  # type: ignore[arg-type]  # it asks nothing


def test_a_request_of_one_that_is_mounted_all_the_same_is_closed_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doors, "import_module", without_libraries)
    ours, theirs = socket.socketpair()

    asyncio.run(doors._serve_tunnel(object(), ours))  # type: ignore[arg-type]  # it is not asked

    assert theirs.recv(1) == b""
    assert "a request to a web app cannot be answered" in caplog.text
    theirs.close()


def test_a_host_that_does_not_answer_keeps_no_client_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the connection of a client would not be read any more, and be closed, also for its other agents."""
    withdrawn: list[int] = []

    class Stopped:
        pid = 7
        asking = SimpleNamespace(ask=lambda *_: 3, withdraw=withdrawn.append)

    monkeypatch.setattr(doors, "ANSWER_S", 0.01)

    with pytest.raises(
        HostError, match=r"process 7 has not answered for 0\.01 s.*try again with the same key"
    ) as caught:
        asyncio.run(doors.done(Stopped(), "send", []))  # type: ignore[arg-type]  # all that is used of a host

    assert (caught.value.code, caught.value.retryable, withdrawn) == ("unavailable", True, [3])
