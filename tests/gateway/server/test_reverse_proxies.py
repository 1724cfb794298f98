"""Behind a real nginx: what the documents say works, and a server without tokens stays this machine's."""

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway import subscribe
from commitcast.gateway.server.access.origins import Access, sign_of_proxy
from commitcast.gateway.server.http import asgi
from hostile import UPGRADE
from hosting import hosted
from proxies import documented, nginx

NAME: Final = "agents.example.com"
TOKEN: Final = "S3cr3t-Tok3n"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
LEFT_AS_IT_IS: Final = "server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://{}; }} }}"
ONLY_PROXIES: Final = (
    "X-Forwarded-For",
    "x-forwarded-host",
    "X-FORWARDED-PROTO",
    "Forwarded",
    "X-Real-IP",
    "Via",
    "CF-Connecting-IP",
    "True-Client-IP",
    "X-Envoy-External-Address",
    "X-Original-Forwarded-For",
    "CDN-Loop",
)
OUT_OF_SIGHT: Final = """
server {{
    listen 127.0.0.1:PORT;
    location / {{
        proxy_pass http://{}; proxy_http_version 1.1;
        proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
        {}
    }}
}}
"""


@contextmanager
def serving(tmp_path: Path, door: str, **options: Any) -> Iterator[tuple[AgentRuntime, str]]:
    """Run a runtime behind one of its doors; yields it and the address."""
    if door == "plain":
        with AgentRuntime(tmp_path / "a.db", listen="127.0.0.1:0", **options) as runtime:
            yield runtime, str(runtime.address)
    else:
        with (
            AgentRuntime(tmp_path / "a.db", listen="asgi", **options) as runtime,
            hosted(asgi.app(runtime.gateway)) as address,
        ):
            yield runtime, address


def get(address: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask for something over HTTP."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = b"" if response.status == 101 else response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body
    finally:
        connection.close()


def spoken(runtime: AgentRuntime, *texts: str) -> None:
    agent = runtime.launch(id="a")
    agent.start()
    for text in texts:
        agent.emit(text).get(10)
    agent.complete().get(10)


def handshake(address: str, path: str = "/v1/ws", **headers: str) -> int:
    """Return what a handshake is answered with."""
    return get(address, path, **dict(UPGRADE), **headers)[0]


class TestAsDocumented:
    @pytest.mark.parametrize("door", ["plain", "asgi"])
    def test_page_reads_and_socket_come_through_with_the_public_name(self, tmp_path: Path, door: str) -> None:
        with (
            serving(tmp_path, door, token=TOKEN, allowed_hosts=[NAME]) as (runtime, upstream),
            nginx(tmp_path, documented(0, upstream)) as address,
        ):
            spoken(runtime, "one", "two")
            status, headers, page = get(address, "/", Host=NAME)
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8") and b"<html" in page
            status, _, body = get(address, "/v1/agents/a", Host=NAME, **BEARER)
            assert (status, json.loads(body)["status"]) == (200, "completed")
            assert get(address, "/v1/agents/a", Host=NAME)[0] == 401
            assert get(address, "/v1/agents/a", Host="other.example", **BEARER)[0] == 403
            assert handshake(address, Host=NAME, Origin=f"https://{NAME}", **BEARER) == 101
            assert handshake(address, Host=NAME, Origin="https://other.example", **BEARER) == 403

            async def follow() -> list[str]:
                return [message.content async for message in subscribe(f"ws://{address}/v1/ws", "a", token=TOKEN)]

            assert asyncio.run(follow()) == ["one", "two"]

    @pytest.mark.parametrize("door", ["plain", "asgi"])
    def test_under_a_path_of_its_own(self, tmp_path: Path, door: str) -> None:
        with serving(tmp_path, door, token=TOKEN, allowed_hosts=[NAME]) as (runtime, upstream):
            spoken(runtime, "one")
            upgrade = documented(0, upstream).partition("server {")[0]
            servers = f"{upgrade} server {{ listen 127.0.0.1:PORT; {documented(1, upstream)} }}"
            with nginx(tmp_path, servers) as address:
                status, _, page = get(address, "/agents/", Host=NAME)
                assert status == 200 and b'src="web/app.js"' in page
                assert get(address, "/agents/web/app.js", Host=NAME)[0] == 200
                assert get(address, "/agents/v1/agents/a", Host=NAME, **BEARER)[0] == 200
                assert handshake(address, "/agents/v1/ws", Host=NAME, **BEARER) == 101

    def test_events_come_while_the_stream_is_open(self, tmp_path: Path) -> None:
        with (
            serving(tmp_path, "asgi", token=TOKEN, allowed_hosts=[NAME]) as (runtime, upstream),
            nginx(tmp_path, documented(0, upstream)) as address,
        ):
            agent = runtime.launch(id="a")
            agent.start().get(10)
            connection = http.client.HTTPConnection(address, timeout=10)
            connection.request("GET", "/v1/agents/a/events", headers={"Host": NAME, **BEARER})
            response = connection.getresponse()
            heard = b""
            while b"event: live" not in heard:
                heard += response.readline()
            agent.emit("said while it is open").get(10)
            while b"said while it is open" not in heard:
                line = response.readline()
                assert line, heard
                heard += line
            connection.close()


class TestWithoutTokens:
    @pytest.mark.parametrize("door", ["plain", "asgi"])
    @pytest.mark.parametrize(
        "servers",
        [
            LEFT_AS_IT_IS,
            OUT_OF_SIGHT.replace("{}\n", "proxy_set_header X-Forwarded-For $remote_addr;\n", 1),
            OUT_OF_SIGHT.replace("{}\n", "proxy_set_header Via nginx;\n", 1),
            OUT_OF_SIGHT.replace("{}\n", 'proxy_set_header Forwarded "for=$remote_addr";\n', 1),
        ],
        ids=["left as it is", "X-Forwarded-For", "Via", "Forwarded"],
    )
    def test_nobody_comes_in_through_a_proxy_whatever_the_host(self, tmp_path: Path, door: str, servers: str) -> None:
        with serving(tmp_path, door) as (runtime, upstream):
            spoken(runtime, "a secret")
            assert get(upstream, "/v1/agents/a/messages")[0] == 200
            with nginx(tmp_path, servers.format(upstream)) as address:
                for host in (upstream, "localhost", NAME):
                    for path in ("/", "/v1/agents", "/v1/agents/a/messages", "/v1/agents/a/events", "/readyz"):
                        status, _, body = get(address, path, Host=host)
                        assert (status, b"secret" in body) == (403, False), (host, path)
                    assert handshake(address, Host=host) == 403, host

    def test_what_is_refused_says_why_and_what_to_do(self, tmp_path: Path) -> None:
        with (
            serving(tmp_path, "plain") as (_, upstream),
            nginx(tmp_path, LEFT_AS_IT_IS.format(upstream)) as address,
        ):
            error = json.loads(get(address, "/v1/agents")[2])["error"]

        assert error["code"] == "forbidden"
        assert "proxy (HTTP/1.0)" in error["message"] and "tokens" in error["message"]

    @pytest.mark.parametrize("door", ["plain", "asgi"])
    def test_a_header_that_only_proxies_send_is_enough(self, tmp_path: Path, door: str) -> None:
        with serving(tmp_path, door) as (_, address):
            assert get(address, "/v1/agents")[0] == 200
            for name in ONLY_PROXIES:
                assert get(address, "/v1/agents", **{name: ""})[0] == 403, name
                assert handshake(address, **{name: "x"}) == 403, name

    def test_with_tokens_these_headers_mean_nothing(self, tmp_path: Path) -> None:
        with serving(tmp_path, "plain", token=TOKEN) as (_, address):
            headers = {"X-Forwarded-For": "1.2.3.4", "Via": "1.1 x", "X-Real-IP": "1.2.3.4", **BEARER}
            assert get(address, "/v1/agents", **headers)[0] == 200


@pytest.mark.parametrize("name", ["Host", "Accept", "User-Agent", "X-Requested-With", "X-Forward", "Referer", "Origin"])
def test_what_programs_and_browsers_send_shows_no_proxy(name: str) -> None:
    assert sign_of_proxy([name], "1.1") == ""


@pytest.mark.parametrize(
    ("origin", "is_own"),
    [
        ("http://here:1", True),
        ("https://here:1", True),
        ("HTTPS://Here:1/", True),
        ("x://here:1", False),
        ("ftp://here:1", False),
        ("chrome-extension://here:1", False),
        ("file://here:1", False),
        ("://here:1", False),
        ("here:1", False),
        ("ws://here:1", False),
    ],
)
def test_an_own_page_came_over_http(origin: str, is_own: bool) -> None:
    access = Access(None, needs_token=False, allowed_hosts=["here"])

    assert access.allows_origin(origin, "here:1") is is_own
