"""The one-shot HTTP reads on the gateway's port."""

import http.client
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commitcast.actors import AgentRuntime

SECONDS = 10.0


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[AgentRuntime]:
    with AgentRuntime(tmp_path / "agents.db", listen="127.0.0.1:0") as runtime:
        yield runtime


def get(
    runtime: AgentRuntime, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection(str(runtime.address), timeout=SECONDS)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else None, {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def test_it_is_alive_and_ready_until_it_drains(runtime: AgentRuntime) -> None:
    assert get(runtime, "/healthz")[:2] == (200, {"status": "ok"})
    assert get(runtime, "/readyz")[:2] == (200, {"status": "ready"})

    assert runtime.gateway is not None
    runtime.gateway.drain()

    assert get(runtime, "/healthz")[:2] == (200, {"status": "ok"})
    assert get(runtime, "/readyz")[:2] == (503, {"status": "draining"})


def test_agents_are_listed_newest_first_when_asked_for(runtime: AgentRuntime) -> None:
    agents = [agent.id for agent in runtime.launch_many(5)]

    first = get(runtime, "/v1/agents?order=newest&limit=3")[1]
    rest = get(runtime, f"/v1/agents?order=newest&limit=3&after={first['next']}")[1]

    assert [agent["id"] for agent in first["agents"] + rest["agents"]] == agents[::-1]
    assert rest["next"] is None


def test_agents_are_listed_in_pages_and_by_status(runtime: AgentRuntime) -> None:
    agents = [agent.id for agent in runtime.launch_many(5)]
    runtime.agent(agents[3]).start().get(SECONDS)

    listed: list[str] = []
    after: int | str | None = 0
    while after is not None:
        _, page, _ = get(runtime, f"/v1/agents?limit=2&after={after}")
        listed += [agent["id"] for agent in page["agents"]]
        after = page["next"]

    assert listed == agents
    _, running, _ = get(runtime, "/v1/agents?status=running")
    assert [agent["id"] for agent in running["agents"]] == [agents[3]]


def test_an_agent_is_shown_without_its_secrets(runtime: AgentRuntime) -> None:
    runtime.launch(id="a:1", prompt="hi", configuration={"model": "m", "api_key": "s3cret"})

    status, body, _ = get(runtime, "/v1/agents/a%3A1")

    assert status == 200
    assert (body["id"], body["prompt"], body["head"], body["status"]) == ("a:1", "hi", 1, "initializing")
    assert body["configuration"] == {"model": "m"}
    assert "s3cret" not in json.dumps(body)


def test_messages_are_paged_without_hole_or_repeat(runtime: AgentRuntime) -> None:
    agent = runtime.launch(id="a1")
    for number in range(25):
        last = agent.emit(str(number), raw=b"\xff" if number == 3 else f"raw {number}")
    last.get(SECONDS)

    seen: list[int] = []
    up_to_date = False
    while not up_to_date:
        _, page, _ = get(runtime, f"/v1/agents/a1/messages?after={seen[-1] if seen else 0}&limit=7&raw=true")
        seen += [item["sequence"] for item in page["items"]]
        up_to_date = page["up_to_date"]

    assert seen == list(range(1, 26))
    _, page, _ = get(runtime, "/v1/agents/a1/messages?after=3&limit=2&raw=true")
    assert [item["raw"] for item in page["items"]] == [{"base64": "/w=="}, "raw 4"]
    assert (page["next"], page["head"], page["status"]) == (5, 25, "initializing")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nothing", 404, "not_found"),
        ("/v1/agents?order=best", 400, "bad_request"),
        ("/v1/agents?token=s3cret", 400, "bad_request"),
        ("/v1/agents/nobody", 404, "not_found"),
        ("/v1/agents/nobody/messages", 404, "not_found"),
        ("/v1/agents?limit=-1", 400, "bad_request"),
        ("/v1/agents?limit=1001", 400, "bad_request"),
        ("/v1/agents?after=x", 400, "bad_request"),
        ("/v1/agents?status=asleep", 400, "bad_request"),
        ("/v1/agents/a/messages?after=99999999999999999999", 400, "bad_request"),
        ("/v1/agents/there/messages?after=5", 409, "ahead"),
        ("/v1/agents/there/messages?raw=x", 400, "bad_request"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_json_error(
    runtime: AgentRuntime, path: str, status: int, code: str
) -> None:
    runtime.launch(id="there")

    found, body, _ = get(runtime, path)

    assert (found, body["error"]["code"]) == (status, code)
    assert body["error"]["message"]


def test_another_method_is_not_allowed(runtime: AgentRuntime) -> None:
    status, body, _ = get(runtime, "/v1/agents", method="POST")

    assert (status, body["error"]["code"]) == (405, "bad_request")


def test_browsers_are_told_not_to_guess_or_keep(runtime: AgentRuntime) -> None:
    _, _, headers = get(runtime, "/v1/agents")

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"].startswith("application/json")


def test_a_host_that_is_not_ours_is_refused(runtime: AgentRuntime) -> None:
    status, body, _ = get(runtime, "/v1/agents", headers={"Host": "evil.example"})

    assert (status, body["error"]["code"]) == (403, "forbidden")


def test_a_page_of_another_site_is_refused(runtime: AgentRuntime) -> None:
    assert get(runtime, "/v1/agents", headers={"Origin": "https://evil.example"})[0] == 403
    assert get(runtime, "/v1/agents", headers={"Origin": f"http://{runtime.address}"})[0] == 200


def test_with_a_token_only_what_holds_nothing_of_agents_is_answered_without_it(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "t.db", listen="127.0.0.1:0", token="s3cret") as runtime:
        assert [get(runtime, path)[0] for path in ("/healthz", "/readyz", "/asyncapi.json")] == [200] * 3
        assert [get(runtime, path)[0] for path in ("/v1/agents", "/v1/agents/a", "/metrics")] == [401] * 3
        assert get(runtime, "/v1/agents", headers={"Authorization": "Bearer wrong"})[0] == 401
        assert get(runtime, "/v1/agents", headers={"Authorization": "Bearer s3cret"})[0] == 200


BAD_REQUESTS = {
    "a long path": (414, b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n"),
    "a long header": (431, b"GET / HTTP/1.1\r\nX: " + b"a" * 9_000 + b"\r\n\r\n"),
    "many headers": (431, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n"),
    "nonsense": (400, b"nonsense\r\n\r\n"),
    "another protocol": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /healthz\r\n\r\n"),
    "a body": (400, b"GET /healthz HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\r\nhello"),
    "a body in chunks": (400, b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a posted body": (400, b"POST /healthz HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{}"),
    "a blank before the colon": (400, b"GET / HTTP/1.1\r\nHost : {host}\r\n\r\n"),
    "a folded header": (400, b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n"),
    "a path that is not ASCII": (400, b"GET /\xff HTTP/1.1\r\n\r\n"),
    "a handshake of TLS": (400, b"\x16\x03\x01\x00\xf5\x01\x00\x00\xf1\x03\x03\n"),
}


@pytest.mark.parametrize(("status", "data"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_what_is_no_request_is_answered_with_a_json_error_and_safe_headers(
    runtime: AgentRuntime, caplog: pytest.LogCaptureFixture, status: int, data: bytes
) -> None:
    host, _, port = str(runtime.address).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as plug:
        plug.sendall(data.replace(b"{host}", str(runtime.address).encode()))
        answer = b""
        while part := plug.recv(65_536):
            answer += part

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert answer.count(b"HTTP/1.1 4") == 1
    for header in (b"X-Content-Type-Options: nosniff", b"Cache-Control: no-store", b"Connection: close"):
        assert header in head
    assert json.loads(body)["error"]["code"] == "bad_request"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nHost:", b"GET"])
def test_who_leaves_in_the_middle_of_a_request_is_answered_nothing(runtime: AgentRuntime, data: bytes) -> None:
    host, _, port = str(runtime.address).rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as plug:
        plug.sendall(data)
        plug.shutdown(socket.SHUT_WR)
        assert plug.recv(65_536) == b""
