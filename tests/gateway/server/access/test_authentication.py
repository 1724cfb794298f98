"""Tokens that are not accepted: counted, told to the owner without the token, and limited by where they come from."""

import asyncio
import http.client
import logging
from pathlib import Path
from typing import Final

import pytest
from websockets.asyncio.client import connect

from commitcast.actors import AgentRuntime
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access import authentication
from commitcast.gateway.server.access.auth import Grant
from commitcast.gateway.server.access.authentication import Authenticator
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.errors import TokenError
from commitcast.gateway.server.http import asgi
from hostile import ADMIN, READ, TEXT, Passes, allowed, get, masked, opened, play
from hosting import hosted

GOOD: Final = allowed("good", ("*", [READ, ADMIN]))
EXPIRED: Final = allowed("expired", ("*", [READ]), expires_at=1.0)


class Clock:
    """Seconds that go on when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def granted(door: Authenticator, token: str, address: str = "1.2.3.4") -> Grant | None:
    """Return what a token grants, without a loop: where no answer is awaited, nothing waits."""
    with pytest.raises(StopIteration) as returned:
        door.grant_of(token, address).send(None)
    grant: Grant | None = returned.value.value
    return grant


def refused(door: Authenticator, token: str, address: str = "1.2.3.4") -> ErrorCode:
    """Return why a token is refused."""
    with pytest.raises(TokenError) as caught:
        granted(door, token, address)
    return caught.value.error_code


class TestGuessing:
    def test_an_address_with_too_many_wrong_tokens_is_refused_even_with_a_right_one(self) -> None:
        door = Authenticator(Passes(good=GOOD), 3, Clock())

        codes = [refused(door, f"wrong {number}") for number in range(4)]

        assert codes == [ErrorCode.UNAUTHENTICATED] * 3 + [ErrorCode.RATE_LIMITED]
        assert refused(door, "good") is ErrorCode.RATE_LIMITED
        assert granted(door, "good", "1.2.3.5") is GOOD, "another address is not meant"

    def test_a_token_that_was_accepted_before_goes_on_being_accepted(self) -> None:
        door = Authenticator(Passes(good=GOOD), 3, Clock())
        granted(door, "good")

        for number in range(10):
            refused(door, f"wrong {number}")

        assert granted(door, "good") is GOOD

    def test_one_that_was_accepted_and_is_so_no_longer_is_refused(self) -> None:
        passes = Passes(good=GOOD)
        door = Authenticator(passes, 3, Clock())
        granted(door, "good")
        passes.grants.clear()

        assert [refused(door, "good") for _ in range(5)] == [ErrorCode.UNAUTHENTICATED] * 5

    def test_it_is_looked_at_again_after_a_while(self) -> None:
        clock = Clock()
        door = Authenticator(Passes(good=GOOD), 6, clock)
        for number in range(7):
            refused(door, f"wrong {number}")

        clock.now += 9.9
        assert refused(door, "good") is ErrorCode.RATE_LIMITED
        clock.now += 0.2
        assert granted(door, "good") is GOOD

    def test_tokens_that_have_expired_or_allow_nothing_are_no_guesses(self) -> None:
        door = Authenticator(Passes(good=GOOD, expired=EXPIRED, empty=allowed("empty")), 3, Clock())

        assert {refused(door, "expired") for _ in range(10)} == {ErrorCode.TOKEN_EXPIRED}
        assert {refused(door, "empty") for _ in range(10)} == {ErrorCode.FORBIDDEN}
        assert granted(door, "good") is GOOD

    @pytest.mark.parametrize(
        ("one", "other", "is_same"),
        [
            ("2001:db8::1", "2001:db8::ffff:2", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("::ffff:1.2.3.4", "1.2.3.4", True),
            ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
            ("fe80::1%eth0", "fe80::2", True),
            ("localhost", "localhost", True),
            ("", "", True),
        ],
    )
    def test_one_line_of_addresses_is_one_peer(self, one: str, other: str, is_same: bool) -> None:
        door = Authenticator(Passes(good=GOOD), 1, Clock())
        refused(door, "wrong", one)

        if is_same:
            assert refused(door, "good", other) is ErrorCode.RATE_LIMITED
        else:
            assert granted(door, "good", other) is GOOD

    def test_what_is_remembered_has_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(authentication, "MAX_ADDRESSES", 10)
        monkeypatch.setattr(authentication, "MAX_ACCEPTED", 10)
        door = Authenticator(Passes(**{f"good{number}": GOOD for number in range(50)}), 1, Clock())

        for number in range(50):
            refused(door, "wrong", f"1.2.3.{number}")
            granted(door, f"good{number}", f"1.2.4.{number}")

        assert (len(door._buckets), len(door._accepted)) == (10, 10)
        assert refused(door, "wrong", "1.2.3.49") is ErrorCode.RATE_LIMITED


class TestTheOwnerIsTold:
    def test_of_the_first_and_then_now_and_again_how_many_it_were(self, caplog: pytest.LogCaptureFixture) -> None:
        clock = Clock()
        door = Authenticator(Passes(), 1_000, clock)

        with caplog.at_level(logging.WARNING, "commitcast.gateway.server.access.authentication"):
            for number in range(100):
                refused(door, f"S3cr3t{number}")
            clock.now += 11
            refused(door, "S3cr3t", "")

        first, second = (record.getMessage() for record in caplog.records)
        assert first == "a token from 1.2.3.4 was refused: this token is not accepted"
        assert second.startswith("a token from an unknown address was refused")
        assert second.endswith(", and 99 more since the last such line")
        assert door.refused == {"unauthenticated": 101}

    @pytest.mark.parametrize("says", ["not known: {}", "bad\nline\x1b[2J{}", "{}" + "x" * 5_000])
    def test_whatever_a_verifier_says_stays_one_line_without_the_token(
        self, caplog: pytest.LogCaptureFixture, says: str
    ) -> None:
        class Talkative:
            def verify(self, token: str) -> Grant:
                raise TokenError(says.format(token if "known" in says else ""))

        refused(Authenticator(Talkative(), 10, Clock()), "S3cr3t")

        (line,) = (record.getMessage() for record in caplog.records)
        assert "S3cr3t" not in line and line.isprintable() and len(line) < 400


class Wordy:
    """A verifier whose reasons have more bytes than a close frame holds, and fewer characters."""

    REASON = "\u4ee4\u724c\u4e0d\u88ab\u63a5\u53d7" * 20

    def verify(self, token: str) -> Grant:
        """Refuse a token."""
        raise TokenError(self.REASON)


class TestALongReason:
    def test_is_cut_to_the_bytes_that_a_close_frame_holds(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with connect(str(runtime.url), additional_headers={"Authorization": "Bearer x"}) as refused:
                await refused.wait_closed()
                assert refused.close_code == 4501
                assert refused.close_reason and Wordy.REASON.startswith(refused.close_reason)

        play(tmp_path, scenario, token=Wordy())

    def test_is_cut_through_an_asgi_server_too(self, tmp_path: Path) -> None:
        async def scenario(address: str) -> None:
            url = f"ws://{address}/v1/ws"
            async with connect(url, additional_headers={"Authorization": "Bearer x"}, proxy=None) as refused:
                await refused.wait_closed()
                assert refused.close_code == 4501
                assert refused.close_reason and Wordy.REASON.startswith(refused.close_reason)

        with (
            AgentRuntime(tmp_path / "a.db", listen="asgi", token=Wordy()) as runtime,
            hosted(asgi.app(runtime.gateway)) as address,
        ):
            asyncio.run(scenario(address))


class TestEveryDoor:
    def test_guesses_over_http_and_over_a_socket_are_counted_together(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            assert (await get(runtime, "/v1/agents", token="good")).status == 200
            statuses = [(await get(runtime, "/v1/agents", token=f"wrong{number}")).status for number in range(4)]
            assert statuses == [401, 401, 401, 401]
            async with opened(runtime, ("Authorization", "Bearer wrong5")) as guesser:
                assert (await guesser.farewell())[1] == 4501
            limited = await get(runtime, "/metrics", token="wrong6")
            assert (limited.status, limited.json["error"]["code"]) == (429, "rate_limited")
            assert limited.headers["retry-after"] == "60"
            async with opened(runtime) as guesser:
                await guesser.send(masked(TEXT, '{"type":"hello","id":1,"token":"other"}'))
                error = await guesser.until("error")
                assert (error["id"], error["code"], error["retry"]) == (1, "rate_limited", True)
                assert (await guesser.farewell())[1] == 4004
            counted = (await get(runtime, "/metrics", token="good")).body
            assert b'commitcast_tokens_refused_total{code="unauthenticated"} 5.0' in counted
            assert b'commitcast_tokens_refused_total{code="rate_limited"} 2.0' in counted

        passes = Passes(good=GOOD, other=GOOD)
        play(tmp_path, scenario, token=passes, limits=Limits(refused_tokens=5))

    def test_guesses_through_an_asgi_server_are_counted_for_reads_and_event_streams(self, tmp_path: Path) -> None:
        def status(path: str, token: str) -> int:
            connection = http.client.HTTPConnection(address, timeout=10)
            try:
                connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
                return connection.getresponse().status
            finally:
                connection.close()

        limits = Limits(refused_tokens=3)
        with (
            AgentRuntime(tmp_path / "a.db", listen="asgi", token=Passes(good=GOOD), limits=limits) as runtime,
            hosted(asgi.app(runtime.gateway)) as address,
        ):
            assert status("/v1/agents", "good") == 200
            paths = ("/v1/agents", "/v1/events", "/metrics", "/v1/agents", "/v1/agents/a/events")
            assert [status(path, f"wrong {path}") for path in paths] == [401, 401, 401, 429, 429]
            assert status("/v1/agents", "good") == 200

    def test_who_is_in_cannot_guess_by_saying_hello(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, ("Authorization", "Bearer good")) as guesser:
                codes = [(await guesser.ask("hello", token=f"wrong{number}"))["code"] for number in range(7)]
                assert codes == ["unauthenticated"] * 5 + ["rate_limited"] * 2
                assert (await guesser.ask("ping"))["type"] == "ok"

        play(tmp_path, scenario, token=Passes(good=GOOD), limits=Limits(refused_tokens=5))
