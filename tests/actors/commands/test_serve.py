"""`commitcast serve` with what it takes to serve others: uvicorn, certificates, JSON web tokens, templates, drain."""

import asyncio
import http.client
import json
import os
import re
import signal
import ssl
import time
from pathlib import Path

import jwt
import pytest

from certificates import write_certificate
from commands import run, running
from commitcast.actors import AgentRuntime
from commitcast.gateway import BlockingClient
from commitcast.persistence.sqlite.lock import holder_of
from subscribers import raw
from waiting import wait_until

pytestmark = pytest.mark.sampled(3, of_file=True)

SECRET = "a secret of more than thirty-two bytes"


def get(address: str, path: str, token: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("asgi", [[], ["--asgi"]], ids=["own port", "uvicorn"])
def test_subscribers_are_sent_away_with_a_goodbye_when_it_stops(tmp_path: Path, asgi: list[str]) -> None:
    with running("serve", "--db", str(tmp_path / "a.db"), "--listen", "127.0.0.1:0", *asgi) as server:

        async def scenario() -> None:
            async with raw(server.url) as subscriber:
                server.process.terminate()
                assert (await subscriber.until("goodbye"))["code"] == 4000
                assert (await subscriber.closed())[0] == 4000

        asyncio.run(scenario())
        assert server.wait() == 0


def test_uvicorn_streams_events_to_those_who_may_read(tmp_path: Path) -> None:
    key, templates = tmp_path / "key", tmp_path / "templates.toml"
    key.write_text(SECRET)
    templates.write_text('[echo]\ncommand = ["cat"]\n')
    claims = {"sub": "me", "exp": time.time() + 600, "caps": [{"agent": "org:*", "ops": ["read", "launch"]}]}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    options = ["--jwt-key", str(key), "--jwt-algorithm", "HS256", "--templates", str(templates), "--asgi"]

    with running("serve", "--db", str(tmp_path / "a.db"), "--listen", "127.0.0.1:0", *options) as server:
        address = server.url.split("/")[2]
        agent = BlockingClient(server.url, token=token).launch("echo", "hello")
        status, events = get(address, f"/v1/agents/{agent}/events", token)

        assert agent.startswith("org:echo-")
        assert status == 200 and b'"content":"hello"' in events and b'"status":"completed"' in events
        assert get(address, f"/v1/agents/{agent}/events")[0] == 401


def test_it_hides_the_names_that_it_is_given_and_shows_those_that_it_is_told_to(tmp_path: Path) -> None:
    db = tmp_path / "a.db"
    with AgentRuntime(db) as runtime:
        runtime.launch(id="a", configuration={"session_id": "hidden", "tenant": "hidden", "x_pass": "2", "plain": "3"})
    names = ["--redact", "session id", "--redact", "tenant", "--redact-except", "x-pass"]

    with running("serve", "--db", str(db), "--listen", "127.0.0.1:0", *names) as server:
        status, body = get(server.url.split("/")[2], "/v1/agents/a")

    assert status == 200
    assert json.loads(body)["configuration"] == {"x_pass": "2", "plain": "3"}


def test_a_name_that_cannot_match_is_a_mistake_in_the_command_line(tmp_path: Path) -> None:
    done = run("serve", "--db", str(tmp_path / "a.db"), "--redact", "42")

    assert (done.returncode, done.stderr) == (
        2,
        "commitcast: redact must list names of 1 to 8 words with letters, not '42'\n",
    )


def test_with_a_certificate_it_speaks_tls(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    options = ["--certificate", str(certificate), "--key", str(key), "--json"]

    with running("serve", "--db", str(tmp_path / "a.db"), "--listen", "127.0.0.1:0", *options) as server:
        url = json.loads(wait_until(lambda: server.output, "its address")[0])["url"]
        port = int(url.split("/")[2].rpartition(":")[2])
        trusting = ssl.create_default_context(cafile=certificate)
        connection = http.client.HTTPSConnection("localhost", port, context=trusting, timeout=10)
        connection.request("GET", "/readyz")

        assert url.startswith("wss://") and connection.getresponse().status == 200
        connection.close()


def test_while_it_drains_it_is_no_longer_ready_and_readers_are_still_answered(tmp_path: Path) -> None:
    options = ["--drain-s", "60"]
    with running("serve", "--db", str(tmp_path / "a.db"), "--listen", "127.0.0.1:0", *options) as server:
        address = server.url.split("/")[2]
        assert get(address, "/readyz")[0] == 200

        server.process.terminate()

        wait_until(lambda: get(address, "/readyz")[0] == 503, "it to drain")
        assert get(address, "/v1/agents")[0] == 200
        assert get(address, "/v1/ws")[0] == 503


@pytest.mark.parametrize("options", [[], ["--asgi"]], ids=["alone", "by uvicorn"])
def test_it_ends_when_its_server_process_is_killed(tmp_path: Path, options: list[str]) -> None:
    db = tmp_path / "a.db"
    with running("serve", "--db", str(db), "--listen", "127.0.0.1:0", *options) as server:
        assert server.url
        holder = holder_of(db)
        assert holder is not None and holder.pid is not None and holder.note
        os.kill(holder.pid, signal.SIGKILL)

        assert server.wait() == 1

    assert "has ended: start a runtime again" in "".join(server.errors)


def test_beyond_this_machine_it_names_a_page_that_a_browser_here_can_open(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.touch(0o600)
    tokens.write_text("a-token-of-more-than-thirty-two-characters\n")
    options = ["--listen", "0.0.0.0:0", "--token-file", str(tokens)]
    with running("serve", "--db", str(tmp_path / "a.db"), *options) as server:
        assert server.url.startswith("ws://0.0.0.0:")
        url = re.search(r"page: http://(127\.0\.0\.1:\d+)/ ", "".join(server.errors))
        assert url is not None
        assert get(url[1], "/")[0] == 200
