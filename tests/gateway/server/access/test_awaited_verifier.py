"""A verifier whose answers are awaited: what is served meanwhile, when it is late or fails, and how many are asked."""

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from commitcast.actors import AgentRuntime
from commitcast.gateway.protocol.errors import ErrorCode
from commitcast.gateway.server.access import authentication, verifying
from commitcast.gateway.server.access.auth import Grant
from commitcast.gateway.server.access.authentication import Authenticator
from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.errors import TokenError, VerifierUnavailableError
from commitcast.gateway.server.session import Session
from commitcast.persistence.errors import CommitcastError
from hostile import ADMIN, READ, TERMINATE, TEXT, Wire, allowed, get, masked, opened, play, server_of, wire
from waiting import SLOWNESS, TIMEOUT_S, wait_until

GOOD: Final = allowed("good", ("*", [READ, TERMINATE, ADMIN]))
HERE: Final = "1.2.3.4"


class Asked:
    """A verifier that answers when the test says so. Any thread."""

    def __init__(self, **known: Grant) -> None:
        self.known = known
        """Answered at once."""
        self.tokens: list[str] = []
        """In the order in which they were asked for."""
        self.abandoned: list[str] = []
        self.under_way = self.most = 0
        self._answers: dict[str, asyncio.Future[Grant]] = {}

    async def verify(self, token: str) -> Grant:
        """Return what a token grants, once that is said."""
        self.tokens.append(token)
        if token in self.known:
            return self.known[token]
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            self._answers[token] = asyncio.get_running_loop().create_future()
            return await self._answers[token]
        except asyncio.CancelledError:
            self.abandoned.append(token)
            raise
        finally:
            self.under_way -= 1

    def answer(self, token: str, answer: Grant | BaseException) -> None:
        """Answer about a token."""
        future = self._answers.pop(token)

        def settle() -> None:
            if isinstance(answer, Grant):
                future.set_result(answer)
            else:
                future.set_exception(answer)

        future.get_loop().call_soon_threadsafe(settle)

    async def is_asked(self, token: str) -> None:
        """Wait until an answer about a token is awaited."""
        await asyncio.to_thread(wait_until, lambda: token in self._answers, f"{token} to be verified")

    def has_abandoned(self, token: str) -> None:
        """Wait until it was cancelled, for less time than a late answer is given. Blocks."""
        wait_until(lambda: token in self.abandoned, f"the question about {token} to be given up", 2.0 * SLOWNESS)


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


async def settled() -> None:
    """Let everything run that is ready."""
    for _ in range(20):
        await asyncio.sleep(0)


async def outcome(door: Authenticator, token: str, address: str = HERE) -> Grant | str | None:
    """Return what a token grants, or the code of its refusal."""
    try:
        return await door.grant_of(token, address)
    except TokenError as error:
        return error.error_code.value
    except VerifierUnavailableError as error:
        return error.code


def alone(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await scenario()

    asyncio.run(bounded())


class TestWhatIsServedMeanwhile:
    def test_the_token_is_accepted_from_every_place(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            assert (await get(runtime, "/v1/agents", token="good")).status == 200
            async with opened(runtime, bearer("good")) as client:
                assert (await client.ask("subscribe", agent="a"))["type"] == "subscribed"
            async with opened(runtime) as client:
                assert (await client.ask("hello", token="good"))["type"] == "ok"
                assert (await client.ask("subscribe", agent="a"))["type"] == "subscribed"

        play(tmp_path, scenario, token=Asked(good=GOOD))

    def test_nothing_is_answered_before_the_token_is_accepted_and_then_all_in_order(self, tmp_path: Path) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with opened(runtime, bearer("slow")) as client:
                await client.say("subscribe", id=1, agent="a")
                await client.say("ping", id=2)
                await verifier.is_asked("slow")
                await agent.aemit("said meanwhile")
                assert not server_of(runtime).core.hub.is_followed("a")
                verifier.answer("slow", GOOD)
                replies = [(await client.read()).json for _ in range(2)]
                assert [(reply["type"], reply["id"]) for reply in replies] == [("subscribed", 1), ("ok", 2)]
                assert (await client.until("messages"))["items"][0]["content"] == "said meanwhile"

        play(tmp_path, scenario, token=verifier)

    def test_welcome_does_not_wait_for_a_verification(self, tmp_path: Path) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            async with wire(runtime) as client:
                await client.open(bearer("slow"))  # it reads the welcome
                await verifier.is_asked("slow")
                verifier.answer("slow", GOOD)

        play(tmp_path, scenario, token=verifier)

    @pytest.mark.parametrize(
        ("grant", "code"),
        [(allowed("old", ("*", [READ]), expires_at=1.0), 4001), (allowed("empty"), 4503)],
        ids=["expired", "without rights"],
    )
    def test_a_token_that_allows_nothing_gets_no_moment_of_access(
        self, tmp_path: Path, grant: Grant, code: int
    ) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            async with opened(runtime, bearer("slow")) as client:
                await client.say("subscribe", agent="a")
                await verifier.is_asked("slow")
                verifier.answer("slow", grant)
                assert (await client.read()).json["type"] == "error"
                assert (await client.farewell())[1] == code

        play(tmp_path, scenario, token=verifier)

    def test_a_token_that_expires_during_its_verification_is_not_accepted(self, tmp_path: Path) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, bearer("short")) as client:
                await verifier.is_asked("short")
                expires_at = time.time() + 0.02
                await asyncio.to_thread(wait_until, lambda: time.time() > expires_at, "the expiry")
                verifier.answer("short", allowed("short", ("*", [READ]), expires_at=expires_at))
                assert (await client.farewell())[1] == 4001

        play(tmp_path, scenario, token=verifier)

    def test_two_hellos_are_verified_one_after_the_other_and_the_second_counts(self, tmp_path: Path) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            await runtime.alaunch(id="a")
            async with opened(runtime) as client:
                await client.say("hello", id=1, token="wide")
                await client.say("hello", id=2, token="narrow")
                await client.say("subscribe", id=3, agent="a")
                await verifier.is_asked("wide")
                assert verifier.tokens == ["wide"]
                verifier.answer("wide", GOOD)
                await verifier.is_asked("narrow")
                verifier.answer("narrow", allowed("narrow", ("b", [READ])))
                replies = [(await client.read()).json for _ in range(3)]
                assert [(reply["id"], reply.get("code")) for reply in replies] == [
                    (1, None),
                    (2, None),
                    (3, "not_found"),
                ]

        play(tmp_path, scenario, token=verifier)

    def test_a_new_token_with_fewer_rights_ends_subscriptions_as_soon_as_it_is_accepted(self, tmp_path: Path) -> None:
        verifier = Asked(good=GOOD)

        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with opened(runtime, bearer("good")) as client:
                await client.ask("subscribe", agent="a")
                await client.say("hello", id="less", token="narrow")
                await verifier.is_asked("narrow")
                await agent.aemit("still allowed")
                await client.until("messages")
                verifier.answer("narrow", allowed("narrow", ("b", [READ])))
                assert (await client.until("error"))["agent"] == "a"
                assert not server_of(runtime).core.hub.is_followed("a")

        play(tmp_path, scenario, token=verifier)

    def test_a_token_that_expires_while_the_next_is_verified_ends_the_connection(self, tmp_path: Path) -> None:
        verifier = Asked(short=allowed("short", ("*", [READ]), expires_at=time.time() + 0.2))

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, bearer("short")) as client:
                await client.say("hello", token="next")
                await verifier.is_asked("next")
                assert (await client.farewell())[1] == 4001
                await asyncio.to_thread(verifier.has_abandoned, "next")

        play(tmp_path, scenario, token=verifier)

    def test_the_time_of_a_verification_does_not_count_as_time_without_hello(self, tmp_path: Path) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime) as client:
                await client.say("hello", id=1, token="slow")
                await verifier.is_asked("slow")
                began = time.monotonic()
                await asyncio.to_thread(wait_until, lambda: time.monotonic() > began + 0.2, "twice the time limit")
                verifier.answer("slow", GOOD)
                await client.until("ok", id=1)

        play(tmp_path, scenario, token=verifier, limits=Limits(hello_timeout_s=0.1))


class TestTheEndOfAConnection:
    def test_requests_of_a_client_that_has_left_are_performed_if_its_token_is_accepted(self, tmp_path: Path) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            agents = [await runtime.alaunch(id=id) for id in ("accepted", "refused")]
            for agent in agents:
                async with opened(runtime) as client:
                    await client.say("hello", token=agent.id)
                    await client.say("terminate", agent=agent.id)
                    await verifier.is_asked(agent.id)
                verifier.answer(agent.id, GOOD if agent.id == "accepted" else TokenError("no"))
                await asyncio.to_thread(wait_until, lambda: not server_of(runtime).core._sessions, "its end")
            assert (await asyncio.to_thread(agents[0].wait, TIMEOUT_S)).status == "terminated"
            assert (await agents[1].arecord()).status == "initializing"

        play(tmp_path, scenario, token=verifier)

    def test_a_server_that_stops_waits_for_no_verifier(self, tmp_path: Path) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            async with opened(runtime, bearer("slow")) as client:
                await verifier.is_asked("slow")
                stopping = asyncio.create_task(asyncio.to_thread(runtime.stop))
                assert (await client.farewell())[1] == 4000
                await asyncio.to_thread(verifier.has_abandoned, "slow")
            await stopping

        play(tmp_path, scenario, token=verifier)

    def test_an_answer_that_comes_with_the_close_gives_no_rights(self, tmp_path: Path) -> None:
        """However many turns of the loop lie between the two."""
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            core = server_of(runtime).core
            assert core.loop is not None
            for turns in range(8):
                token = f"token {turns}"
                async with opened(runtime, bearer(token)) as client:
                    await verifier.is_asked(token)
                    (session,) = core._sessions.values()
                    closing = _close_after(session, turns, partial(verifier.answer, token, GOOD))
                    closed = asyncio.run_coroutine_threadsafe(closing, core.loop)
                    goodbye, code = await client.farewell()
                    assert (goodbye["type"], code) == ("goodbye", 4000)
                await asyncio.wrap_future(closed)
                await asyncio.to_thread(wait_until, lambda: not core._sessions, "the session to end")

        async def _close_after(session: Session, turns: int, answer: Callable[[], None]) -> None:
            answer()
            for _ in range(turns):
                await asyncio.sleep(0)
            before = session._grant
            await session.close(4000, "the test closes it")
            assert session._grant is before

        play(tmp_path, scenario, token=verifier)

    def test_a_cancelled_request_gives_up_its_question(self) -> None:
        async def scenario() -> None:
            verifier = Asked()
            door = Authenticator(verifier, 1)
            first = asyncio.create_task(outcome(door, "first"))
            await settled()
            second = asyncio.create_task(outcome(door, "second"))
            await settled()
            first.cancel()
            await settled()
            assert (first.cancelled(), verifier.abandoned) == (True, ["first"])
            verifier.answer("second", GOOD)
            assert await second is GOOD
            assert len(door._turns) == 0

        alone(scenario)


async def _fails(error: BaseException) -> Grant:
    raise error


async def _returns(answer: Any) -> Grant:
    grant: Grant = answer
    return grant


class TestAVerifierThatFails:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (authentication, verifying):
            monkeypatch.setattr(module, "VERIFY_TIMEOUT_S", 0.05)

    def test_a_late_answer_lets_nobody_in_over_any_door(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            answer = await get(runtime, "/v1/agents", token="S3cr3t")
            assert (answer.status, answer.json["error"]["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"] == "2"
            async with opened(runtime, bearer("S3cr3t")) as client:
                await _is_told_to_come_back(client)
            async with opened(runtime) as client:
                await client.say("hello", id=7, token="S3cr3t")
                await _is_told_to_come_back(client, 7)
            counted = (await get(runtime, "/metrics", token="good")).body
            assert b'commitcast_tokens_refused_total{code="unavailable"} 3.0' in counted

        play(tmp_path, scenario, token=Asked(good=GOOD), limits=Limits(refused_tokens=1))
        (line,) = [record.getMessage() for record in caplog.records]
        assert "it has not answered in 0.05 s" in line

    def test_a_connection_keeps_its_rights_if_the_next_token_cannot_be_checked(self, tmp_path: Path) -> None:
        async def scenario(runtime: AgentRuntime) -> None:
            agent = await runtime.alaunch(id="a")
            async with opened(runtime, bearer("good")) as client:
                await client.ask("subscribe", agent="a")
                refused = await client.ask("hello", token="next")
                assert (refused["code"], refused["retry"]) == ("unavailable", True)
                await agent.aemit("still heard")
                await client.until("messages")

        play(tmp_path, scenario, token=Asked(good=GOOD))

    @pytest.mark.parametrize(
        "fail",
        [
            lambda: _fails(ConnectionError("the key server is down")),
            lambda: _fails(CommitcastError("not now")),
            lambda: _fails(asyncio.CancelledError()),
            lambda: _fails(SystemExit(1)),
            lambda: _fails(KeyboardInterrupt()),
            lambda: _fails(TimeoutError()),
            lambda: _returns(None),
            lambda: None,
            lambda: "a grant",
        ],
    )
    def test_any_failure_means_that_tokens_cannot_be_checked_and_ends_nothing_else(
        self, fail: Callable[[], Any]
    ) -> None:
        class Failing:
            def verify(self, token: str) -> Awaitable[Grant]:
                answer: Awaitable[Grant] = fail()
                return answer

        async def scenario() -> None:
            door = Authenticator(Failing(), 1)
            assert [await outcome(door, "t") for _ in range(3)] == ["unavailable"] * 3
            assert door.refused == {"unavailable": 3}
            assert len(door._turns) == 0

        alone(scenario)

    def test_failures_are_not_counted_as_wrong_tokens(self) -> None:
        async def scenario() -> None:
            verifier = Asked()
            door = Authenticator(verifier, 2)
            assert [await outcome(door, f"token {number}") for number in range(5)] == ["unavailable"] * 5
            verifier.known["good"] = GOOD
            assert await outcome(door, "good") is GOOD

        alone(scenario)

    def test_one_that_goes_on_although_it_is_cancelled_is_not_waited_for(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        go_on = asyncio.Event()

        class Stubborn:
            async def verify(self, token: str) -> Grant:
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    await go_on.wait()
                raise ValueError("an error that comes too late for anybody")

        async def scenario() -> None:
            assert await outcome(Authenticator(Stubborn(), 1), "t") == "unavailable"
            go_on.set()
            await settled()

        alone(scenario)
        gc.collect()
        assert [record.name for record in caplog.records] == [verifying.__name__], "asyncio reports nothing"

    @pytest.mark.parametrize("text", ["no such key: {}", "it is down"])
    def test_the_log_says_why_at_most_once_and_never_with_a_token(
        self, caplog: pytest.LogCaptureFixture, text: str
    ) -> None:
        class Failing:
            async def verify(self, token: str) -> Grant:
                raise ConnectionError(text.format(token))

        async def scenario() -> None:
            door = Authenticator(Failing(), 1)
            for _ in range(3):
                await outcome(door, "S3cr3t")

        with caplog.at_level(logging.DEBUG, verifying.__name__):
            alone(scenario)
        (record,) = caplog.records
        shown = logging.Formatter("%(message)s").format(record)
        assert "ConnectionError" in shown and "S3cr3t" not in shown
        assert ("it is down" in shown and "Traceback" in shown) == (text == "it is down")


async def _is_told_to_come_back(client: Wire, id: int | None = None) -> None:
    error = await client.until("error")
    assert (error.get("id"), error["code"], error["retry"]) == (id, "unavailable", True)
    goodbye, code = await client.farewell()
    assert (goodbye["type"], goodbye["code"], code) == ("goodbye", 4005, 4005)


class TestHowManyAreAsked:
    def test_an_address_has_no_more_verifications_under_way_than_guesses_left(self) -> None:
        async def scenario() -> None:
            verifier = Asked()
            door = Authenticator(verifier, 3)
            asking = {f"token {number}": asyncio.create_task(outcome(door, f"token {number}")) for number in range(10)}
            elsewhere = asyncio.create_task(outcome(door, "elsewhere", "1.2.3.5"))
            await settled()
            assert verifier.tokens == ["token 0", "token 1", "token 2", "elsewhere"]
            verifier.answer("elsewhere", GOOD)
            for token, each in asking.items():
                verifier.answer(token, GOOD)
                assert await each is GOOD, "all are accepted: no wrong token came from there"
            assert await elsewhere is GOOD
            assert verifier.most == 4

        alone(scenario)

    def test_guesses_made_at_once_are_not_checked_more_often_than_those_made_one_by_one(self) -> None:
        async def scenario() -> None:
            verifier = Asked()
            door = Authenticator(verifier, 3, lambda: 1_000.0)
            asking = [asyncio.create_task(outcome(door, f"guess {number}")) for number in range(10)]
            await settled()
            for number in range(3):
                verifier.answer(f"guess {number}", TokenError("wrong"))
            codes = await asyncio.gather(*asking)
            assert codes == ["unauthenticated"] * 3 + ["rate_limited"] * 7
            assert verifier.tokens == ["guess 0", "guess 1", "guess 2"]

        alone(scenario)

    def test_wrong_tokens_leave_less_room_for_those_under_way(self) -> None:
        async def scenario() -> None:
            verifier = Asked()
            door = Authenticator(verifier, 4, lambda: 1_000.0)
            asking = [asyncio.create_task(outcome(door, f"token {number}")) for number in range(8)]
            await settled()
            for number in range(2):
                verifier.answer(f"token {number}", TokenError("wrong"))
            await settled()
            assert verifier.tokens == [f"token {number}" for number in range(4)], "two guesses left, two under way"
            for number in range(2, 8):
                await settled()
                verifier.answer(f"token {number}", GOOD)
                assert await asking[number] is GOOD
            assert verifier.tokens == [f"token {number}" for number in range(8)]

        alone(scenario)

    def test_tokens_that_were_accepted_before_do_not_wait_for_others_and_have_a_limit_of_their_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(authentication, "KNOWN_AT_ONCE", 2)

        async def scenario() -> None:
            verifier = Asked(known=GOOD)
            door = Authenticator(verifier, 1)
            assert await outcome(door, "known") is GOOD
            verifier.known.clear()
            strangers = [asyncio.create_task(outcome(door, f"stranger {number}")) for number in range(3)]
            asking = [asyncio.create_task(outcome(door, "known")) for _ in range(5)]
            await settled()
            assert (verifier.tokens.count("known"), verifier.under_way) == (1 + 2, 3)
            for each in (*strangers, *asking):
                each.cancel()
            await settled()
            assert len(door._turns) == 0

        alone(scenario)

    def test_one_whose_turn_does_not_come_in_time_is_told_to_come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(authentication, "VERIFY_TIMEOUT_S", 0.05)

        async def scenario() -> None:
            door = Authenticator(Asked(), 1)
            began = time.monotonic()
            codes = await asyncio.gather(*(outcome(door, f"token {number}") for number in range(20)))
            assert set(codes) == {"unavailable"}
            assert time.monotonic() - began < 0.5, "the wait for a turn is part of the time limit"
            assert len(door._turns) == 0

        alone(scenario)

    def test_clients_of_one_address_that_all_connect_at_once_are_all_let_in(self, tmp_path: Path) -> None:
        verifier = Asked()

        async def scenario(runtime: AgentRuntime) -> None:
            async def come(token: str) -> None:
                async with opened(runtime) as client:
                    await client.send(masked(TEXT, f'{{"type":"hello","id":1,"token":"{token}"}}'))
                    await client.until("ok", id=1)

            tokens = [f"token-{number}" for number in range(12)]
            coming = [asyncio.create_task(come(token)) for token in tokens]
            for _ in tokens:
                await asyncio.to_thread(wait_until, lambda: verifier._answers, "a verification")
                for token in list(verifier._answers):
                    verifier.answer(token, GOOD)
                if len(verifier.tokens) == len(tokens) and not verifier._answers:
                    break
            await asyncio.gather(*coming)
            assert verifier.most <= 3
            assert server_of(runtime).core.authenticator.refused == {}

        play(tmp_path, scenario, token=verifier, limits=Limits(refused_tokens=3))

    def test_the_code_of_a_failure_is_one_of_the_protocol(self) -> None:
        error = VerifierUnavailableError()
        assert (ErrorCode(error.code), error.retryable) == (ErrorCode.UNAVAILABLE, True)


@pytest.mark.parametrize("answer", [None, True, {"sub": "ann"}])
def test_what_is_no_grant_is_refused_with_one_sentence(answer: Any) -> None:
    class Wrong:
        def verify(self, token: str) -> Any:
            return answer

    with pytest.raises(VerifierUnavailableError) as caught:
        asyncio.run(verifying.verified(Wrong(), "token", TIMEOUT_S))
    assert str(caught.value.__cause__) == f"a verifier returns a Grant, not {type(answer).__name__}"
