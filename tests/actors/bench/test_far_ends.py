"""The far ends of many subscribers, each in its own process: what is wrong with what they are given is told of."""

from pathlib import Path

import pytest

from commitcast.actors import AgentRuntime
from commitcast.actors.bench.chain import LISTEN
from commitcast.actors.bench.child import Child
from commitcast.actors.bench.errors import BenchmarkError
from commitcast.actors.bench.stream import agent_name, content_of

AGENT = agent_name(0)


def test_a_crowd_that_is_given_other_content_says_so(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen=LISTEN) as runtime:
        handle = runtime.launch(id=AGENT)
        order = {"url": runtime.url, "agent": AGENT, "subscribers": 2, "targets": [2]}
        with (
            pytest.raises(BenchmarkError, match="message 2 of agent bench-000000 with the content 'other'"),
            Child("crowd", "the crowd", **order) as crowd,
        ):
            crowd.hear()
            handle.emit(content_of(AGENT, 1))
            handle.emit("other")
            crowd.hear()


def test_a_crowd_whose_server_goes_says_so(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen=LISTEN) as runtime:
        runtime.launch(id=AGENT)
        order = {"url": runtime.url, "agent": AGENT, "subscribers": 2, "targets": [1]}
        with (
            pytest.raises(BenchmarkError, match=r"the crowd says: .*the server closed the connection"),
            Child("crowd", "the crowd", **order) as crowd,
        ):
            crowd.hear()
            runtime.stop()
            crowd.hear()


def test_subscribers_who_come_back_to_another_log_say_so(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen=LISTEN) as runtime:
        runtime.launch(id=AGENT).emit(content_of(AGENT, 1)).get(10)
        address = runtime.address
        assert address is not None
        with (
            pytest.raises(BenchmarkError, match=r"the crowd says: the server told a subscriber: .*epoch"),
            Child("returning", "the crowd", url=runtime.url, agents=1, subscribers=2) as crowd,
        ):
            crowd.hear()
            runtime.stop()
            with AgentRuntime(tmp_path / "b.db", listen=address) as other:
                other.launch(id=AGENT).emit(content_of(AGENT, 1)).get(10)
                crowd.hear()


def test_subscribers_who_come_back_wait_for_the_last_message(tmp_path: Path) -> None:
    with AgentRuntime(tmp_path / "a.db", listen=LISTEN) as runtime:
        handle = runtime.launch(id=AGENT)
        with Child("returning", "the crowd", url=runtime.url, agents=1, subscribers=2) as crowd:
            crowd.hear()
            crowd.order(heads={AGENT: 1})
            handle.emit(content_of(AGENT, 1))

            assert crowd.hear() == {"end": True}
