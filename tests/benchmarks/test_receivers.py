"""The receivers of many subscribers, each in its own process: what is wrong with what they are given is told of."""

from pathlib import Path

import pytest

from benchmark_errors import BenchmarkError
from chain import LISTEN
from child import Child
from commitcast.actors import AgentRuntime
from stream_check import agent_name, content_of

AGENT = agent_name(0)


def test_a_pool_that_is_given_other_content_says_so(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen=LISTEN) as runtime:
        handle = runtime.launch(id=AGENT)
        order = {"url": runtime.url, "agent": AGENT, "subscribers": 2, "targets": [2]}
        with (
            pytest.raises(BenchmarkError, match="message 2 of agent bench-000000 with the content 'other'"),
            Child("subscriber_pool", "the pool", **order) as pool,
        ):
            pool.hear()
            handle.emit(content_of(AGENT, 1))
            handle.emit("other")
            pool.hear()


def test_a_pool_whose_server_goes_says_so(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen=LISTEN) as runtime:
        runtime.launch(id=AGENT)
        order = {"url": runtime.url, "agent": AGENT, "subscribers": 2, "targets": [1]}
        with (
            pytest.raises(BenchmarkError, match=r"the pool says: .*the server closed the connection"),
            Child("subscriber_pool", "the pool", **order) as pool,
        ):
            pool.hear()
            runtime.stop()
            pool.hear()


def test_subscribers_who_come_back_to_another_log_say_so(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen=LISTEN) as runtime:
        runtime.launch(id=AGENT).emit(content_of(AGENT, 1)).get(10)
        address = runtime.address
        assert address is not None
        with (
            pytest.raises(BenchmarkError, match=r"the pool says: .*epoch"),
            Child("reconnecting_pool", "the pool", url=runtime.url, agents=1, subscribers=2) as pool,
        ):
            pool.hear()
            runtime.stop()
            with AgentRuntime(tmp_path / "b.db", listen=address) as other:
                other.launch(id=AGENT).emit(content_of(AGENT, 1)).get(10)
                pool.hear()


def test_subscribers_who_come_back_wait_for_the_last_message(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen=LISTEN) as runtime:
        handle = runtime.launch(id=AGENT)
        with Child("reconnecting_pool", "the pool", url=runtime.url, agents=1, subscribers=2) as pool:
            pool.hear()
            pool.order(heads={AGENT: 1})
            handle.emit(content_of(AGENT, 1))

            assert pool.hear() == {"end": True}
