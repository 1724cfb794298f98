"""Host and Origin: pages of other sites, rebound names, and what a token in a URL is answered with."""

from pathlib import Path
from typing import Final

from commitcast.actors import AgentRuntime
from hostile import (
    get,
    opened,
    play,
    upgraded,
    wire,
)


class TestCrossSiteHijacking:
    FOREIGN: Final = (
        "https://evil.example",
        "null",
        "",
        "http://{}.evil.example",
        "http://127.0.0.1:1",
        "http://evil@{}",
    )

    def test_a_page_of_another_site_gets_neither_socket_nor_answer(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for origin in self.FOREIGN:
                header = ("Origin", origin.format(runtime.address))
                assert (await upgraded(runtime, header)).status == 403, origin
                assert (await get(runtime, "/v1/agents", header)).status == 403, origin

        play(tmp_path, scenario)

    def test_a_page_of_the_server_and_one_that_is_allowed_get_in(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for origin in (f"http://{runtime.address}", "https://app.example"):
                async with opened(runtime, ("Origin", origin)):
                    pass

        play(tmp_path, scenario, allowed_origins=["https://app.example"])

    def test_two_origins_are_refused_whatever_they_are(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            own = ("Origin", f"http://{runtime.address}")
            assert (await upgraded(runtime, own, own)).status == 400

        play(tmp_path, scenario)


class TestDnsRebinding:
    FOREIGN: Final = (
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:{}",
        "localhost@evil.example",
        "[::2]",
        "",
    )
    ODD: Final = ("127.0.0.1/;script-src *", "127.0.0.1?;report-uri //x", "a@127.0.0.1", "localhost:1 x", "localhost:x")

    def test_a_name_that_is_not_ours_gets_neither_socket_nor_answer(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for host in self.FOREIGN:
                header = ("Host", host.format(str(runtime.address).rpartition(":")[2]))
                for path in ("/", "/healthz", "/v1/agents"):
                    assert (await get(runtime, path, header)).status == 403, host
                assert (await upgraded(runtime, header)).status == 403, host

        play(tmp_path, scenario)

    def test_a_host_with_more_than_a_name_and_a_port_is_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            for host in self.ODD:
                assert (await get(runtime, "/", ("Host", host))).status == 403, host

        play(tmp_path, scenario)

    def test_two_hosts_or_none_are_refused(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            own = ("Host", str(runtime.address))
            assert (await get(runtime, "/v1/agents", own, ("Host", "evil.example"))).status == 400
            async with wire(runtime) as enemy:
                await enemy.send(b"GET /v1/agents HTTP/1.1\r\n\r\n")
                assert (await enemy.answer()).status == 403

        play(tmp_path, scenario)
